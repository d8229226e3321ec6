"""What the analytics service reads: events as facts. It publishes none.

What an event tells of its subject is `facts()`: an id, and columns of a row that are known. A rebuild reads the same
classes, made from the pages of a service by clients.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from libs.common.events.event import Event, RefusedEvent
from libs.common.money import CURRENCIES
from libs.common.times import read_time

MAX_NUMBER = 10**14
"""No true amount or quantity is larger; as ten-thousandths it still fits its column."""

_NONSENSE = (KeyError, TypeError, ValueError, ArithmeticError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Told(Event):
    """All members but the subject are moments, unless a class says otherwise."""

    def facts(self) -> dict[str, Any]:
        """Raises RefusedEvent for values that no service means."""
        try:
            return {"id": _id(self.subject), **self._facts()}
        except _NONSENSE as exc:
            raise RefusedEvent(f"not the facts of {self.TYPE}: {exc!r}") from exc

    def _facts(self) -> dict[str, Any]:
        return {name: _moment(value) for name, value in self.data().items() if name != self.SUBJECT}


@dataclass(frozen=True, kw_only=True)
class OrderConfirmed(Told):
    TYPE = "order.confirmed.v1"
    SUBJECT = "order_id"

    order_id: str
    items: list[dict[str, Any]]
    total: str
    currency: str
    confirmed_at: str

    def _facts(self) -> dict[str, Any]:
        if self.currency not in CURRENCIES:
            raise ValueError("not a currency")
        return {
            "confirmed_at": _moment(self.confirmed_at), "currency": self.currency,
            "total": _amount(self.total), "lines": [_line(item) for item in self.items],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OrderRejected(Told):
    TYPE = "order.rejected.v1"
    SUBJECT = "order_id"

    order_id: str
    rejected_at: str


@dataclass(frozen=True, kw_only=True)
class OrderCancelled(Told):
    TYPE = "order.cancelled.v1"
    SUBJECT = "order_id"

    order_id: str
    cancelled_at: str


@dataclass(frozen=True, kw_only=True)
class OrderShipped(Told):
    TYPE = "order.shipped.v1"
    SUBJECT = "order_id"

    order_id: str
    shipped_at: str


@dataclass(frozen=True, kw_only=True)
class OrderDelivered(Told):
    TYPE = "order.delivered.v1"
    SUBJECT = "order_id"

    order_id: str
    delivered_at: str


@dataclass(frozen=True, kw_only=True)
class NotificationSent(Told):
    TYPE = "notification.sent.v1"
    SUBJECT = "notification_id"

    notification_id: str
    channel: str
    created_at: str
    sent_at: str

    def _facts(self) -> dict[str, Any]:
        channel = _text(self.channel, 40)
        return {"channel": channel, "created_at": _moment(self.created_at), "sent_at": _moment(self.sent_at)}


@dataclass(frozen=True, kw_only=True)
class NotificationDead(Told):
    TYPE = "notification.dead.v1"
    SUBJECT = "notification_id"

    notification_id: str
    channel: str
    created_at: str
    dead_at: str

    def _facts(self) -> dict[str, Any]:
        channel = _text(self.channel, 40)
        return {"channel": channel, "created_at": _moment(self.created_at), "dead_at": _moment(self.dead_at)}


def _line(item: Mapping[str, Any]) -> dict[str, Any]:
    quantity = item["quantity"]
    if type(quantity) is not int or not 0 < quantity <= MAX_NUMBER:
        raise ValueError("not a quantity")
    return {
        "product_id": _id(item["product_id"]), "name": _text(item["name"], 200),
        "quantity": quantity, "line_total": str(_amount(item["line_total"])),
    }  # fmt: skip


def _moment(text: str) -> datetime:
    moment = read_time(text)
    if moment.tzinfo is None:
        raise ValueError("a time without its offset")
    return moment.astimezone(UTC)


def _id(text: str) -> str:
    return str(UUID(text))


def _amount(text: str) -> Decimal:
    amount = Decimal(str(text))
    if not 0 <= amount <= MAX_NUMBER or amount != round(amount, 4):
        raise ValueError("not an amount")
    return amount


def _text(text: Any, length: int) -> str:
    if not isinstance(text, str) or len(text) > length or "\x00" in text:
        raise ValueError("not a text of the allowed length")
    return text
