"""The notification service in this process, on both engines. Its senders are stepped by hand."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from libs.common import context
from libs.common.data.erasures import Erasure
from libs.common.events.outbox import outbox
from libs.common.ids import new_id
from notification_service import repository, use_cases
from notification_service.app import NotificationSettings, create_app
from notification_service.channels import FakeChannel
from notification_service.clients import FakeUsers
from notification_service.models import CHANNELS, Notification, notifications
from tests.factories import a_cloud_event
from tests.unit.notification_service.samples import order_data
from tests.web import Api, answered


class Running:
    """One process of the service, with fake users and channels."""

    def __init__(self, settings: NotificationSettings, run_app: Callable[..., Any]):
        self.users = FakeUsers()
        self.channels = {name: FakeChannel() for name in CHANNELS}
        self.app = run_app(create_app(settings, users=self.users, channels=self.channels))
        self.db = self.app.extensions["quintet"].db
        self.api = Api(self.app)
        self._loops = {loop.name: loop for loop in self.app.extensions["quintet"].loops}

    @property
    def mails(self) -> list[Any]:
        return self.channels["email"].sent

    def step(self, channel: str = "email") -> bool:
        """One step of the background loop."""
        context.begin(5.0)
        try:
            return bool(self._loops[f"sender of {channel}"]._step())
        finally:
            context.end()

    def finish(self, channel: str = "email") -> None:
        """The end of the background loop."""
        self._loops[f"sender of {channel}"]._finish()

    def is_woken(self, channel: str = "email") -> bool:
        return bool(self._loops[f"sender of {channel}"]._woken.is_set())

    def sweep(self) -> None:
        """One step of the loop that finds work for others."""
        for loop in self._loops.values():
            loop._woken.clear()
        self._loops["sweep"]._step()

    def a_user(self, email: str = "ada@example.com") -> str:
        user_id = new_id()
        self.users.known[user_id] = email
        return user_id

    def receive(self, *events: dict[str, Any]) -> list[str]:
        """Deliver events; their outcomes."""
        answer = self.api.post("/events", list(events), content_type="application/cloudevents-batch+json")
        return [result["outcome"] for result in answered(answer)["results"]]

    def erase(self) -> None:
        """Erase the notifications of deleted users, as the background loop does."""
        erasure = Erasure(self.db, repository.walk_user, use_cases.erase_notifications)
        while erasure.step():
            pass

    def send(self, **body: Any) -> dict[str, Any]:
        """Post a notification; returns the answer."""
        sent: dict[str, Any] = answered(self.api.post("/notifications/send", {"body": "A text.", **body}), 201)
        return sent

    def get(self, notification_id: str) -> dict[str, Any]:
        found: dict[str, Any] = answered(self.api.get(f"/notifications/{notification_id}"))
        return found

    def find(self, query: str = "") -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = answered(self.api.get(f"/notifications?{query}"))["items"]
        return items

    def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = answered(self.api.get("/notifications/stats"))
        return stats

    def row(self, notification_id: str) -> Any:
        """The stored row, deleted or not."""
        with self.db.read() as connection:
            return connection.execute(sa.select(notifications).where(notifications.c.id == notification_id)).one()

    def set(self, **values: Any) -> None:
        """Set columns of every row."""
        with self.db.write() as session:
            session.execute(sa.update(notifications).values(**values))

    def store(self, *rows: dict[str, Any]) -> None:
        """Store rows that differ from new ones in these columns."""
        with self.db.write() as session:
            session.add_all(
                Notification(**{**Notification.new(channel="log", body="A text.", data={}), **row}) for row in rows
            )

    def published(self) -> list[Any]:
        """The events that wait for a subscriber, oldest first."""
        with self.db.read() as connection:
            return [orjson.loads(body) for body in connection.scalars(sa.select(outbox.c.body).order_by(outbox.c.seq))]


@pytest.fixture
def start(new_database: Callable[..., str], make_settings: Callable[..., Any], run_app: Any) -> Callable[..., Running]:
    """Start one more process on the database of the test; settings by name."""
    url = new_database("notification_service")

    def make(**given: Any) -> Running:
        given = {"database_url": url, "retry_seconds": 1000.0, **given}
        return Running(make_settings("notification", NotificationSettings, **given), run_app)

    return make


@pytest.fixture
def service(start: Callable[..., Running]) -> Running:
    return start()


def order_confirmed(user_id: str, **given: Any) -> dict[str, Any]:
    return a_cloud_event("order.confirmed.v1", {**order_data(user_id=user_id), "version": 2, **given})


def user_updated(user_id: str, version: object = 2) -> dict[str, Any]:
    data = {"user_id": user_id, "role": "customer", "status": "active", "version": version}
    return a_cloud_event("user.updated.v1", data)


def user_deleted(user_id: str) -> dict[str, Any]:
    return a_cloud_event("user.deleted.v1", {"user_id": user_id, "deleted_at": "2026-01-31T12:00:00Z", "version": 2})
