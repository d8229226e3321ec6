"""The use cases of the order service, one function each, apart from placing an order (checkout.py)."""

from collections.abc import Callable, Sequence

from libs.common.data import counters, erasures
from libs.common.data.changes import VersionCheck, any_version
from libs.common.data.database import Database, Reader, Session
from libs.common.data.paging import Position, walk
from libs.common.events import outbox
from libs.common.events.event import Event, Origin
from libs.common.events.inbox import Handlers
from libs.common.times import now, read_time, write_time
from order_service import repository
from order_service.checkout import Verdict, settle_all
from order_service.events import OrderCancelled, OrderDelivered, OrderShipped, UserCreated, UserDeleted, UserUpdated
from order_service.models import (
    OrderRow,
    OrderStats,
    Transition,
    UnknownUser,
    after,
    cancel,
    counts,
    deliver,
    orders,
    ship,
)

PAGE = 200
"""Orders that one transaction of a background loop looks at."""


def cancel_order(session: Session, order_id: str, reason: str | None, match: VersionCheck) -> OrderRow:
    """Cancel a confirmed order; the event releases its reservation. Raises NotFound, PreconditionFailed or
    InvalidTransition.
    """
    order = _lock(session, order_id, match)
    return _step(session, order, cancel(order, reason), OrderCancelled)


def ship_order(session: Session, order_id: str, match: VersionCheck) -> OrderRow:
    """Ship a confirmed order; the event sells its reservation. Raises NotFound, PreconditionFailed or
    InvalidTransition.
    """
    order = _lock(session, order_id, match)
    return _step(session, order, ship(order), OrderShipped)


def deliver_order(session: Session, order_id: str, match: VersionCheck) -> OrderRow:
    """Deliver a shipped order. Raises NotFound, PreconditionFailed or InvalidTransition."""
    order = _lock(session, order_id, match)
    return _step(session, order, deliver(order), OrderDelivered)


def _lock(session: Session, order_id: str, match: VersionCheck) -> OrderRow:
    order = repository.lock(session, order_id)
    match(order["version"])
    return order


def _step(
    session: Session,
    before: OrderRow,
    change: Transition | None,
    event: Callable[..., Event],
) -> OrderRow:
    """Write the transition, publish it and update the totals; without one the order stays unchanged."""
    if change is None:
        return before
    order = after(before, change)
    repository.write(session, {order["id"]: change})
    moment = {f"{order['status']}_at": write_time(order["updated_at"])}
    outbox.add(session, event(order_id=order["id"], user_id=order["user_id"], version=order["version"], **moment))
    counters.add(session, counters.difference(counts(before), counts(order)))
    return order


def order_stats(session: Reader) -> OrderStats:
    """How many orders there are by status, how many were ever confirmed, and their revenue."""
    revenue = counters.read_amounts(session, "revenue:")
    pending = repository.count_pending(session)
    return {
        "total": counters.read(session, "total").get("", 0),
        "by_status": counters.read(session, "status:") | ({"pending": pending} if pending else {}),
        "revenue": [{"currency": currency, "amount": amount} for currency, amount in sorted(revenue.items())],
    }


# Expiry of keys ----------------------------------------------------------------------------------------------------


class KeyExpiry:
    """Frees the keys of finished orders that are over 24 hours old, a page in each transaction. `step` is the work of a
    background loop.
    """

    def __init__(self, db: Database):
        self._db = db
        self._after: Position | None = None

    def step(self) -> bool:
        """Whether there may be more."""
        with self._db.read() as session:
            page = walk(session, orders, self._after, PAGE)
        old = [position for position in page if position[0] < now() - repository.KEY_LIFETIME]
        if old:
            with self._db.write(durable=False) as session:
                repository.expire_keys(session, [order_id for _, order_id in old])
            self._after = old[-1]
        return len(old) == PAGE


# Events ------------------------------------------------------------------------------------------------------------


def learn_users(session: Session, events: Sequence[UserCreated]) -> None:
    """Update the replica of the users."""
    repository.learn_users(session, [{"id": e.user_id, "status": e.status, "version": e.version} for e in events])


def forget_users(session: Session, events: Sequence[UserDeleted]) -> None:
    """Reject the pending orders of deleted users, and cancel those that were confirmed after the deletion and are not
    yet shipped. A background loop erases what the users wrote.
    """
    repository.learn_users(session, [{"id": e.user_id, "status": "deleted", "version": e.version} for e in events])
    deleted = {event.user_id: event for event in events}
    found = repository.lock_open(session, {user_id: read_time(e.deleted_at) for user_id, e in deleted.items()})
    gone = UnknownUser(repository.USER_DELETED)
    settle_all(session, [
        Verdict(order, gone, deleted[order["user_id"]].origin or Origin.current())
        for order in found if order["status"] == "pending"
    ])  # fmt: skip
    for order in found:
        if order["status"] == "confirmed":
            cancel_order(session, order["id"], repository.USER_DELETED, any_version)
    erasures.add(session, deleted)


HANDLERS: Handlers = {
    UserCreated: learn_users,
    UserUpdated: learn_users,
    UserDeleted: forget_users,
}
