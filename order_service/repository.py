"""Every query of the order service. Rows are locked in one order: users before orders, each by id."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from libs.common.data.database import Reader, Session
from libs.common.data.paging import Page, PageQuery, page
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert, any_of, epoch, upsert
from libs.common.errors import NotFound
from libs.common.times import now
from order_service.models import NewOrder, Order, Row, orders, users

SORTS = {name: orders.c[name] for name in ("created_at", "total")}
KEY_LIFETIME = timedelta(hours=24)
MAX_DRIVE_SECONDS = 60.0
"""No request is believed to drive its order for longer. A time further ahead is the trace of a clock that was set
back, and holds nothing up.
"""


_find = Prepared(sa.select(orders).where(orders.c.id == sa.bindparam("id")))


def find(session: Reader, order_id: str) -> Row:
    """The order's row; raises NotFound."""
    row = _find.one(session, id=order_id)
    if row is None:
        raise NotFound("There is no such order.")
    return row


def lock(session: Session, order_id: str) -> Order:
    """The order, locked until the transaction ends; raises NotFound."""
    order = session.get(Order, order_id, with_for_update=True)
    if order is None:
        raise NotFound("There is no such order.")
    return order


def find_page(session: Reader, filters: dict[str, Any], asked: PageQuery) -> Page:
    query = sa.select(orders)
    for name in ("user_id", "status"):
        if name in filters:
            query = query.where(orders.c[name] == filters[name])
    if "created_from" in filters:
        query = query.where(orders.c.created_at >= filters["created_from"])
    if "created_to" in filters:
        query = query.where(orders.c.created_at < filters["created_to"])
    return page(session, query, asked, SORTS, orders.c.id)


# The first transaction ---------------------------------------------------------------------------------------------


_clock = sa.select(epoch())


def clock(session: Session) -> float:
    """Seconds since 1970 by the database's clock."""
    return float(session.connection().scalar(_clock) or 0.0)


def free_keys(session: Session, keys: Sequence[str]) -> None:
    """Take the keys from finished orders that are over 24 hours old."""
    finished = orders.c.status != "pending"
    old = orders.c.created_at < now() - KEY_LIFETIME
    session.execute(
        sa.update(orders).where(orders.c.idempotency_key.in_(keys), finished, old).values(idempotency_key=None)
    )


def find_by_keys(session: Session, keys: Iterable[str]) -> dict[str, Row]:
    query = sa.select(orders).where(orders.c.idempotency_key.in_(sorted(keys)))
    return {row["idempotency_key"]: row for row in session.execute(query).mappings()}


_users = sa.select(users.c.id, users.c.status).where(any_of(users.c.id, "ids")).order_by(users.c.id)
_find_users, _share_users = Prepared(_users), Prepared(_users.with_for_update(read=True))


def find_users(session: Session, user_ids: Iterable[str], *, share: bool = False) -> dict[str, str]:
    """The status of each user that is known here. With `share`, nobody can change them until the transaction ends."""
    return dict((_share_users if share else _find_users).rows(session, ids=sorted(user_ids)))


_until = epoch() + sa.bindparam("seconds", type_=sa.Double())
_given = ("id", "user_id", "status", "lines", "note", "total", "created_at", "updated_at", "version")
_insert = Prepared(sa.insert(orders).values(drive_until=_until), _given)
_insert_keyed = Upsert(
    orders,
    lambda insert: (
        insert.values(drive_until=_until)
        .on_conflict_do_nothing(index_elements=["idempotency_key"])
        .returning(orders.c.id)
    ),
)


def add_pending(session: Session, new: Sequence[NewOrder]) -> set[str]:
    """Store new orders, in the order of their keys so that two batches cannot deadlock; returns the ids of those whose
    key was free.
    """
    moment = now()
    same = {"status": "pending", "total": Decimal(0), "created_at": moment, "updated_at": moment, "version": 1}
    rows = [
        {
            "id": order.order_id, "user_id": order.user_id, "lines": order.lines, "note": order.note,
            "idempotency_key": order.key.name if order.key else None,
            "fingerprint": order.key.fingerprint if order.key else None,
            "seconds": min(order.seconds, MAX_DRIVE_SECONDS), **same,
        }
        for order in sorted(new, key=lambda order: order.key.name if order.key else "")
    ]  # fmt: skip
    if not rows:
        return set()
    if not any(order.key for order in new):
        _insert.write(session, rows)
        return {str(row["id"]) for row in rows}
    return set(session.connection().scalars(_insert_keyed(session), rows))


def driven_for(order: Row, time: float) -> float:
    """For how many seconds a pending order may still be driven by its request; not over zero when it is not."""
    left: float = order["drive_until"] - time
    return left if left <= MAX_DRIVE_SECONDS else 0.0


def take_over(session: Session, order: Row, time: float, seconds: float) -> bool:
    """Claim a pending order whose request must have ended; False when somebody else was quicker."""
    same = sa.and_(
        orders.c.id == order["id"], orders.c.status == "pending", orders.c.drive_until == order["drive_until"]
    )
    claim = sa.update(orders).where(same).values(drive_until=time + min(seconds, MAX_DRIVE_SECONDS))
    return bool(session.execute(claim).rowcount)  # type: ignore[attr-defined]


# The second transaction --------------------------------------------------------------------------------------------


_lock_many = Prepared(sa.select(orders).where(any_of(orders.c.id, "ids")).order_by(orders.c.id).with_for_update())


def lock_many(session: Session, order_ids: Iterable[str]) -> dict[str, Row]:
    return {row["id"]: row for row in _lock_many.mappings(session, ids=sorted(order_ids))}


_settled = {
    "confirmed": ("lines", "total", "currency", "confirmed_at"),
    "rejected": ("rejection", "rejected_at", "idempotency_key"),
}
_settle = {
    status: Prepared(
        sa.update(orders)
        .where(orders.c.id == sa.bindparam("_id"), orders.c.status == "pending")
        .values(status=status, updated_at=sa.bindparam("_now"), version=2, **{n: sa.bindparam(f"_{n}") for n in names})
    )
    for status, names in _settled.items()
}


def settle(session: Session, status: str, changed: Sequence[Row]) -> None:
    """Write the outcome of pending orders that this transaction has locked."""
    names = ("id", *_settled[status])
    rows = [{**{f"_{name}": order[name] for name in names}, "_now": order["updated_at"]} for order in changed]
    _settle[status].write(session, rows)


def count_pending(session: Reader) -> int:
    """How many orders are pending: few, and an index leads to them."""
    return session.scalar(sa.select(sa.func.count()).where(orders.c.status == "pending")) or 0


def find_abandoned(session: Reader, grace_seconds: float, limit: int) -> list[Row]:
    """Pending orders whose request ended that long ago without settling them."""
    over = orders.c.drive_until < epoch() - grace_seconds
    set_back = orders.c.drive_until > epoch() + MAX_DRIVE_SECONDS
    query = (
        sa.select(orders.c.id, orders.c.user_id)
        .where(orders.c.status == "pending", sa.or_(over, set_back))
        .order_by(orders.c.drive_until)
        .limit(limit)
    )
    return list(session.execute(query).mappings())


# The replica of the users ------------------------------------------------------------------------------------------


def learn_users(session: Session, facts: Iterable[Mapping[str, Any]]) -> None:
    """Store what is newer than what is known: `id`, `status`, `version`. Nothing brings a deleted user back, since
    its version is the highest that there is.
    """
    newest: dict[str, Mapping[str, Any]] = {}
    for fact in facts:
        if fact["id"] not in newest or fact["version"] > newest[fact["id"]]["version"]:
            newest[fact["id"]] = fact
    insert = upsert(session, users)
    insert = insert.on_conflict_do_update(
        index_elements=["id"],
        set_={"status": insert.excluded.status, "version": insert.excluded.version},
        where=insert.excluded.version > users.c.version,
    )
    session.connection().execute(insert, [dict(newest[user_id]) for user_id in sorted(newest)])


def lock_open(session: Session, user_id: str, deleted_at: datetime) -> list[Row]:
    """Of a user who was deleted then: orders that are pending, and those confirmed afterwards and not yet shipped;
    locked, so that nobody ships one meanwhile.
    """
    late = sa.and_(orders.c.status == "confirmed", orders.c.confirmed_at > deleted_at)
    query = sa.select(orders.c.id, orders.c.status).where(
        orders.c.user_id == user_id, sa.or_(orders.c.status == "pending", late)
    )
    return list(session.execute(query.order_by(orders.c.id).with_for_update()).mappings())


def erase_user(session: Session, user_id: str) -> None:
    """Remove what the user wrote, and the keys, whose answers tell of it."""
    nothing = {"note": None, "idempotency_key": None, "fingerprint": None}
    finished = orders.c.status != "pending"
    session.execute(sa.update(orders).where(orders.c.user_id == user_id, finished).values(nothing))
