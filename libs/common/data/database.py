"""The database of a service: SQLite or PostgreSQL behind one interface.

with db.read() as session: ...     a snapshot; nothing is written
with db.write() as session: ...    one transaction: all of it, or none of it
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from libs.common.data.engines import is_unavailable, postgresql_engine, sqlite_engine, translated
from libs.common.errors import DependencyUnavailable

MAX_WRITERS = 4
_SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

Callback = Callable[[], None]


class CommitInDoubt(DependencyUnavailable):
    """The connection broke while COMMIT was under way: it may have happened. Look at the row; never write it anew."""


@dataclass
class Owner:
    """The service that owns a database, as far as its transactions must know it."""

    service: str = ""
    has_broker: bool = False
    """Whether its events go to a broker, which knows the subscribers."""
    loops: dict[str, Callback] = field(default_factory=dict)
    """Background loops of this process by name: each function wakes one."""


@dataclass
class Deferred:
    """What a transaction has put off until its end."""

    before_commit: "list[Callable[[Session], None]]" = field(default_factory=list)
    after_commit: list[Callback] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    """Name of a counter → what is to be added to it."""

    def copy(self) -> "Deferred":
        return Deferred(list(self.before_commit), list(self.after_commit), Counter(self.totals))


class Session(orm.Session):
    """A unit of work in a transaction that has begun. Statements that need no objects go straight to `connection()`,
    and do without the machinery of an ORM session, which costs as much as they do.
    """

    def __init__(self, connection: sa.Connection, owner: Owner):
        options: dict[str, Any] = {"autoflush": False, "expire_on_commit": False}
        # Whether there is a commit, `Database.write` decides.
        super().__init__(connection, join_transaction_mode="rollback_only", **options)
        self._connection = connection
        self.owner = owner
        self.deferred = Deferred()

    def connection(self, *args: Any, **options: Any) -> sa.Connection:
        return self._connection

    def before_commit(self, callback: "Callable[[Session], None]") -> None:
        """Call `callback` once with this session, as the last thing that its transaction does."""
        if callback not in self.deferred.before_commit:
            self.deferred.before_commit.append(callback)

    def after_commit(self, callback: Callback) -> None:
        """Call `callback` once when this transaction has been committed, and never if it is not."""
        if callback not in self.deferred.after_commit:
            self.deferred.after_commit.append(callback)

    def wake(self, loop: str) -> None:
        """Wake the loop of this process, where it has one of this name, when this transaction has been committed."""
        if loop in self.owner.loops:
            self.after_commit(self.owner.loops[loop])

    def savepoint(self) -> Callback:
        """Set a savepoint; returns what undoes all that comes after it, deferred work included."""
        transaction, deferred = self.begin_nested(), self.deferred.copy()

        def roll_back() -> None:
            transaction.rollback()
            self.deferred = deferred

        return roll_back

    def finish(self) -> None:
        """Write the objects that were changed, and do what was put off until now."""
        if self.in_transaction():
            self.commit()
        for callback in self.deferred.before_commit:
            callback(self)

    def committed(self) -> None:
        """Do what was put off until after the commit."""
        for callback in self.deferred.after_commit:
            callback()


Reader = Session | sa.Connection
"""What a query runs on: the connection of `Database.read`, or the session of `Database.write`."""


class Database:
    """One engine, built lazily and so after the fork: two processes must not share a connection."""

    def __init__(self, url: str, pool_size: int = 8, owner: Owner | None = None):
        self.owner = owner or Owner()
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._pool_size = pool_size
        self._engine: sa.Engine | None = None
        self._kinds: dict[str, sa.Engine] = {}
        self._writers: dict[bool, list[sa.Connection]] = {True: [], False: []}

    @property
    def engine(self) -> sa.Engine:
        if self._engine is None:
            self._engine = sqlite_engine(self.url) if self.is_sqlite else postgresql_engine(self.url, self._pool_size)
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
        Raises DependencyUnavailable when the database cannot be reached, Overloaded or StatementTimeout.
        """
        with _translating():
            # On SQLite every transaction is a snapshot.
            engine = self.engine if self.is_sqlite else self._kind("read", _SNAPSHOT)
            with engine.connect() as connection:
                # Not with its first statement, which would keep the connection to a file that has been replaced.
                connection.begin()
                yield connection

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Session]:
        """One transaction. Without `durable` a power cut may undo it, though never a part of it: for leases and
        marks that are made again anyway. Raises CommitInDoubt, Overloaded, StatementTimeout or DependencyUnavailable.
        """
        connection = self._begin(durable)
        session = Session(connection, self.owner)
        try:
            with _translating():
                yield session
                session.finish()
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
        session.committed()

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
        with _translating():
            connection = self._writers[durable].pop() if self._writers[durable] else engine.connect()
            try:
                connection.begin()
            except BaseException:
                connection.close()
                raise
        return connection


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as exc:
        if not is_unavailable(exc):
            raise
        raise translated(exc) from exc
