"""The HTTP shapes of the product service."""

import marshmallow as ma

from libs.common.ids import example_id
from libs.common.money import fits
from libs.common.web.fields import (
    MAX_COUNT,
    Amount,
    Answer,
    Choice,
    Count,
    Currency,
    CurrencyCode,
    Dumped,
    Id,
    IdList,
    Integer,
    List,
    Money,
    Nested,
    QueryBoolean,
    QueryMoney,
    Schema,
    String,
    Timestamp,
    Version,
    WrittenAmount,
)
from product_service import models


class ProductChange(Schema):
    """All that a client may set of a product."""

    name = String(min=1, max=200, required=True, doc="What it is called.", example="Laptop")
    price = Money(required=True, doc="With no more digits after the point than the currency has.", example="2499.99")
    currency = Currency(load_default="EUR", example="EUR")
    sku = String(
        min=1, max=64, load_default=None, allow_none=True, doc="The shop's own number; unique.", example="LAP-14-1"
    )
    description = String(
        max=5000, load_default="", doc="What there is to say about it.", example="14 inches, 32 GB, very light."
    )
    category = String(
        min=1,
        max=100,
        load_default=None,
        allow_none=True,
        doc="What kind of product it is; null for none.",
        example="computers",
    )
    seller_id = Id(load_default=None, allow_none=True, doc="A user, who must exist.", example=example_id("seller_id"))

    @ma.validates_schema
    def _price_fits(self, data: models.ProductChange, **options: object) -> None:
        if {"price", "currency"} <= data.keys() and not fits(data["price"], data["currency"]):
            raise ma.ValidationError(f"More digits than {data['currency']} has.", "price")


class NewProduct(ProductChange):
    """A product to put on sale."""

    stock = Integer(min=0, max=models.MAX_STOCK, load_default=0, doc="Units that can be sold.", example=25)


class Product(Answer):
    """A product. What can still be sold, what is reserved and what is sold add up to all that was ever put in."""

    id = Id(doc="The id of the product.")
    sku = String(max=64, allow_none=True, doc="The shop's own number.", example="LAP-14-1")
    name = String(max=200, doc="What it is called.", example="Laptop")
    description = String(
        max=5000, doc="What there is to say about it; may be empty.", example="14 inches, 32 GB, very light."
    )
    category = String(max=100, allow_none=True, doc="Null where it has none.", example="computers")
    price = Amount(doc="What a unit costs, in `currency`.", example="2499.99")
    currency = CurrencyCode(example="EUR")
    stock = Integer(min=0, max=MAX_COUNT, doc="Units that can still be sold.", example=25)
    reserved = Integer(min=0, max=MAX_COUNT, doc="Units in orders that are not shipped yet.", example=0)
    sold = Integer(min=0, max=MAX_COUNT, doc="Units in orders that are shipped.", example=0)
    seller_id = Id(allow_none=True, doc="A user.", example=example_id("seller_id"))
    created_at = Timestamp(doc="When it was put on sale.")
    updated_at = Timestamp(doc="When it, or a count of its units, last changed; at first `created_at`.")
    version = Version(example=1)


class ProductFilters(Schema):
    """What products may be looked for by."""

    q = String(min=1, max=200, doc="Every word, in the name or the description.", example="laptop light")
    category = String(max=100, doc="Only those of this category.", example="computers")
    seller_id = Id(doc="Only those of this seller.", example=example_id("seller_id"))
    min_price = QueryMoney(doc="Only those that cost as much or more, whatever the currency.", example="10.00")
    max_price = QueryMoney(doc="Only those that cost as much or less, whatever the currency.", example="2499.99")
    in_stock = QueryBoolean(doc="Only those that can be sold, or only those that cannot.", example=True)
    ids = IdList(example=example_id("product_id"))


class StockAdjustment(Schema):
    """Units that come or go."""

    delta = Integer(
        min=-models.MAX_STOCK, max=models.MAX_STOCK, required=True, doc="Negative to take units out.", example=10
    )
    reason = String(min=1, max=200, required=True, doc="Kept with the change.", example="delivery")


class ProductStats(Answer):
    """How many products and units there are."""

    total = Count(doc="Products.", example=1)
    stock_units = Count(doc="Units that can still be sold.", example=23)
    reserved_units = Count(doc="Units in orders that are not shipped yet.", example=2)
    sold_units = Count(doc="Units in orders that are shipped.", example=0)


class WantedLine(Schema):
    """So many units of a product."""

    product_id = Id(required=True, doc="A product that is on sale.")
    quantity = Integer(min=1, max=1_000_000, required=True, doc="Units of it.", example=2)


class NewReservation(Schema):
    """What an order wants to hold."""

    order_id = Id(required=True, doc="The order; it has one reservation at most.")
    items = List(Nested(WantedLine), min=1, max=100, required=True, doc="The same product twice is added up.")


class BatchedReservation(NewReservation):
    """What one order of many wants to hold."""

    request_id = String(
        max=128, pattern=r"^[A-Za-z0-9._-]{1,128}$", doc="The request that this one of the batch belongs to."
    )


class NewReservations(Schema):
    """What many orders want to hold."""

    reservations = List(Nested(BatchedReservation), min=1, max=100, required=True, doc="Each is judged on its own.")


class ReservedLine(Answer):
    """What an order holds of a product, and the price that it is sold at."""

    product_id = Id(doc="The product.")
    quantity = Integer(min=1, max=100_000_000, doc="Units of it.", example=2)
    name = String(max=200, doc="What it was called when it was reserved.", example="Laptop")
    unit_price = WrittenAmount(doc="What a unit cost when it was reserved, in `currency`.", example="2499.99")
    currency = CurrencyCode(example="EUR")


class Reservation(Answer):
    """What an order holds."""

    order_id = Id(doc="The order that holds it.")
    status = Choice(("reserved", "released", "sold"), doc="Shipping turns `reserved` into `sold`.")
    items = List(Nested(ReservedLine), max=100, attribute="lines", doc="Empty if released before it was reserved.")
    version = Integer(min=1, max=2, doc="2 once what was reserved is released or sold.", example=1)


class Outcome(Answer):
    """What became of one reservation of a batch."""

    status = Integer(min=100, max=599, doc="The status that a single call would have answered with.", example=201)
    body = Dumped(Reservation, "Problem", doc="The body that a single call would have answered with.")


class Outcomes(Answer):
    """What became of each reservation, in the order of the request."""

    outcomes = List(Nested(Outcome), max=100)
