import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import notification_service
from libs.common.events.event import Event, RefusedEvent
from libs.common.ids import new_id
from libs.topology import SUBSCRIPTIONS
from notification_service.events import NotificationDead, NotificationSent, OrderConfirmed, UserDeleted
from notification_service.use_cases import HANDLERS
from tests.unit.notification_service.samples import order_data

SCHEMAS = Path(notification_service.__path__[0]) / "event_schemas"
FACTS: dict[str, Any] = {
    "notification_id": new_id(),
    "order_id": None,
    "channel": "email",
    "template": None,
    "created_at": "2026-01-31T12:00:00.000000Z",
    "attempts": 1,
    "version": 2,
}
PUBLISHED: list[Event] = [
    NotificationSent(**FACTS, sent_at="2026-01-31T12:00:01.000000Z"),
    NotificationDead(**FACTS, dead_at="2026-01-31T12:00:01.000000Z"),
]


@pytest.mark.parametrize("event", PUBLISHED, ids=lambda event: event.TYPE)
def test_what_is_published_fits_its_schema(event: Event) -> None:
    schema = json.loads((SCHEMAS / f"{event.TYPE}.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(event.data())
    assert set(schema["required"]) == set(schema["properties"]) == set(event.data())
    assert event.subject == FACTS["notification_id"]


def test_every_published_event_has_a_schema_and_an_entry_in_the_topology() -> None:
    types = {event.TYPE for event in PUBLISHED}
    assert {path.name.removesuffix(".json") for path in SCHEMAS.iterdir()} == types
    assert {name for name in SUBSCRIPTIONS if name.startswith("notification.")} == types


def test_it_handles_what_it_subscribes_to() -> None:
    subscribed = {name for name, services in SUBSCRIPTIONS.items() if "notification" in services}
    assert {event.TYPE for event in HANDLERS} == subscribed


def test_members_that_are_not_read_are_ignored() -> None:
    event = OrderConfirmed.read({"id": "e", "data": {**order_data(), "version": 3, "new": 1}})
    assert event.total == "4999.98"


A_UUID = "01a20778-4ad9-7055-9462-4ab44d839637"


@pytest.mark.parametrize("bad", [None, 5, "", "x", A_UUID + ",", [A_UUID]])
def test_an_id_that_is_none_is_refused(bad: Any) -> None:
    for data in (order_data(order_id=bad), order_data(user_id=bad)):
        with pytest.raises(RefusedEvent):
            OrderConfirmed.read({"id": "e", "data": data})
    with pytest.raises(RefusedEvent):
        UserDeleted.read({"id": "e", "data": {"user_id": bad, "deleted_at": "2026-01-31T12:00:00Z"}})
