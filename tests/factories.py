"""Request bodies, valid unless a test changes them."""

from itertools import count
from typing import Any

from libs.common.ids import new_id

_numbers = count(1)


def a_user(**given: Any) -> dict[str, Any]:
    return {"email": f"user{next(_numbers)}@example.com", "name": "Ada Lovelace", **given}


def a_product(**given: Any) -> dict[str, Any]:
    return {"name": "Laptop", "price": "2499.99", "stock": 10, **given}


def a_reservation(*lines: tuple[str, int], order_id: str | None = None) -> dict[str, Any]:
    """`lines` are pairs of a product's id and a quantity."""
    items = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines]
    return {"order_id": order_id or new_id(), "items": items}


def a_cloud_event(event_type: str, data: dict[str, Any], **given: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": new_id(),
        "source": "/test_service",
        "type": event_type,
        "time": "2026-01-31T12:00:00Z",
        "data": data,
        **given,
    }
