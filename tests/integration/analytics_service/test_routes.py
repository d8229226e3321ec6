"""Every documented parameter, the refusals, and the dashboard."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask

from libs.common.ids import new_id
from libs.common.times import write_time
from tests.factories import a_cloud_event
from tests.integration.analytics_service.world import PRODUCTS, World
from tests.web import Api, answered, refused

Deliver = Callable[..., list[str]]

CHEAP, MIDDLE, DEAR = PRODUCTS


@pytest.fixture
def sold(world: World, deliver: Deliver) -> World:
    """Orders of 30 and 31 January 2026, beginning at 22:40 with a minute of 13 for each step."""
    world.confirmed(5, 1, currency="EUR")  # 22:53
    world.step(world.confirmed(0, 2, currency="EUR"), "cancelled")  # 23:19
    world.confirmed(0, 0, 1, currency="USD")  # 23:58
    world.confirmed(0, 0, 2, currency="EUR")  # 00:24
    world.confirmed(500, currency="JPY")
    deliver()
    return world


def series(api: Api, query: str) -> dict[str, Any]:
    found: dict[str, Any] = answered(api.get(f"/analytics/orders/timeseries?{query}"))
    return found


def test_the_series_by_hour_has_empty_buckets(api: Api, sold: World) -> None:
    found = series(api, "interval=hour&from=2026-01-30T21:00:00Z&to=2026-01-31T02:00:00Z")
    assert (found["interval"], found["from"]) == ("hour", "2026-01-30T21:00:00.000000Z")
    items = found["items"]
    assert [item["start"][11:16] for item in items] == ["21:00", "22:00", "23:00", "00:00", "01:00"]
    assert [(item["orders"], item["cancelled"]) for item in items] == [(0, 0), (1, 0), (2, 1), (2, 0), (0, 0)]
    assert [item["revenue"] for item in items] == [
        [],
        [{"currency": "EUR", "amount": "20.04"}],
        [{"currency": "EUR", "amount": "0.00"}, {"currency": "USD", "amount": "2499.90"}],
        [{"currency": "EUR", "amount": "4999.80"}, {"currency": "JPY", "amount": "5"}],
        [],
    ]


def test_the_series_by_day(api: Api, sold: World) -> None:
    found = series(api, "from=2026-01-30T00:00:00Z&to=2026-02-01T00:00:00Z")
    assert found["interval"] == "day"
    assert [(item["orders"], item["cancelled"]) for item in found["items"]] == [(3, 1), (2, 0)]


def test_from_is_inclusive_and_to_is_exclusive(api: Api, sold: World) -> None:
    starts = [item["start"] for item in series(api, "from=2026-01-30T12:00:00Z&to=2026-02-01T00:00:01Z")["items"]]
    assert [start[:10] for start in starts] == ["2026-01-30", "2026-01-31", "2026-02-01"]
    offset = "from=2026-01-31T00:00:00%2B01:00&to=2026-01-31T01:00:00%2B01:00&interval=hour"
    assert [item["orders"] for item in series(api, offset)["items"]] == [2]


def test_by_default_the_series_shows_the_last_seven_days(api: Api, world: World, deliver: Deliver) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    order = world.order(1)
    world.step(order, "confirmed")
    world.events[-1]["data"]["confirmed_at"] = write_time(datetime.now(UTC))
    deliver()
    items = series(api, "")["items"]
    assert [item["start"] for item in items] == [write_time(today - timedelta(days=n)) for n in range(6, -1, -1)]
    assert [item["orders"] for item in items] == [0] * 6 + [1]
    assert len(series(api, "to=2026-02-01T00:00:00Z")["items"]) == 7


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("from=2026-01-01T00:00:00Z&to=2026-02-11T16:00:01Z&interval=hour", "/from"),
        ("from=1999-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "/from"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "/to"),
        ("from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "/to"),
        ("from=9999-12-31T23:59:59Z", "/to"),
        ("to=9999-12-31T23:59:59Z&from=2026-01-01T00:00:00Z", "/from"),
        ("from=yesterday", "/from"),
        ("from=2026-01-01", "/from"),
        ("from=0001-01-01T00:00:00Z", "/from"),
        ("to=0001-01-01T00:00:00Z", "/to"),
        ("to=1969-12-31T23:59:59Z", "/to"),
        ("interval=week", "/interval"),
        ("interval=", "/interval"),
        ("from_=2026-01-01T00:00:00Z", "/from_"),
        ("limit=1", "/limit"),
        ("interval=day&interval=hour", "/interval"),
    ],
)
def test_a_series_that_cannot_be_is_refused(api: Api, query: str, pointer: str) -> None:
    refused(api.get(f"/analytics/orders/timeseries?{query}"), 422, "validation-failed", pointer)


def test_a_thousand_buckets_are_allowed(api: Api) -> None:
    found = series(api, "from=2026-01-01T00:00:00Z&to=2026-02-11T16:00:00Z&interval=hour")
    assert len(found["items"]) == 1000
    assert len(series(api, "to=9999-12-31T23:59:59Z&from=9999-12-31T00:00:00Z")["items"]) == 1
    assert len(series(api, "to=1970-01-01T00:00:00Z")["items"]) == 7


def top(api: Api, query: str = "") -> list[tuple[Any, ...]]:
    items = answered(api.get(f"/analytics/products/top?{query}"))["items"]
    return [(item["product_id"], item["currency"], item["units"], item["revenue"]) for item in items]


def test_the_best_sellers_by_units(api: Api, sold: World) -> None:
    everything = [
        (CHEAP, "JPY", 500, "5"),
        (CHEAP, "EUR", 5, "0.05"),
        (DEAR, "EUR", 2, "4999.80"),
        (DEAR, "USD", 1, "2499.90"),
        (MIDDLE, "EUR", 1, "19.99"),
    ]
    assert top(api) == everything
    assert top(api, "by=units&limit=2") == everything[:2]
    assert top(api, "currency=EUR") == [everything[1], everything[2], everything[4]]
    assert top(api, "currency=GBP") == []


def test_the_best_sellers_by_revenue_are_of_one_currency(api: Api, sold: World) -> None:
    assert top(api, "by=revenue") == [
        (DEAR, "EUR", 2, "4999.80"),
        (MIDDLE, "EUR", 1, "19.99"),
        (CHEAP, "EUR", 5, "0.05"),
    ]
    assert top(api, "by=revenue&currency=JPY&limit=1") == [(CHEAP, "JPY", 500, "5")]


def test_sums_of_money_beyond_64_bits_are_exact(api: Api, deliver: Deliver) -> None:
    first, second = sorted((new_id(), new_id()))
    highest, more = Decimal(10**14), Decimal(10**14) - Decimal("0.01")
    orders = [(first, more), *[(first, highest)] * 99, *[(second, highest)] * 100]
    for product_id, total in orders:
        item = {"product_id": product_id, "name": "Palace", "quantity": 1, "line_total": str(total)}
        told = {"order_id": new_id(), "items": [item], "total": str(total), "currency": "EUR"}
        event = a_cloud_event("order.confirmed.v1", {**told, "confirmed_at": "2026-01-31T12:00:00Z"})
        assert deliver([event]) == ["done"]
    items = series(api, "from=2026-01-31T00:00:00Z&to=2026-02-01T00:00:00Z")["items"]
    assert items[0]["revenue"] == [{"currency": "EUR", "amount": "19999999999999999.99"}]
    assert top(api, "by=revenue") == [
        (second, "EUR", 100, "10000000000000000.00"),
        (first, "EUR", 100, "9999999999999999.99"),
    ]


def test_a_best_seller_has_its_name(api: Api, sold: World) -> None:
    assert answered(api.get("/analytics/products/top?limit=1"))["items"][0]["name"] == "Product 0"


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("by=name", "/by"),
        ("limit=0", "/limit"),
        ("limit=101", "/limit"),
        ("limit=1.5", "/limit"),
        ("limit=ten", "/limit"),
        ("currency=eur", "/currency"),
        ("currency=XXX", "/currency"),
        ("sort=units", "/sort"),
    ],
)
def test_best_sellers_that_cannot_be_are_refused(api: Api, query: str, pointer: str) -> None:
    refused(api.get(f"/analytics/products/top?{query}"), 422, "validation-failed", pointer)


def test_the_delivery_of_notifications(api: Api, world: World, deliver: Deliver) -> None:
    nothing = {"sent": 0, "dead": 0, "delivery_rate": None, "average_seconds": None}
    assert answered(api.get("/analytics/notifications/delivery")) == {**nothing, "by_channel": {}}
    for seconds in (1.0, 2.5):
        world.notification("sent", seconds)
    world.notification("queued")
    world.end(world.notification("dead", channel="sms"), "dead", 60.0)
    deliver()
    assert answered(api.get("/analytics/notifications/delivery")) == {
        "sent": 2,
        "dead": 1,
        "delivery_rate": 0.6667,
        "average_seconds": 1.75,
        "by_channel": {
            "email": {"sent": 2, "dead": 0, "delivery_rate": 1.0, "average_seconds": 1.75},
            "sms": {"sent": 0, "dead": 1, "delivery_rate": 0.0, "average_seconds": None},
        },
    }


@pytest.mark.parametrize("path", ["/analytics/summary", "/analytics/services", "/analytics/notifications/delivery"])
def test_an_unknown_parameter_is_refused(api: Api, path: str) -> None:
    answered(api.get(path))
    refused(api.get(f"{path}?x=1"), 422, "validation-failed", "/x")
    refused(api.post(path, {}), 405, "method-not-allowed")


def test_the_path_without_a_version_is_the_same(app: Flask, sold: World) -> None:
    assert Api(app, "/api").get("/analytics/products/top").json == Api(app).get("/analytics/products/top").json


def test_the_document_describes_every_route_and_parameter(app: Flask) -> None:
    document = app.test_client().get("/openapi.json").json
    assert document is not None
    found = {path: {p["name"] for p in item["get"]["parameters"]} for path, item in document["paths"].items()}
    assert found == {
        "/analytics/summary": set(),
        "/analytics/services": set(),
        "/analytics/orders/timeseries": {"from", "to", "interval"},
        "/analytics/products/top": {"by", "limit", "currency"},
        "/analytics/notifications/delivery": set(),
    }


def test_the_dashboard_is_one_page_that_needs_no_internet(app: Flask) -> None:
    answer = app.test_client().get("/")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in page
    assert "https://" not in page
    assert " src=" not in page
