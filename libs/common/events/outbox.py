"""The transactional outbox: an event is stored in the transaction of its change, and sent later.

There is one row per event and subscriber, so that a subscriber that is down does not block the others. A row is
deleted once its subscriber has accepted the event. Relays in several processes share the rows by leases, which expire
by the database's clock. A lease has a token, so that a relay whose lease has expired cannot mark rows that another
relay has claimed. A row is claimed only together with all older rows of its subject, so that events of one subject
are sent in order.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from libs.common.data.columns import shared
from libs.common.data.database import Database, Reader, Session
from libs.common.data.prepared import Prepared
from libs.common.data.statements import any_of, epoch
from libs.common.events.event import MAX_BYTES, Event, envelope
from libs.common.ids import new_id
from libs.topology import SUBSCRIPTIONS

BROKER = "broker"
LEASE_SECONDS = 30.0
CLAIM = 100
"""Rows that a relay claims at a time."""
MAX_BACKOFF_SECONDS = 60.0
WINDOW = 2 * CLAIM
"""How many rows one claim reads, so that its cost does not grow with the backlog."""

outbox = sa.Table(
    "outbox",
    shared,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("subscriber", sa.String(40), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False, default=0.0),
    sa.Column("lease_token", sa.String(36)),
    sa.Column("lease_until", sa.Double, nullable=False, default=0.0),
    sa.Index(None, "subscriber", "seq"),
    sa.Index(None, "subscriber", "subject", "seq"),
    sqlite_autoincrement=True,
)


class Claimed(NamedTuple):
    seq: int
    body: str
    attempts: int


class EventTooLarge(ValueError):
    """The event is larger than a subscriber accepts; it would block its subject for ever."""


def add(session: Session, *events: Event) -> None:
    """Store the events in the caller's transaction, and wake the relays of this process when it commits. Raises
    EventTooLarge; the caller must then roll back.
    """
    owner = session.owner
    rows = []
    for event in events:
        # A broker gets each event once and routes it to the subscribers.
        subscribers = (BROKER,) if owner.has_broker else SUBSCRIPTIONS[event.TYPE]
        if subscribers:
            body = _body(event, owner.service)
            rows += [{"subscriber": name, "subject": event.subject, "body": body} for name in subscribers]
    if rows:
        _add.write(session, rows)
        for name in {row["subscriber"] for row in rows}:
            session.wake(relay_to(name))


def _body(event: Event, service: str) -> str:
    body = orjson.dumps(envelope(event, service))
    # A batch of one event adds two brackets.
    if len(body) + 2 > MAX_BYTES:
        raise EventTooLarge(f"{event.TYPE} of {event.subject} has {len(body)} bytes")
    return body.decode()


def relay_to(subscriber: str) -> str:
    """The name of the background loop that sends to the subscriber."""
    return f"relay to {subscriber}"


def find_relays(subscribers: Sequence[str]) -> Callable[[Reader], list[str]]:
    """For the sweep: finds which of the loops that send to these subscribers have rows."""
    rows = (sa.exists().where(outbox.c.subscriber == name).label(name) for name in subscribers)
    waiting = Prepared(sa.select(*rows))

    def find(session: Reader) -> list[str]:
        (found,) = waiting.rows(session)
        return [relay_to(name) for name, has_rows in zip(subscribers, found, strict=True) if has_rows]

    return find


def targets(service: str, *, has_broker: bool) -> list[str]:
    """All subscribers that the service may have rows for. With a broker they include the direct ones, so that rows from
    before a change of the transport are still sent.
    """
    mine = (names for event, names in SUBSCRIPTIONS.items() if event.split(".")[0] == service)
    direct = sorted({name for names in mine for name in names})
    return [BROKER, *direct] if has_broker else direct


def _window() -> sa.Select[Any]:
    """The `WINDOW` oldest rows of a subscriber after the row `_after`."""
    return (
        sa.select(outbox.c.seq, outbox.c.subject, outbox.c.lease_until, outbox.c.due_at)
        .where(outbox.c.subscriber == sa.bindparam("_subscriber"), outbox.c.seq > sa.bindparam("_after"))
        .order_by(outbox.c.seq)
        .limit(sa.literal_column(str(WINDOW)))
    )


def _free(row: Any) -> sa.ColumnElement[bool]:
    """Not leased, and due. A time too far ahead was written before the clock was set back, and is ignored."""
    # As a scalar subquery it is evaluated once, not for each row.
    now = sa.select(epoch()).scalar_subquery()
    unleased = sa.or_(row.lease_until <= now, row.lease_until > now + LEASE_SECONDS)
    return sa.and_(unleased, sa.or_(row.due_at <= now, row.due_at > now + MAX_BACKOFF_SECONDS))


def _claim(*, alone: bool) -> sa.UpdateBase:
    """Claim the free rows of the window, oldest first, whose older rows of the same subject are all free too. `alone`:
    no other relay can claim rows at the same time, since writers take turns, as on SQLite.
    """
    chosen = _unblocked() if alone else _locked()
    return (
        sa.update(outbox)
        .where(outbox.c.seq.in_(chosen))
        .values(lease_token=sa.bindparam("_token"), lease_until=epoch() + LEASE_SECONDS)
        .returning(outbox.c.seq, outbox.c.body, outbox.c.attempts)
    )


def _unblocked() -> sa.Select[Any]:
    """One search of an index for each row takes half the time of the ranks below. Only SQLite is certain to do it like
    that, and not to read the whole backlog.
    """
    window, older = _window().cte("candidates"), outbox.alias("older")
    waits = sa.exists().where(
        older.c.subscriber == sa.bindparam("_subscriber"),
        older.c.subject == window.c.subject,
        older.c.seq < window.c.seq,
        ~_free(older.c),
    )
    free = sa.select(window.c.seq).where(_free(window.c), ~waits)
    return free.order_by(window.c.seq).limit(sa.bindparam("_limit"))


def _locked() -> sa.Select[Any]:
    """The rows are locked, since other relays may claim at the same time."""
    window = _window().cte("candidates")
    by_subject: Any = {"partition_by": window.c.subject, "order_by": window.c.seq}
    blocked = sa.func.sum(sa.case((_free(window.c), 0), else_=1)).over(**by_subject)
    place = sa.func.row_number().over(**by_subject)
    ranked = sa.select(window.c.seq, window.c.subject, place.label("place"), blocked.label("blocked")).cte("ranked")
    before = outbox.alias("before_window")
    waits_before = sa.exists().where(
        before.c.subscriber == sa.bindparam("_subscriber"),
        before.c.subject == ranked.c.subject,
        before.c.seq <= sa.bindparam("_after"),
    )
    runs = (
        sa.select(ranked.c.seq, ranked.c.subject, ranked.c.place)
        .where(ranked.c.blocked == 0, ~waits_before)
        .order_by(ranked.c.seq)
        .limit(sa.bindparam("_limit"))
        .cte("runs")
    )
    locked = (
        sa.select(outbox.c.seq, runs.c.subject, runs.c.place)
        .join(runs, runs.c.seq == outbox.c.seq)
        .where(_free(outbox.c))
        .with_for_update(of=outbox, skip_locked=True)
        .cte("locked")
    )
    # If another relay has claimed the first rows of a subject in the meantime, leave the rest of the subject to it.
    number = sa.func.row_number().over(partition_by=locked.c.subject, order_by=locked.c.seq)
    numbered = sa.select(locked.c.seq, locked.c.place, number.label("number")).subquery()
    return sa.select(numbered.c.seq).where(numbered.c.number == numbered.c.place)


_GIVEN = ("subscriber", "subject", "body")
_add = Prepared(sa.insert(outbox).values(created_at=epoch(), attempts=0, due_at=0.0, lease_until=0.0), _GIVEN)
_take = {alone: Prepared(_claim(alone=alone)) for alone in (True, False)}
_last = Prepared(_window().with_only_columns(outbox.c.seq).limit(1).offset(WINDOW - 1))
_mine = sa.and_(any_of(outbox.c.seq, "_seqs"), outbox.c.lease_token == sa.bindparam("_token"))
_sent = Prepared(sa.delete(outbox).where(_mine))
_released = sa.update(outbox).where(_mine).values(lease_token=None, lease_until=0.0)
_back = Prepared(_released)
_delay = epoch() + sa.bindparam("_delay", type_=sa.Double())
_again = Prepared(_released.values(attempts=sa.bindparam("_attempts"), due_at=_delay))


class Relay:
    """The leases of one process on the rows of one subscriber."""

    def __init__(self, db: Database, subscriber: str):
        self._db, self.subscriber = db, subscriber

    @cached_property
    def _token(self) -> str:
        # Created at first use and so after the fork: two workers with one token could mark each other's rows.
        return new_id()

    def exchange(
        self, sent: Sequence[int] = (), again: Sequence[Claimed] = (), back: Sequence[int] = (), limit: int = CLAIM
    ) -> list[Claimed]:
        """In one transaction, delete the rows that were `sent`, delay those to be retried (`again`), release those that
        were not sent (`back`), and claim up to `limit` others, oldest first.
        """
        with self._db.write(durable=False) as session:
            if sent:
                _sent.write(session, [{"_seqs": sent, "_token": self._token}])
            for row in again:
                delay = min(2.0 ** min(row.attempts, 10), MAX_BACKOFF_SECONDS)
                values = {"_seqs": [row.seq], "_token": self._token, "_attempts": row.attempts + 1, "_delay": delay}
                _again.write(session, [values])
            if back:
                _back.write(session, [{"_seqs": back, "_token": self._token}])
            if not limit:
                return []
            return self._claim(session, limit)

    def _claim(self, session: Session, limit: int) -> list[Claimed]:
        """Rows of the first window that has any to claim, so that a long subject that waits does not block others."""
        after = 0
        while True:
            given = {"_subscriber": self.subscriber, "_after": after}
            claimed = _take[self._db.is_sqlite].rows(session, **given, _limit=limit, _token=self._token)
            full = [] if claimed else _last.rows(session, **given)
            if not full:
                return sorted(Claimed(*row) for row in claimed)
            after = full[0][0]


def pending(session: Reader) -> dict[str, tuple[int, float]]:
    """Subscriber → the number of its rows (counted up to 10 000) and the age of the oldest in seconds."""
    found = {}
    subscribers = {BROKER} | {name for names in SUBSCRIPTIONS.values() for name in names}
    for subscriber in sorted(subscribers):
        mine = sa.select(outbox.c.created_at).where(outbox.c.subscriber == subscriber).order_by(outbox.c.seq)
        first = session.scalar(sa.select(epoch() - mine.limit(1).scalar_subquery()))
        if first is not None:
            some = mine.limit(10_000).subquery()
            found[subscriber] = (session.scalar(sa.select(sa.func.count()).select_from(some)) or 0, max(0.0, first))
    return found
