"""The database of a service: SQLite or PostgreSQL behind one interface, and the column types that both can hold.

    with db.read() as session: ...     a snapshot; nothing is written
    with db.write() as session: ...    one transaction: all of it, or none of it

SQLite runs in WAL mode with `synchronous=FULL`: what was committed survives a power cut. A writer takes the lock with
BEGIN IMMEDIATE, since a transaction that upgrades from reading to writing fails or loses updates. It waits for the
lock outside SQLite, in short sleeps that let other greenlets run: a wait inside would stop the whole event loop.
"""

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, SessionTransaction
from uuid_utils import uuid7

from libs.common import context
from libs.common.errors import DependencyUnavailable, Overloaded

log = logging.getLogger(__name__)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
shared = sa.MetaData(naming_convention=NAMING)
"""The tables that every service has: outbox, inbox, failures, idempotency keys, counters."""

Reader = Session | sa.Connection
"""What a query runs on: the connection of `read`, or the session of `write`."""

LOCK_WAIT_SECONDS = 5.0
MAX_WRITERS = 4
_SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
_inserts: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class CommitInDoubt(DependencyUnavailable):
    """The connection broke while COMMIT was under way: it may have happened. Look at the row; never write it anew."""


class Database:
    """One engine, built lazily and so after the fork: two processes must not share a connection."""

    def __init__(self, url: str, pool_size: int = 8):
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._pool_size = pool_size
        self._engine: sa.Engine | None = None
        self._kinds: dict[str, sa.Engine] = {}
        self._writers: dict[bool, list[sa.Connection]] = {True: [], False: []}
        self.session_info: dict[str, Any] = {}

    @property
    def engine(self) -> sa.Engine:
        if self._engine is None:
            self._engine = _sqlite(self.url) if self.is_sqlite else _postgresql(self.url, self._pool_size)
        return self._engine

    def dispose(self) -> None:
        """Close every pooled connection; the next use opens new ones."""
        for writers in self._writers.values():
            while writers:
                writers.pop().close()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
            self._kinds = {}

    def _kind(self, name: str, options: dict[str, Any]) -> sa.Engine:
        """The engine for one kind of transaction, made once: to make it costs as much as a query."""
        if name not in self._kinds:
            self._kinds[name] = self.engine.execution_options(**options)
        return self._kinds[name]

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A snapshot, in which nothing is written: rows, not objects, since a Session costs more than a look-up by id.
        Raises DependencyUnavailable when the database cannot be reached.
        """
        try:
            # On SQLite every transaction is a snapshot.
            engine = self.engine if self.is_sqlite else self._kind("read", _SNAPSHOT)
            with engine.connect() as connection:
                yield connection
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as exc:
            raise _translated(exc) from exc

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Session]:
        """One transaction. Without `durable` a power cut may undo it, though never a part of it: for leases and
        marks that are made again anyway. Raises CommitInDoubt, Overloaded or DependencyUnavailable.
        """
        connection = self._begin(durable)
        session = Transaction(connection, self.session_info)
        try:
            try:
                yield session
                session.finish()
            except (sa.exc.OperationalError, sa.exc.InterfaceError) as exc:
                raise _translated(exc) from exc
            try:
                connection.commit()
            except sa.exc.DBAPIError as exc:
                # The connection may still hold the transaction, and with it the lock: no one else may get it.
                connection.invalidate()
                raise CommitInDoubt() from exc
        finally:
            if session.in_transaction():
                session.close()
            self._end(connection, durable)
        for callback in session.info.get("after_commit", ()):
            callback()

    def _end(self, connection: sa.Connection, durable: bool) -> None:
        """Keep a connection of SQLite at hand: to take one from the pool costs as much as a statement."""
        if not self.is_sqlite or connection.invalidated or len(self._writers[durable]) == MAX_WRITERS:
            try:
                connection.close()
            except sa.exc.DBAPIError:  # It rolls back first, and the server may be gone.
                connection.invalidate()
            return
        if connection.in_transaction():
            connection.rollback()
        self._writers[durable].append(connection)

    def _begin(self, durable: bool) -> sa.Connection:
        engine = self._kind(f"write {durable}", {"quintet_write": True, "quintet_durable": durable})
        try:
            connection = self._writers[durable].pop() if self._writers[durable] else engine.connect()
            try:
                connection.begin()
            except BaseException:
                connection.close()
                raise
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as exc:
            raise _translated(exc) from exc
        return connection


class Transaction(Session):
    """A Session in a transaction that has begun. Statements that need no objects go straight to `connection()`, and
    do without the machinery of a Session, which costs as much as they do.
    """

    def __init__(self, connection: sa.Connection, info: dict[str, Any]):
        options: dict[str, Any] = {"autoflush": False, "expire_on_commit": False}
        # Whether there is a commit, `write` decides.
        super().__init__(connection, info=info, join_transaction_mode="rollback_only", **options)
        self._connection = connection

    def connection(self, *args: Any, **options: Any) -> sa.Connection:
        return self._connection

    def finish(self) -> None:
        """Write the objects that were changed, and do what is to be done last."""
        if self.in_transaction():
            self.commit()
        for callback in self.info.get("before_commit", ()):
            callback()


def before_commit(session: Session, callback: Callable[[], None]) -> None:
    """Run `callback` as the last thing that this transaction does."""
    session.info.setdefault("before_commit", []).append(callback)


def after_commit(session: Session, callback: Callable[[], None]) -> None:
    """Run `callback` once when this transaction has been committed, and never if it is not."""
    callbacks = session.info.setdefault("after_commit", [])
    if callback not in callbacks:
        callbacks.append(callback)


def roll_back_to(session: Session, savepoint: SessionTransaction) -> None:
    """Undo what was done since the savepoint, what was to be done at the commit included."""
    savepoint.rollback()
    for left in ("before_commit", "after_commit", "counters"):
        session.info.pop(left, None)


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique everywhere, and ordered by time."""
    return str(uuid7())


class _Array(sa.types.TypeDecorator[Any]):
    """Values in one parameter: a JSON array on SQLite, an array on PostgreSQL."""

    impl = sa.String
    cache_ok = True

    def __init__(self, of: Any):
        super().__init__()
        self.of = of

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.String() if dialect.name == "sqlite" else postgresql.ARRAY(self.of))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return orjson.dumps(list(value)).decode() if dialect.name == "sqlite" else list(value)


class any_of(sa.sql.functions.FunctionElement[bool]):
    """`any_of(column, "ids")`: the column is one of the values that are given at execution as `ids`. Unlike `IN`, it is
    the same statement for any number of them, and is prepared once.
    """

    type = sa.Boolean()
    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], name: str):
        super().__init__(column, sa.bindparam(name, type_=_Array(column.type)))

    def self_group(self, against: Any = None) -> "any_of":
        """Not as `... = 1`, which would hide it from the planner of SQLite."""
        return self


@compiles(any_of, "sqlite")
def _any_of_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    column, values = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  # nosec


@compiles(any_of, "postgresql")
def _any_of_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    column, values = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"{column} = ANY({values})"


def upsert(session: Session, table: sa.Table) -> Any:
    """`INSERT` of this engine's dialect, which has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return _inserts[session.get_bind().dialect.name](table)


class Upsert:
    """An upsert that is built once for each dialect: `_add = Upsert(table, lambda insert: insert.on_conflict_...)`,
    then `session.execute(_add(session), rows)`.
    """

    def __init__(self, table: sa.Table, build: Callable[[Any], Any]):
        self.built = {name: build(insert(table)) for name, insert in _inserts.items()}

    def __call__(self, session: Session) -> Any:
        return self.built[session.get_bind().dialect.name]


_PRAGMAS = (
    "busy_timeout=5000",
    "journal_mode=WAL",
    "busy_timeout=0",
    "foreign_keys=ON",
    # 512 KiB, not 2 MiB: there are many connections, and the kernel caches the file for all of them.
    "cache_size=-512",
    # 16 MiB of log, not 4, before it is copied into the file: a page that changes often is copied once.
    "wal_autocheckpoint=4000",
)


def _sqlite(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"timeout": 0, "check_same_thread": False, "isolation_level": None, "cached_statements": 256},
        pool_size=32,
        max_overflow=32,
        pool_use_lifo=True,
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
    )

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        driver: Any = connection.connection.driver_connection
        try:
            if not options.get("quintet_write"):
                driver.execute("BEGIN")
                return
            synchronous = "FULL" if options.get("quintet_durable", True) else "NORMAL"
            if connection.info.get("synchronous") != synchronous:
                driver.execute(f"PRAGMA synchronous={synchronous}")
                connection.info["synchronous"] = synchronous
            _lock(driver)
        except sqlite3.Error as exc:
            raise sa.exc.OperationalError("BEGIN", None, exc) from exc

    return engine


def _lock(driver: sqlite3.Connection) -> None:
    """Begin a transaction that writes. Straight on the driver: somebody else may have the lock for a while."""
    give_up = time.monotonic() + LOCK_WAIT_SECONDS
    if work := context.current():
        give_up = min(give_up, work.deadline)
    pause = 0.0005
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as exc:
            if not _is_locked(exc) or time.monotonic() > give_up:
                raise
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 1.5, 0.01)


def _postgresql(url: sa.URL, pool_size: int) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"connect_timeout": 3, "options": "-c lock_timeout=2s -c statement_timeout=5s -c timezone=UTC"},
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2,
        pool_pre_ping=True,
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if not connection.get_execution_options().get("quintet_durable", True):
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    return engine


def _is_locked(exc: Exception) -> bool:
    return "database is locked" in str(exc) or "database schema is locked" in str(exc)


def _translated(exc: Exception) -> DependencyUnavailable | Overloaded:
    if _is_locked(exc) or isinstance(exc, sa.exc.TimeoutError) or "lock timeout" in str(exc):
        return Overloaded("The database is busy.")
    log.warning("database.failed", extra={"error": type(exc).__name__, "why": str(getattr(exc, "orig", ""))[:200]})
    return DependencyUnavailable("The database is unavailable.")


def _to_json(value: Any) -> str:
    return orjson.dumps(value).decode()


# Column types ------------------------------------------------------------------------------------------------------

Id = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
"""A UUID in its text form; native on PostgreSQL."""

Json = sa.JSON(none_as_null=True)
"""Kept word for word, members in their order: an answer that is told again must be the same, which JSONB would lose."""


def Text(length: int) -> sa.types.TypeEngine[str]:
    """Text that both engines sort alike, by code point."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


class Moment(sa.types.TypeDecorator[datetime]):
    """An aware time in UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        """On SQLite as text, as SQLAlchemy writes it, in a fraction of its time."""
        return _to_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        return _from_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _to_text(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _from_text(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value).replace(tzinfo=UTC)


class Amount(sa.types.TypeDecorator[Decimal]):
    """An exact amount with four digits after the point, as a whole number of ten-thousandths: every currency fits,
    amounts compare and add up as numbers, and SQLite, which has no decimal type, keeps every digit.
    """

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else int(value.scaleb(4))

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else Decimal(value).scaleb(-4)


class epoch(sa.sql.functions.FunctionElement[float]):
    """Seconds since 1970 by the clock of the database: hosts need not agree on the time of a lease."""

    type = sa.Double()
    inherit_cache = True


@compiles(epoch, "sqlite")
def _epoch_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch, "postgresql")
def _epoch_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())::float8"
