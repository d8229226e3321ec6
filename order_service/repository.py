"""Every query of the order service. Rows are locked in one order: users before orders, each by id."""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypedDict, cast, get_type_hints

import sqlalchemy as sa

from libs.common.data.database import Reader, Session
from libs.common.data.paging import Filter, Listing, Page, PageQuery, Position, walk
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert, any_of, epoch
from libs.common.data.updates import BulkUpdate
from libs.common.errors import NotFound
from libs.common.times import now
from order_service.models import (
    TRANSITIONS,
    NewOrder,
    Order,
    OrderFilters,
    OrderRow,
    PendingOrder,
    Transition,
    orders,
    users,
)

SORTS = {name: orders.c[name] for name in ("created_at", "total")}
KEY_LIFETIME = timedelta(hours=24)
MAX_DRIVE_SECONDS = 60.0
"""The longest that a request may drive an order. A `drive_until` further ahead was written before the clock was set
back, and is ignored.
"""


_orders = Listing(sa.select(orders), SORTS, orders.c.id)
_find = Prepared(sa.select(orders).where(orders.c.id == sa.bindparam("id")))


def find(session: Reader, order_id: str) -> OrderRow:
    """The order's row; raises NotFound."""
    row = _find.one(session, id=order_id)
    if row is None:
        raise NotFound("There is no such order.")
    return cast(OrderRow, row)


_many = sa.select(orders).where(any_of(orders.c.id, "ids")).order_by(orders.c.id)
_find_many, _lock_many = Prepared(_many), Prepared(_many.with_for_update())


def find_many(session: Reader, order_ids: Iterable[str]) -> dict[str, OrderRow]:
    """Orders by id."""
    return {row["id"]: cast(OrderRow, row) for row in _find_many.mappings(session, ids=sorted(order_ids))}


def lock_many(session: Session, order_ids: Iterable[str]) -> dict[str, OrderRow]:
    """Orders by id, locked until the transaction ends."""
    return {row["id"]: cast(OrderRow, row) for row in _lock_many.mappings(session, ids=sorted(order_ids))}


def lock(session: Session, order_id: str) -> OrderRow:
    """The order, locked until the transaction ends; raises NotFound."""
    try:
        return lock_many(session, [order_id])[order_id]
    except KeyError:
        raise NotFound("There is no such order.") from None


def find_page(session: Reader, filters: OrderFilters, asked: PageQuery) -> Page:
    return _orders.page(session, asked, _conditions(filters))


def _conditions(filters: OrderFilters) -> list[Filter]:
    found: list[Filter] = []
    if "user_id" in filters:
        found.append(Filter(orders.c.user_id == filters["user_id"], leads=True))
    if "status" in filters:
        found.append(Filter(orders.c.status == filters["status"], leads=True))
    if "created_from" in filters:
        found.append(Filter(orders.c.created_at >= filters["created_from"], range_of="created_at"))
    if "created_to" in filters:
        found.append(Filter(orders.c.created_at < filters["created_to"], range_of="created_at"))
    return found


# The first transaction ---------------------------------------------------------------------------------------------


_clock = sa.select(epoch())


def clock(session: Session) -> float:
    """Seconds since 1970 by the database's clock."""
    return float(session.connection().scalar(_clock) or 0.0)


_by_keys = sa.select(orders).where(any_of(orders.c.idempotency_key, "keys")).order_by(orders.c.id)
_forgotten = sa.and_(orders.c.status != "pending", orders.c.created_at < sa.bindparam("forgotten_before"))
_furthest = epoch() + sa.bindparam("max_seconds", type_=sa.Double())
_undriven = sa.and_(orders.c.status == "pending", ~orders.c.drive_until.between(epoch(), _furthest))
_find_by_keys = Prepared(_by_keys)
_lock_idle = Prepared(_by_keys.where(sa.or_(_forgotten, _undriven)).with_for_update(skip_locked=True))
_free_keys = Prepared(sa.update(orders).where(any_of(orders.c.id, "ids")).values(idempotency_key=None))


def find_by_keys(session: Session, keys: Iterable[str]) -> dict[str, OrderRow]:
    return {row["idempotency_key"]: cast(OrderRow, row) for row in _find_by_keys.mappings(session, keys=sorted(keys))}


def lock_idle(session: Session, keys: Iterable[str]) -> dict[str, OrderRow]:
    """Lock the idle orders with these keys: pending ones whose request must have ended, and finished ones that are over
    24 hours old. Returns them by key. Rows that another transaction has locked are skipped, so that this one does not
    wait for them while it holds other rows.
    """
    over = {"forgotten_before": now() - KEY_LIFETIME, "max_seconds": MAX_DRIVE_SECONDS}
    found = _lock_idle.mappings(session, keys=sorted(keys), **over)
    return {row["idempotency_key"]: cast(OrderRow, row) for row in found}


def free_keys(session: Session, order_ids: Sequence[str]) -> None:
    """Remove the keys of orders that are locked."""
    if order_ids:
        _free_keys.write(session, [{"ids": order_ids}])


_users = sa.select(users.c.id, users.c.status).where(any_of(users.c.id, "ids")).order_by(users.c.id)
_find_users, _share_users = Prepared(_users), Prepared(_users.with_for_update(read=True))


def find_users(session: Session, user_ids: Iterable[str], *, share: bool = False) -> dict[str, str]:
    """The status of each user in the replica. With `share`, the rows are locked against changes until the transaction
    ends.
    """
    return dict((_share_users if share else _find_users).rows(session, ids=sorted(user_ids)))


_until = epoch() + sa.bindparam("seconds", type_=sa.Double())
_insert = Prepared(
    Upsert(
        orders,
        lambda insert: insert.values(drive_until=_until).on_conflict_do_nothing(index_elements=["idempotency_key"]),
    ),
    tuple(get_type_hints(PendingOrder)),
)
_stored = Prepared(sa.select(orders.c.id).where(any_of(orders.c.id, "ids")))
_take_over = Prepared(sa.update(orders).where(orders.c.id == sa.bindparam("_id")).values(drive_until=_until))


def add_pending(session: Session, new: Iterable[NewOrder]) -> dict[str, OrderRow]:
    """Store new orders, in the order of their keys so that two batches cannot deadlock; returns those whose key was
    free, by id.
    """
    in_order = sorted(new, key=lambda one: one.key.name if one.key else "")
    placed = [Order.new(one) for one in in_order]
    rows = [{**row, "seconds": _seconds(one.deadline)} for row, one in zip(placed, in_order, strict=True)]
    if _insert.write(session, rows) < len(rows):
        stored = {row_id for (row_id,) in _stored.rows(session, ids=[row["id"] for row in placed])}
        placed = [row for row in placed if row["id"] in stored]
    return {row["id"]: cast(OrderRow, {**_nothing_yet, **row}) for row in placed}


_nothing_yet = dict.fromkeys(get_type_hints(OrderRow).keys() - get_type_hints(PendingOrder).keys())


def driven_for(order: OrderRow, time_now: float) -> float:
    """For how many seconds a request may still drive a pending order; zero or less when none can."""
    left = order["drive_until"] - time_now
    return left if left <= MAX_DRIVE_SECONDS else 0.0


def take_over(session: Session, order_id: str, deadline: float) -> None:
    """Let another request drive a pending order, which is locked, until its deadline (`time.monotonic()`)."""
    _take_over.write(session, [{"_id": order_id, "seconds": _seconds(deadline)}])


def _seconds(deadline: float) -> float:
    return min(max(0.0, deadline - time.monotonic()), MAX_DRIVE_SECONDS)


# Transitions -------------------------------------------------------------------------------------------------------


def _transition(status: str) -> BulkUpdate:
    only_from, columns = TRANSITIONS[status]
    return BulkUpdate(orders, tuple(get_type_hints(columns)), only=orders.c.status == only_from)


_transitions = {status: _transition(status) for status in TRANSITIONS}


def write(session: Session, changes: Mapping[str, Transition]) -> set[str]:
    """Store transitions, by order id; returns the ids of the orders that had the status that their transition needs.
    The others are unchanged.
    """
    rows: dict[str, list[dict[str, object]]] = {}
    for order_id in sorted(changes):
        rows.setdefault(changes[order_id]["status"], []).append({"id": order_id, **changes[order_id]})
    if len(rows) > 1:  # each statement locks only its own orders, and all must be locked by id
        lock_many(session, changes)
    written: set[str] = set()
    for status, mine in rows.items():
        written |= _transitions[status].write(session, mine)
    return written


_count_pending = Prepared(sa.select(sa.func.count()).where(orders.c.status == "pending"))


def count_pending(session: Reader) -> int:
    """How many orders are pending: there are few, and an index finds them."""
    return int(_count_pending.rows(session)[0][0])


_over = orders.c.drive_until < epoch() - sa.bindparam("grace_seconds", type_=sa.Double())
_set_back = orders.c.drive_until > epoch() + MAX_DRIVE_SECONDS
_find_abandoned = Prepared(
    sa.select(orders)
    .where(orders.c.status == "pending", sa.or_(_over, _set_back))
    .order_by(orders.c.drive_until)
    .limit(sa.bindparam("limit"))
)


def find_abandoned(session: Reader, grace_seconds: float, limit: int) -> list[OrderRow]:
    """Pending orders whose request ended `grace_seconds` ago without settling them."""
    return cast(list[OrderRow], _find_abandoned.mappings(session, grace_seconds=grace_seconds, limit=limit))


# The replica of the users ------------------------------------------------------------------------------------------


class UserFact(TypedDict):
    """The status of a user at one version."""

    id: str
    status: str
    version: int


_learn = Prepared(
    Upsert(
        users,
        lambda insert: insert.on_conflict_do_update(
            index_elements=["id"],
            set_={name: insert.excluded[name] for name in ("status", "version")},
            where=insert.excluded.version > users.c.version,
        ),
    ),
    users.c.keys(),
)


def learn_users(session: Session, facts: Iterable[UserFact]) -> None:
    """Store the facts that are newer than the replica. A deleted user is never revived, since the version of the
    deletion is the highest.
    """
    newest: dict[str, UserFact] = {}
    for fact in sorted(facts, key=lambda fact: fact["version"]):
        newest[fact["id"]] = fact
    _learn.write(session, [newest[user_id] for user_id in sorted(newest)])


def lock_open(session: Session, deleted: Mapping[str, datetime]) -> list[OrderRow]:
    """Lock the open orders of users who were deleted at these times: pending ones, and those that were confirmed after
    the deletion and are not yet shipped.
    """
    query = sa.select(orders.c.id, orders.c.user_id, orders.c.status, orders.c.confirmed_at).where(
        orders.c.user_id.in_(deleted), orders.c.status.in_(("pending", "confirmed"))
    )
    found = lock_many(session, [row.id for row in session.execute(query) if _is_open(row._mapping, deleted)])
    return [order for order in found.values() if _is_open(order, deleted)]


def _is_open(order: OrderRow | sa.RowMapping, deleted: Mapping[str, datetime]) -> bool:
    if order["status"] == "confirmed":
        return bool(order["confirmed_at"] and order["confirmed_at"] > deleted[order["user_id"]])
    return bool(order["status"] == "pending")


# Erasure and expiry of keys ----------------------------------------------------------------------------------------

USER_DELETED = "The user was deleted."
"""The reason of a cancellation that no client wrote."""
_said = sa.case((orders.c.cancel_reason == USER_DELETED, orders.c.cancel_reason))
_written = {"note": None, "idempotency_key": None, "fingerprint": None, "cancel_reason": _said}
_has_written = sa.or_(*(orders.c[name].is_not(None) for name in _written))
_mine = any_of(orders.c.id, "ids")
_erase = Prepared(sa.update(orders).where(_mine, _has_written).values(_written))
_expire = Prepared(
    sa.update(orders)
    .where(_mine, orders.c.status != "pending", orders.c.idempotency_key.is_not(None))
    .values(idempotency_key=None, fingerprint=None)
)


def walk_user(session: Reader, user_id: str, after: Position | None, limit: int) -> list[Position]:
    """The next orders of a user, oldest first."""
    return walk(session, orders, after, limit, orders.c.user_id == user_id)


def erase(session: Session, order_ids: Sequence[str]) -> None:
    """Remove what a user wrote from these orders, and the keys, whose answers repeat it."""
    if ids := list(lock_many(session, order_ids)):
        _erase.write(session, [{"ids": ids}])


def expire_keys(session: Session, order_ids: Iterable[str]) -> None:
    """Remove the keys of those orders that are finished."""
    if ids := list(lock_many(session, order_ids)):
        _expire.write(session, [{"ids": ids}])
