"""The order saga, from top to bottom:

    place      T1: store the order `pending` with its idempotency key                              (commit)
    reserve    reserve all lines at the product service, and learn names and prices               (call)
    settle     T2: if it is still `pending`, `confirmed` with `order.confirmed` in the outbox, or `rejected`   (commit)

No network call happens inside a transaction. The rules of docs/saga.md hold wherever a process dies; the numbers below
refer to them. Orders that are at the same step at the same time are batched (libs/common/batching.py): they share one
commit or one call, and each has its own outcome.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from libs.common.batching import Batcher
from libs.common.data import counters
from libs.common.data.database import CommitInDoubt, Database, Session
from libs.common.data.idempotency import Key, Replayed
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
from libs.common.money import format_amount
from libs.common.times import write_time
from order_service import repository
from order_service.clients import Demand, Products, Reserved, Users
from order_service.events import OrderConfirmed, OrderRejected
from order_service.models import (
    Confirmed,
    NewOrder,
    OrderRow,
    Rejected,
    UnknownUser,
    WantedLine,
    after,
    as_confirmed,
    confirm,
    counts,
    reject,
)

SETTLE_SECONDS = 0.5
"""The part of a request's time that is kept for settling the order."""
GRACE_SECONDS = 5.0
"""How long after its request's deadline a pending order counts as abandoned."""
PLACED_AT = "/api/v1/orders"
"""The `instance` of a rejection: where the order was placed."""


@dataclass(frozen=True)
class Verdict:
    """The outcome for a pending order: confirmation with these lines, or rejection with this problem."""

    order: OrderRow
    """As it was when it was placed, or read. Until it is settled, only its deadline and what an erasure removes change;
    its user is deleted then.
    """
    outcome: Reserved
    origin: Origin


def create_order(checkout: "Checkout", new: NewOrder) -> OrderRow | Replayed:
    """Place, reserve, settle. Raises UnknownUser, InsufficientStock, UnknownProduct, CurrencyMismatch,
    RequestInFlight, IdempotencyKeyReused, DependencyUnavailable or DeadlineExceeded.
    """
    origin = Origin.current()
    order = checkout.place(new)
    if order["status"] != "pending":
        return Replayed(_answer(order, replayed=True))
    outcome = checkout.reserve(
        Demand(order["id"], _wanted(order), origin.correlation_id, new.deadline - SETTLE_SECONDS)
    )
    return _answer(checkout.settle(Verdict(order, _pointed(outcome, new.places), origin)))


class Checkout:
    """The steps of the saga in one process; each takes one order and batches it with others. T1 of some orders and T2
    of others share a commit.
    """

    def __init__(self, db: Database, users: Users, products: Products):
        self._db, self._users, self._products = db, users, products
        self._reserve: Batcher[Demand, Reserved] = Batcher(self._reserve_all)
        self._write: Batcher[NewOrder | Verdict, OrderRow | None] = Batcher(
            self._write_all, feeding=self._reserve, goes_on=lambda item: isinstance(item, NewOrder)
        )

    def place(self, new: NewOrder) -> OrderRow:
        """The order, `pending` and driven by this request; or an earlier one with the same key, which is finished."""
        order = self._placed(new)
        if order is None:
            self._learn_user(new.user_id)
            order = self._placed(new)
        if order is None:
            raise DependencyUnavailable("The user could not be looked up.")
        return order

    def reserve(self, demand: Demand) -> Reserved:
        """The lines with names and prices, or the problem."""
        try:
            return self._reserve(demand, demand.deadline)
        except Problem as problem:
            return problem

    def settle(self, verdict: Verdict) -> OrderRow:
        """The order as it was settled, by this verdict or by another one before."""
        try:
            order = self._write(verdict)
        except CommitInDoubt:
            # Rule 6: the commit may have happened; only the row can tell.
            return self._look(verdict.order["id"])
        assert order is not None
        return order

    def _placed(self, new: NewOrder) -> OrderRow | None:
        """None when the user is not in the replica."""
        try:
            return self._write(new)
        except CommitInDoubt as doubt:
            try:
                return self._look(new.order_id)
            except NotFound:
                # Rule 6: a missing row proves nothing, since this request may have had no row to write.
                raise doubt from None

    def _look(self, order_id: str) -> OrderRow:
        with self._db.read() as session:
            return repository.find(session, order_id)

    def _learn_user(self, user_id: str) -> None:
        """Ask the user service and update the replica; raises UnknownUser or DependencyUnavailable."""
        found = self._users.find(user_id)
        if found is None:
            raise _unknown_user("There is no such user.")
        with self._db.write() as session:
            repository.learn_users(session, [{"id": user_id, **found}])

    def _write_all(self, batch: list[NewOrder | Verdict]) -> Sequence[OrderRow | Problem | None]:
        verdicts = [item for item in batch if isinstance(item, Verdict)]
        new = [item for item in batch if isinstance(item, NewOrder)]
        with self._db.write() as session:
            settled = iter(settle_all(session, verdicts) if verdicts else ())
            placed = iter(place_all(session, new) if new else ())
        return [next(settled) if isinstance(item, Verdict) else next(placed) for item in batch]

    def _reserve_all(self, batch: list[Demand]) -> Sequence[Reserved]:
        """Skip demands whose deadline is over. The call has the latest deadline, so that a short one does not cut off
        the others.
        """
        alive = [demand for demand in batch if demand.deadline > time.monotonic()]
        found: dict[str, Reserved] = {}
        if alive:
            reserved = self._products.reserve(alive, max(demand.deadline for demand in alive))
            found = {demand.order_id: outcome for demand, outcome in zip(alive, reserved, strict=True)}
        return [found.get(demand.order_id) or DeadlineExceeded() for demand in batch]


def _wanted(order: OrderRow) -> list[WantedLine]:
    return [{"product_id": line["product_id"], "quantity": line["quantity"]} for line in order["lines"]]


def _pointed(outcome: Reserved, places: Mapping[str, int]) -> Reserved:
    """Let faults point to the items of the client's request; the product service got merged lines."""
    if isinstance(outcome, Problem):
        for fault in outcome.errors or ():
            if fault.get("product_id") in places:
                fault["pointer"] = re.sub(r"^/items/\d+", f"/items/{places[fault['product_id']]}", fault["pointer"])
    return outcome


def _answer(order: OrderRow, *, replayed: bool = False) -> OrderRow:
    """The order as it was when it was confirmed; raises its rejection when it was rejected."""
    if order["confirmed_at"]:
        return as_confirmed(order)
    if order["rejection"]:
        raise StoredProblem(order["rejection"], replayed=replayed)
    raise DependencyUnavailable("The order is still being worked on.")


def _unknown_user(detail: str) -> UnknownUser:
    return UnknownUser(errors=[{"pointer": "/user_id", "detail": detail}])


# T1 ----------------------------------------------------------------------------------------------------------------


def place_all(session: Session, batch: Sequence[NewOrder]) -> list[OrderRow | Problem | None]:
    """Store each order `pending`, unless its key is taken (rule 1) or its user is not in the replica (None)."""
    statuses = repository.find_users(session, {new.user_id for new in batch})
    fresh: dict[str, NewOrder] = {}
    for new in batch:
        if statuses.get(new.user_id) == "active":
            fresh.setdefault(new.key.name if new.key else new.order_id, new)
    stored = repository.add_pending(session, fresh.values())
    known, idle, freed = _look_up(session, {new.key.name for new in batch if new.key and new.order_id not in stored})
    if again := [fresh[key] for key in freed if key in fresh]:
        # This waits for nobody: nobody else can claim a key whose row is locked here.
        stored |= repository.add_pending(session, again)
        known |= repository.find_by_keys(session, freed)
    placed: list[OrderRow | Problem | None] = []
    for new in batch:
        if new.order_id in stored:
            placed.append(stored[new.order_id])
        elif new.key and new.key.name in known and statuses.get(new.user_id) != "deleted":
            placed.append(_repeated(session, new, new.key, known[new.key.name], idle))
        else:
            placed.append(_refused(statuses.get(new.user_id)))
    return placed


def _look_up(session: Session, keys: set[str]) -> tuple[dict[str, OrderRow], set[str], set[str]]:
    """The orders with these keys; the ids of those that are pending and that no request drives; and the keys that were
    freed, since their orders are finished and over 24 hours old.
    """
    known = repository.find_by_keys(session, keys) if keys else {}
    idle = repository.lock_idle(session, known.keys()) if known else {}
    freed = {key for key, order in idle.items() if order["status"] != "pending"}
    repository.free_keys(session, [idle[key]["id"] for key in freed])
    known = {key: order for key, order in (known | idle).items() if key not in freed}
    return known, {order["id"] for key, order in idle.items() if key not in freed}, freed


def _repeated(session: Session, new: NewOrder, key: Key, order: OrderRow, idle: set[str]) -> OrderRow | Problem:
    """Rule 1: an earlier request had the same key."""
    if order["fingerprint"] != key.fingerprint:
        return IdempotencyKeyReused()
    if order["status"] != "pending":
        return order
    if order["id"] in idle:
        idle.remove(order["id"])  # only one request of this batch takes it over
        repository.take_over(session, order["id"], new.deadline)
        return order
    left = repository.driven_for(order, repository.clock(session))
    return RequestInFlight(retry_after=max(1, round(left + 0.5)))


def _refused(status: str | None) -> Problem | None:
    """Why an order of a user with this status was not stored; None when the user is not in the replica."""
    if status is None:
        return None
    if status == "active":  # another request took the key and has freed it again
        return RequestInFlight()
    return _unknown_user(f"The user is {status}.")


# T2 ----------------------------------------------------------------------------------------------------------------


def settle_all(session: Session, verdicts: Sequence[Verdict]) -> list[OrderRow]:
    """Confirm or reject each order that is still pending (rule 2); returns the orders as they are then. No row is read
    but those that another transaction has settled: the UPDATE itself looks at the status, and locks.
    """
    statuses = repository.find_users(session, {verdict.order["user_id"] for verdict in verdicts}, share=True)
    changes: dict[str, Confirmed | Rejected] = {}
    for verdict in verdicts:
        order = verdict.order
        if order["status"] == "pending" and order["id"] not in changes:
            changes[order["id"]] = _judge(order, verdict, statuses.get(order["user_id"]))
    written = repository.write(session, changes)
    orders: dict[str, OrderRow] = {}
    events: list[Event] = []
    for verdict in verdicts:
        order_id = verdict.order["id"]
        if order_id in written and order_id not in orders:
            orders[order_id] = after(verdict.order, changes[order_id])
            events.append(_event_of(orders[order_id], verdict.origin))
            counters.add(session, counts(orders[order_id]))
    outbox.add(session, *events)
    # The deletion of a user does not see an order whose T1 is not yet committed.
    repository.erase(session, [i for i in orders if statuses.get(orders[i]["user_id"]) == "deleted"])
    if others := {verdict.order["id"] for verdict in verdicts} - written:
        orders |= repository.find_many(session, others)
    return [orders[verdict.order["id"]] for verdict in verdicts]


def _judge(order: OrderRow, verdict: Verdict, user_status: str | None) -> Confirmed | Rejected:
    outcome = verdict.outcome
    if not isinstance(outcome, Problem):
        if user_status == "active":
            try:
                return confirm(order, outcome)
            except Problem as problem:
                outcome = problem
        else:
            outcome = _unknown_user("The user is no longer active.")
    return reject(order, outcome.document(PLACED_AT, verdict.origin.correlation_id))


def _event_of(order: OrderRow, origin: Origin) -> OrderConfirmed | OrderRejected:
    """Rule 3: every rejection is published, since a reserve call may still be under way."""
    if order["confirmed_at"] and order["currency"]:
        return OrderConfirmed(
            order_id=order["id"], user_id=order["user_id"], items=order["lines"],
            total=format_amount(order["total"], order["currency"]), currency=order["currency"],
            confirmed_at=write_time(order["confirmed_at"]), version=order["version"], origin=origin,
        )  # fmt: skip
    assert order["rejection"] is not None
    assert order["rejected_at"] is not None
    return OrderRejected(
        order_id=order["id"], user_id=order["user_id"], code=order["rejection"]["code"],
        rejected_at=write_time(order["rejected_at"]), version=order["version"], origin=origin,
    )  # fmt: skip


def reject_abandoned(db: Database, limit: int = 100) -> bool:
    """Rule 7: reject pending orders that no request drives any more; True when there may be more."""
    with db.read() as session:
        found = repository.find_abandoned(session, GRACE_SECONDS, limit)
    if found:
        problem = DependencyUnavailable("The order was abandoned.")
        origin = Origin.current()
        with db.write() as session:
            settle_all(session, [Verdict(order, problem, origin) for order in found])
    return len(found) == limit
