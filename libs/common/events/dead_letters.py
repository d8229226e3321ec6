"""Events that could not be handled, with their last error: those that will be retried, and the dead letters.

At most `MAX_FAILURES` events and `MAX_BYTES_KEPT` bytes are stored. Beyond that an event is not accepted, and its
sender keeps it.
"""

import json
import logging
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from libs.common.data.columns import Moment, shared
from libs.common.data.database import Database, Reader, Session
from libs.common.data.prepared import Prepared
from libs.common.data.statements import any_of, delete_some, upsert
from libs.common.events.event import MAX_BYTES
from libs.common.times import now

MAX_ATTEMPTS = 5
MAX_FAILURES = 1000
MAX_BYTES_KEPT = 64 * 1024 * 1024

log = logging.getLogger(__name__)

failures = sa.Table(
    "failures",
    shared,
    sa.Column("event_id", sa.String(64), primary_key=True),
    sa.Column("type", sa.String(100), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("error", sa.String(500), nullable=False),
    sa.Column("failed_at", Moment, nullable=False),
    sa.Column("dead", sa.Boolean(name="dead_is_boolean"), nullable=False, index=True),
)
_known = Prepared(sa.select(failures.c.event_id, failures.c.dead).where(any_of(failures.c.event_id, "ids")))
_forget = Prepared(sa.delete(failures).where(any_of(failures.c.event_id, "ids")))


def event_id_of(envelope: Any) -> str | None:
    """The id of an event, or None if it has none that can be stored."""
    given = envelope.get("id") if isinstance(envelope, dict) else None
    return given if isinstance(given, str) and 1 <= len(given) <= 64 and given.isprintable() else None


def known_failures(session: Session, event_ids: Sequence[str]) -> dict[str, bool]:
    """Ids of those events that have failed before → whether each is a dead letter."""
    return dict(_known.rows(session, ids=event_ids))


def store(
    session: Session, envelope: Any, exc: Exception, *, refused: bool, letter_id: str | None = None
) -> bool | None:
    """Record a failure of the event; returns whether it is now a dead letter, or None if there is no room. A `refused`
    event becomes one at once. `letter_id` is the id of the dead letter if this was a replay.
    """
    body = _body(envelope)
    # Without an id, one is derived from the content, so that a second delivery is the same dead letter.
    event_id = letter_id or event_id_of(envelope) or str(uuid.uuid5(uuid.NAMESPACE_OID, body))
    row = {
        "event_id": event_id,
        "body": body,
        "type": _text(envelope.get("type") if isinstance(envelope, dict) else None, 100),
        "error": _text(f"{type(exc).__name__}: {exc}", 500),
        "failed_at": now(),
    }
    if not known_failures(session, [event_id]) and _is_full(session):
        log.error("dead_letters.full", extra={"event_id": event_id})
        return None
    attempts = failures.c.attempts + 1
    again = {
        **row,
        "attempts": attempts,
        "dead": sa.or_(failures.c.dead, attempts >= MAX_ATTEMPTS, sa.literal(refused)),
    }
    insert = upsert(session, failures).values(attempts=1, dead=refused or MAX_ATTEMPTS <= 1, **row)
    insert = insert.on_conflict_do_update(index_elements=["event_id"], set_=again)
    return bool(session.scalar(insert.returning(failures.c.dead)))


def _body(envelope: Any) -> str:
    """The envelope as JSON. Not with orjson, which rejects lone surrogates and huge numbers."""
    try:
        body = json.dumps(envelope, default=float)
    except RecursionError:
        return "null"
    # No valid event is this large; the beginning is enough to see where it comes from.
    return body if len(body) <= MAX_BYTES else json.dumps(body[:1000])


def _text(value: Any, length: int) -> str:
    """The value as text that every engine can store: no lone surrogates, no NUL, at most `length` characters."""
    return str(value).encode("utf-8", "replace").decode().replace("\x00", "")[:length]


def _is_full(session: Session) -> bool:
    size = sa.func.coalesce(sa.func.sum(sa.func.length(failures.c.body)), 0)
    count, held = session.execute(sa.select(sa.func.count(), size)).one()
    return bool(count >= MAX_FAILURES or held >= MAX_BYTES_KEPT)


def forget(session: Session, event_ids: Sequence[str]) -> None:
    """Delete the failures of events that have been handled."""
    if event_ids:
        _forget.write(session, [{"ids": event_ids}])


def find_all(session: Reader) -> list[sa.RowMapping]:
    """The dead letters, oldest first."""
    query = sa.select(failures).where(failures.c.dead).order_by(failures.c.failed_at, failures.c.event_id)
    return list(session.execute(query).mappings())


def find(session: Reader, event_id: str) -> sa.RowMapping | None:
    query = sa.select(failures).where(failures.c.event_id == event_id, failures.c.dead)
    return session.execute(query).mappings().one_or_none()


def count(session: Reader) -> int:
    return session.scalar(sa.select(sa.func.count()).where(failures.c.dead)) or 0


def read_body(body: str) -> Any:
    """The envelope of a stored dead letter."""
    return json.loads(body, parse_float=Decimal)


def discard(db: Database, event_id: str) -> bool:
    """Delete a dead letter; returns False if there is none with this id."""
    with db.write() as session:
        gone = sa.delete(failures).where(failures.c.event_id == event_id, failures.c.dead)
        return bool(session.execute(gone).rowcount)  # type: ignore[attr-defined]


def trim(session: Session, keep_seconds: float, limit: int) -> int:
    """Delete up to `limit` failures that are not dead letters and older than this; returns how many."""
    since = datetime.fromtimestamp(time.time() - keep_seconds, UTC)
    return delete_some(session, failures, sa.and_(~failures.c.dead, failures.c.failed_at < since), limit)
