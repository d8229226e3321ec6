"""The events that the analytics service consumes, as facts. It publishes none.

`facts()` of an event are the id of its subject and the columns of a row that the event makes known. A rebuild uses the
same classes, which clients.py makes from the pages of a service.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeAlias, TypedDict

from libs.common.events.event import Event, RefusedEvent
from libs.common.ids import UUID
from libs.common.money import CURRENCIES
from libs.common.times import read_time

MAX_NUMBER = 10**14
"""The largest amount or quantity that is accepted; as ten-thousandths it still fits its column."""

_INVALID = (KeyError, TypeError, ValueError, ArithmeticError, AttributeError)

Facts: TypeAlias = dict[str, object]
"""The `id` of a row, and the columns of it that are known, as they are stored."""


class ConfirmedLine(TypedDict):
    """The members of an order line that are read."""

    product_id: str
    name: str
    quantity: int
    line_total: str


@dataclass(frozen=True, kw_only=True)
class FactEvent(Event):
    """An event that makes columns of a row known. All members but the subject are times, unless a class overrides
    `_facts`.
    """

    def facts(self) -> Facts:
        """Raises RefusedEvent for values that no service sends."""
        try:
            return {"id": _id(self.subject), **self._facts()}
        except _INVALID as exc:
            raise RefusedEvent(f"not the facts of {self.TYPE}: {exc!r}") from exc

    def _facts(self) -> Facts:
        return {name: _moment(value) for name, value in self.data().items() if name != self.SUBJECT}


@dataclass(frozen=True, kw_only=True)
class OrderConfirmed(FactEvent):
    TYPE = "order.confirmed.v1"
    SUBJECT = "order_id"

    order_id: str
    items: list[ConfirmedLine]
    total: str
    currency: str
    confirmed_at: str

    def _facts(self) -> Facts:
        if self.currency not in CURRENCIES:
            raise ValueError("not a currency")
        return {
            "confirmed_at": _moment(self.confirmed_at), "currency": self.currency,
            "total": _amount(self.total), "lines": [_line(item) for item in self.items],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class OrderRejected(FactEvent):
    TYPE = "order.rejected.v1"
    SUBJECT = "order_id"

    order_id: str
    rejected_at: str


@dataclass(frozen=True, kw_only=True)
class OrderCancelled(FactEvent):
    TYPE = "order.cancelled.v1"
    SUBJECT = "order_id"

    order_id: str
    cancelled_at: str


@dataclass(frozen=True, kw_only=True)
class OrderShipped(FactEvent):
    TYPE = "order.shipped.v1"
    SUBJECT = "order_id"

    order_id: str
    shipped_at: str


@dataclass(frozen=True, kw_only=True)
class OrderDelivered(FactEvent):
    TYPE = "order.delivered.v1"
    SUBJECT = "order_id"

    order_id: str
    delivered_at: str


@dataclass(frozen=True, kw_only=True)
class NotificationSent(FactEvent):
    TYPE = "notification.sent.v1"
    SUBJECT = "notification_id"

    notification_id: str
    channel: str
    created_at: str
    sent_at: str

    def _facts(self) -> Facts:
        channel = _text(self.channel, 40)
        return {"channel": channel, "created_at": _moment(self.created_at), "sent_at": _moment(self.sent_at)}


@dataclass(frozen=True, kw_only=True)
class NotificationDead(FactEvent):
    TYPE = "notification.dead.v1"
    SUBJECT = "notification_id"

    notification_id: str
    channel: str
    created_at: str
    dead_at: str

    def _facts(self) -> Facts:
        channel = _text(self.channel, 40)
        return {"channel": channel, "created_at": _moment(self.created_at), "dead_at": _moment(self.dead_at)}


def _line(item: ConfirmedLine) -> ConfirmedLine:
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
    if not UUID.fullmatch(text):
        raise ValueError("not a UUID")
    return text.lower()


def _amount(text: str) -> Decimal:
    amount = Decimal(str(text))
    if not 0 <= amount <= MAX_NUMBER or amount != round(amount, 4):
        raise ValueError("not an amount")
    return amount


def _text(text: object, length: int) -> str:
    if not isinstance(text, str) or len(text) > length or "\x00" in text:
        raise ValueError("not a text of the allowed length")
    return text
