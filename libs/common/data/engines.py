"""The engines of both databases: how connections are set up, how a transaction begins, what a failure means.

SQLite runs in WAL mode with `synchronous=FULL`: what was committed survives a power cut. A writer takes the lock with
BEGIN IMMEDIATE, since a transaction that upgrades from reading to writing fails or loses updates. It waits for the
lock outside SQLite, in short sleeps that let other greenlets run: a wait inside would stop the whole event loop.
"""

import logging
import os
import random
import sqlite3
import time
from typing import Any

import orjson
import sqlalchemy as sa

from libs.common import context
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, Overloaded, Problem
from libs.common.files import open_private

log = logging.getLogger(__name__)

LOCK_WAIT_SECONDS = 5.0

READ_ONLY = "25006"
"""SQLSTATE of what cannot be written, since the server is a standby or `default_transaction_read_only` is on."""
_BAD_VALUE = "22"
"""Class of the SQLSTATEs whose message may quote the value that was refused."""

_PRAGMAS = (
    "busy_timeout=5000",
    "journal_mode=WAL",
    "busy_timeout=0",
    "foreign_keys=ON",
    # 512 KiB, not 2 MiB: there are many connections, and the kernel caches the file for all of them.
    "cache_size=-512",
    # 16 MiB of log, not 4, before it is copied into the file: a page that changes often is copied once.
    "wal_autocheckpoint=4000",
    # What a long transaction has added to the log is given back when it starts anew.
    "journal_size_limit=67108864",
)


class _File:
    """The file of a SQLite database. A connection keeps the file that it has opened when that is removed or replaced,
    and what it writes from then on is lost.
    """

    def __init__(self, path: str):
        self._path = path
        self._was_there = False

    def identity(self) -> tuple[int, int]:
        """Of the file that is there now; raises OperationalError where there is none."""
        try:
            found = os.stat(self._path)
        except OSError as exc:
            raise sqlite3.OperationalError(f"no file: {exc.strerror}") from exc
        self._was_there = True
        return found.st_dev, found.st_ino

    def before_connect(self, *arguments: Any) -> None:
        """SQLite would put an empty file in the place of one that was removed, and make a new one for all to read."""
        if self._was_there:
            self.identity()
            return
        try:
            # Only one that is missing: to close a file ends all locks that this process holds on it.
            os.close(open_private(self._path, os.O_RDONLY | os.O_EXCL))
        except FileExistsError:
            pass
        except OSError as exc:
            raise sqlite3.OperationalError(f"no file can be made: {exc.strerror}") from exc

    def drop_stale(self, connection: sa.Connection) -> None:
        """Let the connection have the file that is there now."""
        while connection.info["file"] != self.identity():
            connection.invalidate()


def sqlite_engine(url: sa.URL) -> sa.Engine:
    file = _File(url.database or "")
    engine = sa.create_engine(
        url,
        connect_args={"timeout": 0, "check_same_thread": False, "isolation_level": None, "cached_statements": 256},
        pool_size=32,
        max_overflow=32,
        pool_use_lifo=True,
        hide_parameters=True,
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
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


def postgresql_engine(url: sa.URL, pool_size: int) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"connect_timeout": 3, "options": "-c lock_timeout=2s -c statement_timeout=5s -c timezone=UTC"},
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2,
        pool_pre_ping=True,
        hide_parameters=True,
        json_serializer=_to_json,
        json_deserializer=orjson.loads,
    )

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if not connection.get_execution_options().get("quintet_durable", True):
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    @sa.event.listens_for(engine, "checkin")
    def checkin(connection: Any, record: Any) -> None:
        # After a snapshot SQLAlchemy leaves False, which would overrule `default_transaction_read_only`.
        if connection is not None and connection.read_only is False:
            connection.read_only = None

    sa.event.listen(engine, "handle_error", _judge)
    return engine


class StatementTimeout(Problem):
    """A statement took longer than one may. The database is there: what asked for too much at once is at fault."""

    status, code, title = DeadlineExceeded.status, DeadlineExceeded.code, DeadlineExceeded.title
    retry_after = DeadlineExceeded.retry_after


class StatementFailed(Exception):
    """A statement cannot be executed with these values, whenever it is tried."""


_BUSY = ("55P03", "40P01", "40001")
"""A lock that was not to be had in time, a deadlock, a conflict: another try may succeed (PostgreSQL, appendix A)."""
_TOO_SLOW = "57014"
_BEYOND_LIMITS = "54"
"""The class of errors that tell of a value or a statement which exceeds a limit of PostgreSQL."""


def _judge(failure: sa.engine.ExceptionContext) -> None:
    """PostgreSQL tells the values of a row with its errors; they would end up in the log."""
    driver: Any = failure.original_exception
    if sqlstate := getattr(driver, "sqlstate", None):
        told = "A value was refused." if sqlstate.startswith(_BAD_VALUE) else driver.diag.message_primary
        driver.args = (f"{told} (SQLSTATE {sqlstate})",)
        if failure.sqlalchemy_exception:
            failure.sqlalchemy_exception.args = (f"({type(driver).__name__}) {driver}",)
    if is_read_only(failure.original_exception):
        # The server may have become a standby, or the setting may be gone for new connections.
        failure.is_disconnect = True


def is_read_only(exc: object) -> bool:
    """Whether PostgreSQL says that nothing can be written now."""
    return getattr(exc, "sqlstate", None) == READ_ONLY


def is_unavailable(exc: sa.exc.SQLAlchemyError) -> bool:
    """Whether the database failed, and not the statement."""
    if isinstance(exc, (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)):
        return True
    driver = getattr(exc, "orig", None)
    # Of sqlite3 the plain DatabaseError says that the file is damaged, or no database.
    return is_read_only(driver) or type(driver) is sqlite3.DatabaseError


def _is_locked(exc: Exception) -> bool:
    return "database is locked" in str(exc) or "database schema is locked" in str(exc)


def translated(exc: Exception) -> Problem | StatementFailed:
    """What a failure of the database means: it is busy, it is away, or the statement itself is at fault."""
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


def _to_json(value: Any) -> str:
    return orjson.dumps(value).decode()
