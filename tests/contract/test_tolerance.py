"""Tolerant readers: an event with unknown members has the same effect as one without."""

import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from flask import Flask

from libs.common.events.event import BATCH_JSON
from libs.topology import SUBSCRIPTIONS
from tests.events import example_of
from tests.factories import a_cloud_event, a_product, a_reservation
from tests.integration.contents import contents
from tests.web import Api, answered

Json = dict[str, Any]

HANDLED = [(service, event_type) for event_type, services in SUBSCRIPTIONS.items() for service in services]
MEMBERS: Json = {
    "carrier": {"name": "x", "stops": [1, None]},
    "unknown member": "x",
    "origin": "x",
    "TYPE": 1,
    "self": 1,
}
EXTENSIONS: Json = {"sequence": 42, "sampled": True, "partitionkey": "x", "origin": "x"}
"""Unknown members, some with names that a careless reader would mistake for others."""
MADE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-\d\d-\d\d[ T][\d:.]+Z?|\d+\.\d{4,}")
"""Ids and times."""


def saying_more(value: Any) -> Any:
    """The document with unknown members in every object."""
    if isinstance(value, dict):
        return {**{name: saying_more(each) for name, each in value.items()}, **MEMBERS}
    return [saying_more(each) for each in value] if isinstance(value, list) else value


def deliver(app: Flask, event: Json) -> Json:
    answer: Json = answered(Api(app).post("/events", [event], content_type=BATCH_JSON))
    return answer


def prepared(app: Flask, service: str, event_type: str) -> Flask:
    """Create what the event refers to: a reservation for the order, or a notification about it."""
    confirmed = example_of("order.confirmed.v1")
    if service == "product":
        product = answered(Api(app).post("/products", a_product()), 201)
        reservation = a_reservation((product["id"], 2), order_id=confirmed["order_id"])
        answered(Api(app).post("/reservations", reservation), 201)
    elif service == "notification" and event_type != "order.confirmed.v1":
        deliver(app, a_cloud_event("order.confirmed.v1", confirmed))
    return app


def rows(app: Flask, sent: str) -> list[str]:
    """All rows of the service. Ids and times that it made itself are masked; unknown members are left out, since the
    notification service stores the lines of an order as they were sent.
    """
    found = [f"{table}: {row}" for table, rows in contents(app.extensions["quintet"].db).items() for row in rows]
    unknown = "," + orjson.dumps(MEMBERS).decode()[1:-1]
    return sorted(MADE.sub(lambda made: made[0] if made[0] in sent else "", row.replace(unknown, "")) for row in found)


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")
@pytest.mark.parametrize(("service", "event_type"), HANDLED, ids=[f"{name}: {event}" for name, event in HANDLED])
def test_what_a_consumer_does_not_know_changes_nothing(
    service: str, event_type: str, make_app: Callable[[str], Flask]
) -> None:
    event = a_cloud_event(event_type, example_of(event_type))
    more = {**event, **EXTENSIONS, "dataschema": "urn:quintet:event:later", "data": saying_more(event["data"])}
    one, other = (prepared(make_app(service), service, event_type) for _ in range(2))
    before = rows(one, str(event))

    answer = deliver(one, event)

    assert answer == {"results": [{"id": event["id"], "outcome": "done"}]}
    changed = {row.partition(":")[0] for row in set(rows(one, str(event))) - set(before)}
    assert changed > {"inbox"}
    assert deliver(other, more) == answer
    assert rows(other, str(event)) == rows(one, str(event))
