"""Orders and the replica of the users: their tables, and the lifecycle of an order.

An order is one row. Its lines are always read with it and written only twice, when it is placed and when prices are
known, so they are a column of it. The lifecycle never returns to a status, so the times in the row are its history:

    pending → confirmed → shipped → delivered      pending → rejected      confirmed → cancelled

The row is also the saga's state and the idempotency record: see checkout.py. A transition is a function from an order
to the columns that change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import ClassVar, TypedDict, cast

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from libs.common.data.columns import NAMING, Amount, Id, Json, Moment, Text
from libs.common.data.idempotency import Key
from libs.common.errors import InvalidTransition, Problem, ProblemDocument, ValidationFailed
from libs.common.ids import example_id, new_id
from libs.common.money import format_amount, to_units
from libs.common.times import now

metadata = sa.MetaData(naming_convention=NAMING)

STATUSES = ("pending", "confirmed", "rejected", "cancelled", "shipped", "delivered")
COUNTED = ("confirmed", "shipped", "delivered")
"""Orders with these statuses count towards the revenue."""
MAX_TOTAL = Decimal(10**12)


class UnknownUser(Problem):
    """The user of the order does not exist, or may not order."""

    status, code, title = 422, "unknown-user", "There is no such active user"
    example: ClassVar = {"errors": [{"pointer": "/user_id", "detail": "There is no such user."}]}


class UnknownProduct(Problem):
    """A product of the order does not exist; `errors` names each."""

    status, code, title = 422, "unknown-product", "There is no such product"
    example: ClassVar = {
        "errors": [{
            "pointer": "/items/0/product_id", "detail": "There is no such product.",
            "product_id": example_id("product_id"),
        }]
    }  # fmt: skip


class InsufficientStock(Problem):
    """There is less to sell than was ordered; `errors` names each short line with what is available."""

    status, code, title = 409, "insufficient-stock", "There is too little stock"
    example: ClassVar = {
        "errors": [{
            "pointer": "/items/0/quantity", "detail": "1 available.",
            "product_id": example_id("product_id"), "available": 1,
        }]
    }  # fmt: skip


class CurrencyMismatch(Problem):
    """The products of one order must have one currency."""

    status, code, title = 422, "currency-mismatch", "The products have different currencies"
    example: ClassVar = {"detail": "The products are priced in EUR, USD."}


# Lines -------------------------------------------------------------------------------------------------------------


class WantedLine(TypedDict):
    """A number of units of a product."""

    product_id: str
    quantity: int


class ReservedLine(WantedLine):
    """A line whose units are reserved, with the product's name and price."""

    name: str
    unit_price: str
    currency: str


class PricedLine(WantedLine):
    """A line of a confirmed order; both amounts are in the currency of the order."""

    name: str
    unit_price: str
    line_total: str


def merge_lines(items: Iterable[WantedLine]) -> list[WantedLine]:
    """The lines of a new order, one for each product."""
    merged: dict[str, WantedLine] = {}
    for item in items:
        line = merged.setdefault(item["product_id"], {"product_id": item["product_id"], "quantity": 0})
        line["quantity"] += item["quantity"]
    return list(merged.values())


def price_lines(reserved: Iterable[ReservedLine]) -> tuple[list[PricedLine], Decimal, str]:
    """Lines, total and currency of what was reserved; raises CurrencyMismatch, or ValidationFailed for a total above
    MAX_TOTAL.
    """
    currencies = {line["currency"] for line in reserved}
    if len(currencies) > 1:
        raise CurrencyMismatch(f"The products are priced in {', '.join(sorted(currencies))}.")
    currency = currencies.pop()
    lines: list[PricedLine] = []
    total = Decimal(0)
    for line in reserved:
        price = Decimal(line["unit_price"])
        line_total = price * line["quantity"]
        total += line_total
        lines.append({
            "product_id": line["product_id"], "name": line["name"], "quantity": line["quantity"],
            "unit_price": format_amount(price, currency), "line_total": format_amount(line_total, currency),
        })  # fmt: skip
    if total > MAX_TOTAL:
        raise ValidationFailed("The total is too large.", errors=[{"pointer": "/items", "detail": "Order less."}])
    return lines, total, currency


# Orders ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewOrder:
    """A request to place an order."""

    order_id: str
    user_id: str
    lines: list[WantedLine]
    note: str | None
    key: Key | None
    deadline: float
    """Until then (`time.monotonic()`) the request may drive the order."""
    places: Mapping[str, int]
    """Product → its first item in the request, which the pointers of faults refer to."""

    @classmethod
    def of(
        cls, user_id: str, items: Sequence[WantedLine], note: str | None, key: Key | None, deadline: float
    ) -> "NewOrder":
        places = {item["product_id"]: place for place, item in reversed(list(enumerate(items)))}
        return cls(new_id(), user_id, merge_lines(items), note, key, deadline, places)


class PendingOrder(TypedDict):
    """The columns of an order that are set when it is placed."""

    id: str
    user_id: str
    status: str
    lines: Sequence[WantedLine]
    total: Decimal
    note: str | None
    idempotency_key: str | None
    fingerprint: str | None
    created_at: datetime
    updated_at: datetime
    version: int


class OrderRow(PendingOrder):
    """The columns of an order."""

    currency: str | None
    rejection: ProblemDocument | None
    cancel_reason: str | None
    drive_until: float
    confirmed_at: datetime | None
    rejected_at: datetime | None
    cancelled_at: datetime | None
    shipped_at: datetime | None
    delivered_at: datetime | None


class Step(TypedDict):
    """A status that an order reached."""

    status: str
    at: datetime
    reason: str | None


class OrderFilters(TypedDict, total=False):
    """What orders are searched by."""

    user_id: str
    status: str
    created_from: datetime
    created_to: datetime


class OrderStats(TypedDict):
    """How many orders there are, and their revenue."""

    total: int
    by_status: dict[str, int]
    revenue: list[dict[str, object]]


# Tables -------------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    metadata = metadata


_pending = sa.text("status = 'pending'")


class Order(Base):
    __tablename__ = "orders"
    # An index for every documented sort, alone and after every documented filter; the id breaks ties.
    __table_args__ = (
        *(sa.Index(None, *f, sort, "id") for f in ((), ("user_id",), ("status",)) for sort in ("created_at", "total")),
        sa.Index("ix_orders_pending", "drive_until", sqlite_where=_pending, postgresql_where=_pending),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str] = mapped_column(Id)
    status: Mapped[str] = mapped_column(sa.String(10))
    lines: Mapped[list[PricedLine]] = mapped_column(Json)
    """Until prices are known, each names only the product and the quantity."""
    total: Mapped[Decimal] = mapped_column(Amount)
    """Zero until prices are known."""
    currency: Mapped[str | None] = mapped_column(sa.String(3))
    note: Mapped[str | None] = mapped_column(Text(1000))
    rejection: Mapped[ProblemDocument | None] = mapped_column(Json)
    """The problem document that the client got."""
    cancel_reason: Mapped[str | None] = mapped_column(Text(200))
    idempotency_key: Mapped[str | None] = mapped_column(sa.String(64), unique=True)
    fingerprint: Mapped[str | None] = mapped_column(sa.String(64))
    drive_until: Mapped[float] = mapped_column(sa.Double)
    """Until then, by the database's clock, a request may be driving the order, if it is pending."""
    created_at: Mapped[datetime] = mapped_column(Moment)
    confirmed_at: Mapped[datetime | None] = mapped_column(Moment)
    rejected_at: Mapped[datetime | None] = mapped_column(Moment)
    cancelled_at: Mapped[datetime | None] = mapped_column(Moment)
    shipped_at: Mapped[datetime | None] = mapped_column(Moment)
    delivered_at: Mapped[datetime | None] = mapped_column(Moment)
    updated_at: Mapped[datetime] = mapped_column(Moment)
    version: Mapped[int]

    @classmethod
    def new(cls, new: NewOrder) -> PendingOrder:
        """The row of a new order; its total is zero until prices are known."""
        moment = now()
        return {
            "id": new.order_id, "user_id": new.user_id, "status": "pending", "lines": new.lines,
            "total": Decimal(0), "note": new.note, "idempotency_key": new.key.name if new.key else None,
            "fingerprint": new.key.fingerprint if new.key else None,
            "created_at": moment, "updated_at": moment, "version": 1,
        }  # fmt: skip


class User(Base):
    """The replica of a user. The row of a deleted user stays, so that an outdated answer cannot revive the user."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    status: Mapped[str] = mapped_column(sa.String(10))
    version: Mapped[int]


orders = cast(sa.Table, Order.__table__)
users = cast(sa.Table, User.__table__)


# The lifecycle of an order -----------------------------------------------------------------------------------------


class Transition(TypedDict):
    """The columns that every transition changes. Each subclass adds its own; repository.py derives the UPDATE
    statements from them.
    """

    status: str
    updated_at: datetime
    version: int


class Confirmed(Transition):
    lines: list[PricedLine]
    total: Decimal
    currency: str
    confirmed_at: datetime


class Rejected(Transition):
    rejection: ProblemDocument
    rejected_at: datetime
    idempotency_key: str | None


class Cancelled(Transition):
    cancel_reason: str | None
    cancelled_at: datetime


class Shipped(Transition):
    shipped_at: datetime


class Delivered(Transition):
    delivered_at: datetime


TRANSITIONS: dict[str, tuple[str, type[Transition]]] = {
    "confirmed": ("pending", Confirmed),
    "rejected": ("pending", Rejected),
    "cancelled": ("confirmed", Cancelled),
    "shipped": ("confirmed", Shipped),
    "delivered": ("shipped", Delivered),
}
"""Status → the only status that leads to it, and the columns that the transition changes."""


def confirm(order: OrderRow, reserved: Sequence[ReservedLine]) -> Confirmed:
    """Confirm a pending order at the prices of its reservation. Raises CurrencyMismatch, ValidationFailed or
    InvalidTransition.
    """
    lines, total, currency = price_lines(reserved)
    moment = now()
    return {
        **_transition(order, "confirmed", moment), "confirmed_at": moment,
        "lines": lines, "total": total, "currency": currency,
    }  # fmt: skip


def reject(order: OrderRow, problem: ProblemDocument) -> Rejected:
    """Reject a pending order with the problem document that its request gets. A failure of ours (5xx) frees the
    idempotency key, so that the client's retry places a new order (rule 5 of the saga). Raises InvalidTransition.
    """
    moment = now()
    key = order["idempotency_key"] if problem["status"] < 500 else None
    return {
        **_transition(order, "rejected", moment), "rejected_at": moment,
        "rejection": problem, "idempotency_key": key,
    }  # fmt: skip


def cancel(order: OrderRow, reason: str | None) -> Cancelled | None:
    """Cancel a confirmed order; None when it is already cancelled. Raises InvalidTransition."""
    if order["status"] == "cancelled":
        return None
    moment = now()
    return {**_transition(order, "cancelled", moment), "cancelled_at": moment, "cancel_reason": reason}


def ship(order: OrderRow) -> Shipped | None:
    """Ship a confirmed order; None when it is already shipped. Raises InvalidTransition."""
    if order["status"] in ("shipped", "delivered"):
        return None
    moment = now()
    return {**_transition(order, "shipped", moment), "shipped_at": moment}


def deliver(order: OrderRow) -> Delivered | None:
    """Deliver a shipped order; None when it is already delivered. Raises InvalidTransition."""
    if order["status"] == "delivered":
        return None
    moment = now()
    return {**_transition(order, "delivered", moment), "delivered_at": moment}


def _transition(order: OrderRow, status: str, moment: datetime) -> Transition:
    only_from, _ = TRANSITIONS[status]
    if order["status"] != only_from:
        raise InvalidTransition(f"The order is {order['status']}; only a {only_from} one can be {status}.")
    return {"status": status, "updated_at": moment, "version": order["version"] + 1}


def after(order: OrderRow, change: Transition) -> OrderRow:
    """The order after the transition."""
    return cast(OrderRow, {**order, **change})


# Derived from an order ---------------------------------------------------------------------------------------------


def counts(order: OrderRow) -> dict[str, int]:
    """What an order adds to the totals. `total` counts every order that was ever confirmed; revenue is in
    ten-thousandths.
    """
    added = {f"status:{order['status']}": 1}
    if order["confirmed_at"]:
        added["total"] = 1
    if order["status"] in COUNTED:
        added[f"revenue:{order['currency']}"] = to_units(order["total"])
    return added


def history(order: OrderRow) -> list[Step]:
    """Each transition with its time and reason, oldest first."""
    rejection = order["rejection"]
    reasons = {"rejected": rejection["detail"] if rejection else None, "cancelled": order["cancel_reason"]}
    reached: Mapping[str, datetime | None] = {
        "pending": order["created_at"], "confirmed": order["confirmed_at"], "rejected": order["rejected_at"],
        "cancelled": order["cancelled_at"], "shipped": order["shipped_at"], "delivered": order["delivered_at"],
    }  # fmt: skip
    return [{"status": s, "at": moment, "reason": reasons.get(s)} for s, moment in reached.items() if moment]


def as_confirmed(order: OrderRow) -> OrderRow:
    """The order as it was when it was confirmed: the answer to its first request. Lines and prices never change after
    that, so the answer need not be stored.
    """
    assert order["confirmed_at"] is not None
    return {
        **order, "status": "confirmed", "version": 2, "updated_at": order["confirmed_at"],
        "cancelled_at": None, "shipped_at": None, "delivered_at": None,
    }  # fmt: skip
