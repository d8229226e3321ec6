"""Each published event has a JSON Schema beside the code that publishes it, and is valid by it."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from flask import Flask
from jsonschema import Draft202012Validator

from libs.common import migrate
from libs.common.config import Settings
from libs.common.events import outbox
from libs.common.events.event import Event, envelope
from libs.common.ids import new_id
from libs.topology import SERVICES, SUBSCRIPTIONS
from order_service.app import OrderSettings
from order_service.app import create_app as create_order_app
from order_service.clients import FakeProducts, FakeUsers
from product_service.app import create_app as create_product_app
from tests.cloudevents import data_faults, faults
from tests.events import EVENTS, ROOT, classes_of, example_of, publisher_of, schema_of
from tests.factories import a_product, a_user
from tests.web import Api, answered
from user_service.app import create_app as create_user_app

PUBLISHED = [(publisher_of(event_type), cls) for event_type, cls in EVENTS.items()]
READ = [(s, cls) for s in SERVICES for cls in classes_of(s) if publisher_of(cls.TYPE) != s]


def names(pairs: list[tuple[str, type[Event]]]) -> list[str]:
    return [f"{service}: {cls.TYPE}" for service, cls in pairs]


def members(cls: type[Event]) -> set[str]:
    return {declared.name for declared in fields(cls)} - {"origin"}


def needed(cls: type[Event]) -> set[str]:
    """The members without a default."""
    return members(cls) & {declared.name for declared in fields(cls) if declared.default is MISSING}


# The schemas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_a_schema_and_a_class_for_each_event_of_the_map_and_for_no_other(service: str) -> None:
    on_the_map = {event_type for event_type in SUBSCRIPTIONS if publisher_of(event_type) == service}
    files = {path.stem for path in (ROOT / f"{service}_service").glob("event_schemas/*.json")}

    assert files == on_the_map == {cls.TYPE for owner, cls in PUBLISHED if owner == service}


@pytest.mark.parametrize(("service", "cls"), PUBLISHED, ids=names(PUBLISHED))
def test_a_schema_describes_exactly_the_members_of_its_event_and_its_example_has_all(
    service: str, cls: type[Event]
) -> None:
    schema = schema_of(cls.TYPE)

    assert set(schema["properties"]) == set(example_of(cls.TYPE)) == members(cls)
    assert data_faults(cls.TYPE, example_of(cls.TYPE)) == []
    # A member that was added later is always published but never required: older events lack it.
    assert set(schema["required"]) <= members(cls)


@pytest.mark.parametrize(("service", "cls"), PUBLISHED, ids=names(PUBLISHED))
def test_a_schema_is_valid_says_what_it_is_and_lets_members_be_added(service: str, cls: type[Event]) -> None:
    schema = schema_of(cls.TYPE)

    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["type"], schema["additionalProperties"], schema["title"]) == ("object", True, cls.TYPE)
    assert schema["description"].endswith(".")


@pytest.mark.parametrize(("service", "cls"), PUBLISHED, ids=names(PUBLISHED))
def test_an_event_on_the_wire_names_its_schema(service: str, cls: type[Event]) -> None:
    event = cls(**dict.fromkeys(members(cls), ""))

    assert envelope(event, service)["dataschema"] == schema_of(cls.TYPE)["$id"]


@pytest.mark.parametrize(("service", "cls"), READ, ids=names(READ))
def test_a_consumer_reads_only_what_the_publisher_promises(service: str, cls: type[Event]) -> None:
    assert service in SUBSCRIPTIONS[cls.TYPE]
    assert members(cls) <= set(schema_of(cls.TYPE)["properties"])
    assert needed(cls) <= set(schema_of(cls.TYPE)["required"])


@pytest.mark.parametrize(
    ("event_type", "change"),
    [
        ("order.confirmed.v1", {"order_id": "not-a-uuid"}),
        ("order.confirmed.v1", {"confirmed_at": "yesterday"}),
        ("order.confirmed.v1", {"total": 20.0}),
        ("order.confirmed.v1", {"total": "-20.00"}),
        ("order.confirmed.v1", {"total": "1e3"}),
        ("order.confirmed.v1", {"currency": "euro"}),
        ("order.confirmed.v1", {"items": []}),
        ("order.confirmed.v1", {"items": [{"product_id": "00000000-0000-7000-8000-000000000001"}]}),
        ("order.confirmed.v1", {"version": 0}),
    ],
)
def test_a_schema_refuses_what_no_event_may_say(event_type: str, change: dict[str, Any]) -> None:
    valid = example_of(event_type)

    assert data_faults(event_type, {**valid, **change})


# What is really published ------------------------------------------------------------------------------------------


@pytest.fixture
def record(run_app: Callable[[Flask], Flask]) -> Callable[[Flask], Api]:
    """Give an app a new database, whose outbox keeps every event that it publishes."""

    def prepare(app: Flask) -> Api:
        service = run_app(app).extensions["quintet"]
        service.owner.has_broker = True  # a subscriber of every event, also of those without a real one
        migrate.upgrade(service.db, f"{service.name}_service")
        return Api(app)

    return prepare


def published(app: Flask) -> list[dict[str, Any]]:
    """The CloudEvents of an app, oldest first."""
    with app.extensions["quintet"].db.read() as session:
        query = sa.select(outbox.outbox.c.body).order_by(outbox.outbox.c.seq)
        return [orjson.loads(body) for body in session.scalars(query)]


def check(app: Flask, expected: list[str]) -> None:
    events = published(app)

    assert [event["type"] for event in events] == expected
    assert [fault for event in events for fault in faults(event)] == []
    assert len({event["id"] for event in events}) == len(events)


def test_what_the_user_service_publishes_keeps_to_its_schemas(
    make_settings: Callable[..., Settings], record: Callable[[Flask], Api]
) -> None:
    app = create_user_app(make_settings("user"))
    api = record(app)

    path = "/users/" + answered(api.post("/users", a_user()), 201)["id"]
    answered(api.patch(path, {"status": "suspended"}))
    answered(api.put(path, a_user(role="staff")))
    answered(api.delete(path), 204)

    check(app, ["user.created.v1", "user.updated.v1", "user.updated.v1", "user.deleted.v1"])


def test_what_the_product_service_publishes_keeps_to_its_schemas(
    make_settings: Callable[..., Settings], record: Callable[[Flask], Api]
) -> None:
    app = create_product_app(make_settings("product"))
    api = record(app)

    path = "/products/" + answered(api.post("/products", a_product(stock=0)), 201)["id"]
    answered(api.patch(path, {"price": "1999", "currency": "JPY"}))
    answered(api.post(f"{path}/stock", {"delta": 3, "reason": "delivery"}))
    answered(api.post(f"{path}/stock", {"delta": -3, "reason": "stocktaking"}))
    answered(api.delete(path), 204)

    adjusted = "product.stock_adjusted.v1"
    check(app, ["product.created.v1", "product.updated.v1", adjusted, adjusted, "product.deleted.v1"])


def test_what_the_order_service_publishes_keeps_to_its_schemas(
    make_settings: Callable[..., Settings], record: Callable[[Flask], Api]
) -> None:
    users, products = FakeUsers(new_id()), FakeProducts()
    app = create_order_app(make_settings("order", OrderSettings), users=users, products=products)
    api = record(app)
    ids = [products.add(new_id(), price, currency=currency) for price, currency in (("0.125", "KWD"), ("9", "JPY"))]

    def place(product_id: str, quantity: int = 1) -> Any:
        body = {"user_id": next(iter(users.known)), "items": [{"product_id": product_id, "quantity": quantity}]}
        return api.post("/orders", body)

    first, second = (f"/orders/{answered(place(product_id), 201)['id']}" for product_id in ids)
    answered(api.post(f"{first}/ship", None))
    answered(api.post(f"{first}/deliver", None))
    answered(api.post(f"{second}/cancel", None))
    answered(place(ids[0], quantity=101), 409)
    products.down = True
    answered(place(ids[0]), 503)

    check(
        app,
        [
            "order.confirmed.v1",
            "order.confirmed.v1",
            "order.shipped.v1",
            "order.delivered.v1",
            "order.cancelled.v1",
            "order.rejected.v1",
            "order.rejected.v1",
        ],
    )
