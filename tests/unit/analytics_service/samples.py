"""Orders and notifications, confirmed and sent unless a test changes them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from libs.common.ids import new_id

NOON = datetime(2026, 1, 31, 12, 34, 56, 789, tzinfo=UTC)
NOON_TEXT = "2026-01-31T12:34:56.000789Z"
LAPTOP, MOUSE = new_id(), new_id()


def a_line(product_id: str = LAPTOP, quantity: int = 2, line_total: str = "19.98") -> dict[str, Any]:
    return {"product_id": product_id, "name": "Laptop", "quantity": quantity, "line_total": line_total}


def order_facts(**given: Any) -> dict[str, Any]:
    """The facts of an event, as columns."""
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
    later = dict.fromkeys(("shipped_at", "delivered_at", "cancelled_at", "rejection", "note"))
    same = {"id": new_id(), "user_id": new_id(), "status": "confirmed", "version": 2, "currency": "EUR"}
    moments = dict.fromkeys(("created_at", "confirmed_at", "updated_at"), NOON_TEXT)
    return {**later, **same, **moments, "items": [{**a_line(), "unit_price": "9.99"}], "total": "19.98", **given}


def a_notification(**given: Any) -> dict[str, Any]:
    """As the notification service shows it."""
    none = dict.fromkeys(("recipient", "last_error", "read_at"))
    same = {"id": new_id(), "user_id": new_id(), "order_id": new_id(), "template": "order_confirmed"}
    sent = {"status": "sent", "channel": "email", "created_at": NOON_TEXT, "sent_at": NOON_TEXT, "attempts": 1}
    return {**none, **same, **sent, "subject": "Hello", "body": "Hello.", "version": 2, **given}
