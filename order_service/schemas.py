"""The HTTP shapes of the order service."""

from marshmallow import fields, validate

from libs.common.fields import Currency, Id, Integer, Money, Schema, String, Timestamp
from order_service.models import STATUSES


class OrderItem(Schema):
    product_id = Id(required=True)
    quantity = Integer(min=1, max=10_000, required=True)


class NewOrder(Schema):
    user_id = Id(required=True)
    items = fields.List(fields.Nested(OrderItem), required=True, validate=validate.Length(1, 100))
    note = String(max=1000, load_default=None, allow_none=True)


class Cancellation(Schema):
    reason = String(min=1, max=200, load_default=None, allow_none=True)


def _when_confirmed() -> fields.String:
    return fields.String(
        allow_none=True, dump_default=None, metadata={"description": "Null until the order is confirmed."}
    )


class OrderLine(Schema):
    product_id = Id()
    name = _when_confirmed()
    quantity = Integer(min=1, max=1_000_000)
    unit_price = _when_confirmed()
    line_total = _when_confirmed()


class Rejection(Schema):
    code = fields.String()
    detail = fields.String()
    errors = fields.List(fields.Dict())


class Order(Schema):
    id = Id()
    user_id = Id()
    status = fields.String(validate=validate.OneOf(STATUSES))
    confirmed_at = Timestamp(allow_none=True)
    shipped_at = Timestamp(allow_none=True)
    delivered_at = Timestamp(allow_none=True)
    cancelled_at = Timestamp(allow_none=True)
    items = fields.List(fields.Nested(OrderLine), attribute="lines")
    total = Money(dump_only=True, allow_none=True, metadata={"pattern": r"^\d{1,13}(\.\d{1,4})?$"})
    currency = Currency(allow_none=True)
    note = fields.String(allow_none=True)
    rejection = fields.Nested(Rejection, allow_none=True)
    created_at = Timestamp()
    updated_at = Timestamp()
    version = Integer(min=1, max=2**53)


class OrderFilters(Schema):
    user_id = Id()
    status = fields.String(validate=validate.OneOf(STATUSES))
    created_from = Timestamp(metadata={"description": "At this time or later."})
    created_to = Timestamp(metadata={"description": "Before this time."})


class Transition(Schema):
    status = fields.String(validate=validate.OneOf(STATUSES))
    at = Timestamp()
    reason = fields.String(allow_none=True)


class OrderHistory(Schema):
    items = fields.List(fields.Nested(Transition))


class Revenue(Schema):
    currency = Currency()
    amount = Money(dump_only=True, metadata={"pattern": r"^\d+(\.\d{1,4})?$"})


class OrderStats(Schema):
    total = fields.Integer(metadata={"description": "Orders that were ever confirmed."})
    by_status = fields.Dict(keys=fields.String(), values=fields.Integer())
    revenue = fields.List(fields.Nested(Revenue))
