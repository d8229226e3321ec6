"""A health check of the database that writes a row, since a database that can be read may be full or read-only."""

import math
import threading
import time
from typing import Any

import sqlalchemy as sa

from libs.common import context
from libs.common.data.columns import shared
from libs.common.data.database import Database
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert, epoch
from libs.common.errors import DependencyUnavailable, Overloaded

FRESH_SECONDS = 1.0
"""How long a result is reused before the next write."""
STALE_SECONDS = 2.0
"""How much longer it is reused while that write is under way, so that a check does not wait behind other writers."""
BUSY_SECONDS = 1.5
"""The deadline of the write: how long it may wait for other writers."""
PATIENCE_SECONDS = 2.0
"""How long a caller waits for the result of a write."""

probes = sa.Table(
    "probes",
    shared,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("written_at", sa.Double, nullable=False),
)

_touch = Prepared(
    Upsert(
        probes,
        lambda insert: insert.values(id=1, written_at=epoch()).on_conflict_do_update(
            index_elements=["id"], set_={"written_at": insert.excluded.written_at}
        ),
    )
)


class Probe:
    """Writes at most one row a second for any number of callers, in a thread, so that a write that hangs does not block
    them.
    """

    def __init__(self, db: Database):
        self._db = db
        self._lock, self._done = threading.Lock(), threading.Event()
        self._done.set()
        self._state: dict[str, Any] = {}
        self._fresh_until = -math.inf

    def state(self) -> dict[str, Any]:
        """{"status": ...}: `degraded` if the write did not get the lock in time, `unhealthy` if it failed."""
        with self._lock:
            if self._done.is_set() and time.monotonic() >= self._fresh_until:
                self._done.clear()
                threading.Thread(target=self._run, name="probe", daemon=True).start()
            is_known = time.monotonic() < self._fresh_until + STALE_SECONDS
        if is_known or self._done.wait(PATIENCE_SECONDS):
            return self._state
        return {"status": "unhealthy", "detail": "The database does not answer."}

    def _run(self) -> None:
        context.begin(BUSY_SECONDS)
        try:
            self._state = self._write()
        finally:
            self._fresh_until = time.monotonic() + FRESH_SECONDS
            self._done.set()

    def _write(self) -> dict[str, Any]:
        try:
            with self._db.write(durable=False) as session:
                _touch.write(session, [{}])
        except Overloaded as problem:
            return {"status": "degraded", "detail": problem.detail}
        except DependencyUnavailable:
            return {"status": "unhealthy", "detail": "The database cannot be written."}
        except sa.exc.SQLAlchemyError:
            return {"status": "unhealthy", "detail": "The database has not the tables that it should have."}
        return {"status": "healthy"}
