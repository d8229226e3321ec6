"""Notifications, messages and data for templates, valid unless a test changes them."""

from typing import Any

from libs.common.ids import new_id
from libs.common.times import now
from notification_service.channels import Message
from notification_service.models import Notification, Sending


def order_data(**given: Any) -> dict[str, Any]:
    """The data of an `order.confirmed` event."""
    line = {"product_id": new_id(), "name": "Laptop", "quantity": 2, "unit_price": "2499.99", "line_total": "4999.98"}
    return {
        "order_id": new_id(),
        "user_id": new_id(),
        "items": [line],
        "total": "4999.98",
        "currency": "EUR",
        "confirmed_at": "2026-01-31T12:00:00.000000Z",
        **given,
    }


def a_message(**given: Any) -> Message:
    values: dict[str, Any] = {
        "id": new_id(),
        "channel": "email",
        "to": "ada@example.com",
        "subject": "Hello",
        "body": "A text.",
    }
    return Message(**{**values, **given})


def a_notification(**given: Any) -> Notification:
    """A stored, queued notification; `given` overrides columns."""
    row = Notification.new(channel="email", body="A text.", data={}, user_id=new_id())
    return Notification(**{**row, "due_at": 1.0, "lease_token": None, "deleted_at": None, **given})


def a_sending(**given: Any) -> Sending:
    values: dict[str, Any] = {
        "id": new_id(),
        "user_id": new_id(),
        "order_id": None,
        "channel": "email",
        "recipient": None,
        "template": None,
        "subject": None,
        "body": "A text.",
        "data": {},
        "status": "queued",
        "attempts": 0,
        "last_error": None,
        "sent_at": None,
        "created_at": now(),
        "due_at": 0.0,
        "correlation_id": "r",
        "traceparent": "",
        "version": 1,
    }
    return Sending(**{**values, **given})
