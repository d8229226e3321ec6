"""Orders, lines and demands, valid unless a test changes them."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

from libs.common.events.event import Origin
from libs.common.ids import new_id
from order_service.clients import Demand
from order_service.models import OrderRow

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ORIGIN = Origin(event_id="", correlation_id="a-request", traceparent="")


def an_order(**given: Any) -> OrderRow:
    """A confirmed order; with another status it has the times that belong to it."""
    status = given.get("status", "confirmed")
    values: dict[str, Any] = {
        "id": new_id(),
        "user_id": new_id(),
        "status": status,
        "lines": [a_priced_line()],
        "total": Decimal("20.00"),
        "currency": "EUR",
        "note": None,
        "rejection": None,
        "cancel_reason": None,
        "idempotency_key": None,
        "fingerprint": None,
        "drive_until": 0.0,
        "created_at": NOON,
        "confirmed_at": None,
        "rejected_at": None,
        "cancelled_at": None,
        "shipped_at": None,
        "delivered_at": None,
        "updated_at": NOON,
        "version": 2,
    }
    passed = {
        "pending": (),
        "rejected": ("rejected",),
        "confirmed": ("confirmed",),
        "cancelled": ("confirmed", "cancelled"),
        "shipped": ("confirmed", "shipped"),
        "delivered": ("confirmed", "shipped", "delivered"),
    }
    for step in passed[status]:
        values[f"{step}_at"] = NOON
    if status in ("pending", "rejected"):
        values |= {"lines": [a_line()], "total": Decimal(0), "currency": None, "version": 1 + len(passed[status])}
    if status == "rejected":
        values["rejection"] = {"code": "insufficient-stock", "detail": "There is too little stock", "status": 409}
    return cast(OrderRow, values | given)


def a_line(**given: Any) -> dict[str, Any]:
    """A line of a request."""
    return {"product_id": new_id(), "quantity": 2, **given}


def a_reserved_line(**given: Any) -> dict[str, Any]:
    """A line of an answer of the product service."""
    return {**a_line(), "name": "Laptop", "unit_price": "10.00", "currency": "EUR", **given}


def a_priced_line(**given: Any) -> dict[str, Any]:
    """A line of a confirmed order."""
    return {**a_line(), "name": "Laptop", "unit_price": "10.00", "line_total": "20.00", **given}


def a_demand(*lines: dict[str, Any], seconds: float = 60.0, **given: Any) -> Demand:
    """`seconds` until its deadline."""
    values = {"order_id": new_id(), "lines": list(lines) or [a_line()], "request_id": "a-request"}
    return Demand(**{**values, "deadline": time.monotonic() + seconds, **given})
