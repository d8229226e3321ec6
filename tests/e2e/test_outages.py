"""The other services while one service is down, and the data after it is back."""

import time
from uuid import uuid4

from demo.api import eventually
from libs.topology import SERVICES
from tests.e2e.shop import Json, Shop, Units, answered, refused
from tests.e2e.system import System

BACKOFF_SECONDS = 15.0
"""Longer than any pause of a relay or a recovery job."""


def place(shop: Shop, user: Json, laptop: Json, count: int) -> tuple[list[Json], float]:
    """Place `count` orders sequentially; returns them and the shortest response time in seconds, since other programs
    may slow the machine down.
    """
    orders, seconds = [], []
    for _ in range(count):
        started = time.perf_counter()
        orders.append(answered(shop.order(user, laptop), 201))
        seconds.append(time.perf_counter() - started)
    return orders, min(seconds)


def confirmations(shop: Shop, orders: list[Json]) -> list[list[str]]:
    return [[one["status"] for one in shop.notifications(order)] for order in orders]


def test_orders_do_not_wait_for_the_notification_service(system: System, shop: Shop) -> None:
    user, laptop = shop.known_user(), shop.new_product(1000)
    place(shop, user, laptop, 10)
    _, usual = place(shop, user, laptop, 40)

    with system.without("notification"):
        orders, meanwhile = place(shop, user, laptop, 40)

    assert meanwhile < 2 * usual + 0.005
    assert eventually(lambda: confirmations(shop, orders) == [["sent"]] * 40, BACKOFF_SECONDS)
    assert eventually(lambda: not shop.waiting("notification"), BACKOFF_SECONDS)
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

    assert eventually(lambda: not shop.waiting("product"), BACKOFF_SECONDS)
    assert shop.units(laptop) == Units(stock=25, reserved=0, sold=0)
    # Each process detects on its own, within seconds, that the product service is back.
    order = answered(eventually(lambda: shop.order(user, laptop, Idempotency_Key=key)), 201)
    assert order["id"] != rejected["id"]
    assert shop.units(laptop) == Units(stock=24, reserved=1, sold=0)


def test_services_start_in_any_order_and_find_each_other(system: System, shop: Shop) -> None:
    """Each is healthy before its dependencies are up, and reaches them once they are."""
    system.stop(*SERVICES)
    for service in ("analytics", "notification", "order", "product", "user"):
        system.start(service)

    user, laptop = shop.new_user(), shop.new_product(25)
    orders, _ = place(shop, user, laptop, 1)
    assert eventually(lambda: confirmations(shop, orders) == [["sent"]], BACKOFF_SECONDS)
    assert eventually(lambda: not shop.get("analytics", "/analytics/summary")["degraded"], BACKOFF_SECONDS)


def workers_that_stopped(system: System) -> int:
    """How many workers of the order service have exited so far without SIGKILL."""
    return (system.log_dir / "order.log").read_text().count('"event":"worker.stopped"')


def test_a_stopped_service_finishes_what_runs_and_hands_back_its_leases(system: System, shop: Shop) -> None:
    """A lease that is not released blocks its events for half a minute."""
    user, laptop = shop.known_user(), shop.new_product(1000)
    orders, _ = place(shop, user, laptop, 20)
    before = workers_that_stopped(system)
    system.stop("order")
    assert workers_that_stopped(system) == before + system.workers
    system.start("order")
    assert eventually(lambda: confirmations(shop, orders) == [["sent"]] * 20)
