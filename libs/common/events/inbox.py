"""The inbox: the effect of an event happens exactly once, however often the event is delivered.

The id of an event is stored in the transaction of its effect: a second delivery finds it and changes nothing. A batch
is handled in one transaction. If that fails, each event is handled in a transaction of its own, so that a bad event
does not fail the others; an event that has failed before is handled alone from the start. The consumer counts the
failures of each event and makes it a dead letter after `MAX_ATTEMPTS`. Transient errors, such as an unreachable
database, are not counted; a statement timeout is, since it is the fault of the event's handler.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from libs.common import context, metrics
from libs.common.data.columns import shared
from libs.common.data.database import Database, Session
from libs.common.data.prepared import Prepared
from libs.common.data.statements import VALUE, Upsert, delete_some, each_of
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, Overloaded
from libs.common.events import dead_letters
from libs.common.events.dead_letters import event_id_of
from libs.common.events.event import Event, RefusedEvent

KEEP_SECONDS = 3 * 24 * 3600
TRIM_ROWS = 500

log = logging.getLogger(__name__)

inbox = sa.Table(
    "inbox",
    shared,
    sa.Column("event_id", sa.String(64), primary_key=True),
    sa.Column("handled_at", sa.Double, nullable=False, index=True),
    sqlite_with_rowid=False,
)

TRANSIENT = (DependencyUnavailable, Overloaded, DeadlineExceeded)
"""Transient errors, which are not counted: a retry may succeed."""

_EFFECTIVE = ("done", "duplicate")
"""The outcomes of events that have taken effect."""

_ALONE = "alone"
"""An internal outcome: to be handled in a transaction of its own."""

Handlers = Mapping[type[Event], Callable[..., None]]
"""Event class → a use case that takes the session and the list of these events in a batch, so that it can lock the rows
that they concern in a fixed order.
"""


class Inbox:
    def __init__(self, db: Database, handlers: Handlers):
        self._db = db
        self._handlers = {cls.TYPE: (cls, handler) for cls, handler in handlers.items()}

    def receive(self, envelopes: Sequence[Any]) -> list[dict[str, Any]]:
        """Handle CloudEvents; returns {"id", "outcome"} for each, in order. Outcomes: `done`, `duplicate`, `retry` (it
        may succeed later) or `dead` (stored as a dead letter). Raises one of TRANSIENT if the whole batch failed.
        """
        started = time.perf_counter()
        outcomes = self._handle_all(envelopes)
        self._report(envelopes, outcomes, started)
        return [{"id": event_id_of(one), "outcome": outcome} for one, outcome in zip(envelopes, outcomes, strict=True)]

    def replay(self, event_id: str) -> str | None:
        """Handle a dead letter again; returns the outcome, or None if there is none with this id."""
        with self._db.read() as session:
            letter = dead_letters.find(session, event_id)
        if letter is None:
            return None
        started, envelope = time.perf_counter(), dead_letters.read_body(letter["body"])
        outcome = self._alone(envelope, replayed=event_id)
        self._report([envelope], [outcome], started)
        return outcome

    def give_up(self, envelope: Any, error: str) -> None:
        """Store an event that the transport has given up as a dead letter; raises DependencyUnavailable."""
        if self._count_failure(envelope, RefusedEvent(error)) != "dead":
            raise DependencyUnavailable("The dead letter could not be stored.")

    def _handle_all(self, envelopes: Sequence[Any]) -> list[str]:
        try:
            outcomes = self._handle(envelopes)
        except TRANSIENT:
            raise
        except Exception as exc:
            if len(envelopes) == 1:
                return [self._count_failure(envelopes[0], exc)]
            outcomes = [_ALONE] * len(envelopes)
        return [
            self._alone(envelope) if outcome == _ALONE else outcome
            for envelope, outcome in zip(envelopes, outcomes, strict=True)
        ]

    def _alone(self, envelope: Any, *, replayed: str | None = None) -> str:
        """Handle one event in a transaction of its own; `replayed` is the id of the dead letter if it is a replay."""
        try:
            return self._handle([envelope], replayed=bool(replayed))[0]
        except TRANSIENT:
            return "retry"
        except Exception as exc:
            return self._count_failure(envelope, exc, replayed)

    def _handle(self, envelopes: Sequence[Any], *, replayed: bool = False) -> list[str]:
        """Handle events in one transaction and return their outcomes. If there are several, those that have failed
        before are left out as `_ALONE`. Dead letters are handled only when they are replayed.
        """
        parsed = [self._parse(envelope) for envelope in envelopes]
        event_ids = [event_id for event_id, _ in parsed]
        with self._db.write() as session:
            failed = dead_letters.known_failures(session, event_ids)
            outcomes = {} if replayed else _outcomes_without_handling(failed, alone=len(envelopes) == 1)
            fresh = _claim(session, [event_id for event_id in event_ids if event_id not in outcomes])
            self._call_handlers(session, {event_id: event for event_id, event in parsed if event_id in fresh})
            dead_letters.forget(session, [event_id for event_id in failed if event_id not in outcomes])
        return [outcomes.get(event_id) or _done_once(fresh, event_id) for event_id in event_ids]

    def _call_handlers(self, session: Session, fresh: Mapping[str, Event]) -> None:
        """Call each handler once, with all of its events; in the order of `Handlers`, so that two batches lock the rows
        of different tables in the same order.
        """
        work: dict[Callable[..., None], list[Event]] = {handler: [] for _, handler in self._handlers.values()}
        for event in fresh.values():
            work[self._handlers[event.TYPE][1]].append(event)
        for handler, events in work.items():
            if events:
                handler(session, events)

    def _parse(self, envelope: Any) -> tuple[str, Event]:
        if not isinstance(envelope, dict) or envelope.get("specversion") != "1.0":
            raise RefusedEvent("not a CloudEvent 1.0")
        event_id, event_type = event_id_of(envelope), envelope.get("type")
        if event_id is None:
            raise RefusedEvent("id is not a string of 1 to 64 characters")
        if not isinstance(event_type, str) or event_type not in self._handlers:
            raise RefusedEvent("this service does not subscribe to the type")
        return event_id, self._handlers[event_type][0].read(envelope)

    def _count_failure(self, envelope: Any, exc: Exception, replayed: str | None = None) -> str:
        """Record the failure; returns the outcome: `dead` after the last attempt or for a RefusedEvent."""
        event_type = self._type(envelope)
        log.error("event.failed", extra={"event_id": event_id_of(envelope), "type": event_type}, exc_info=exc)
        refused = isinstance(exc, RefusedEvent)
        try:
            with self._db.write() as session:
                dead = dead_letters.store(session, envelope, exc, refused=refused, letter_id=replayed)
        except TRANSIENT:
            return "retry"
        return "dead" if dead else "retry"

    def _type(self, envelope: Any) -> str:
        """The type of an event if this service subscribes to it, else "unknown"."""
        event_type = envelope.get("type") if isinstance(envelope, dict) else None
        return event_type if isinstance(event_type, str) and event_type in self._handlers else "unknown"

    def _report(self, envelopes: Sequence[Any], outcomes: Sequence[str], started: float) -> None:
        """Count the events, and log them in one line; those that have not taken effect also in a line of their own."""
        totals: dict[str, Counter[str]] = {}
        event_ids, request_ids, trace_ids = [], dict[str | None, None](), dict[str | None, None]()
        for envelope, outcome in zip(envelopes, outcomes, strict=True):
            known = envelope if isinstance(envelope, dict) else {}
            facts = {
                "event_id": event_id_of(envelope),
                "request_id": context.known_request_id(known.get("correlationid")),
                "trace_id": context.trace_id_of(known.get("traceparent")),
            }
            event_type = self._type(envelope)
            metrics.count_event(event_type, outcome)
            totals.setdefault(event_type, Counter())[outcome] += 1
            event_ids.append(facts["event_id"])
            request_ids[facts["request_id"]] = trace_ids[facts["trace_id"]] = None
            if outcome not in _EFFECTIVE:
                log.info("event", extra={"type": event_type, "outcome": outcome, **facts})
        lists = {"request_ids": [i for i in request_ids if i], "trace_ids": [i for i in trace_ids if i]}
        elapsed = round((time.perf_counter() - started) * 1000, 2)
        log.info("events", extra={"outcomes": totals, "event_ids": event_ids, **lists, "latency_ms": elapsed})


def _outcomes_without_handling(failed: Mapping[str, bool], *, alone: bool) -> dict[str, str]:
    """The outcomes of the events that have failed before and are not to be handled in this transaction."""
    return {event_id: "dead" if dead else _ALONE for event_id, dead in failed.items() if dead or not alone}


def _done_once(fresh: set[str], event_id: str) -> str:
    """`done` for the first occurrence of a fresh id in a batch, else `duplicate`; removes the id from `fresh`."""
    if event_id not in fresh:
        return "duplicate"
    fresh.discard(event_id)
    return "done"


def _claim(session: Session, event_ids: list[str]) -> set[str]:
    """Insert the ids, sorted so that two batches cannot deadlock; returns those that are new."""
    given = {"event_ids": sorted(set(event_ids)), "handled_at": time.time()}
    return {event_id for (event_id,) in _claim_new.rows(session, **given)} if event_ids else set()


def _insert_new(insert: Any) -> Any:
    handled_at: Any = sa.bindparam("handled_at", type_=sa.Double())
    rows = sa.select(VALUE, handled_at).select_from(each_of("event_ids").rows()).order_by(VALUE)
    return insert.from_select(["event_id", "handled_at"], rows).on_conflict_do_nothing().returning(inbox.c.event_id)


_claim_new = Prepared(Upsert(inbox, _insert_new))


def trim(db: Database) -> int:
    """Delete up to `TRIM_ROWS` failures and as many ids that are older than KEEP_SECONDS, more than any retry takes;
    returns how many. An even later delivery has no effect either, since handlers check their business keys.
    """
    with db.write(durable=False) as session:
        failures = dead_letters.trim(session, KEEP_SECONDS, TRIM_ROWS)
        return failures + delete_some(session, inbox, inbox.c.handled_at < time.time() - KEEP_SECONDS, TRIM_ROWS)
