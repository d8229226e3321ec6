"""Every query of the notification service. Rows are locked in one order, by id."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from itertools import product
from typing import Any, get_type_hints  # noqa: TID251 - the parameter of a statement of SQLAlchemy

import sqlalchemy as sa

from libs.common.data import idempotency
from libs.common.data.database import Reader, Session
from libs.common.data.paging import Page, PageQuery, Position, merged_page, page, walk
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert, any_of, epoch
from libs.common.errors import NotFound
from notification_service.models import (
    CHANNELS,
    DELETED,
    FEW_VALUES,
    MAX_BACKOFF_SECONDS,
    Address,
    DataNeed,
    Notification,
    NotificationFilters,
    NotificationRow,
    Row,
    Sending,
    addresses,
    channel_states,
    notifications,
)

LEASE_SECONDS = 40.0
"""Longer than a batch can take: use_cases.py adds it up."""
MAX_CLAIM_CHARACTERS = 1_000_000
ADDRESS_SECONDS = 3600.0
"""How long a learned address is used, so that one whose event got lost, as with a dead letter, is not used for ever."""

c = notifications.c
SORTS = {"created_at": c.created_at}
_CONTENT = ("subject", "body", "data")
_INTERNAL = ("data", "unread", "deleted_at", "due_at", "lease_token", "correlation_id", "traceparent")
_SHOWN = [column for column in c if column.name not in _INTERNAL]
_SENDING = [c[f.name] for f in fields(Sending) if f.name in c and f.name not in _CONTENT]
_ERASED: dict[str, object] = {"recipient": None, "subject": None, "body": None, "data": {}}


_find = Prepared(sa.select(*_SHOWN).where(c.id == sa.bindparam("id"), c.deleted_at.is_(None)))


def find(session: Reader, notification_id: str) -> Row:
    """The notification's row; raises NotFound, also for one that was deleted."""
    row = _find.one(session, id=notification_id)
    if row is None:
        raise NotFound("There is no such notification.")
    return row


def lock(session: Session, notification_id: str) -> Notification:
    """The notification, locked until the transaction ends; raises NotFound."""
    notification = session.get(Notification, notification_id, with_for_update=True)
    if notification is None or notification.deleted_at:
        raise NotFound("There is no such notification.")
    return notification


def find_page(session: Reader, filters: NotificationFilters, asked: PageQuery) -> Page:
    query = sa.select(*_SHOWN).where(c.deleted_at.is_(None))
    if len(filters) < 2:
        # Each has an index of its own.
        return page(session, query.where(*_conditions(filters)), asked, SORTS, c.id)
    streams = _of_order(session, filters) if "order_id" in filters else _by_values(filters)
    return merged_page(session, query, streams, asked, SORTS, c.id)


def _conditions(filters: Mapping[str, object]) -> list[sa.ColumnElement[bool]]:
    return [c[name] == sa.literal(value, c[name].type) for name, value in filters.items()]


def _stream(*conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return sa.select(notifications).where(c.deleted_at.is_(None), *conditions)


def _by_values(filters: NotificationFilters) -> list[sa.Select[Any]]:
    """The filtered notifications in parts, one for each combination of values of the columns without a filter: the
    index has all of these columns before the sort.
    """
    free = {name: values for name, values in FEW_VALUES.items() if name not in filters}
    return [
        _stream(*_conditions({**filters, **dict(zip(free, values, strict=True))})) for values in product(*free.values())
    ]


def _of_order(session: Reader, filters: NotificationFilters) -> list[sa.Select[Any]]:
    """The filtered notifications of an order. They are few, and their ids are found first: the planner might prefer the
    index of another filter.
    """
    ids = session.execute(sa.select(c.id).where(c.order_id == filters["order_id"])).scalars().all()
    return [_stream(c.id == found, *_conditions(filters)) for found in ids] or [_stream(sa.false())]


# Built once: building a statement costs more than executing it.
_add = Prepared(
    Upsert(notifications, lambda insert: insert.values(due_at=epoch()).on_conflict_do_nothing()),
    tuple(get_type_hints(NotificationRow)),
)
_find_ids = Prepared(sa.select(c.id).where(any_of(c.id, "ids")))


def add(session: Session, rows: Sequence[NotificationRow]) -> set[str]:
    """Store new notifications and return the ids of those that were stored: an order gets only one of each template."""
    # In the order of the unique key, on which transactions may wait for each other, so that they cannot deadlock.
    _add.write(session, sorted(rows, key=lambda row: (row["order_id"] or "", row["id"])))
    return {found for (found,) in _find_ids.rows(session, ids=[row["id"] for row in rows])}


def waiting(session: Reader) -> tuple[int, datetime | None]:
    """How many are still to be sent, counted up to 10 000, and when the oldest of them was created."""
    some = sa.select(c.created_at).where(c.due_at.is_not(None)).limit(10_000).subquery()
    count, oldest = session.execute(sa.select(sa.func.count(), sa.func.min(some.c.created_at))).one()
    return count, oldest


# Sending -----------------------------------------------------------------------------------------------------------


_lease_seconds: sa.BindParameter[float] = sa.bindparam("_lease", type_=sa.Double())


def _due_in(channel: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether a notification of this channel is due."""
    moment = epoch()
    # A time further ahead than any lease or pause means that the clock was set back; such a row is due.
    furthest = sa.case((c.status == "queued", _lease_seconds), else_=MAX_BACKOFF_SECONDS)
    due = sa.or_(c.due_at <= moment, c.due_at > moment + furthest)
    return sa.and_(c.channel == channel, c.due_at.is_not(None), due)


def _due() -> sa.Select[Any]:
    """The due notifications of a channel, longest due first, with the size of their content in place of the content."""
    size = sa.func.length(c.body) + sa.func.length(sa.cast(c.data, sa.Text))
    return (
        sa.select(*_SENDING, sa.func.coalesce(size, 0).label("size"))
        .where(_due_in(sa.bindparam("_channel")))
        .order_by(c.due_at, c.id)
        .limit(sa.bindparam("_limit"))
        .with_for_update(skip_locked=True)
    )


_find_due_channels = Prepared(
    sa.select(*(sa.exists().where(_due_in(sa.literal(channel))).label(channel) for channel in CHANNELS))
)


def find_due_channels(session: Reader) -> list[str]:
    """The channels that have something to send."""
    (found,) = _find_due_channels.rows(session, _lease=LEASE_SECONDS)
    return [channel for channel, is_due in zip(CHANNELS, found, strict=True) if is_due]


def _lease(data: sa.ColumnElement[Any]) -> sa.UpdateBase:
    return (
        sa.update(notifications)
        .where(any_of(c.id, "_ids"))
        .values(lease_token=sa.bindparam("_token"), due_at=epoch() + _lease_seconds)
        .returning(c.id, c.subject, c.body, data.label("data"))
    )


_find_due = Prepared(_due())
# In a RETURNING clause SQLite 3.40 takes `template IS NOT NULL` for always true.
_has_template = sa.func.length(c.template) > 0
_lease_with_data: dict[DataNeed, Prepared] = {
    "never": Prepared(_lease(sa.literal(None))),
    "template": Prepared(_lease(sa.case((_has_template, c.data)))),
    "always": Prepared(_lease(c.data)),
}
_leased = sa.and_(any_of(c.id, "_ids"), c.lease_token == sa.bindparam("_token"))
_lock_leased = Prepared(sa.select(c.id, c.version).where(_leased).order_by(c.id).with_for_update())
_pause = epoch() + sa.bindparam("pause", type_=sa.Double())
_postpone = Prepared(sa.update(notifications).where(_leased).values(lease_token=None, due_at=_pause))
_release = Prepared(
    sa.update(notifications)
    .where(c.id == sa.bindparam("_id"), c.lease_token == sa.bindparam("_token"))
    .values(lease_token=None, due_at=sa.bindparam("_due_at"))
)
_OUTCOME = ("status", "attempts", "last_error", "sent_at", "version")
_change = (
    sa.update(notifications)
    .where(c.id == sa.bindparam("_id"))
    .values(lease_token=None, due_at=_pause, **{name: sa.bindparam(f"_{name}") for name in _OUTCOME})
)
_write, _write_erased = Prepared(_change), Prepared(_change.values(_ERASED))


def claim(session: Session, channel: str, needs_data: DataNeed, token: str, limit: int) -> list[Sending]:
    """Lease up to `limit` due notifications of a channel, longest due first, until they have MAX_CLAIM_CHARACTERS of
    content. Locked rows are skipped.
    """
    due = _find_due.mappings(session, _channel=channel, _lease=LEASE_SECONDS, _limit=limit)
    total, taken = 0, dict[str, Sending]()
    for row in due:
        taken[row["id"]] = Sending(**row)
        total += row["size"]
        if total >= MAX_CLAIM_CHARACTERS:
            break
    if taken:
        lease = _lease_with_data[needs_data]
        for found, subject, body, data in lease.rows(session, _ids=list(taken), _token=token, _lease=LEASE_SECONDS):
            taken[found].subject, taken[found].body, taken[found].data = subject, body, data or {}
    return list(taken.values())


def lock_leased(session: Session, token: str, claimed: Sequence[Sending]) -> list[Sending]:
    """Lock the notifications whose lease this sender still has, and return them with their current version."""
    versions = dict(_lock_leased.rows(session, _ids=[sending.id for sending in claimed], _token=token))
    locked = [sending for sending in claimed if sending.id in versions]
    for sending in locked:
        sending.version = versions[sending.id]
    return locked


def write_outcomes(session: Session, tried: Sequence[Sending]) -> None:
    """Store the outcomes of notifications that this transaction has locked."""
    for sending in tried:
        sending.version += 1
    for erased, statement in ((False, _write), (True, _write_erased)):
        rows = [
            {"_id": sending.id, "pause": sending.pause, **{f"_{name}": getattr(sending, name) for name in _OUTCOME}}
            for sending in tried
            if sending.erased == erased
        ]
        statement.write(session, rows)
    redact_answers(session, [sending.id for sending in tried if sending.erased])


def release(session: Session, token: str, untried: Sequence[Sending]) -> None:
    """End the lease of notifications without an outcome. They keep their due time, so that none overtakes them; those
    with a pause are due after it.
    """
    kept = [sending for sending in untried if sending.pause is None]
    _release.write(session, [{"_id": one.id, "_token": token, "_due_at": one.due_at} for one in kept])
    for pause in {sending.pause for sending in untried} - {None}:
        ids = [sending.id for sending in untried if sending.pause == pause]
        _postpone.write(session, [{"_ids": ids, "_token": token, "pause": pause}])


# Addresses -----------------------------------------------------------------------------------------------------------

a = addresses.c
_usable = sa.and_(a.email.is_not(None), a.learned_at.between(epoch() - ADDRESS_SECONDS, epoch()))
_find_addresses = Prepared(
    sa.select(a.user_id, a.email, a.version).where(
        any_of(a.user_id, "ids"), sa.or_(_usable, a.version == sa.literal_column(str(DELETED)))
    )
)
_learn_address = Prepared(
    Upsert(
        addresses,
        lambda insert: insert.values(learned_at=epoch()).on_conflict_do_update(
            index_elements=["user_id"],
            set_={name: insert.excluded[name] for name in ("email", "version", "learned_at")},
            where=insert.excluded.version >= a.version,
        ),
    ),
    ("user_id", "email", "version"),
)
_outdate_address = Prepared(
    Upsert(
        addresses,
        lambda insert: insert.values(learned_at=epoch()).on_conflict_do_update(
            index_elements=["user_id"],
            set_={"email": None, "version": insert.excluded.version},
            where=insert.excluded.version > a.version,
        ),
    ),
    ("user_id", "version"),
)


def find_addresses(session: Reader, user_ids: Iterable[str]) -> dict[str, Address]:
    """What the replica knows of these users: their address, or that they were deleted."""
    found = _find_addresses.rows(session, ids=sorted(user_ids))
    return {user_id: Address(email, version) for user_id, email, version in found}


def learn_addresses(session: Session, found: Mapping[str, Address]) -> None:
    """Store what the user service has answered, unless an event has told of a newer version since."""
    rows = ({"user_id": one, "email": found[one].email, "version": found[one].version} for one in sorted(found))
    _learn_address.write(session, rows)


def outdate_addresses(session: Session, versions: Mapping[str, int]) -> None:
    """Erase the addresses of users who have reached these versions. The versions are stored for users without an
    address, too: an older answer of the user service may be on its way.
    """
    _outdate_address.write(session, [{"user_id": one, "version": versions[one]} for one in sorted(versions)])


# Channels ------------------------------------------------------------------------------------------------------------

_find_states = Prepared(sa.select(channel_states.c.channel, channel_states.c.state))
_add_state = Prepared(
    Upsert(
        channel_states,
        lambda insert: insert.values(since=epoch()).on_conflict_do_update(
            index_elements=["channel"], set_={"state": insert.excluded.state, "since": epoch()}
        ),
    ),
    ("channel", "state"),
)


def save_state(session: Session, channel: str, state: str) -> None:
    """Store the state of a channel if it has changed."""
    if states(session).get(channel) != state:
        _add_state.write(session, [{"channel": channel, "state": state}])


def states(session: Reader) -> dict[str, str]:
    """The state of each channel that was used."""
    return dict(_find_states.rows(session))


# Erasure -------------------------------------------------------------------------------------------------------------


def redact_answers(session: Session, ids: Sequence[str]) -> None:
    """Erase the content of notifications from the stored answers that repeat it."""
    if ids:
        idempotency.redact(session, ids, ("recipient", "subject", "body"))


def walk_user(session: Reader, user_id: str, after: Position | None, limit: int) -> list[Position]:
    """The next notifications to a user, oldest first, those that were deleted included."""
    return walk(session, notifications, after, limit, c.user_id == user_id)


def lock_unsent(session: Session, ids: Sequence[str]) -> list[Sending]:
    """Lock all of these notifications; returns those that are still to be sent."""
    locked = sa.select(*_SENDING).where(c.id.in_(ids)).order_by(c.id).with_for_update()
    return [Sending(**row) for row in session.execute(locked).mappings() if row["due_at"] is not None]


def erase(session: Session, ids: Sequence[str]) -> None:
    """Erase the content of notifications that are locked, and delete the stored answers that repeat it."""
    with_content = sa.update(notifications).where(c.id.in_(ids), c.body.is_not(None))
    session.execute(with_content.values({**_ERASED, "version": c.version + 1}))
    idempotency.forget(session, *ids)
