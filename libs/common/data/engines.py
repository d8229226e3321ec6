"""The engines of both databases: connection setup, how transactions begin, and the translation of errors.

SQLite runs in WAL mode with `synchronous=FULL`, so that commits survive a power failure. A writer takes the lock with
BEGIN IMMEDIATE, since a transaction that upgrades from reading to writing can fail with SQLITE_BUSY. It polls for the
lock with short sleeps, which let other greenlets run: SQLite's own busy handler would block the whole event loop.

On PostgreSQL, too, the BEGIN of a transaction is ours: it sets the isolation level and the durability in the same round
trip, and it shows whether a pooled connection is still alive, since nothing has been written before it.
"""

import logging
import os
import random
import sqlite3
import time
from contextlib import suppress
from typing import Any

import orjson
import psycopg
import sqlalchemy as sa
from gevent import monkey
from psycopg.pq import TransactionStatus

from libs.common import context
from libs.common.data.driver import GeventConnection
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, Overloaded, Problem
from libs.common.files import open_private

log = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 5.0

READ_ONLY = "25006"
"""SQLSTATE of a read-only transaction: the server is a standby, or `default_transaction_read_only` is on."""
_BAD_VALUE = "22"
"""Class of the SQLSTATEs whose message may quote the rejected value."""

_CACHE = "cache_size=-512"
_PRAGMAS = (
    "busy_timeout=5000",
    "journal_mode=WAL",
    "busy_timeout=0",
    "foreign_keys=ON",
    # 512 KiB: there are many connections, and the kernel caches the file for all of them.
    _CACHE,
    # Checkpoint at 16 MiB of WAL, not at 4: a page that changes often is then copied less often.
    "wal_autocheckpoint=4000",
    # Truncate the WAL after a checkpoint if a long transaction has made it larger than 64 MiB.
    "journal_size_limit=67108864",
)


_WRITER_CACHE = "cache_size=-2000"
"""2 MiB for the few connections that make durable commits: a batch of orders writes to random pages of several indexes,
and reading each of these back from the file costs more than the write.
"""


class _File:
    """The file of a SQLite database. When the file is removed or replaced, a connection still writes to the old one,
    and these writes are lost; so each transaction checks the identity of the file.
    """

    def __init__(self, path: str):
        self._path = path
        self._was_there = False

    def identity(self) -> tuple[int, int]:
        """Device and inode of the current file; raises OperationalError if there is none."""
        try:
            found = os.stat(self._path)
        except OSError as exc:
            raise sqlite3.OperationalError(f"no file: {exc.strerror}") from exc
        self._was_there = True
        return found.st_dev, found.st_ino

    def before_connect(self, *arguments: Any) -> None:
        """Create a new database file with mode 0600, which SQLite would make readable for all, and refuse to replace a
        file that was removed, which SQLite would do with an empty one.
        """
        if self._was_there:
            self.identity()
            return
        try:
            # Only if it does not exist: closing a file releases all POSIX locks that this process holds on it.
            os.close(open_private(self._path, os.O_RDONLY | os.O_EXCL))
        except FileExistsError:
            pass
        except OSError as exc:
            raise sqlite3.OperationalError(f"no file can be made: {exc.strerror}") from exc

    def drop_stale(self, connection: sa.Connection) -> None:
        """Reconnect until the connection has the current file."""
        while connection.info["file"] != self.identity():
            connection.invalidate()


def _to_json(value: Any) -> str:
    return orjson.dumps(value).decode()


_COMMON: dict[str, Any] = {
    "hide_parameters": True,  # no value of a row gets into an exception, and so into the log
    "json_serializer": _to_json,
    "json_deserializer": orjson.loads,
}
"""Options of every engine."""


def sqlite_engine(url: sa.URL) -> sa.Engine:
    file = _File(url.database or "")
    engine = sa.create_engine(
        url,
        connect_args={"timeout": 0, "check_same_thread": False, "isolation_level": None, "cached_statements": 256},
        pool_size=32,
        max_overflow=32,
        pool_use_lifo=True,
        **_COMMON,
    )

    sa.event.listen(engine, "do_connect", file.before_connect)

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        record.info["file"] = file.identity()

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        try:
            file.drop_stale(connection)
            driver: Any = connection.connection.driver_connection
            if not options.get("quintet_write"):
                driver.execute("BEGIN")
                return
            synchronous = "FULL" if options.get("quintet_durable", True) else "NORMAL"
            if connection.info.get("synchronous") != synchronous:
                driver.execute(f"PRAGMA synchronous={synchronous}")
                driver.execute(f"PRAGMA {_WRITER_CACHE if synchronous == 'FULL' else _CACHE}")
                connection.info["synchronous"] = synchronous
            _lock(driver)
        except sqlite3.Error as exc:
            raise sa.exc.OperationalError("BEGIN", None, exc) from exc

    return engine


def _lock(driver: sqlite3.Connection) -> None:
    """Begin a write transaction: try for the lock until LOCK_WAIT_SECONDS or the deadline of the work has passed."""
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


# The cost of a random read is that of an SSD. Plans are kept, and many are made while a table is small: at the default
# of 4 they would read the whole table until the server has analysed it.
_SETTINGS = "-c lock_timeout=2s -c statement_timeout=5s -c timezone=UTC -c random_page_cost=1.1"


def postgresql_engine(url: sa.URL, pool_size: int) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={
            "connect_timeout": 3,
            "options": _SETTINGS,
            # psycopg begins no transactions; we do, see `_begin`.
            "autocommit": True,
        },
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2,
        # The fewer connections are used, the more of their statements are prepared.
        pool_use_lifo=True,
        **_COMMON,
    )

    if monkey.is_module_patched("select"):

        @sa.event.listens_for(engine, "do_connect")
        def connect(dialect: sa.Dialect, record: Any, arguments: Any, options: Any) -> Any:
            return GeventConnection.connect(*arguments, **options)

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        record.info["begin"] = connection.cursor()

    sa.event.listen(engine, "begin", _begin)
    sa.event.listen(engine, "rollback", _end_snapshot)
    sa.event.listen(engine, "handle_error", _on_error)
    return engine


_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_PLAIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# Two statements in one round trip. Durable writes find rows by their keys, so one plan fits all values; of its own
# accord the server would plan again for each list of keys, which costs it more than to execute the plan.
_DURABLE = f"{_PLAIN}; SET LOCAL plan_cache_mode TO force_generic_plan"
_LOSABLE = f"{_PLAIN}; SET LOCAL synchronous_commit TO off"


def _begin(connection: sa.Connection) -> None:
    """Begin the transaction on a connection that is alive: the server may have closed those in the pool."""
    options = connection.get_execution_options()
    statement = _SNAPSHOT if options.get("quintet_snapshot") else _PLAIN
    if options.get("quintet_write"):
        statement = _DURABLE if options["quintet_durable"] else _LOSABLE
    while True:
        cursor = connection.info["begin"]
        is_new = cursor.statusmessage is None
        try:
            cursor.execute(statement, prepare=False)
            return
        except psycopg.Error as exc:
            has_died = cursor.connection.broken
            connection.invalidate(exc)
            if is_new or not has_died:
                raise sa.exc.OperationalError("BEGIN", None, exc) from exc


def _end_snapshot(connection: sa.Connection) -> None:
    """Commit a read-only transaction that is to be rolled back: at a ROLLBACK psycopg drops all prepared statements of
    the connection. That is wanted only after an error, since the types of a column may have been changed.
    """
    if connection.invalidated or not connection.get_execution_options().get("quintet_snapshot"):
        return
    driver: Any = connection.connection.driver_connection
    if driver.info.transaction_status == TransactionStatus.INTRANS:
        with suppress(psycopg.Error):  # the rollback, which follows, fails as well
            driver.commit()


class StatementTimeout(Problem):
    """A statement exceeded the statement timeout. The database is up; the query asked for too much."""

    status, code, title = DeadlineExceeded.status, DeadlineExceeded.code, DeadlineExceeded.title
    retry_after = DeadlineExceeded.retry_after


class StatementFailed(Exception):
    """A statement can never be executed with these values; a retry is of no use."""


_BUSY = ("55P03", "40P01", "40001")
"""SQLSTATEs of a lock timeout, a deadlock and a serialization failure: a retry may succeed (PostgreSQL, appendix A)."""
_TOO_SLOW = "57014"
_BEYOND_LIMITS = "54"
"""Class of the SQLSTATEs for values and statements that exceed a limit of PostgreSQL."""


def _on_error(failure: sa.engine.ExceptionContext) -> None:
    """Remove the values of rows from PostgreSQL's error messages, since these are logged; drop the connection when the
    server is read-only.
    """
    driver: Any = failure.original_exception
    if sqlstate := getattr(driver, "sqlstate", None):
        told = "A value was refused." if sqlstate.startswith(_BAD_VALUE) else driver.diag.message_primary
        driver.args = (f"{told} (SQLSTATE {sqlstate})",)
        if failure.sqlalchemy_exception:
            failure.sqlalchemy_exception.args = (f"({type(driver).__name__}) {driver}",)
    if is_read_only(failure.original_exception):
        # A new connection may reach the new primary, or no longer have the read-only setting.
        failure.is_disconnect = True


def is_read_only(exc: object) -> bool:
    """Whether PostgreSQL refused a write because the transaction is read-only."""
    return getattr(exc, "sqlstate", None) == READ_ONLY


def is_unavailable(exc: sa.exc.SQLAlchemyError) -> bool:
    """Whether the database failed, as opposed to the statement."""
    if isinstance(exc, (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)):
        return True
    driver = getattr(exc, "orig", None)
    # sqlite3 raises a plain DatabaseError when the file is damaged or is not a database.
    return is_read_only(driver) or type(driver) is sqlite3.DatabaseError


def _is_locked(exc: Exception) -> bool:
    return "database is locked" in str(exc) or "database schema is locked" in str(exc)


def translated(exc: Exception) -> Problem | StatementFailed:
    """The error to raise for a failure: the database is busy or unavailable, or the statement itself is at fault."""
    cause = getattr(exc, "orig", None)
    state = getattr(cause, "sqlstate", None) or ""
    if state == _TOO_SLOW:
        return StatementTimeout()
    if state.startswith(_BEYOND_LIMITS) or "integer overflow" in str(cause):
        return StatementFailed(str(cause))
    if state in _BUSY or _is_locked(exc) or isinstance(exc, sa.exc.TimeoutError):
        return Overloaded("The database is busy.")
    log.warning("database.failed", extra={"error": type(exc).__name__, "why": str(cause or "")[:200]})
    return DependencyUnavailable("The database is unavailable.")
