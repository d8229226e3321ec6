"""The HTTP shapes of the analytics service."""

from datetime import UTC, datetime

import marshmallow as ma

from analytics_service.models import INTERVALS, MAX_BUCKETS
from libs.common.money import CURRENCIES
from libs.common.web.fields import (
    Answer,
    Boolean,
    Choice,
    Count,
    Currency,
    CurrencyCode,
    Dict,
    Float,
    Id,
    List,
    Nested,
    QueryInteger,
    QueryTimestamp,
    Schema,
    String,
    Timestamp,
    WrittenAmount,
)
from libs.common.web.json_schema import EXAMPLE_TIME

STATUSES = ("healthy", "degraded", "unhealthy", "unavailable")


class Freshness(Choice):
    """`stale`: last known figures; `unavailable`: there are none, and they are null."""

    words = ("live", "stale", "unavailable")


class Interval(Choice):
    """How long a bucket is."""

    words = tuple(INTERVALS)


class Revenue(Answer):
    """What the orders of one currency bring."""

    currency = CurrencyCode(example="EUR")
    amount = WrittenAmount(digits=21, doc="Of orders that are confirmed and not cancelled.", example="9.50")


def _revenue(*, doc: str | None = None, allow_none: bool = False) -> List:
    example = [{"currency": "EUR", "amount": "9.50"}]
    return List(Nested(Revenue), max=len(CURRENCIES), example=example, doc=doc, allow_none=allow_none)


def _numbers(example: dict[str, int]) -> Dict:
    """How many there are, by a word of the service that says so."""
    return Dict(keys=String(max=40), values=Count(), allow_none=True, doc="How many have each status.", example=example)


class UserFigures(Answer):
    """The figures of the users."""

    state = Freshness()
    total = Count(allow_none=True, doc="All users, without those that were deleted.", example=3)
    as_of = Timestamp(allow_none=True, doc="When the service said so.", example=EXAMPLE_TIME)


class ProductFigures(UserFigures):
    """The figures of the products."""

    total = Count(allow_none=True, doc="All products, without those that were deleted.", example=2)
    stock_units = Count(allow_none=True, doc="Units that can still be sold.", example=40)


class NotificationFigures(UserFigures):
    """The figures of the notifications."""

    total = Count(allow_none=True, doc="All notifications, without those that were deleted.", example=1)
    by_status = _numbers({"sent": 1})


class OrderFigures(UserFigures):
    """The figures of the orders."""

    total = Count(allow_none=True, doc="Orders that were ever confirmed.", example=1)
    by_status = _numbers({"confirmed": 1})
    revenue = _revenue(allow_none=True)


class Summary(Answer):
    """The figures of all services."""

    generated_at = Timestamp(doc="When this was put together.")
    degraded = Boolean(doc="Whether any state is not `live`.", example=False)
    users = Nested(UserFigures)
    products = Nested(ProductFigures)
    orders = Nested(OrderFigures)
    notifications = Nested(NotificationFigures)


class ServiceHealth(Answer):
    """How a service is."""

    service = String(max=20, doc="The name of the service.", example="user")
    status = Choice(STATUSES, doc="`unavailable`: no useful answer in time.")
    latency_ms = Float(allow_none=True, doc="How long the answer took; null where there is none.", example=1.5)


class ServiceHealths(Answer):
    """How all services are."""

    generated_at = Timestamp(doc="When this was put together.")
    degraded = Boolean(doc="Whether any status is not `healthy`.", example=False)
    services = List(Nested(ServiceHealth), max=5, example=[
        {"service": name, "status": "healthy", "latency_ms": 1.5}
        for name in ("user", "product", "order", "notification", "analytics")
    ])  # fmt: skip


def _since_1970(moment: datetime) -> None:
    if moment < datetime(1970, 1, 1, tzinfo=UTC):
        raise ma.ValidationError("Must be in 1970 or later.")


class SeriesQuery(Schema):
    """Which part of the past is asked for."""

    from_ = QueryTimestamp(
        data_key="from", validate=_since_1970, example="2026-01-30T00:00:00Z",
        doc="Inclusive; rounded down to its bucket. Default: the seven days up to `to`.",
    )  # fmt: skip
    to = QueryTimestamp(
        validate=_since_1970, example="2026-02-01T00:00:00Z", doc="Exclusive: buckets that begin before. Default: now."
    )
    interval = Interval(load_default="day", doc="How long a bucket is.", example="day")


class Bucket(Answer):
    """The orders of an hour or a day."""

    start = Timestamp(doc="When it begins.")
    orders = Count(doc="Confirmed in this time, cancelled ones included.", example=1)
    cancelled = Count(doc="How many of these were cancelled, then or later.", example=0)
    revenue = _revenue(doc="Without what was cancelled.")


class Series(Answer):
    """Orders and revenue, bucket by bucket."""

    from_ = Timestamp(data_key="from", doc="When the first bucket begins.", example="2026-01-30T00:00:00.000000Z")
    to = Timestamp(doc="The end that was asked for, or now.", example="2026-02-01T00:00:00.000000Z")
    interval = Interval(example="day")
    items = List(Nested(Bucket), max=MAX_BUCKETS, example=[
        {"start": "2026-01-30T00:00:00.000000Z", "orders": 0, "cancelled": 0, "revenue": []},
        {"start": "2026-01-31T00:00:00.000000Z", "orders": 1, "cancelled": 0,
         "revenue": [{"currency": "EUR", "amount": "9.50"}]},
    ])  # fmt: skip


class TopQuery(Schema):
    """What is a best seller."""

    by = Choice(("units", "revenue"), load_default="units", doc="What counts.", example="revenue")
    limit = QueryInteger(min=1, max=100, load_default=10, doc="How many products.", example=3)
    currency = Currency(
        doc="Only what is sold in this currency (ISO 4217). Amounts of different currencies do not compare, so by "
        "revenue the default is EUR; by units it is every currency.",
        example="EUR",
    )


class TopProduct(Answer):
    """What was sold of a product in one currency."""

    product_id = Id(doc="The product.")
    name = String(max=200, doc="The name that it was last sold under.", example="Laptop")
    units = Count(doc="Units in orders that are confirmed and not cancelled.", example=1)
    revenue = WrittenAmount(digits=21, doc="What these units brought, in `currency`.", example="9.50")
    currency = CurrencyCode(example="EUR")


class TopProducts(Answer):
    """The products that sell best, the best one first."""

    items = List(Nested(TopProduct), max=100)


class ChannelDelivery(Answer):
    """How many notifications arrive, and how fast."""

    sent = Count(doc="Those that were sent.", example=1)
    dead = Count(doc="Those that were given up.", example=0)
    delivery_rate = Float(
        allow_none=True, doc="Sent, of all that are sent or dead; null when there are none.", example=1.0
    )
    average_seconds = Float(allow_none=True, doc="From creation to sending; null when none is sent.", example=2.0)


class Delivery(ChannelDelivery):
    """How many notifications arrive and how fast, all in all and by channel."""

    by_channel = Dict(keys=String(max=40), values=Nested(ChannelDelivery), doc="The same for each channel.", example={
        "email": {"sent": 1, "dead": 0, "delivery_rate": 1.0, "average_seconds": 2.0}
    })  # fmt: skip
