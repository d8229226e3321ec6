"""Every query of the notification service. Rows are locked in one order, by id."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from libs.common.data.database import Reader, Session
from libs.common.data.idempotency import keys
from libs.common.data.paging import Page, PageQuery, page
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert, any_of, epoch
from libs.common.errors import NotFound
from notification_service.models import MAX_BACKOFF_SECONDS, Notification, Sending, notifications

LEASE_SECONDS = 30.0

c = notifications.c
SORTS = {"created_at": c.created_at}
_SENDING = [c[f.name] for f in fields(Sending) if f.name in c]
_ERASED: dict[str, Any] = {"recipient": None, "subject": None, "body": None, "data": {}}


_find = sa.select(notifications).where(c.id == sa.bindparam("id"), c.deleted_at.is_(None))


def find(session: Reader, notification_id: str) -> sa.RowMapping:
    """The notification's row; raises NotFound, also for one that was deleted."""
    row = session.execute(_find, {"id": notification_id}).mappings().one_or_none()
    if row is None:
        raise NotFound("There is no such notification.")
    return row


def lock(session: Session, notification_id: str) -> Notification:
    """The notification, locked until the transaction ends; raises NotFound."""
    notification = session.get(Notification, notification_id, with_for_update=True)
    if notification is None or notification.deleted_at:
        raise NotFound("There is no such notification.")
    return notification


def find_page(session: Reader, filters: dict[str, Any], asked: PageQuery) -> Page:
    query = sa.select(notifications).where(c.deleted_at.is_(None))
    for name in ("user_id", "order_id", "status", "channel"):
        if name in filters:
            query = query.where(c[name] == filters[name])
    if "unread" in filters:
        query = query.where(c.unread == sa.literal(filters["unread"]))
    return page(session, query, asked, SORTS, c.id)


# Statements that are built once: to build them anew costs more than to execute them.
_add = Upsert(notifications, lambda insert: insert.values(due_at=epoch()).on_conflict_do_nothing().returning(c.id))


def add(session: Session, rows: Sequence[dict[str, Any]]) -> set[str]:
    """Store new notifications, and return the ids of those that were: an order gets no second one of a template."""
    # By the key that two transactions could fight for, so that they cannot deadlock.
    rows = sorted(rows, key=lambda row: (row["order_id"] or "", row["id"]))
    return set(session.connection().execute(_add(session), rows).scalars())


def waiting(session: Reader) -> tuple[int, datetime | None]:
    """How many are still to be sent, counted up to 10 000, and the age of the oldest of them."""
    some = sa.select(c.created_at).where(c.due_at.is_not(None)).limit(10_000).subquery()
    count, oldest = session.execute(sa.select(sa.func.count(), sa.func.min(some.c.created_at))).one()
    return count, oldest


# Sending -----------------------------------------------------------------------------------------------------------


def _claim() -> sa.UpdateBase:
    moment = epoch()
    # A time further ahead than any lease or pause is the trace of a clock that was set back: it holds nothing up.
    furthest = sa.case((c.status == "queued", LEASE_SECONDS), else_=MAX_BACKOFF_SECONDS)
    due = sa.or_(c.due_at <= moment, c.due_at > moment + furthest)
    chosen = (
        sa.select(c.id)
        .where(c.channel == sa.bindparam("_channel"), c.due_at.is_not(None), due)
        .order_by(c.due_at, c.id)
        .limit(sa.bindparam("_limit"))
        .with_for_update(skip_locked=True)
    )
    return (
        sa.update(notifications)
        .where(c.id.in_(chosen))
        .values(lease_token=sa.bindparam("_token"), due_at=moment + LEASE_SECONDS)
        .returning(*_SENDING)
    )


_take = Prepared(_claim())
_mine = sa.and_(any_of(c.id, "_ids"), c.lease_token == sa.bindparam("_token"))
_hold = Prepared(sa.select(c.id, c.version).where(_mine).order_by(c.id).with_for_update())
_pause = epoch() + sa.bindparam("pause", type_=sa.Double())
_back = sa.update(notifications).where(_mine).values(lease_token=None, due_at=_pause)
_columns = ("status", "attempts", "last_error", "sent_at", "version")
_change = (
    sa.update(notifications)
    .where(c.id == sa.bindparam("_id"))
    .values(lease_token=None, due_at=_pause, **{name: sa.bindparam(f"_{name}") for name in _columns})
)
_write, _write_erased = Prepared(_change), Prepared(_change.values(_ERASED))


def claim(session: Session, channel: str, token: str, limit: int) -> list[Sending]:
    """Take up to `limit` of what is due in a channel, longest due first, for as long as the lease lasts."""
    taken = [Sending(**row) for row in _take.mappings(session, _channel=channel, _token=token, _limit=limit)]
    return sorted(taken, key=lambda sending: sending.id)


def hold(session: Session, token: str, claimed: Sequence[Sending]) -> list[Sending]:
    """Lock those that the lease still holds, and return them with their current version."""
    versions = dict(_hold.rows(session, _ids=[sending.id for sending in claimed], _token=token))
    held = [sending for sending in claimed if sending.id in versions]
    for sending in held:
        sending.version = versions[sending.id]
    return held


def write(session: Session, judged: Sequence[Sending]) -> None:
    """Store what became of notifications that this transaction has locked."""
    for sending in judged:
        sending.version += 1
    for erased, statement in ((False, _write), (True, _write_erased)):
        rows = [
            {"_id": sending.id, "pause": sending.pause, **{f"_{name}": getattr(sending, name) for name in _columns}}
            for sending in judged
            if sending.erased == erased
        ]
        statement.write(session, rows)


def give_back(session: Session, token: str, ids: Sequence[str], pause: float) -> None:
    """End the lease of notifications that were not tried; they are due after the pause."""
    if ids:
        session.connection().execute(_back, {"_ids": ids, "_token": token, "pause": pause})


# Users that were deleted -------------------------------------------------------------------------------------------


def lock_unsent(session: Session, user_ids: Sequence[str]) -> list[Sending]:
    query = sa.select(*_SENDING).where(c.user_id.in_(user_ids), c.due_at.is_not(None)).order_by(c.id)
    return [Sending(**row) for row in session.execute(query.with_for_update()).mappings()]


def erase(session: Session, user_ids: Sequence[str]) -> None:
    """Remove what was said to the users, and the stored answers that repeat it."""
    theirs = c.user_id.in_(user_ids)
    said = sa.update(notifications).where(theirs, c.body.is_not(None))
    session.execute(said.values({**_ERASED, "version": c.version + 1}))
    told = sa.select(sa.cast(c.id, sa.String(36))).where(theirs)
    session.execute(sa.delete(keys).where(keys.c.resource_id.in_(told)))
