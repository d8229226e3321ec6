"""What the notification service publishes, and what it reads."""

import re
from dataclasses import dataclass

from libs.common.events.event import Event, RefusedEvent

_uuid = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, kw_only=True)
class NotificationSent(Event):
    TYPE = "notification.sent.v1"
    SUBJECT = "notification_id"

    notification_id: str
    order_id: str | None
    channel: str
    template: str | None
    created_at: str
    sent_at: str
    attempts: int
    version: int


@dataclass(frozen=True, kw_only=True)
class NotificationDead(Event):
    TYPE = "notification.dead.v1"
    SUBJECT = "notification_id"

    notification_id: str
    order_id: str | None
    channel: str
    template: str | None
    created_at: str
    dead_at: str
    attempts: int
    version: int


# Read --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OrderConfirmed(Event):
    TYPE = "order.confirmed.v1"
    SUBJECT = "order_id"

    order_id: str
    user_id: str
    items: list[dict[str, object]]
    total: str
    currency: str
    confirmed_at: str

    def __post_init__(self) -> None:
        _check_ids(self.order_id, self.user_id)


@dataclass(frozen=True, kw_only=True)
class UserDeleted(Event):
    TYPE = "user.deleted.v1"
    SUBJECT = "user_id"

    user_id: str
    deleted_at: str

    def __post_init__(self) -> None:
        _check_ids(self.user_id)


def _check_ids(*ids: object) -> None:
    """Raises RefusedEvent. One id that is none would fail the look-up of every address in its batch."""
    if not all(isinstance(one, str) and _uuid.fullmatch(one) for one in ids):
        raise RefusedEvent("an id is not a UUID")
