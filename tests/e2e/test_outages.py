"""What the others do while one service is down, and what is left when it is back."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from statistics import median
from uuid import uuid4

import pytest
import requests

from demo.api import Quintet, eventually
from libs.topology import SERVICES
from tests.e2e.shop import Json, Shop, Units, answered, refused
from tests.e2e.system import System

BACKOFF_SECONDS = 15.0
"""Longer than any pause of a relay or a recovery job."""
LEASE_SECONDS = 75.0
"""Longer than any lease that a killed process leaves behind."""


def place(shop: Shop, user: Json, laptop: Json, count: int) -> tuple[list[Json], float]:
    """That many orders, one after the other, and the median of their times in seconds."""
    orders, seconds = [], []
    for _ in range(count):
        started = time.perf_counter()
        orders.append(answered(shop.order(user, laptop), 201))
        seconds.append(time.perf_counter() - started)
    return orders, median(seconds)


def confirmations(shop: Shop, orders: list[Json]) -> list[list[str]]:
    return [[one["status"] for one in shop.notifications(order)] for order in orders]


def sent_to(system: System, subscriber: str) -> bool:
    """Whether no event waits any more for the subscriber."""
    health = [answered(system.api.get(service, "/health"), 200) for service in ("user", "order", "notification")]
    return not any(each["checks"]["events"]["pending"].get(subscriber) for each in health)


def test_orders_do_not_wait_for_the_notification_service(system: System, shop: Shop) -> None:
    user, laptop = shop.known_user(), shop.new_product(1000)
    place(shop, user, laptop, 10)
    _, usual = place(shop, user, laptop, 40)

    with system.without("notification"):
        orders, meanwhile = place(shop, user, laptop, 40)

    assert meanwhile < 2 * usual + 0.005
    assert eventually(lambda: confirmations(shop, orders) == [["sent"]] * 40, BACKOFF_SECONDS)
    assert eventually(lambda: sent_to(system, "notification"), BACKOFF_SECONDS)
    assert confirmations(shop, orders) == [["sent"]] * 40


def test_known_users_order_without_the_user_service_and_unknown_ones_are_told_the_truth(
    system: System, shop: Shop
) -> None:
    known, laptop = shop.known_user(), shop.new_product(25)
    stranger = {"id": str(uuid4())}

    with system.without("user"):
        order = answered(shop.order(known, laptop), 201)
        refused(shop.order(stranger, laptop), 503, "dependency-unavailable")

    assert eventually(lambda: confirmations(shop, [order]) == [["sent"]], BACKOFF_SECONDS)
    refused(shop.order(stranger, laptop), 422, "unknown-user")
    assert shop.orders_of(stranger) == []
    assert shop.units(laptop) == Units(stock=24, reserved=1, sold=0)


def test_without_the_product_service_orders_are_put_off_and_nothing_leaks(system: System, shop: Shop) -> None:
    user, laptop = shop.known_user(), shop.new_product(25)
    before = shop.stats()["order"]["total"]
    key = uuid4().hex

    with system.without("product"):
        refused(shop.order(user, laptop, Idempotency_Key=key), 503, "dependency-unavailable")
        assert shop.get("order", "/orders/stats")["total"] == before
        [rejected] = shop.orders_of(user, "rejected")
        assert rejected["rejection"]["code"] == "dependency-unavailable"

    assert eventually(lambda: sent_to(system, "product"), BACKOFF_SECONDS)
    assert shop.units(laptop) == Units(stock=25, reserved=0, sold=0)
    order = answered(shop.order(user, laptop, Idempotency_Key=key), 201)
    assert order["id"] != rejected["id"]
    assert shop.units(laptop) == Units(stock=24, reserved=1, sold=0)


def test_a_dead_service_neither_fails_the_summary_nor_becomes_a_zero(system: System, shop: Shop) -> None:
    shop.new_product(25)
    known = shop.get("analytics", "/analytics/summary")["products"]

    system.kill("product")
    summary = shop.get("analytics", "/analytics/summary")
    services = shop.get("analytics", "/analytics/services")["services"]
    system.start("product")

    assert summary["degraded"]
    assert summary["products"] == {**known, "state": "stale"}
    assert [summary[part]["state"] for part in ("users", "orders", "notifications")] == ["live"] * 3
    statuses = {each["service"]: each["status"] for each in services}
    assert statuses == {**dict.fromkeys(SERVICES, "healthy"), "product": "unavailable"}
    assert shop.get("analytics", "/analytics/summary")["products"]["state"] == "live"


def test_without_all_others_the_summary_still_answers_in_time(system: System, shop: Shop) -> None:
    shop.get("analytics", "/analytics/summary")
    others = ("user", "product", "order", "notification")
    system.kill(*others)
    started = time.monotonic()
    summary = shop.get("analytics", "/analytics/summary")
    seconds = time.monotonic() - started
    system.start(*others)
    assert {summary[part]["state"] for part in ("users", "products", "orders", "notifications")} == {"stale"}
    assert seconds < 2.5


def test_a_stopped_service_finishes_what_runs_and_hands_back_its_leases(system: System, shop: Shop) -> None:
    """A lease that is not handed back holds up its events for half a minute."""
    user, laptop = shop.known_user(), shop.new_product(1000)
    orders, _ = place(shop, user, laptop, 20)
    started = time.monotonic()
    system.stop("order")
    assert time.monotonic() - started < 3
    system.start("order")
    assert eventually(lambda: confirmations(shop, orders) == [["sent"]] * 20, 5)


@contextmanager
def ordering(shop: Shop, user: Json, laptop: Json) -> Iterator[list[str]]:
    """Eight customers who order all the time; what they get is the ids of the orders that were acknowledged."""
    acknowledged: list[str] = []
    over = threading.Event()

    def order() -> None:
        customer = Shop(Quintet(shop.api.base_port))
        while not over.wait(0.02):
            with suppress(requests.RequestException):
                answer = customer.order(user, laptop)
                if answer.status_code == 201:
                    acknowledged.append(answer.json()["id"])

    customers = [threading.Thread(target=order) for _ in range(8)]
    for customer in customers:
        customer.start()
    try:
        yield acknowledged
    finally:
        over.set()
        for customer in customers:
            customer.join()


@pytest.mark.parametrize("victim", ["user", "product", "order", "notification"])
def test_what_was_acknowledged_survives_sigkill_under_load(system: System, shop: Shop, victim: str) -> None:
    user, laptop = shop.new_user(), shop.new_product(100_000)

    with ordering(shop, user, laptop) as acknowledged:
        assert eventually(lambda: len(acknowledged) > 40, 30)
        system.kill(victim)
        system.start(victim)
        wanted = len(acknowledged) + 40
        assert eventually(lambda: len(acknowledged) > wanted, 30)

    assert eventually(lambda: not shop.orders_of(user, "pending"), LEASE_SECONDS)
    confirmed = {order["id"] for order in shop.orders_of(user, "confirmed")}
    assert set(acknowledged) <= confirmed
    units = Units(stock=100_000 - len(confirmed), reserved=len(confirmed), sold=0)
    assert eventually(lambda: shop.units(laptop) == units, LEASE_SECONDS)
    assert eventually(lambda: told(shop, user) == dict.fromkeys(confirmed, 1), LEASE_SECONDS)


def told(shop: Shop, user: Json) -> Counter[str]:
    """Order → how many notifications of it were sent."""
    return Counter(one["order_id"] for one in shop.notifications_of(user) if one["status"] == "sent")
