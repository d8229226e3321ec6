"""Test events, with types that libs/topology.py knows."""

from dataclasses import dataclass

from libs.common.events.event import Event


@dataclass(frozen=True, kw_only=True)
class Confirmed(Event):
    """Goes to notification and analytics."""

    TYPE = "order.confirmed.v1"
    SUBJECT = "order_id"

    order_id: str
    number: int = 0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Delivered(Confirmed):
    """Goes to analytics only."""

    TYPE = "order.delivered.v1"


@dataclass(frozen=True, kw_only=True)
class Created(Confirmed):
    """Goes to nobody."""

    TYPE = "product.created.v1"
