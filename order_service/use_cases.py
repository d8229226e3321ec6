"""One function for each thing that the order service does. The order saga is `create_order`:

    T1       store the order `pending` with its idempotency key                        (place)
    call     reserve all lines at the product service, and learn names and prices      (reserve)
    T2       if it is still `pending`: `confirmed`, with `order.confirmed` in the outbox; or `rejected`   (settle)

No network call happens inside a transaction. Whatever dies when, the rules of docs/saga.md hold; the numbers below
refer to them. Orders that are at the same step at the same moment travel together (libs/common/batching.py): one
commit or one call, each judged on its own.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from libs.common import context
from libs.common.batching import Batcher
from libs.common.data import counters
from libs.common.data.database import CommitInDoubt, Database, Reader, Session
from libs.common.data.idempotency import Replayed
from libs.common.errors import (
    DeadlineExceeded,
    DependencyUnavailable,
    IdempotencyKeyReused,
    NotFound,
    Problem,
    RequestInFlight,
    StoredProblem,
)
from libs.common.events import outbox
from libs.common.events.event import Event, Origin
from libs.common.ids import new_id
from libs.common.money import format_amount
from libs.common.times import now, read_time, write_time
from order_service import repository
from order_service.clients import Demand, Products, Reserved, Users
from order_service.events import (
    OrderCancelled,
    OrderConfirmed,
    OrderDelivered,
    OrderRejected,
    OrderShipped,
    UserCreated,
    UserDeleted,
    UserUpdated,
)
from order_service.models import (
    NewOrder,
    Order,
    Row,
    UnknownUser,
    Verdict,
    as_confirmed,
    counts,
    price_lines,
)

SETTLE_SECONDS = 0.5
"""Kept back from a request's time, so that what was reserved can still be settled."""
GRACE_SECONDS = 5.0
"""How long after its request's deadline a pending order counts as abandoned."""


class Placed(NamedTuple):
    """The result of T1: an order to be driven on, or one that is finished and is the answer."""

    order: Row
    finished: bool


class UserNotKnownHere(Exception):
    """The replica does not have the user; the user service may."""


class Checkout:
    """The steps of the saga in one process; each takes one order and does many at once. T1 of some orders and T2 of
    others share a commit.
    """

    def __init__(self, db: Database, users: Users, products: Products):
        self.db, self.users, self._products = db, users, products
        self.reserve: Batcher[Demand, Reserved] = Batcher(self._reserve)
        self._write: Batcher[NewOrder | Verdict, Any] = Batcher(self._write_all, feeding=self.reserve)

    def place(self, new: NewOrder) -> Placed:
        placed: Placed = self._write(new)
        return placed

    def settle(self, verdict: Verdict, deadline: float) -> Row:
        settled: Row = self._write(verdict, deadline)
        return settled

    def _write_all(self, batch: list[NewOrder | Verdict]) -> Sequence[Any]:
        verdicts = [item for item in batch if isinstance(item, Verdict)]
        new = [item for item in batch if isinstance(item, NewOrder)]
        with self.db.write() as session:
            settled = iter(settle(session, verdicts) if verdicts else ())
            placed = iter(place(session, new) if new else ())
        return [next(settled if isinstance(item, Verdict) else placed) for item in batch]

    def _reserve(self, batch: list[Demand]) -> Sequence[Reserved]:
        """What has expired is not asked for; one short deadline does not cut the others short."""
        alive = [demand for demand in batch if demand.deadline > time.monotonic()]
        found: dict[str, Reserved] = {}
        if alive:
            reserved = self._products.reserve(alive, max(demand.deadline for demand in alive))
            found = {demand.order_id: outcome for demand, outcome in zip(alive, reserved, strict=True)}
        return [found.get(demand.order_id) or DeadlineExceeded() for demand in batch]


def create_order(checkout: Checkout, new: NewOrder, origin: Origin, deadline: float) -> Row | Replayed:
    """Place, reserve, settle. Raises UnknownUser, InsufficientStock, UnknownProduct, CurrencyMismatch,
    RequestInFlight, IdempotencyKeyReused, DependencyUnavailable or DeadlineExceeded.
    """
    placed = _place(checkout, new)
    order_id = placed.order["id"]
    if placed.finished:
        return Replayed(_answer(placed.order, replayed=True))
    outcome: Reserved
    try:
        demand = Demand(order_id, _demanded(placed.order), origin.correlation_id, deadline - SETTLE_SECONDS)
        outcome = checkout.reserve(demand, demand.deadline)
    except Problem as problem:
        outcome = problem
    verdict = Verdict(order_id, new.user_id, _pointed(outcome, new.places), origin)
    try:
        return _answer(checkout.settle(verdict, deadline))
    except CommitInDoubt:
        # Rule 6: the commit may have happened; only the row can tell.
        with checkout.db.read() as session:
            return _answer(repository.find(session, order_id))


def _place(checkout: Checkout, new: NewOrder) -> Placed:
    try:
        try:
            return checkout.place(new)
        except UserNotKnownHere:
            learn_user(checkout, new.user_id)
            return checkout.place(new)
    except CommitInDoubt as doubt:
        # Rule 6, and without a row it promises nothing: this request may also have had none to write.
        try:
            with checkout.db.read() as session:
                return Placed(repository.find(session, new.order_id), finished=False)
        except NotFound:
            raise doubt from None


def learn_user(checkout: Checkout, user_id: str) -> None:
    """Read through to the user service; raises UnknownUser or DependencyUnavailable."""
    found = checkout.users.find(user_id)
    if found is None:
        raise UnknownUser(errors=[{"pointer": "/user_id", "detail": "There is no such user."}])
    with checkout.db.write() as session:
        repository.learn_users(session, [{"id": user_id, **found}])


def _pointed(outcome: Reserved, places: Mapping[str, int]) -> Reserved:
    """The product service was sent merged lines; a client looks for the fault in the items that it sent."""
    if isinstance(outcome, Problem):
        for fault in outcome.errors or ():
            if fault.get("product_id") in places:
                fault["pointer"] = re.sub(r"^/items/\d+", f"/items/{places[fault['product_id']]}", fault["pointer"])
    return outcome


def _demanded(order: Row) -> list[dict[str, Any]]:
    return [{"product_id": line["product_id"], "quantity": line["quantity"]} for line in order["lines"]]


def _answer(order: Row, *, replayed: bool = False) -> Row:
    """The order as it was when it was confirmed; raises its rejection when it was rejected."""
    if order["confirmed_at"]:
        return as_confirmed(order)
    if order["status"] == "rejected":
        raise StoredProblem(order["rejection"], replayed=replayed)
    raise DependencyUnavailable("The order is still being worked on.")


# T1 ----------------------------------------------------------------------------------------------------------------


def place(session: Session, batch: Sequence[NewOrder]) -> list[Placed | Exception]:
    """Store each order `pending`, unless its key is taken (rule 1) or its user is not known."""
    keys = {new.key.name for new in batch if new.key}
    if keys:
        repository.free_keys(session, sorted(keys))
    known = repository.find_by_keys(session, keys) if keys else {}
    statuses = repository.find_users(session, {new.user_id for new in batch})
    fresh: dict[str, NewOrder] = {}
    for new in batch:
        name = new.key.name if new.key else new.order_id
        if name not in known and statuses.get(new.user_id) == "active":
            fresh.setdefault(name, new)
    stored = repository.add_pending(session, list(fresh.values()))
    if taken := keys - known.keys():
        known |= repository.find_by_keys(session, taken)
    return [_placed(session, new, stored, known, statuses.get(new.user_id)) for new in batch]


def _placed(
    session: Session, new: NewOrder, stored: set[str], known: dict[str, Row], status: str | None
) -> Placed | Exception:
    if new.order_id in stored:
        return Placed({"id": new.order_id, "lines": new.lines}, finished=False)
    if new.key and (order := known.get(new.key.name)):
        return _known(session, new, order)
    if status == "active":  # the key was taken a moment ago, and by now it is given back
        return RequestInFlight()
    if status is None:
        return UserNotKnownHere()
    return UnknownUser(errors=[{"pointer": "/user_id", "detail": f"The user is {status}."}])


def _known(session: Session, new: NewOrder, order: Row) -> Placed | Problem:
    """Rule 1: another request came with this key before."""
    if new.key and order["fingerprint"] != new.key.fingerprint:
        return IdempotencyKeyReused()
    if order["status"] != "pending":
        return Placed(order, finished=True)
    time_now = repository.clock(session)
    left = repository.driven_for(order, time_now)
    if left > 0 or not repository.take_over(session, order, time_now, new.seconds):
        return RequestInFlight(retry_after=max(1, round(left + 0.5)))
    return Placed(order, finished=False)


# T2 ----------------------------------------------------------------------------------------------------------------


def settle(session: Session, verdicts: Sequence[Verdict]) -> list[Row]:
    """Confirm or reject each order that is still pending (rule 2); returns the rows as they are then."""
    statuses = repository.find_users(session, {verdict.user_id for verdict in verdicts}, share=True)
    rows = repository.lock_many(session, {verdict.order_id for verdict in verdicts})
    changed: dict[str, list[Row]] = {"confirmed": [], "rejected": []}
    events: list[Event] = []
    for verdict in verdicts:
        order = rows[verdict.order_id]
        if order["status"] == "pending":
            order = rows[verdict.order_id] = _judged(order, verdict, statuses.get(verdict.user_id))
            changed[order["status"]].append(order)
            events.append(_told(order, verdict.origin))
    for status, settled in changed.items():
        repository.settle(session, status, settled)
    # Whoever was deleted while T1 was under way is not known to have had this order.
    for user_id in sorted({row["user_id"] for row in changed["rejected"] if statuses.get(row["user_id"]) == "deleted"}):
        repository.erase_user(session, user_id)
    outbox.add(session, *events)
    counters.add(session, _total(changed["confirmed"] + changed["rejected"]))
    return [rows[verdict.order_id] for verdict in verdicts]


def _judged(order: Row, verdict: Verdict, user_status: str | None) -> Row:
    """The order as the verdict leaves it."""
    moment = now()
    same = {"updated_at": moment, "version": 2}
    try:
        if isinstance(verdict.outcome, Problem):
            raise verdict.outcome
        if user_status != "active":
            raise UnknownUser(errors=[{"pointer": "/user_id", "detail": "The user is no longer active."}])
        lines, total, currency = price_lines(verdict.outcome)
    except Problem as problem:
        document = problem.document(verdict.instance, verdict.origin.correlation_id)
        # Rule 5: what failed for our fault gives its key back, so that the client's retry makes a new order.
        key = order["idempotency_key"] if problem.status < 500 else None
        return {
            **order,
            **same,
            "status": "rejected",
            "rejected_at": moment,
            "rejection": document,
            "idempotency_key": key,
        }
    return {
        **order, **same, "status": "confirmed", "confirmed_at": moment,
        "lines": lines, "total": total, "currency": currency,
    }  # fmt: skip


def _told(order: Row, origin: Origin) -> Event:
    """Rule 3: every rejection is published, since a call of ours may still be under way."""
    same = {"order_id": order["id"], "user_id": order["user_id"], "version": order["version"], "origin": origin}
    if order["status"] == "confirmed":
        total = format_amount(order["total"], order["currency"])
        confirmed_at = write_time(order["confirmed_at"])
        return OrderConfirmed(
            items=order["lines"], total=total, currency=order["currency"], confirmed_at=confirmed_at, **same
        )
    return OrderRejected(code=order["rejection"]["code"], rejected_at=write_time(order["rejected_at"]), **same)


def _total(settled: Sequence[Row]) -> dict[str, int]:
    """What orders that were settled add to the totals."""
    added: dict[str, int] = {}
    for order in settled:
        for name, value in counts(order).items():
            added[name] = added.get(name, 0) + value
    return added


def reject_abandoned(db: Database, limit: int = 100) -> bool:
    """Rule 7: reject pending orders that nobody drives any more; True when there may be others."""
    with db.read() as session:
        found = repository.find_abandoned(session, GRACE_SECONDS, limit)
    if found:
        problem = DependencyUnavailable("The order was abandoned.")
        origin = _origin()
        with db.write() as session:
            settle(session, [Verdict(row["id"], row["user_id"], problem, origin) for row in found])
    return len(found) == limit


# Later steps -------------------------------------------------------------------------------------------------------


def cancel_order(session: Session, order_id: str, reason: str | None, match: Callable[[int], None]) -> Order:
    """Cancel a confirmed order; what it holds is released by the event."""
    return _step(session, order_id, match, lambda order: order.cancel(reason), OrderCancelled)


def ship_order(session: Session, order_id: str, match: Callable[[int], None]) -> Order:
    """Ship a confirmed order; what it holds is sold by the event."""
    return _step(session, order_id, match, Order.ship, OrderShipped)


def deliver_order(session: Session, order_id: str, match: Callable[[int], None]) -> Order:
    """Deliver a shipped order."""
    return _step(session, order_id, match, Order.deliver, OrderDelivered)


def _step(
    session: Session, order_id: str, match: Callable[[int], None], step: Callable[[Order], bool], event: type[Any]
) -> Order:
    order = repository.lock(session, order_id)
    match(order.version)
    before = counts(vars(order))
    if step(order):
        moment = f"{order.status}_at"
        told = {moment: write_time(getattr(order, moment)), "version": order.version}
        outbox.add(session, event(order_id=order.id, user_id=order.user_id, **told))
        counters.add(session, counters.difference(before, counts(vars(order))))
    return order


def order_stats(session: Reader) -> dict[str, Any]:
    """How many orders there are by status, how many were ever confirmed, and what they bring."""
    revenue = counters.read_amounts(session, "revenue:")
    pending = repository.count_pending(session)
    return {
        "total": counters.read(session, "total").get("", 0),
        "by_status": counters.read(session, "status:") | ({"pending": pending} if pending else {}),
        "revenue": [{"currency": currency, "amount": amount} for currency, amount in sorted(revenue.items())],
    }


# Events ------------------------------------------------------------------------------------------------------------


def _learn(session: Session, events: Sequence[UserCreated]) -> None:
    facts = [{"id": event.user_id, "status": event.status, "version": event.version} for event in events]
    repository.learn_users(session, facts)


def _forget(session: Session, events: Sequence[UserDeleted]) -> None:
    """A deleted user's pending orders are rejected, and those confirmed since and not yet shipped are cancelled."""
    facts = [{"id": event.user_id, "status": "deleted", "version": event.version} for event in events]
    repository.learn_users(session, facts)
    for event in sorted(events, key=lambda event: event.user_id):
        origin = event.origin or _origin()
        found = repository.lock_open(session, event.user_id, read_time(event.deleted_at))
        pending = [row["id"] for row in found if row["status"] == "pending"]
        gone = UnknownUser("The user was deleted.")
        settle(session, [Verdict(order_id, event.user_id, gone, origin) for order_id in pending])
        for row in found:
            if row["status"] == "confirmed":
                cancel_order(session, row["id"], "The user was deleted.", lambda version: None)
        session.flush()
        repository.erase_user(session, event.user_id)


def _origin() -> Origin:
    work = context.current()
    return Origin(
        event_id="",
        correlation_id=work.request_id if work else new_id(),
        traceparent=work.traceparent if work else "",
    )


HANDLERS: dict[type[Event], Callable[..., None]] = {
    UserCreated: _learn,
    UserUpdated: _learn,
    UserDeleted: _forget,
}
