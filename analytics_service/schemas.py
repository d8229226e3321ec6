"""The HTTP shapes of the analytics service."""

from datetime import UTC, datetime
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from analytics_service.models import INTERVALS
from libs.common.fields import Currency, Id, QueryInteger, Schema, Timestamp

STATES = ("live", "stale", "unavailable")
STATUSES = ("healthy", "degraded", "unhealthy", "unavailable")


class Revenue(Schema):
    currency = Currency()
    amount = fields.String(metadata={"examples": ["19.99"]})


class UserFigures(Schema):
    state = fields.String(
        validate=validate.OneOf(STATES),
        metadata={"description": "`stale`: last known figures; `unavailable`: there are none, and they are null."},
    )
    total = fields.Integer(allow_none=True)
    as_of = Timestamp(allow_none=True)


class ProductFigures(UserFigures):
    stock_units = fields.Integer(allow_none=True)


class NotificationFigures(UserFigures):
    by_status = fields.Dict(keys=fields.String(), values=fields.Integer(), allow_none=True)


class OrderFigures(NotificationFigures):
    total = fields.Integer(allow_none=True, metadata={"description": "Orders that were ever confirmed."})
    revenue = fields.List(fields.Nested(Revenue), allow_none=True)


class Summary(Schema):
    generated_at = Timestamp()
    degraded = fields.Boolean(metadata={"description": "Whether any state is not `live`."})
    users = fields.Nested(UserFigures)
    products = fields.Nested(ProductFigures)
    orders = fields.Nested(OrderFigures)
    notifications = fields.Nested(NotificationFigures)


class ServiceHealth(Schema):
    service = fields.String()
    status = fields.String(
        validate=validate.OneOf(STATUSES), metadata={"description": "`unavailable`: no useful answer in time."}
    )
    latency_ms = fields.Float(allow_none=True)


class ServiceHealths(Schema):
    generated_at = Timestamp()
    degraded = fields.Boolean(metadata={"description": "Whether any status is not `healthy`."})
    services = fields.List(fields.Nested(ServiceHealth))


def _interval(**kwargs: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(tuple(INTERVALS)), **kwargs)


def _since_1970(moment: datetime) -> None:
    if moment < datetime(1970, 1, 1, tzinfo=UTC):
        raise ma.ValidationError("Must be in 1970 or later.")


class SeriesQuery(Schema):
    from_ = Timestamp(
        data_key="from", validate=_since_1970,
        metadata={"description": "Inclusive; rounded down to its bucket. Default: the seven days up to `to`."},
    )  # fmt: skip
    to = Timestamp(
        validate=_since_1970, metadata={"description": "Exclusive: buckets that begin before. Default: now."}
    )
    interval = _interval(load_default="day")


class Bucket(Schema):
    start = Timestamp()
    orders = fields.Integer(metadata={"description": "Confirmed in this time, cancelled ones included."})
    cancelled = fields.Integer(metadata={"description": "How many of these were cancelled, then or later."})
    revenue = fields.List(fields.Nested(Revenue), metadata={"description": "Without what was cancelled."})


class Series(Schema):
    from_ = Timestamp(data_key="from")
    to = Timestamp()
    interval = _interval()
    items = fields.List(fields.Nested(Bucket))


class TopQuery(Schema):
    by = fields.String(validate=validate.OneOf(("units", "revenue")), load_default="units")
    limit = QueryInteger(min=1, max=100, load_default=10)
    currency = Currency(
        metadata={
            "description": "Only what is sold in this currency (ISO 4217). Amounts of different currencies do not "
            "compare, so by revenue the default is EUR; by units it is every currency."
        }
    )


class TopProduct(Schema):
    product_id = Id()
    name = fields.String()
    units = fields.Integer()
    revenue = fields.String(metadata={"examples": ["19.99"]})
    currency = Currency()


class TopProducts(Schema):
    items = fields.List(fields.Nested(TopProduct))


class ChannelDelivery(Schema):
    sent = fields.Integer()
    dead = fields.Integer()
    delivery_rate = fields.Float(
        allow_none=True, metadata={"description": "Sent, of all that are sent or dead; null when there are none."}
    )
    average_seconds = fields.Float(
        allow_none=True, metadata={"description": "From creation to sending; null when none is sent."}
    )


class Delivery(ChannelDelivery):
    by_channel = fields.Dict(keys=fields.String(), values=fields.Nested(ChannelDelivery))
