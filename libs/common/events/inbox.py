"""The inbox: an event is handled exactly once in effect, however often it is delivered.

The id of an event is written in the transaction of its effect: a second delivery finds it and changes nothing. A
batch is handled in one transaction; if that fails, each event is tried in its own, so that a bad one fails no
neighbour. What fails for its own sake is counted here, by the consumer, and is a dead letter after `MAX_ATTEMPTS`;
an unreachable database is nobody's fault and counts for nothing.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from libs.common import metrics
from libs.common.data.columns import Moment, shared
from libs.common.data.database import Database, Reader, Session
from libs.common.data.statements import Upsert, upsert
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, Overloaded
from libs.common.events.event import Event, RefusedEvent
from libs.common.ids import new_id
from libs.common.times import now

MAX_ATTEMPTS = 5
KEEP_SECONDS = 14 * 24 * 3600

log = logging.getLogger(__name__)

inbox = sa.Table(
    "inbox",
    shared,
    sa.Column("event_id", sa.String(64), primary_key=True),
    sa.Column("handled_at", sa.Double, nullable=False, index=True),
)
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

NOBODYS_FAULT = (DependencyUnavailable, Overloaded, DeadlineExceeded)
"""Counts for nothing: the same event may succeed when the other side is back."""

Handlers = Mapping[type[Event], Callable[..., None]]
"""Event class → a use case that takes the session and a list of such events."""


class Inbox:
    def __init__(self, db: Database, handlers: Handlers):
        self._db = db
        self._handlers = {cls.TYPE: (cls, handler) for cls, handler in handlers.items()}

    def receive(self, envelopes: Sequence[Any]) -> list[dict[str, Any]]:
        """Handle CloudEvents; one {"id", "outcome"} for each, in order. Outcomes: `done`, `duplicate`, `retry` (it
        may succeed later) or `dead` (kept here as a dead letter). Raises a Problem when none could be tried.
        """
        started = time.perf_counter()
        try:
            outcomes = self._handle(envelopes)
        except NOBODYS_FAULT:
            raise
        except Exception as exc:
            if len(envelopes) == 1:
                outcomes = [self._failed(envelopes[0], exc)]
            else:
                outcomes = [self._alone(envelope) for envelope in envelopes]
        elapsed = round((time.perf_counter() - started) * 1000, 2)
        return [self._told(envelope, outcome, elapsed) for envelope, outcome in zip(envelopes, outcomes, strict=True)]

    def _alone(self, envelope: Any) -> str:
        try:
            return self._handle([envelope])[0]
        except NOBODYS_FAULT:
            return "retry"
        except Exception as exc:
            return self._failed(envelope, exc)

    def _handle(self, envelopes: Sequence[Any]) -> list[str]:
        """All of them in one transaction."""
        parsed = [self._parse(envelope) for envelope in envelopes]
        with self._db.write() as session:
            fresh = _claim(session, [event_id for event_id, _ in parsed])
            work: dict[type[Event], list[Event]] = {}
            outcomes = []
            for event_id, event in parsed:
                outcomes.append("done" if event_id in fresh else "duplicate")
                if event_id in fresh:
                    fresh.discard(event_id)
                    work.setdefault(type(event), []).append(event)
            for cls, events in work.items():
                self._handlers[cls.TYPE][1](session, events)
        return outcomes

    def _parse(self, envelope: Any) -> tuple[str, Event]:
        if not isinstance(envelope, dict) or envelope.get("specversion") != "1.0":
            raise RefusedEvent("not a CloudEvent 1.0")
        event_id, event_type = _id(envelope), envelope.get("type")
        if event_id is None:
            raise RefusedEvent("id is not a string of 1 to 64 characters")
        if not isinstance(event_type, str) or event_type not in self._handlers:
            raise RefusedEvent("this service does not subscribe to the type")
        return event_id, self._handlers[event_type][0].read(envelope)

    def _failed(self, envelope: Any, exc: Exception) -> str:
        """Count the failure; the last one, or a refusal, makes a dead letter."""
        event_id = _id(envelope) or new_id()
        event_type = _text(envelope.get("type") if isinstance(envelope, dict) else None, 100)
        refused = isinstance(exc, RefusedEvent)
        log.error("event.failed", extra={"event_id": event_id, "type": event_type}, exc_info=exc)
        row = {
            "event_id": event_id,
            "type": event_type,
            "body": _body(envelope),
            "error": _text(f"{type(exc).__name__}: {exc}", 500),
            "failed_at": now(),
        }
        try:
            with self._db.write() as session:
                insert = upsert(session, failures).values(attempts=1, dead=refused or MAX_ATTEMPTS <= 1, **row)
                attempts = failures.c.attempts + 1
                again = {**row, "attempts": attempts, "dead": sa.or_(attempts >= MAX_ATTEMPTS, sa.literal(refused))}
                insert = insert.on_conflict_do_update(index_elements=["event_id"], set_=again)
                dead = session.scalar(insert.returning(failures.c.dead))
            return "dead" if dead else "retry"
        except NOBODYS_FAULT:
            return "retry"

    def bury(self, envelope: Any, error: str) -> None:
        """Keep an event as a dead letter that the transport has given up; raises DependencyUnavailable."""
        if self._failed(envelope, RefusedEvent(error)) != "dead":
            raise DependencyUnavailable("The dead letter could not be stored.")

    def _told(self, envelope: Any, outcome: str, elapsed: float) -> dict[str, Any]:
        """One log line for each event handled."""
        known = envelope if isinstance(envelope, dict) else {}
        event_id = _id(envelope)
        event_type = next((name for name in self._handlers if name == known.get("type")), "unknown")
        trace = str(known.get("traceparent") or "").split("-")
        metrics.count_event(event_type, outcome)
        log.info(
            "event",
            extra={
                "event_id": event_id,
                "type": event_type,
                "outcome": outcome,
                "request_id": known.get("correlationid"),
                "trace_id": trace[1] if len(trace) == 4 else None,
                "latency_ms": elapsed,
            },
        )
        return {"id": event_id, "outcome": outcome}


def _id(envelope: Any) -> str | None:
    """The id of an event, where it has one that can be stored."""
    given = envelope.get("id") if isinstance(envelope, dict) else None
    return given if isinstance(given, str) and 1 <= len(given) <= 64 and given.isprintable() else None


def _text(value: Any, length: int) -> str:
    """What every engine can store of it."""
    return str(value).encode("utf-8", "replace").decode().replace("\x00", "")[:length]


def _body(envelope: Any) -> str:
    """The envelope as it came. Not by orjson, which refuses what a bad one may hold: lone surrogates, huge numbers."""
    try:
        return json.dumps(envelope, default=float)
    except RecursionError:
        return "null"


def read_body(body: str) -> Any:
    """The envelope that a dead letter keeps."""
    return json.loads(body, parse_float=Decimal)


def _claim(session: Session, event_ids: list[str]) -> set[str]:
    """Write the ids that are new, in one order so that two batches cannot deadlock, and return them."""
    rows = [{"event_id": event_id, "handled_at": time.time()} for event_id in sorted(set(event_ids))]
    return set(session.connection().execute(_claim_new(session), rows).scalars())


_claim_new = Upsert(inbox, lambda insert: insert.on_conflict_do_nothing().returning(inbox.c.event_id))


def trim(db: Database) -> int:
    """Forget ids and failures that are older than any retry, at most 1000 ids at a time; the effects have business
    keys of their own.
    """
    with db.write(durable=False) as session:
        since = datetime.fromtimestamp(time.time() - KEEP_SECONDS, UTC)
        session.execute(sa.delete(failures).where(~failures.c.dead, failures.c.failed_at < since))
        old = sa.select(inbox.c.event_id).where(inbox.c.handled_at < time.time() - KEEP_SECONDS).limit(1000)
        return session.execute(sa.delete(inbox).where(inbox.c.event_id.in_(old))).rowcount  # type: ignore[attr-defined, no-any-return]


# Dead letters ------------------------------------------------------------------------------------------------------


def dead_letters(session: Reader) -> list[sa.RowMapping]:
    query = sa.select(failures).where(failures.c.dead).order_by(failures.c.failed_at, failures.c.event_id)
    return list(session.execute(query).mappings())


def count_dead(session: Reader) -> int:
    return session.scalar(sa.select(sa.func.count()).where(failures.c.dead)) or 0


def discard(db: Database, event_id: str) -> bool:
    """Drop a dead letter for good; False when there is none with this id."""
    with db.write() as session:
        gone = sa.delete(failures).where(failures.c.event_id == event_id, failures.c.dead)
        return bool(session.execute(gone).rowcount)  # type: ignore[attr-defined]


def replay(db: Database, handlers: Handlers, event_id: str) -> str | None:
    """Handle a dead letter again; its outcome, or None when there is none with this id."""
    with db.read() as session:
        query = sa.select(failures.c.body).where(failures.c.event_id == event_id, failures.c.dead)
        body = session.scalar(query)
    if body is None:
        return None
    outcome: str = Inbox(db, handlers).receive([read_body(body)])[0]["outcome"]
    if outcome in ("done", "duplicate"):
        discard(db, event_id)
    return outcome
