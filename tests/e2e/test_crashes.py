"""The effects of killed services on the others and on the data. On a separate system, since a process that is killed
leaves leases that only time ends, and loses its coverage data.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import requests

from demo.api import Quintet, eventually
from libs.topology import SERVICES
from tests.e2e.conftest import BASE_PORT
from tests.e2e.shop import Json, Shop, Units
from tests.e2e.system import System

LEASE_SECONDS = 75.0
"""Longer than any lease of a killed process."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    # A short deadline, since recovery leaves abandoned orders alone until it is over.
    with System(BASE_PORT + 50, tmp_path_factory.mktemp("mortal"), REQUEST_DEADLINE_SECONDS="5") as system:
        yield system


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
    assert eventually(lambda: shop.get("analytics", "/analytics/summary")["products"]["state"] == "live")


def test_without_all_others_the_summary_still_answers_in_time(system: System, shop: Shop) -> None:
    shop.get("analytics", "/analytics/summary")
    others = ("user", "product", "order", "notification")
    system.kill(*others)
    started = time.monotonic()
    summary = shop.get("analytics", "/analytics/summary")
    seconds = time.monotonic() - started
    system.start(*others)
    assert {summary[part]["state"] for part in ("users", "products", "orders", "notifications")} == {"stale"}
    assert seconds < 4


@contextmanager
def ordering(shop: Shop, user: Json, laptop: Json) -> Iterator[list[str]]:
    """Eight customers who order continuously; yields the ids of the acknowledged orders."""
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
    assert eventually(lambda: sent_by_order(shop, user) == dict.fromkeys(confirmed, 1), LEASE_SECONDS)


def sent_by_order(shop: Shop, user: Json) -> Counter[str]:
    """Order → how many notifications of it were sent."""
    return Counter(one["order_id"] for one in shop.notifications_of(user) if one["status"] == "sent")
