"""The events that the notification service publishes and consumes."""

from dataclasses import dataclass

from libs.common.events.event import Event


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


# Consumed ----------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, kw_only=True)
class UserUpdated(Event):
    TYPE = "user.updated.v1"
    SUBJECT = "user_id"

    user_id: str
    version: int


@dataclass(frozen=True, kw_only=True)
class UserDeleted(Event):
    TYPE = "user.deleted.v1"
    SUBJECT = "user_id"

    user_id: str
    deleted_at: str
