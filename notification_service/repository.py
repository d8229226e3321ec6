"""Every query of the notification service. Rows are locked in one order, by id."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

import sqlalchemy as sa

from libs.common.data import idempotency
from libs.common.data.database import Reader, Session
from libs.common.data.paging import Page, PageQuery
from libs.common.data.paging import page as page_of
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert, any_of, epoch
from libs.common.errors import NotFound
from notification_service.models import (
    MAX_BACKOFF_SECONDS,
    Filters,
    Notification,
    NotificationRow,
    Sending,
    notifications,
)

LEASE_SECONDS = 30.0

c = notifications.c
SORTS = {"created_at": c.created_at}
_SENDING = [c[f.name] for f in fields(Sending) if f.name in c]
_ERASED: dict[str, object] = {"recipient": None, "subject": None, "body": None, "data": {}}


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


def find_page(session: Reader, filters: Filters, page: PageQuery) -> Page:
    query = sa.select(notifications).where(c.deleted_at.is_(None))
    for name, value in filters.items():
        query = query.where(c[name] == sa.literal(value, c[name].type))
    return page_of(session, query, page, SORTS, c.id)


# Statements that are built once: to build them anew costs more than to execute them.
_add = Upsert(notifications, lambda insert: insert.values(due_at=epoch()).on_conflict_do_nothing().returning(c.id))


def add(session: Session, rows: Sequence[NotificationRow]) -> set[str]:
    """Store new notifications, and return the ids of those that were: an order gets no second one of a template."""
    # In the order of the unique key, on which two transactions may wait for each other: so they cannot deadlock.
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
    # A time further ahead than any lease or pause means that the clock was set back; such a row is due.
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
_leased = sa.and_(any_of(c.id, "_ids"), c.lease_token == sa.bindparam("_token"))
_lock_leased = Prepared(sa.select(c.id, c.version).where(_leased).order_by(c.id).with_for_update())
_pause = epoch() + sa.bindparam("pause", type_=sa.Double())
_release = sa.update(notifications).where(_leased).values(lease_token=None, due_at=_pause)
_OUTCOME = ("status", "attempts", "last_error", "sent_at", "version")
_change = (
    sa.update(notifications)
    .where(c.id == sa.bindparam("_id"))
    .values(lease_token=None, due_at=_pause, **{name: sa.bindparam(f"_{name}") for name in _OUTCOME})
)
_write, _write_erased = Prepared(_change), Prepared(_change.values(_ERASED))


def claim(session: Session, channel: str, token: str, limit: int) -> list[Sending]:
    """Take up to `limit` of what is due in a channel, longest due first, for as long as the lease lasts."""
    taken = [Sending(**row) for row in _take.mappings(session, _channel=channel, _token=token, _limit=limit)]
    return sorted(taken, key=lambda sending: sending.id)


def lock_leased(session: Session, token: str, claimed: Sequence[Sending]) -> list[Sending]:
    """Lock those whose lease is still ours, and return them with their current version."""
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


def release(session: Session, token: str, ids: Sequence[str], pause: float) -> None:
    """End the lease of notifications that were not tried; they are due after the pause."""
    if ids:
        session.connection().execute(_release, {"_ids": ids, "_token": token, "pause": pause})


# Erasure -------------------------------------------------------------------------------------------------------------


def redact_answers(session: Session, ids: Sequence[str]) -> None:
    """Erase the content of notifications from the stored answers that repeat it."""
    if ids:
        idempotency.redact(session, ids, ("recipient", "subject", "body"))


def lock_unsent(session: Session, user_ids: Sequence[str]) -> list[Sending]:
    query = sa.select(*_SENDING).where(c.user_id.in_(user_ids), c.due_at.is_not(None)).order_by(c.id)
    return [Sending(**row) for row in session.execute(query.with_for_update()).mappings()]


def erase(session: Session, user_ids: Sequence[str]) -> None:
    """Erase the content of the users' notifications, and delete the stored answers that repeat it."""
    of_users = c.user_id.in_(user_ids)
    with_content = sa.update(notifications).where(of_users, c.body.is_not(None))
    session.execute(with_content.values({**_ERASED, "version": c.version + 1}))
    ids = sa.select(sa.cast(c.id, sa.String(36))).where(of_users)
    session.execute(sa.delete(idempotency.keys).where(idempotency.keys.c.resource_id.in_(ids)))
