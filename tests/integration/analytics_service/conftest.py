"""The analytics service on each engine, with fakes of the four others."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from flask import Flask

from analytics_service.app import AnalyticsSettings, create_app
from analytics_service.clients import FakeServices
from libs.common.data.database import Database
from libs.common.events.event import BATCH_JSON
from tests.integration.analytics_service.world import World
from tests.web import Api, answered

Deliver = Callable[..., list[str]]


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def make_app(
    new_database: Callable[[str], str],
    make_settings: Callable[..., AnalyticsSettings],
    run_app: Callable[[Flask], Flask],
    services: FakeServices,
) -> Iterator[Callable[..., Flask]]:
    """`make_app()`: apps that share one database, as the processes of a service do."""
    url = new_database("analytics_service")

    def make(**given: Any) -> Flask:
        settings = make_settings("analytics", AnalyticsSettings, **{"database_url": url, **given})
        return run_app(create_app(settings, services=services))

    yield make
    # Wait for calls whose callers have left, since they would find the database gone. The end of one may begin the next.
    while calls := [thread for thread in threading.enumerate() if thread.name == "shared call"]:
        calls[0].join()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(summary_deadline_seconds=0.5)


@pytest.fixture
def api(app: Flask) -> Api:
    return Api(app)


@pytest.fixture
def db(app: Flask) -> Database:
    found: Database = app.extensions["quintet"].db
    return found


@pytest.fixture
def world(services: FakeServices) -> World:
    """The orders and notifications that the fakes return."""
    made = World()
    services.items = {"order": made.orders, "notification": made.notifications}
    return made


@pytest.fixture
def deliver(api: Api, world: World) -> Deliver:
    """Post events in one batch, by default all waiting ones; returns the outcomes."""

    def post(events: list[dict[str, Any]] | None = None) -> list[str]:
        batch = world.take_events() if events is None else events
        answer = answered(api.post("/events", orjson.dumps(batch), content_type=BATCH_JSON))
        return [result["outcome"] for result in answer["results"]]

    return post
