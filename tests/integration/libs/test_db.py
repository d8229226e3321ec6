import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from libs.common import context
from libs.common.data import counters, engines
from libs.common.data.database import MAX_KEPT, CommitInDoubt, Database, Session
from libs.common.data.engines import StatementFailed, StatementTimeout
from libs.common.data.prepared import Prepared
from libs.common.data.statements import any_of, epoch, upsert
from libs.common.errors import DependencyUnavailable, Overloaded, Problem
from libs.common.ids import new_id
from tests.integration.libs import greenlets, waiting
from tests.integration.libs.tables import accounts, balance, things
from tests.processes import Workers, beside, in_threads


def deposit(session: Any, amount: int = 1) -> None:
    """Read, then write, which loses updates unless transactions are serialised."""
    held = session.scalar(sa.select(accounts.c.balance).with_for_update())
    session.execute(sa.update(accounts).values(balance=held + amount))


def deposit_often(url: str, threads: int, times: int) -> None:
    db = Database(url)

    def work(number: int) -> None:
        for _ in range(times):
            with db.write() as session:
                deposit(session)

    in_threads(threads, work)
    db.dispose()


def test_no_update_is_lost_between_processes(db: Database, database_url: str, workers: Workers) -> None:
    workers.race(deposit_often, *[(database_url, 4, 20)] * 3)
    assert balance(db) == 3 * 4 * 20


# One transaction: all of it or none of it --------------------------------------------------------------------------


def test_what_is_committed_is_there_for_everyone(db: Database, database_url: str, open_database: Any) -> None:
    with db.write() as session:
        deposit(session)
    assert balance(open_database(database_url)) == 1


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, GeneratorExit, Overloaded])
def test_an_exception_undoes_everything(db: Database, fault: type[BaseException]) -> None:
    with pytest.raises(fault), db.write() as session:
        deposit(session)
        raise fault
    assert balance(db) == 0


def test_what_a_refused_statement_leaves_behind_is_undone(db: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError), db.write() as session:
        deposit(session)
        session.execute(sa.insert(accounts).values(id=1))
    assert balance(db) == 0


def test_a_callback_after_the_commit_runs_once_and_sees_it(db: Database) -> None:
    seen = []

    def look() -> None:
        seen.append(balance(db))

    with db.write() as session:
        deposit(session)
        session.after_commit(look)
        session.after_commit(look)
        assert seen == []
    assert seen == [1]


def test_a_callback_after_the_commit_does_not_run_without_one(db: Database) -> None:
    seen: list[int] = []
    with pytest.raises(ValueError, match="stop"), db.write() as session:
        session.after_commit(lambda: seen.append(1))
        raise ValueError("stop")
    assert seen == []


def test_a_callback_before_the_commit_belongs_to_the_transaction(db: Database) -> None:
    with db.write() as session:
        session.before_commit(lambda own: deposit(own, 10))
        deposit(session)
    assert balance(db) == 11
    with pytest.raises(ValueError, match="stop"), db.write() as session:
        session.before_commit(lambda own: int("stop"))
        deposit(session)
    assert balance(db) == 11


def test_a_transaction_knows_nothing_of_the_one_before(db: Database) -> None:
    for _ in range(2):
        with db.write() as session:
            session.after_commit(lambda: None)
            assert len(session.deferred.after_commit) == 1


def test_a_commit_wakes_the_loops_of_this_process(db: Database) -> None:
    db.owner.loops = {"sender": lambda: woken.append("sender")}
    woken: list[str] = []
    with db.write() as session:
        session.wake("sender")
        session.wake("of another process")
        assert woken == []
    assert woken == ["sender"]


# Savepoints --------------------------------------------------------------------------------------------------------


def test_rolling_back_to_a_savepoint_undoes_what_came_after_it_and_nothing_else(db: Database) -> None:
    with db.write() as session:
        deposit(session, 1)
        roll_back = session.savepoint()
        deposit(session, 10)
        roll_back()
        deposit(session, 100)
    assert balance(db) == 101


def test_a_savepoint_before_the_first_statement_is_one(db: Database) -> None:
    with db.write() as session:
        roll_back = session.savepoint()
        deposit(session, 10)
        roll_back()
    assert balance(db) == 0
    with pytest.raises(ValueError, match="stop"), db.write() as session:
        session.savepoint()
        deposit(session, 10)
        raise ValueError("stop")
    assert balance(db) == 0


def test_a_savepoint_that_is_not_rolled_back_changes_nothing(db: Database) -> None:
    with db.write() as session:
        session.savepoint()
        deposit(session, 10)
    assert balance(db) == 10


def test_a_savepoint_restores_what_was_put_off_before_it_and_drops_what_came_after(db: Database) -> None:
    done: list[str] = []
    before: Callable[[], None] = lambda: done.append("before")  # noqa: E731
    after: Callable[[], None] = lambda: done.append("after")  # noqa: E731

    def deposit_before(own: Session) -> None:
        deposit(own, 1)

    def deposit_after(own: Session) -> None:
        deposit(own, 10)

    db.owner.loops = {"before": lambda: done.append("woken before"), "after": lambda: done.append("woken after")}
    with db.write() as session:
        counters.add(session, {"kept": 1, "both": 1})
        session.before_commit(deposit_before)
        session.after_commit(before)
        session.wake("before")
        roll_back = session.savepoint()
        counters.add(session, {"dropped": 1, "both": 1})
        session.before_commit(deposit_after)
        session.after_commit(after)
        session.wake("after")
        roll_back()
    assert done == ["before", "woken before"]
    assert balance(db) == 1
    with db.read() as connection:
        assert counters.read(connection) == {"kept": 1, "both": 1}


def test_what_is_put_off_after_a_savepoint_was_rolled_back_is_done(db: Database) -> None:
    done: list[int] = []
    with db.write() as session:
        counters.add(session, {"total": 1})
        session.savepoint()()
        counters.add(session, {"total": 1})
        session.after_commit(lambda: done.append(1))
    assert done == [1]
    with db.read() as connection:
        assert counters.read(connection) == {"total": 2}


# Reading -----------------------------------------------------------------------------------------------------------


def test_a_reader_sees_one_state_however_often_it_looks(db: Database) -> None:
    with db.read() as connection:
        before = connection.scalar(sa.select(accounts.c.balance))
        with db.write() as session:
            deposit(session)
        assert connection.scalar(sa.select(accounts.c.balance)) == before
    assert balance(db) == 1


def test_a_reader_waits_for_no_writer(db: Database) -> None:
    with db.write() as session:
        deposit(session)
        started = time.monotonic()
        assert balance(db) == 0
        assert time.monotonic() - started < 4


def test_a_reader_writes_nothing(db: Database) -> None:
    try:
        with db.read() as connection:
            connection.execute(sa.update(accounts).values(balance=100))
    except (Problem, sa.exc.DBAPIError):
        pass
    assert balance(db) == 0


def test_after_a_read_a_write_goes_as_before(db: Database) -> None:
    """On the same pooled connection, which must no longer be read-only."""
    for number in range(5):
        assert balance(db) == number
        with db.write() as session:
            deposit(session)


# Waiting -----------------------------------------------------------------------------------------------------------


class Holder:
    """Holds the write lock in a thread until `release`."""

    def __init__(self, db: Database):
        self._db, self.held, self.release = db, threading.Event(), threading.Event()

    def __call__(self) -> None:
        with self._db.write() as session:
            deposit(session)
            self.held.set()
            assert self.release.wait(20)


def test_a_writer_waits_for_another_and_then_writes(db: Database) -> None:
    holder = Holder(db)
    with beside(holder):
        assert holder.held.wait(10)
        timer = threading.Timer(0.1, holder.release.set)
        timer.start()
        with db.write() as session:
            deposit(session)
    assert balance(db) == 2


def test_a_wait_for_the_database_ends_with_the_deadline_of_the_request(db: Database) -> None:
    holder = Holder(db)
    with beside(holder):
        assert holder.held.wait(10)
        context.begin(0.2)
        started = time.monotonic()
        with pytest.raises(Overloaded), db.write() as session:
            deposit(session)
        elapsed = time.monotonic() - started
        holder.release.set()
    # PostgreSQL waits at the row, for as long as its lock timeout.
    assert elapsed < (1 if db.is_sqlite else 4)
    assert balance(db) == 1


def test_without_a_deadline_a_wait_for_the_database_has_a_bound(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "LOCK_WAIT_SECONDS", 0.1)
    holder = Holder(db)
    with beside(holder):
        assert holder.held.wait(10)
        with pytest.raises(Overloaded) as caught, db.write() as session:
            deposit(session)
        holder.release.set()
    assert caught.value.detail == "The database is busy."


def test_a_wait_for_the_database_lets_other_greenlets_run(db: Database, database_url: str) -> None:
    command = [sys.executable, "-m", waiting.__name__, database_url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 10
    assert balance(db) == 2


def test_more_threads_than_connections_wait_for_their_turn(database_url: str, db: Database) -> None:
    few = Database(database_url, pool_size=2)

    def work(number: int) -> None:
        for _ in range(5):
            with few.write() as session:
                deposit(session)

    in_threads(8, work)
    few.dispose()
    assert balance(db) == 40


# Faults ------------------------------------------------------------------------------------------------------------


def unreachable(kind: str, directory: Path) -> Database:
    if kind == "postgresql":
        return Database("postgresql+psycopg://nobody:hunter2@127.0.0.1:1/none")
    return Database(f"sqlite:///{directory}/missing/x.db")


@pytest.mark.parametrize("kind", ["postgresql", "no directory"])
def test_a_database_that_cannot_be_reached_is_an_unavailable_dependency(kind: str, tmp_path: Path) -> None:
    db = unreachable(kind, tmp_path)
    for use in (db.read, db.write):
        with pytest.raises(DependencyUnavailable) as caught, use() as session:
            session.execute(sa.text("SELECT 1 FROM accounts"))
        assert caught.value.detail == "The database is unavailable."
        assert caught.value.__cause__
    db.dispose()


def test_a_statement_that_takes_too_long_is_no_unavailable_database(db: Database, databases: Any) -> None:
    if databases.name == "sqlite":
        pytest.skip("SQLite has no limit for a statement")
    for use in (db.read, db.write):
        with pytest.raises(StatementTimeout) as caught, use() as session:
            session.execute(sa.text("SET LOCAL statement_timeout = '50ms'"))
            session.execute(sa.text("SELECT pg_sleep(2)"))
        assert (caught.value.status, caught.value.code) == (504, "deadline-exceeded")
    assert balance(db) == 0


def test_a_statement_that_no_database_can_execute_is_at_fault_itself(db: Database, databases: Any) -> None:
    """It would always fail, and so must not count as an outage."""
    impossible = "SELECT repeat('x', 2000000000)"
    if databases.name == "sqlite":
        impossible = "SELECT sum(n) FROM (SELECT 9223372036854775807 AS n UNION ALL SELECT 1)"
    with pytest.raises(StatementFailed), db.write() as session:
        session.execute(sa.text(impossible))


def test_a_deadlock_is_a_busy_database(db: Database, databases: Any) -> None:
    if databases.name == "sqlite":
        pytest.skip("SQLite has one writer")
    with db.write() as session:
        session.execute(sa.insert(accounts), [{"id": 2, "balance": 0}])
    both = threading.Barrier(2)

    def work(number: int) -> str:
        try:
            with db.write() as session:
                for place in (number, 1 - number):
                    session.execute(sa.update(accounts).where(accounts.c.id == 1 + place).values(balance=1))
                    if place == number:
                        both.wait(10)
        except Overloaded as exc:
            return exc.detail
        return "done"

    assert sorted(in_threads(2, work)) == ["The database is busy.", "done"]


def test_a_commit_whose_answer_is_lost_is_in_doubt(db: Database) -> None:
    """The connection breaks during COMMIT: the caller must read the row, and not write again."""

    def cut(connection: sa.Connection) -> None:
        if connection.dialect.name == "sqlite":
            raise sa.exc.OperationalError("COMMIT", {}, OSError("disk I/O error"))
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with db.engine.connect() as killer:
            killer.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")

    sa.event.listen(db.engine, "commit", cut)
    with pytest.raises(CommitInDoubt) as caught, db.write() as session:
        deposit(session)
    sa.event.remove(db.engine, "commit", cut)
    assert (caught.value.status, caught.value.code) == (503, "dependency-unavailable")
    # A later read shows the outcome; the database still works.
    assert balance(db) == 0
    with db.write() as session:
        deposit(session)
    assert balance(db) == 1


def test_a_connection_that_breaks_within_a_transaction_is_an_unavailable_dependency(
    db: Database, databases: Any
) -> None:
    if databases.name == "sqlite":
        pytest.skip("SQLite has no connection to break")
    for use in (db.write, db.read):
        with pytest.raises(DependencyUnavailable), use() as session:
            pid = session.execute(sa.text("SELECT pg_backend_pid()")).scalar()
            with db.engine.connect() as killer:
                killer.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
            session.execute(sa.select(accounts.c.balance))
    with db.write() as session:
        deposit(session)
    assert balance(db) == 1


@pytest.mark.parametrize("use", ["read", "write", "write that may be lost"])
def test_a_pooled_connection_that_died_meanwhile_fails_nobody(db: Database, databases: Any, use: str) -> None:
    if databases.name == "sqlite":
        pytest.skip("SQLite has no connection to break")
    together = threading.Barrier(3)

    def hold(number: int) -> None:
        with db.read():
            together.wait(10)

    in_threads(3, hold)  # so many are in the pool then
    with db.write() as session:
        others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        killed = session.execute(sa.text(f"{others} AND datname = current_database()")).all()
    assert len(killed) >= 2

    def work(number: int) -> None:
        with {"read": db.read, "write": db.write, "write that may be lost": partial(db.write, durable=False)}[
            use
        ]() as it:
            together.wait(10)
            it.execute(sa.select(accounts)).all()

    in_threads(3, work)


# How it is set up --------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_survives_a_power_cut_unless_it_need_not(db: Database) -> None:
    show = "PRAGMA synchronous" if db.is_sqlite else "SHOW synchronous_commit"
    full, less = ((2,), (1,)) if db.is_sqlite else (("on",), ("off",))
    # Twice, since the same pooled connection serves both kinds.
    for _ in range(2):
        for durable, expected in ((True, full), (False, less)):
            with db.write(durable=durable) as session:
                assert tuple(session.execute(sa.text(show)).one()) == expected
    if db.is_sqlite:
        with db.read() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_only_the_few_connections_of_durable_writes_have_a_larger_cache(db: Database) -> None:
    if not db.is_sqlite:
        pytest.skip("PostgreSQL has a cache of its own")

    def cache(connection: Any) -> Any:
        return connection.execute(sa.text("PRAGMA cache_size")).scalar()

    for _ in range(2):
        with db.write() as session:
            assert cache(session) == -2000
        with db.write(durable=False) as session:
            assert cache(session) == -512
        with db.read() as connection:
            assert cache(connection) == -512


def test_a_durable_write_survives_a_power_cut_on_a_connection_that_served_others_before(db: Database) -> None:
    """More writers wait at once than there are durable connections: the others return to the shared pool."""
    show = "PRAGMA synchronous" if db.is_sqlite else "SHOW synchronous_commit"
    full, less = (2, 1) if db.is_sqlite else ("on", "off")
    writers = MAX_KEPT + 4

    def at_once(durable: bool) -> list[Any]:
        def write(number: int) -> Any:
            with db.write(durable=durable) as session:
                time.sleep(0.01)  # the others wait meanwhile, each with a connection
                return session.execute(sa.text(show)).scalar()

        return in_threads(writers, write)

    for durable, expected in ((False, less), (True, full), (False, less), (True, full)):
        assert at_once(durable) == [expected] * writers


def test_no_default_of_the_server_changes_how_transactions_are_isolated(db: Database, databases: Any) -> None:
    if databases.name == "sqlite":
        pytest.skip("a setting of PostgreSQL")
    databases._run(f"ALTER DATABASE {db.url.database} SET default_transaction_isolation = serializable")
    db.dispose()
    show = sa.text("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')")
    for _ in range(2):  # on the same connection
        with db.read() as connection:
            assert tuple(connection.execute(show).one()) == ("repeatable read", "on")
        for durable in (True, False):
            with db.write(durable=durable) as session:
                assert tuple(session.execute(show).one()) == ("read committed", "off")


_by_id = Prepared(sa.select(accounts).where(accounts.c.id == sa.bindparam("id")))


def test_what_a_connection_has_prepared_outlives_the_transactions(database_url: str, db: Database) -> None:
    if db.is_sqlite:
        pytest.skip("a feature of PostgreSQL")
    one = Database(database_url, pool_size=1)
    names = sa.text("SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT accounts.id%'")
    seen = set()
    for _ in range(10):
        with one.read() as connection:
            _by_id.rows(connection, id=1)
        with one.write() as session:
            seen.add(tuple(session.scalars(names)))
    one.dispose()
    assert sorted(map(len, seen)) == [0, 1]


def test_a_durable_write_does_not_plan_again_for_other_keys(database_url: str, db: Database) -> None:
    if db.is_sqlite:
        pytest.skip("a feature of PostgreSQL")
    one = Database(database_url, pool_size=1)
    some = Prepared(sa.select(things.c.name).where(any_of(things.c.name, "names")))
    plans = sa.text(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE 'SELECT things.name%'"
    )
    for count in range(1, 12):
        with one.write() as session:
            some.rows(session, names=["x"] * count)
            found = session.execute(plans).all()
    one.dispose()
    assert [tuple(row) for row in found] == [(6, 0)]  # psycopg prepares the sixth


def test_a_lookup_by_keys_uses_the_index_of_a_table_that_is_still_empty(db: Database) -> None:
    if db.is_sqlite:
        pytest.skip("SQLite always does")
    look_up = str(sa.select(things.c.name).where(any_of(things.c.id, "ids")).compile(dialect=db.engine.dialect))
    with db.write() as session:
        connection = session.connection()
        connection.exec_driver_sql(f"PREPARE look_up AS {look_up.replace('%(ids)s', '$1')}")
        plan = "\n".join(connection.exec_driver_sql("EXPLAIN EXECUTE look_up('{}')").scalars())
    assert "Index Cond" in plan


@pytest.mark.parametrize("use", ["read", "write"])
def test_what_was_prepared_before_a_migration_fails_once(database_url: str, db: Database, use: str) -> None:
    """PostgreSQL refuses a prepared statement whose result has other types than before."""
    if db.is_sqlite:
        pytest.skip("a feature of PostgreSQL")
    one = Database(database_url, pool_size=1)

    def found() -> list[Any]:
        with one.read() if use == "read" else one.write() as it:
            return _by_id.rows(it, id=1)

    for _ in range(10):
        found()
    with db.write() as session:
        session.execute(sa.text("ALTER TABLE accounts ALTER balance TYPE bigint"))
    with pytest.raises(sa.exc.NotSupportedError):
        found()
    assert found() == [(1, 0)]
    one.dispose()


@pytest.mark.parametrize("what", ["heavy", "cut"])
def test_a_connection_under_gevent(db: Database, database_url: str, what: str) -> None:
    """`heavy`: what neither side can send at once. `cut`: a greenlet that ends while it waits for an answer."""
    ran = subprocess.run(
        [sys.executable, "-m", greenlets.__name__, database_url, what], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "done\n"


def test_a_database_opens_nothing_before_its_first_use(database_url: str) -> None:
    """Workers are forked from a process that has created the app, and must not share a connection."""
    made = Database(database_url)
    assert made._engine is None
    made.dispose()


@pytest.mark.parametrize("name", ["user", "product"])
def test_an_app_that_is_made_has_opened_no_connection(name: str, make_service: Callable[..., Flask]) -> None:
    assert make_service(name).extensions["quintet"].db._engine is None


# Types -------------------------------------------------------------------------------------------------------------


COLLATION = "SELECT collation_name FROM information_schema.columns WHERE (table_name, column_name) = ('things', 'name')"


def stored(db: Database, **values: Any) -> Any:
    with db.write() as session:
        session.execute(sa.insert(things).values(id=new_id(), **values))
    with db.read() as connection:
        return connection.execute(sa.select(things)).mappings().one()


@pytest.mark.parametrize("amount", ["0", "0.0001", "19.99", "99999999999.9999", "0.1"])
def test_an_amount_keeps_every_digit(db: Database, amount: str) -> None:
    assert stored(db, amount=Decimal(amount))["amount"] == Decimal(amount)


def test_amounts_compare_as_numbers(db: Database) -> None:
    with db.write() as session:
        for amount in ("9", "10", "100.5", "2.25"):
            session.execute(sa.insert(things).values(id=new_id(), amount=Decimal(amount)))
    with db.read() as connection:
        query = sa.select(things.c.amount).where(things.c.amount >= Decimal("9")).order_by(things.c.amount)
        assert list(connection.scalars(query)) == [Decimal(9), Decimal(10), Decimal("100.5")]


def test_a_time_comes_back_in_utc_with_its_microseconds(db: Database) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
    found = stored(db, moment=moment)["moment"]
    assert (found, found.utcoffset()) == (moment, timedelta(0))


@pytest.mark.parametrize("value", [{"a": [1, "é", None, 1.5, {"b": True}]}, [], {}, [0]])
def test_json_comes_back_as_it_was(db: Database, value: Any) -> None:
    assert stored(db, json=value)["json"] == value


@pytest.mark.parametrize("column", ["name", "amount", "moment", "json"])
def test_nothing_comes_back_as_nothing(db: Database, column: str) -> None:
    assert stored(db, **{column: None})[column] is None
    with db.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).where(things.c[column].is_(None))) == 1


def test_text_sorts_by_code_point_on_every_engine(db: Database) -> None:
    names = ["a", "B", "Z", "z", "ä", "é", "ß", "aa", "a b", "A", "1", "10", "2", "_", "€", "\uffff", "😀", "", "~"]
    with db.write() as session:
        session.execute(sa.insert(things), [{"id": new_id(), "name": name} for name in names])
    with db.read() as connection:
        assert list(connection.scalars(sa.select(things.c.name).order_by(things.c.name))) == sorted(names)
        if not db.is_sqlite:
            # The test server may sort like this by default; others do not.
            assert connection.scalar(sa.text(COLLATION)) == "C"
        above = sa.select(things.c.name).where(things.c.name > "a").order_by(things.c.name)
        assert list(connection.scalars(above)) == sorted(name for name in names if name > "a")


def test_ids_are_unique_and_ordered_by_time() -> None:
    made = [new_id() for _ in range(1000)]
    assert made == sorted(set(made))
    assert all(len(i) == 36 and i[14] == "7" for i in made)


def test_the_clock_of_the_database_tells_seconds_since_1970(db: Database) -> None:
    with db.write() as session:
        assert abs((session.scalar(sa.select(epoch())) or 0) - time.time()) < 2


def test_the_clock_of_the_database_goes_on_within_a_transaction(db: Database) -> None:
    with db.write() as session:
        first = session.scalar(sa.select(epoch()))
        time.sleep(0.01)
        assert session.scalar(sa.select(epoch())) > first


def test_an_upsert_is_the_dialects_own(db: Database) -> None:
    with db.write() as session:
        row = upsert(session, accounts).values(id=1, balance=7)
        session.execute(row.on_conflict_do_update(index_elements=["id"], set_={"balance": row.excluded.balance}))
        session.execute(upsert(session, accounts).values(id=1, balance=9).on_conflict_do_nothing())
    assert balance(db) == 7


def test_a_statement_built_once_takes_any_number_of_values(db: Database) -> None:
    statement = sa.select(things.c.name).where(any_of(things.c.name, "names")).order_by(things.c.name)
    with db.write() as session:
        session.execute(sa.insert(things), [{"id": new_id(), "name": name} for name in "abc"])
    with db.read() as connection:
        for names in ([], ["a"], ["a", "c", "x"]):
            assert list(connection.scalars(statement, {"names": names})) == [n for n in names if n in "abc"]


def test_times_of_any_zone_are_stored_as_the_same_moment(db: Database) -> None:
    there = datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1)))
    assert stored(db, moment=there)["moment"] == there
