"""Events in any order and repetition make the totals of the `World`."""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_service import models
from libs.common.data.database import Database
from libs.common.events.event import Event
from libs.common.events.inbox import Inbox
from libs.common.ids import new_id
from libs.topology import SUBSCRIPTIONS
from tests.factories import a_cloud_event
from tests.integration.analytics_service.world import (
    LIVES,
    World,
    empty,
    live,
    live_totals,
    notification_strategy,
    order_strategy,
)
from tests.web import Api, answered

Deliver = Callable[..., list[str]]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_events_in_any_order_and_more_than_once_count_once(data: st.DataObject, db: Database, deliver: Deliver) -> None:
    empty(db)
    world = World()
    live(world, data.draw(st.lists(order_strategy, max_size=6)), data.draw(st.lists(notification_strategy, max_size=4)))
    events = world.take_events()
    repeated = data.draw(st.lists(st.sampled_from(events), max_size=5)) if events else []
    arriving = data.draw(st.permutations(events + [{**event, "id": new_id()} for event in repeated]))
    size = data.draw(st.integers(1, 7))
    for start in range(0, len(arriving), size):
        assert set(deliver(arriving[start : start + size])) == {"done"}
    assert live_totals(db) == world.expected()


def test_a_redelivered_event_is_a_duplicate(world: World, db: Database, deliver: Deliver) -> None:
    world.confirmed(1, 2)
    events = world.take_events()
    assert deliver(events * 2) == ["done", "duplicate"]
    assert deliver(events) == ["duplicate"]
    assert live_totals(db) == world.expected()


def test_a_cancellation_that_arrives_first_is_not_lost(world: World, db: Database, deliver: Deliver) -> None:
    world.step(world.confirmed(1), "cancelled")
    confirmed, cancelled = world.take_events()
    deliver([cancelled])
    assert not any(live_totals(db).values())
    deliver([confirmed])
    assert live_totals(db) == world.expected()


def test_processes_that_write_the_same_totals_lose_nothing(
    world: World, make_app: Callable[..., Any], db: Database
) -> None:
    """Four at once, their events overlapping and shuffled."""
    live(world, [(life, (1, 2, 3), "EUR") for life in LIVES] * 8, [("sent", 1000, "email"), ("dead", 0, "log")] * 8)
    events = world.take_events()
    faults: list[Exception] = []

    def work(seed: int, service: Any) -> None:
        mine = random.Random(seed).sample(events, len(events))
        try:
            for start in range(0, len(mine), 5):
                outcomes = Inbox(service.db, service.handlers).receive(mine[start : start + 5])
                assert {one["outcome"] for one in outcomes} <= {"done", "duplicate"}
        except Exception as exc:
            faults.append(exc)

    services = [make_app().extensions["quintet"] for _ in range(4)]
    workers = [threading.Thread(target=work, args=item) for item in enumerate(services)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not faults
    assert live_totals(db) == world.expected()


def test_the_name_of_a_product_is_that_of_its_latest_order(world: World, api: Api, deliver: Deliver) -> None:
    for name in ("Old name", "New name", "Newest name"):
        world.confirmed(1)["items"][0]["name"] = name
    oldest, new, newest = world.take_events()
    for events in ([new], [newest, oldest], [{**new, "id": new_id()}]):
        deliver(events)
    assert answered(api.get("/analytics/products/top"))["items"][0]["name"] == "Newest name"


def confirmed(**given: Any) -> dict[str, Any]:
    item = {"product_id": new_id(), "name": "Laptop", "quantity": 1, "line_total": "9.50"}
    told = {"order_id": new_id(), "items": [item], "total": "9.50", "currency": "EUR"}
    return a_cloud_event("order.confirmed.v1", {**told, "confirmed_at": "2026-01-31T12:00:00Z", **given})


def sent(**given: Any) -> dict[str, Any]:
    told = {"notification_id": new_id(), "channel": "email", "created_at": "2026-01-31T12:00:00Z"}
    return a_cloud_event("notification.sent.v1", {**told, "sent_at": "2026-01-31T12:00:01Z", **given})


@pytest.mark.parametrize(
    "bad",
    [
        confirmed(order_id="none"),
        confirmed(total="NaN"),
        confirmed(total="-1"),
        confirmed(total="1e30"),
        confirmed(total="0.00001"),
        confirmed(currency="XXX"),
        confirmed(confirmed_at=None),
        confirmed(confirmed_at="yesterday"),
        confirmed(confirmed_at="2026-01-31T12:00:00"),
        confirmed(items=[{"product_id": new_id()}]),
        confirmed(items=[{"product_id": new_id(), "name": "x", "quantity": 0, "line_total": "1"}]),
        confirmed(items=[{"product_id": new_id(), "name": "x", "quantity": True, "line_total": "1"}]),
        confirmed(items="none"),
        sent(channel=None),
        sent(channel="x" * 41),
        sent(channel="\x00"),
        sent(sent_at=None),
        sent(created_at=1),
        a_cloud_event("order.cancelled.v1", {"order_id": new_id()}),
        a_cloud_event("order.cancelled.v1", {"order_id": new_id(), "cancelled_at": None}),
        a_cloud_event("user.created.v1", {}),
    ],
)
def test_an_event_that_makes_no_sense_is_refused_and_harms_no_neighbour(
    bad: dict[str, Any], world: World, db: Database, deliver: Deliver
) -> None:
    world.confirmed(1)
    before, after = world.take_events()[0], sent(created_at="2026-01-30T00:00:00Z", sent_at="2026-01-30T00:00:00Z")
    assert deliver([before, bad, after]) == ["done", "dead", "done"]
    found = live_totals(db)
    assert found["delivery_totals"] == {("2026-01-30T00:00", "email"): (1, 0, 0)}
    assert {**found, "delivery_totals": {}} == world.expected()


def test_a_moment_may_have_any_offset(db: Database, deliver: Deliver) -> None:
    deliver([confirmed(confirmed_at="2026-02-01T00:30:00+01:00")])
    starts = {key[1] for key in live_totals(db)["order_buckets"]}
    assert starts == {"2026-01-31T23:00", "2026-01-31T00:00"}


def test_every_event_type_that_is_subscribed_to_has_a_handler(app: Any) -> None:
    handlers: dict[type[Event], Any] = app.extensions["quintet"].handlers
    assert {cls.TYPE for cls in handlers} == {name for name, to in SUBSCRIPTIONS.items() if "analytics" in to}


def test_buckets_are_utc() -> None:
    assert models.bucket_start("day", datetime(2026, 1, 31, 23, 59, tzinfo=UTC)) == datetime(2026, 1, 31, tzinfo=UTC)
