"""The routes of the notification service."""

from libs.common.context import Context
from libs.common.data.changes import Changes, VersionCheck
from libs.common.data.database import Reader, Session
from libs.common.data.paging import Page, PageQuery
from libs.common.errors import NO_STORE, InvalidTransition
from libs.common.web.routes import Routes
from notification_service import repository, schemas, use_cases
from notification_service.models import (
    NewNotification,
    Notification,
    NotificationFilters,
    NotificationStats,
    Row,
)

routes = Routes(notifications="What users are told, by mail and other channels, and what became of it.")


@routes.post(
    "/notifications/send", body=schemas.NewNotification, returns=schemas.Notification, status=201,
    idempotent=True, location="/notifications",
)  # fmt: skip
def send_notification(session: Session, body: NewNotification, work: Context) -> Row:
    """Queue a notification.

    It needs a user or a recipient, and either a body or a template whose needs its data meets. It is sent soon after:
    at least once, mail with a Message-ID that stays the same.
    """
    return use_cases.send_notification(session, body, work)


@routes.list(
    "/notifications", query=schemas.NotificationFilters, sorts=("created_at",), returns=schemas.Notification
)  # fmt: skip
def list_notifications(session: Reader, query: NotificationFilters, page: PageQuery) -> Page:
    """List notifications.

    The newest come first, unless `sort` says otherwise.
    """
    return repository.find_page(session, query, page)


@routes.get("/notifications/stats", returns=schemas.NotificationStats)
def notification_stats(session: Reader) -> NotificationStats:
    """Count notifications by status and by channel.

    The figures are maintained with every change, so they cost the same however many notifications there are.
    """
    return use_cases.notification_stats(session)


@routes.get("/notifications/<id:notification_id>", returns=schemas.Notification, cache=NO_STORE)
def get_notification(session: Reader, notification_id: str) -> Row:
    """Get a notification.

    Its status and its attempts say what became of it.
    """
    return repository.find(session, notification_id)


@routes.patch(
    "/notifications/<id:notification_id>", body=schemas.NotificationChange, returns=schemas.Notification,
    shows={"read_at": "2026-01-31T12:05:00.000000Z", "version": 2},
)  # fmt: skip
def update_notification(
    session: Session, notification_id: str, body: Changes[Notification], match: VersionCheck
) -> Notification:
    """Mark a notification as read or unread.

    Saying the same again changes nothing.
    """
    return use_cases.mark_notification(session, notification_id, body, match)


@routes.delete("/notifications/<id:notification_id>")
def delete_notification(session: Session, notification_id: str, match: VersionCheck) -> None:
    """Delete a notification.

    What it says is erased, and it is not sent if it still waits.
    """
    use_cases.delete_notification(session, notification_id, match)


@routes.post(
    "/notifications/<id:notification_id>/retry", returns=schemas.Notification, refuses=[InvalidTransition],
    shows={"last_error": "The mail server refused it (550).", "version": 4},
)  # fmt: skip
def retry_notification(session: Session, notification_id: str, match: VersionCheck) -> Notification:
    """Send a dead notification again.

    It is queued, with all of its attempts before it.
    """
    return use_cases.retry_notification(session, notification_id, match)
