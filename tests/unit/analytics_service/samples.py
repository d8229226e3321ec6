"""Orders and notifications, confirmed and sent unless a test says otherwise."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from libs.common.db import new_id

NOON = datetime(2026, 1, 31, 12, 34, 56, 789, tzinfo=UTC)
NOON_TEXT = "2026-01-31T12:34:56.000789Z"
LAPTOP, MOUSE = new_id(), new_id()


def a_line(product_id: str = LAPTOP, quantity: int = 2, line_total: str = "19.98") -> dict[str, Any]:
    return {"product_id": product_id, "name": "Laptop", "quantity": quantity, "line_total": line_total}


def order_facts(**given: Any) -> dict[str, Any]:
    """What an event says, as columns."""
    same = {"id": new_id(), "confirmed_at": NOON, "total": Decimal("19.98"), "currency": "EUR"}
    return {**same, "lines": [a_line()], **given}


def an_order_row(**given: Any) -> dict[str, Any]:
    later = dict.fromkeys(("rejected_at", "cancelled_at", "shipped_at", "delivered_at"))
    return {**later, **order_facts(), "generation": 1, **given}


def a_notification_row(**given: Any) -> dict[str, Any]:
    same = {"id": new_id(), "channel": "email", "created_at": NOON, "sent_at": None, "dead_at": None}
    return {**same, "generation": 1, **given}


def an_order(**given: Any) -> dict[str, Any]:
    """As the order service shows it."""
    moments = dict.fromkeys(("shipped_at", "delivered_at", "cancelled_at"))
    same = {"id": new_id(), "status": "confirmed", "confirmed_at": NOON_TEXT, "updated_at": NOON_TEXT}
    return {**moments, **same, "items": [a_line()], "total": "19.98", "currency": "EUR", "note": None, **given}


def a_notification(**given: Any) -> dict[str, Any]:
    """As the notification service shows it."""
    same = {"id": new_id(), "status": "sent", "channel": "email", "created_at": NOON_TEXT, "sent_at": NOON_TEXT}
    return {**same, "subject": "Hello", **given}
