"""The HTTP shapes of the order service."""

from typing import ClassVar

from libs.common.ids import example_id
from libs.common.money import CURRENCIES
from libs.common.web.fields import (
    Amount,
    Answer,
    Choice,
    Count,
    CurrencyCode,
    Dict,
    Dumped,
    Id,
    Integer,
    List,
    Nested,
    QueryTimestamp,
    Schema,
    String,
    Timestamp,
    Version,
    WrittenAmount,
)
from order_service.models import STATUSES

_CONFIRMED_AT = "2026-01-31T12:00:00.250000Z"
_UNTIL_CONFIRMED = "Null until the order is confirmed."


class OrderStatus(Choice):
    """Where an order is in its life."""

    words = STATUSES


class OrderItem(Schema):
    """So many units of a product."""

    product_id = Id(required=True, doc="A product that is on sale.")
    quantity = Integer(min=1, max=10_000, required=True, doc="Units of it.", example=2)


class NewOrder(Schema):
    """What a user orders. The prices are those of the product service."""

    user_id = Id(required=True, doc="Who orders: a user who is active.")
    items = List(Nested(OrderItem), min=1, max=100, required=True, doc="The same product twice becomes one line.")
    note = String(max=1000, load_default=None, allow_none=True, doc="Kept as it is.", example="Please ring twice.")


class Cancellation(Schema):
    """Why an order is cancelled."""

    reason = String(
        min=1, max=200, load_default=None, allow_none=True, doc="Kept in the history of the order.",
        example="Ordered by mistake.",
    )  # fmt: skip


class OrderLine(Answer):
    """So many units of a product, at the price of the moment of confirmation."""

    product_id = Id(doc="The product.")
    name = String(max=200, allow_none=True, dump_default=None, doc=_UNTIL_CONFIRMED, example="Laptop")
    quantity = Integer(min=1, max=1_000_000, doc="Units of it.", example=2)
    unit_price = WrittenAmount(allow_none=True, dump_default=None, doc=_UNTIL_CONFIRMED, example="2499.99")
    line_total = WrittenAmount(digits=13, allow_none=True, dump_default=None, doc=_UNTIL_CONFIRMED, example="4999.98")


class Rejection(Answer):
    """Why an order was rejected: from the problem document that its request got."""

    optional: ClassVar = ("errors",)

    code = String(
        max=40,
        metadata={"pattern": "^[a-z]+(-[a-z]+)*$"},
        doc="The stable name of the error.",
        example="insufficient-stock",
    )
    detail = String(max=2000, doc="The same in words, for people.", example="There is too little stock")
    errors = List(Dumped("Fault"), max=100)


class Order(Answer):
    """An order."""

    id = Id(doc="The id of the order.")
    user_id = Id(doc="Who ordered.")
    status = OrderStatus(
        doc="`pending` becomes `confirmed` or `rejected`; after that see the times.", example="confirmed"
    )
    confirmed_at = Timestamp(allow_none=True, doc=_UNTIL_CONFIRMED, example=_CONFIRMED_AT)
    shipped_at = Timestamp(allow_none=True, doc="Null until the order is shipped.")
    delivered_at = Timestamp(allow_none=True, doc="Null until the order is delivered.")
    cancelled_at = Timestamp(allow_none=True, doc="Null unless the order is cancelled.")
    items = List(Nested(OrderLine), max=100, attribute="lines")
    total = Amount(digits=13, allow_none=True, doc=_UNTIL_CONFIRMED, example="4999.98")
    currency = CurrencyCode(allow_none=True, doc=f"A code of ISO 4217. {_UNTIL_CONFIRMED}", example="EUR")
    note = String(
        max=1000, allow_none=True, doc="As it was given; null where there is none, and once the user is deleted.",
        example="Please ring twice.",
    )  # fmt: skip
    rejection = Nested(Rejection, allow_none=True)
    created_at = Timestamp(doc="When it was ordered.")
    updated_at = Timestamp(doc="When it came to its status.", example=_CONFIRMED_AT)
    version = Version(example=2)


class OrderFilters(Schema):
    """What orders may be looked for by."""

    user_id = Id(doc="Only those of this user.", example=example_id("user_id"))
    status = OrderStatus(doc="Only those with this status.", example="confirmed")
    created_from = QueryTimestamp(doc="Only those made at this time or later.", example="2020-01-01T00:00:00Z")
    created_to = QueryTimestamp(doc="Only those that were made before this time.", example="2100-01-01T00:00:00Z")


class Transition(Answer):
    """A step of the life of an order."""

    status = OrderStatus()
    at = Timestamp(doc="When the order came to this status.")
    reason = String(max=2000, allow_none=True, doc="Why it was rejected or cancelled.")


class OrderHistory(Answer):
    """The steps of the life of an order, the oldest first."""

    items = List(Nested(Transition), max=len(STATUSES), example=[
        {"status": "pending", "at": "2026-01-31T12:00:00.000000Z", "reason": None},
        {"status": "confirmed", "at": _CONFIRMED_AT, "reason": None},
    ])  # fmt: skip


class Revenue(Answer):
    """What the orders of one currency bring."""

    currency = CurrencyCode(example="EUR")
    amount = Amount(digits=21, doc="Of orders that are confirmed and not cancelled.", example="4999.98")


class OrderStats(Answer):
    """How many orders there are, and what they bring."""

    total = Count(doc="Orders that were ever confirmed.", example=1)
    by_status = Dict(keys=OrderStatus(), values=Count(), doc="All orders.", example={"confirmed": 1})
    revenue = List(Nested(Revenue), max=len(CURRENCIES))
