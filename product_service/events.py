"""The events that the product service publishes and consumes."""

from dataclasses import dataclass

from libs.common.events.event import Event


@dataclass(frozen=True, kw_only=True)
class ProductCreated(Event):
    TYPE = "product.created.v1"
    SUBJECT = "product_id"

    product_id: str
    price: str
    currency: str
    stock: int
    version: int


@dataclass(frozen=True, kw_only=True)
class ProductUpdated(ProductCreated):
    TYPE = "product.updated.v1"


@dataclass(frozen=True, kw_only=True)
class ProductDeleted(Event):
    TYPE = "product.deleted.v1"
    SUBJECT = "product_id"

    product_id: str
    deleted_at: str
    version: int


@dataclass(frozen=True, kw_only=True)
class StockAdjusted(Event):
    TYPE = "product.stock_adjusted.v1"
    SUBJECT = "product_id"

    product_id: str
    delta: int
    stock: int
    version: int


# Consumed ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OrderRejected(Event):
    TYPE = "order.rejected.v1"
    SUBJECT = "order_id"

    order_id: str


@dataclass(frozen=True, kw_only=True)
class OrderCancelled(OrderRejected):
    TYPE = "order.cancelled.v1"


@dataclass(frozen=True, kw_only=True)
class OrderShipped(OrderRejected):
    TYPE = "order.shipped.v1"
