"""The database of a service: SQLite or PostgreSQL behind one interface.

with db.read() as session: ...     a read-only snapshot
with db.write() as session: ...    one transaction
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

MAX_KEPT = 4
"""How many SQLite connections are kept for the next transaction of their kind."""
_READ, _WRITE, _LOSABLE_WRITE = "read", "write", "write that may be lost"
_OPTIONS: dict[str, dict[str, Any]] = {
    _READ: {"quintet_snapshot": True},
    _WRITE: {"quintet_write": True, "quintet_durable": True},
    _LOSABLE_WRITE: {"quintet_write": True, "quintet_durable": False},
}
"""Kind of a transaction → the execution options that its BEGIN looks at."""

Callback = Callable[[], None]


class CommitInDoubt(DependencyUnavailable):
    """The connection broke during COMMIT, which may have taken effect. Read the row again; do not repeat the write."""


@dataclass
class Owner:
    """What transactions need to know of the service that owns the database."""

    service: str = ""
    has_broker: bool = False
    """Whether events are sent to a broker instead of to each subscriber."""
    loops: dict[str, Callback] = field(default_factory=dict)
    """Name of a background loop of this process → the function that wakes it."""


@dataclass
class Deferred:
    """Work that a transaction has deferred until its end."""

    before_commit: "list[Callable[[Session], None]]" = field(default_factory=list)
    after_commit: list[Callback] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    """Name of a counter → the change to add."""

    def copy(self) -> "Deferred":
        return Deferred(list(self.before_commit), list(self.after_commit), Counter(self.totals))


class Session(orm.Session):
    """A unit of work in a transaction that has begun. Statements that need no ORM objects should run on `connection()`,
    which avoids the overhead of the ORM session.
    """

    def __init__(self, connection: sa.Connection, owner: Owner):
        options: dict[str, Any] = {"autoflush": False, "expire_on_commit": False}
        # `Database.write` commits, not this session.
        super().__init__(connection, join_transaction_mode="rollback_only", **options)
        self._connection = connection
        self.owner = owner
        self.deferred = Deferred()

    def connection(self, *args: Any, **options: Any) -> sa.Connection:
        return self._connection

    def before_commit(self, callback: "Callable[[Session], None]") -> None:
        """Call `callback` once with this session, just before its transaction commits."""
        if callback not in self.deferred.before_commit:
            self.deferred.before_commit.append(callback)

    def after_commit(self, callback: Callback) -> None:
        """Call `callback` once after this transaction has committed, but not if it is rolled back."""
        if callback not in self.deferred.after_commit:
            self.deferred.after_commit.append(callback)

    def wake(self, loop: str) -> None:
        """Wake the background loop of this name, if this process has it, after this transaction has committed."""
        if loop in self.owner.loops:
            self.after_commit(self.owner.loops[loop])

    def savepoint(self) -> Callback:
        """Set a savepoint; returns a function that rolls back to it and drops the work deferred since."""
        transaction, deferred = self.begin_nested(), self.deferred.copy()

        def roll_back() -> None:
            transaction.rollback()
            self.deferred = deferred

        return roll_back

    def finish(self) -> None:
        """Flush changed objects and run the `before_commit` callbacks."""
        if self.in_transaction():
            self.commit()
        for callback in self.deferred.before_commit:
            callback(self)

    def committed(self) -> None:
        """Run the `after_commit` callbacks."""
        for callback in self.deferred.after_commit:
            callback()


Reader = Session | sa.Connection
"""What a query runs on: the connection from `Database.read` or the session from `Database.write`."""


class Database:
    """One engine, created at first use and so after the fork: processes must not share a connection."""

    def __init__(self, url: str, pool_size: int = 8, owner: Owner | None = None):
        self.owner = owner or Owner()
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._pool_size = pool_size
        self._engine: sa.Engine | None = None
        self._kinds: dict[str, sa.Engine] = {}
        self._kept: dict[str, list[sa.Connection]] = {kind: [] for kind in _OPTIONS}

    @property
    def engine(self) -> sa.Engine:
        if self._engine is None:
            self._engine = sqlite_engine(self.url) if self.is_sqlite else postgresql_engine(self.url, self._pool_size)
        return self._engine

    def dispose(self) -> None:
        """Close every pooled connection; the next use opens new ones."""
        for kept in self._kept.values():
            while kept:
                kept.pop().close()
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
            self._kinds = {}

    def _engine_for(self, kind: str) -> sa.Engine:
        """The engine for one kind of transaction, cached, since creating it costs as much as a query."""
        if kind not in self._kinds:
            self._kinds[kind] = self.engine.execution_options(**_OPTIONS[kind])
        return self._kinds[kind]

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A read-only snapshot. It yields a connection, since an ORM session costs more than a look-up by id. Raises
        DependencyUnavailable when the database cannot be reached, Overloaded or StatementTimeout.
        """
        with _translating():
            connection = self._begin(_READ)
            try:
                yield connection
            finally:
                self._end(connection, _READ)

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[Session]:
        """One transaction. With `durable=False` a power failure may undo it as a whole; use that for leases and marks
        that can be made again. Raises CommitInDoubt, Overloaded, StatementTimeout or DependencyUnavailable.
        """
        kind = _WRITE if durable else _LOSABLE_WRITE
        connection = self._begin(kind)
        session = Session(connection, self.owner)
        try:
            with _translating():
                yield session
                session.finish()
            try:
                connection.commit()
            except sa.exc.DBAPIError as exc:
                # The connection may still be in the transaction and hold its locks: it must not be used again.
                connection.invalidate()
                raise CommitInDoubt() from exc
        finally:
            if session.in_transaction():
                session.close()
            self._end(connection, kind)
        session.committed()

    def _begin(self, kind: str) -> sa.Connection:
        kept = self._kept[kind]
        with _translating():
            connection = kept.pop() if kept else self._engine_for(kind).connect()
            try:
                connection.begin()
            except BaseException:
                connection.close()
                raise
        return connection

    def _end(self, connection: sa.Connection, kind: str) -> None:
        """Keep SQLite connections for the next transaction: taking one from the pool costs as much as a statement."""
        if not self.is_sqlite or connection.invalidated or len(self._kept[kind]) == MAX_KEPT:
            try:
                connection.close()
            except sa.exc.DBAPIError:  # close() rolls back first, which fails if the server is gone
                connection.invalidate()
            return
        if connection.in_transaction():
            connection.rollback()
        self._kept[kind].append(connection)


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as exc:
        if not is_unavailable(exc):
            raise
        raise translated(exc) from exc
