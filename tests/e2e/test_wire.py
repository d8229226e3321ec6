"""The events that the services really send each other: CloudEvents that are valid by their schemas and reach their
subscribers.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator

from demo.api import eventually
from demo.walk import STEPS, Walk, take
from libs.common.events.event import BATCH_JSON, MAX_BYTES
from libs.topology import SUBSCRIPTIONS
from tests.cloudevents import faults
from tests.e2e.recorder import PUBLISHERS, Exchange, deliveries_among, events_of, recorded
from tests.e2e.shop import Json, Shop, answered
from tests.e2e.system import System, environment
from tests.events import ASYNCAPI

REQUEST_ID, TRACE_ID = f"wire-{uuid4()}", uuid4().hex


def let_everything_happen(shop: Shop) -> None:
    """Cause every event; an order is placed and shipped by requests with REQUEST_ID."""
    walk = Walk(shop.api)
    for step in STEPS:
        take(step, walk)
    user, product = shop.new_user(), shop.new_product()
    headers = {"X_Request_ID": REQUEST_ID, "traceparent": f"00-{TRACE_ID}-{uuid4().hex[:16]}-01"}
    order = answered(shop.order(user, product, **headers), 201)
    assert eventually(lambda: [one["status"] for one in shop.notifications(order)] == ["sent"], 15)
    answered(shop.api.send("PATCH", "user", f"/users/{user['id']}", {"name": "Ada King"}), 200)
    to_nobody = {"user_id": str(uuid4()), "channel": "email", "subject": "Hello", "body": "Is anybody there?"}
    answered(shop.api.post("notification", "/notifications/send", to_nobody), 201)
    of_product = f"/products/{product['id']}"
    answered(shop.api.post("product", f"{of_product}/stock", {"delta": 5, "reason": "delivery"}), 200)
    answered(shop.api.send("PATCH", "product", of_product, {"price": "1999.99"}), 200)
    answered(shop.api.post("order", f"/orders/{order['id']}/cancel"), 200)
    assert eventually(lambda: shop.units(product).reserved == 0, 15)
    for service, path in (("product", of_product), ("user", f"/users/{user['id']}")):
        assert shop.api.send("DELETE", service, path).status_code == 204


@pytest.fixture(scope="module")
def deliveries(running: System) -> Iterator[list[Exchange]]:
    """Every batch of events that was posted meanwhile, in order."""
    if "BROKER_URL" in environment(running.base_port, running.data_dir):
        pytest.skip("the events travel over RabbitMQ")
    shop = Shop(running.api)
    with recorded(running, PUBLISHERS) as exchanges:
        let_everything_happen(shop)
        assert eventually(lambda: not shop.waiting(), 15)
    yield deliveries_among(exchanges)


def subjects(deliveries: list[Exchange]) -> dict[tuple[str, str], list[Json]]:
    """Subscriber and subject → its events, each at its first delivery."""
    found: dict[tuple[str, str], dict[str, Json]] = defaultdict(dict)
    for delivery in deliveries:
        for event in events_of(delivery):
            found[delivery.callee, event["subject"]].setdefault(event["id"], event)
    return {key: list(events.values()) for key, events in found.items()}


def test_every_event_went_to_its_subscribers_and_to_nobody_else(deliveries: list[Exchange]) -> None:
    sent = {(event["type"], delivery.callee) for delivery in deliveries for event in events_of(delivery)}

    assert sent == {(event_type, name) for event_type, names in SUBSCRIPTIONS.items() for name in names}


def test_every_event_is_a_cloud_event_and_true_to_its_schema(deliveries: list[Exchange]) -> None:
    events = [event for delivery in deliveries for event in events_of(delivery)]

    assert len(events) > 20
    assert [fault for event in events for fault in faults(event)] == []


def test_every_batch_and_every_answer_is_as_the_document_says(deliveries: list[Exchange]) -> None:
    components: Any = json.loads(ASYNCAPI.read_text())["components"]

    def check(message: str, value: Any) -> None:
        Draft202012Validator({**components["messages"][message]["payload"], "components": components}).validate(value)

    for delivery in deliveries:
        assert (delivery.method, delivery.headers["Content-Type"]) == ("POST", BATCH_JSON)
        assert len(delivery.body) <= MAX_BYTES
        check(f"{delivery.caller}.to.{delivery.callee}", events_of(delivery))
        assert delivery.status == 200
        told = json.loads(delivery.answer)
        check("outcomes", told)
        assert [result["id"] for result in told["results"]] == [event["id"] for event in events_of(delivery)]
        assert {result["outcome"] for result in told["results"]} <= {"done", "duplicate"}


def test_events_of_one_subject_come_in_order_of_its_versions(deliveries: list[Exchange]) -> None:
    histories = {key: [event["data"]["version"] for event in told] for key, told in subjects(deliveries).items()}

    assert [history for history in histories.values() if len(history) > 2]
    assert [key for key, history in histories.items() if history != sorted(set(history))] == []


def test_all_subscribers_get_the_same_event(deliveries: list[Exchange]) -> None:
    found: dict[str, list[Json]] = defaultdict(list)
    for delivery in deliveries:
        for event in events_of(delivery):
            found[event["id"]].append(event)

    assert [events for events in found.values() if len(events) > 1]
    assert [events for events in found.values() if events.count(events[0]) != len(events)] == []


def test_what_a_request_causes_names_it_and_its_trace_however_far_it_is(deliveries: list[Exchange]) -> None:
    """Also the notification, which another service sends because of an event."""
    events = [event for told in subjects(deliveries).values() for event in told]
    mine = [event for event in events if event["correlationid"] == REQUEST_ID]

    assert {event["type"] for event in mine} == {"order.confirmed.v1", "notification.sent.v1"}
    assert {event["traceparent"].split("-")[1] for event in mine} == {TRACE_ID}
    assert [event for event in events if TRACE_ID in event.get("traceparent", "") and event not in mine] == []
