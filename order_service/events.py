"""The events that the order service publishes and consumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from libs.common.events.event import Event


@dataclass(frozen=True, kw_only=True)
class OrderConfirmed(Event):
    TYPE = "order.confirmed.v1"
    SUBJECT = "order_id"

    order_id: str
    user_id: str
    items: Sequence[Mapping[str, object]]
    """Lines with names and prices."""
    total: str
    currency: str
    confirmed_at: str
    version: int


@dataclass(frozen=True, kw_only=True)
class OrderRejected(Event):
    TYPE = "order.rejected.v1"
    SUBJECT = "order_id"

    order_id: str
    user_id: str
    code: str
    rejected_at: str
    version: int


@dataclass(frozen=True, kw_only=True)
class OrderCancelled(Event):
    TYPE = "order.cancelled.v1"
    SUBJECT = "order_id"

    order_id: str
    user_id: str
    cancelled_at: str
    version: int


@dataclass(frozen=True, kw_only=True)
class OrderShipped(Event):
    TYPE = "order.shipped.v1"
    SUBJECT = "order_id"

    order_id: str
    user_id: str
    shipped_at: str
    version: int


@dataclass(frozen=True, kw_only=True)
class OrderDelivered(Event):
    TYPE = "order.delivered.v1"
    SUBJECT = "order_id"

    order_id: str
    user_id: str
    delivered_at: str
    version: int


# Consumed ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UserCreated(Event):
    TYPE = "user.created.v1"
    SUBJECT = "user_id"

    user_id: str
    status: str
    version: int


@dataclass(frozen=True, kw_only=True)
class UserUpdated(UserCreated):
    TYPE = "user.updated.v1"


@dataclass(frozen=True, kw_only=True)
class UserDeleted(Event):
    TYPE = "user.deleted.v1"
    SUBJECT = "user_id"

    user_id: str
    deleted_at: str
    version: int
