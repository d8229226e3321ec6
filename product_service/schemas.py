"""The HTTP shapes of the product service."""

from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from libs.common.fields import (
    Currency,
    Id,
    IdList,
    Integer,
    Money,
    QueryBoolean,
    Schema,
    String,
    Timestamp,
)
from libs.common.money import fits
from product_service.models import MAX_STOCK


class ProductChange(Schema):
    name = String(min=1, max=200, required=True, metadata={"examples": ["Laptop"]})
    price = Money(required=True)
    currency = Currency(load_default="EUR")
    sku = String(min=1, max=64, load_default=None, allow_none=True)
    description = String(max=5000, load_default="")
    category = String(min=1, max=100, load_default=None, allow_none=True)
    seller_id = Id(load_default=None, allow_none=True)

    @ma.validates_schema
    def _price_fits(self, data: dict[str, Any], **kwargs: Any) -> None:
        if {"price", "currency"} <= data.keys() and not fits(data["price"], data["currency"]):
            raise ma.ValidationError(f"More digits than {data['currency']} has.", "price")


class NewProduct(ProductChange):
    stock = Integer(min=0, max=MAX_STOCK, load_default=0)


class Product(Schema):
    id = Id()
    sku = fields.String(allow_none=True)
    name = fields.String()
    description = fields.String()
    category = fields.String(allow_none=True)
    price = Money(dump_only=True)
    currency = Currency()
    stock = Integer(min=0, max=MAX_STOCK)
    reserved = Integer(min=0, max=MAX_STOCK)
    sold = Integer(min=0, max=MAX_STOCK)
    seller_id = Id(allow_none=True)
    created_at = Timestamp()
    updated_at = Timestamp()
    version = Integer(min=1, max=2**53)


class ProductFilters(Schema):
    q = String(min=1, max=200, metadata={"description": "Every word, in the name or the description."})
    category = String(max=100)
    seller_id = Id()
    min_price = Money()
    max_price = Money()
    in_stock = QueryBoolean()
    ids = IdList()


class StockAdjustment(Schema):
    delta = Integer(min=-MAX_STOCK, max=MAX_STOCK, required=True)
    reason = String(min=1, max=200, required=True, metadata={"examples": ["delivery"]})


class ProductStats(Schema):
    total = fields.Integer()
    stock_units = fields.Integer()
    reserved_units = fields.Integer()
    sold_units = fields.Integer()


class WantedLine(Schema):
    product_id = Id(required=True)
    quantity = Integer(min=1, max=1_000_000, required=True)


class NewReservation(Schema):
    order_id = Id(required=True)
    items = fields.List(fields.Nested(WantedLine), required=True, validate=validate.Length(1, 100))


class BatchedReservation(NewReservation):
    request_id = String(
        max=128,
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        metadata={"description": "The request that this one of the batch belongs to."},
    )


class NewReservations(Schema):
    reservations = fields.List(fields.Nested(BatchedReservation), required=True, validate=validate.Length(1, 100))


class ReservedLine(Schema):
    product_id = Id()
    quantity = fields.Integer()
    name = fields.String()
    unit_price = fields.String(metadata={"pattern": r"^\d{1,11}(\.\d{1,4})?$", "examples": ["19.99"]})
    currency = Currency()


class Reservation(Schema):
    order_id = Id()
    status = fields.String(validate=validate.OneOf(("reserved", "released", "sold")))
    items = fields.List(fields.Nested(ReservedLine), attribute="lines")
    version = Integer(min=1, max=2)


class Outcome(Schema):
    status = fields.Integer(metadata={"description": "What a single call would have answered."})
    body = fields.Dict(metadata={"description": "A reservation, or a problem document."})


class Outcomes(Schema):
    outcomes = fields.List(fields.Nested(Outcome))
