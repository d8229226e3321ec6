"""Database errors: what is logged, and what the caller gets."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common import logs
from libs.common.data.database import Database
from libs.common.data.prepared import Prepared
from libs.common.errors import DependencyUnavailable
from libs.common.ids import new_id
from tests.integration.libs.tables import accounts, balance, things

SECRET = "ada@example.com"

Use = Callable[[Any], Any]

_add = Prepared(sa.insert(things), ["id", "name"])
_find = Prepared(sa.select(things.c.id).where(things.c.name == sa.bindparam("name")))


def line_of(exc: BaseException) -> str:
    """The log line that a service writes about it."""
    record = logging.LogRecord("quintet", logging.ERROR, "", 0, "request.failed", (), (type(exc), exc, None))
    return logs.Formatter("user").format(record)


def a_row(name: str = SECRET) -> dict[str, str]:
    return {"id": new_id(), "name": name}


def orm(session: Any) -> None:
    session.execute(sa.insert(things), [a_row(), a_row()])


def unprepared(session: Any) -> None:
    session.connection().execute(sa.insert(things).values(a_row()))


def prepared(session: Any) -> None:
    _add.write(session, [a_row()])


def prepared_many(session: Any) -> None:
    _add.write(session, [a_row("other"), a_row()])


@pytest.mark.parametrize("use", [orm, unprepared, prepared, prepared_many])
def test_a_value_that_is_there_already_is_not_told(db: Database, use: Use) -> None:
    with db.write() as session:
        prepared(session)
    with pytest.raises(sa.exc.IntegrityError) as caught, db.write() as session:
        use(session)
    assert SECRET not in line_of(caught.value)
    assert "name" in line_of(caught.value)  # of the constraint


def misspelt(session: Any) -> None:
    session.execute(sa.text("SELECT nothing FROM things WHERE name = :name"), {"name": SECRET})


def without_table(session: Any) -> None:
    session.execute(sa.text("DROP TABLE things"))
    prepared(session)


def without_table_to_read(session: Any) -> None:
    session.execute(sa.text("DROP TABLE things"))
    _find.rows(session, name=SECRET)


def unreadable(session: Any) -> None:
    """PostgreSQL quotes it in its message; SQLite takes anything."""
    session.execute(sa.text("INSERT INTO things (id, nothing) VALUES (:id, 1)"), {"id": SECRET})


def of_a_wrong_type(session: Any) -> None:
    session.execute(sa.text("SELECT CAST(:name AS integer) FROM missing"), {"name": SECRET})


def no_number(session: Any) -> None:
    session.execute(sa.text("SELECT CAST(:name AS integer)"), {"name": SECRET})
    raise DependencyUnavailable  # SQLite takes it for 0


@pytest.mark.parametrize(
    "use", [misspelt, without_table, without_table_to_read, unreadable, of_a_wrong_type, no_number]
)
def test_the_parameters_of_a_statement_that_fails_are_not_told(
    db: Database, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises((sa.exc.DBAPIError, DependencyUnavailable)) as caught, db.write() as session:
        use(session)
    assert SECRET not in line_of(caught.value)
    assert SECRET not in "".join(str(vars(record)) for record in caplog.records)


def test_a_failure_is_told_with_its_sqlstate(db: Database, databases: Any) -> None:
    if databases.name == "sqlite":
        pytest.skip("SQLite has none")
    with pytest.raises(sa.exc.ProgrammingError, match=r"no_such.*SQLSTATE 42P01"), db.write() as session:
        session.execute(sa.text("SELECT 1 FROM no_such"))


# A server that takes no writes --------------------------------------------------------------------------------------


@pytest.fixture
def read_only(db: Database, databases: Any) -> Callable[[str], None]:
    """`read_only("on")` and `read_only("off")`: the default of new connections."""
    if databases.name == "sqlite":
        pytest.skip("a setting of PostgreSQL")

    def turn(state: str) -> None:
        name = db.url.database
        databases._run(f"ALTER DATABASE {name} SET default_transaction_read_only = {state}")

    return turn


@pytest.mark.parametrize("use", [lambda s: s.execute(sa.update(accounts).values(balance=1)), prepared])
def test_a_database_that_takes_no_writes_is_an_unavailable_dependency(
    db: Database, read_only: Callable[[str], None], use: Use
) -> None:
    read_only("on")
    db.dispose()
    for _ in range(2):
        with pytest.raises(DependencyUnavailable), db.write() as session:
            use(session)
    assert balance(db) == 0
    read_only("off")

    def written() -> bool:
        with db.write() as session:
            use(session)
        return True

    with suppress(DependencyUnavailable):
        written()  # on a connection that was made before
    assert written()
