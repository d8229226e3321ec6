"""The order and the replica of the users: their tables, and the rules as methods on them.

An order is one row. Its lines are written twice, at the start and when prices are known, and always read with it, so
they lie in the row. Its lifecycle never returns to a status, so its history is the times on the row:

    pending → confirmed → shipped → delivered      pending → rejected      confirmed → cancelled

The row is also the saga's state and the idempotency record: see use_cases.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from libs.common.data.columns import NAMING, Amount, Id, Json, Moment, Text
from libs.common.data.idempotency import Key
from libs.common.errors import InvalidTransition, Problem, ValidationFailed
from libs.common.events.event import Origin
from libs.common.ids import example_id
from libs.common.money import format_amount, to_units
from libs.common.times import now

metadata = sa.MetaData(naming_convention=NAMING)

STATUSES = ("pending", "confirmed", "rejected", "cancelled", "shipped", "delivered")
COUNTED = ("confirmed", "shipped", "delivered")
"""Orders of these statuses make the revenue."""
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


class Base(DeclarativeBase):
    metadata = metadata


_pending = sa.text("status = 'pending'")


class Order(Base):
    __tablename__ = "orders"
    # Every documented sort, alone and behind every documented filter; the id settles ties.
    __table_args__ = (
        *(sa.Index(None, *f, sort, "id") for f in ((), ("user_id",), ("status",)) for sort in ("created_at", "total")),
        sa.Index("ix_orders_pending", "drive_until", sqlite_where=_pending, postgresql_where=_pending),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str] = mapped_column(Id)
    status: Mapped[str] = mapped_column(sa.String(10))
    lines: Mapped[list[dict[str, Any]]] = mapped_column(Json)
    total: Mapped[Decimal] = mapped_column(Amount)
    """Zero until prices are known."""
    currency: Mapped[str | None] = mapped_column(sa.String(3))
    note: Mapped[str | None] = mapped_column(Text(1000))
    rejection: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """The problem document that the client got."""
    cancel_reason: Mapped[str | None] = mapped_column(Text(200))
    idempotency_key: Mapped[str | None] = mapped_column(sa.String(64), unique=True)
    fingerprint: Mapped[str | None] = mapped_column(sa.String(64))
    drive_until: Mapped[float] = mapped_column(sa.Double)
    """Until then, by the database's clock, the request that drives a pending order may still be running."""
    created_at: Mapped[datetime] = mapped_column(Moment)
    confirmed_at: Mapped[datetime | None] = mapped_column(Moment)
    rejected_at: Mapped[datetime | None] = mapped_column(Moment)
    cancelled_at: Mapped[datetime | None] = mapped_column(Moment)
    shipped_at: Mapped[datetime | None] = mapped_column(Moment)
    delivered_at: Mapped[datetime | None] = mapped_column(Moment)
    updated_at: Mapped[datetime] = mapped_column(Moment)
    version: Mapped[int]

    def cancel(self, reason: str | None) -> bool:
        """Cancel a confirmed order; False when it was cancelled before. Raises InvalidTransition."""
        if changed := self._step("cancelled", only_from="confirmed"):
            self.cancel_reason = reason
        return changed

    def ship(self) -> bool:
        """Ship a confirmed order; False when it was shipped before. Raises InvalidTransition."""
        return self.status != "delivered" and self._step("shipped", only_from="confirmed")

    def deliver(self) -> bool:
        """Deliver a shipped order; False when it was delivered before. Raises InvalidTransition."""
        return self._step("delivered", only_from="shipped")

    def _step(self, status: str, *, only_from: str) -> bool:
        if self.status == status:
            return False
        if self.status != only_from:
            raise InvalidTransition(f"The order is {self.status}; only a {only_from} one can be {status}.")
        self.status, self.updated_at, self.version = status, now(), self.version + 1
        setattr(self, f"{status}_at", self.updated_at)
        return True


class User(Base):
    """What this service knows of a user. A deleted one stays, so that an old answer never revives it."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    status: Mapped[str] = mapped_column(sa.String(10))
    version: Mapped[int]


Row = sa.RowMapping | dict[str, Any]
"""The columns of an order."""

orders: Any = Order.__table__
users: Any = User.__table__


@dataclass(frozen=True)
class NewOrder:
    """An order as it was asked for."""

    order_id: str
    user_id: str
    lines: list[dict[str, Any]]
    note: str | None
    key: Key | None
    seconds: float
    """How long the request may drive it."""
    places: Mapping[str, int]
    """The item of the request that names each product first."""


@dataclass(frozen=True)
class Verdict:
    """What became of the reservation of a pending order: the lines with prices, or the reason why there are none."""

    order_id: str
    user_id: str
    outcome: list[dict[str, Any]] | Problem
    origin: Origin
    instance: str = "/api/v1/orders"


def merge_lines(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a new order; the same product twice is one line."""
    merged: dict[str, dict[str, Any]] = {}
    for item in items:
        line = merged.setdefault(item["product_id"], {"product_id": item["product_id"], "quantity": 0})
        line["quantity"] += item["quantity"]
    return list(merged.values())


def first_places(items: list[dict[str, Any]]) -> dict[str, int]:
    """The item that names each product first: faults of a line point there."""
    places: dict[str, int] = {}
    for place, item in enumerate(items):
        places.setdefault(item["product_id"], place)
    return places


def price_lines(reserved: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Decimal, str]:
    """Lines, total and currency of what was reserved; raises CurrencyMismatch, or ValidationFailed for a total that
    nobody could pay.
    """
    currencies = {line["currency"] for line in reserved}
    if len(currencies) > 1:
        raise CurrencyMismatch(f"The products are priced in {', '.join(sorted(currencies))}.")
    currency = currencies.pop()
    lines, total = [], Decimal(0)
    for line in reserved:
        price = Decimal(line["unit_price"])
        line_total = price * line["quantity"]
        total += line_total
        lines.append(
            {
                "product_id": line["product_id"],
                "name": line["name"],
                "quantity": line["quantity"],
                "unit_price": format_amount(price, currency),
                "line_total": format_amount(line_total, currency),
            }
        )
    if total > MAX_TOTAL:
        raise ValidationFailed("The total is too large.", errors=[{"pointer": "/items", "detail": "Order less."}])
    return lines, total, currency


def counts(order: Row) -> dict[str, int]:
    """What an order adds to the totals. `total` counts every order that was ever confirmed; revenue is in
    ten-thousandths.
    """
    added = {f"status:{order['status']}": 1}
    if order["confirmed_at"]:
        added["total"] = 1
    if order["status"] in COUNTED:
        added[f"revenue:{order['currency']}"] = to_units(order["total"])
    return added


def history(order: Row) -> list[dict[str, Any]]:
    """Each transition with its time and reason, oldest first."""
    reasons = {"rejected": (order["rejection"] or {}).get("detail"), "cancelled": order["cancel_reason"]}
    steps = [{"status": "pending", "at": order["created_at"], "reason": None}]
    for status in ("confirmed", "rejected", "cancelled", "shipped", "delivered"):
        if moment := order[f"{status}_at"]:
            steps.append({"status": status, "at": moment, "reason": reasons.get(status)})
    return steps


def as_confirmed(order: Row) -> dict[str, Any]:
    """The order as it was when it was confirmed: the answer that its first request got. Lines and prices never change
    after that, so nothing needs to be kept beside them.
    """
    later = {"cancelled_at": None, "shipped_at": None, "delivered_at": None, "version": 2}
    return {**order, **later, "status": "confirmed", "updated_at": order["confirmed_at"]}
