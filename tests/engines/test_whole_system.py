"""The five services with four workers each on PostgreSQL, RabbitMQ and Redis: the races and failures of the e2e tests,
and the loss of each engine under load.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import requests

from demo.api import Quintet, eventually
from libs.common.events import broker
from libs.topology import SUBSCRIPTIONS
from tests.cloudevents import faults
from tests.e2e import test_crashes
from tests.e2e.shop import Json, Shop, Units
from tests.e2e.system import System
from tests.e2e.test_crashes import LEASE_SECONDS, ordering, sent_by_order
from tests.e2e.test_orders import (  # noqa: F401 - they are run here on other engines
    test_a_new_user_orders_one_laptop_of_25,
    test_an_order_that_is_cancelled_gives_back_what_it_holds,
    test_an_order_that_is_shipped_turns_what_it_holds_into_sold_units,
    test_the_best_sellers_and_the_time_series_follow_the_orders,
    test_the_confirmation_is_rendered_and_recorded_within_a_second,
    test_who_is_deleted_can_order_no_more_and_leaves_no_open_order,
)
from tests.e2e.test_outages import (  # noqa: F401
    test_a_stopped_service_finishes_what_runs_and_hands_back_its_leases,
    test_known_users_order_without_the_user_service_and_unknown_ones_are_told_the_truth,
    test_orders_do_not_wait_for_the_notification_service,
    test_without_the_product_service_orders_are_put_off_and_nothing_leaks,
)
from tests.e2e.test_races import (  # noqa: F401
    test_200_simultaneous_requests_with_one_key_make_one_order,
    test_500_simultaneous_orders_sell_a_stock_of_100_exactly,
    test_cancelling_and_shipping_at_one_moment_leaves_one_winner,
    test_one_key_makes_one_user_however_many_send_it,
    test_orders_for_the_same_products_in_any_order_never_block_each_other,
)
from tests.e2e.test_wire import let_everything_happen
from tests.engines import consumers
from tests.engines.servers import Postgres, RabbitMQ

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.timeout(240)]

BASE_PORT = int(os.environ.get("TEST_ENGINES_BASE_PORT") or 18900)
OUTAGE_SECONDS = 60.0 if os.environ.get("LONG") else 10.0
STOCK = 100_000


@pytest.fixture(scope="module")
def running(engines: Path, fresh_broker: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(BASE_PORT, tmp_path_factory.mktemp("quintet")) as system:
        shop = Shop(system.api)
        assert eventually(lambda: not shop.get("analytics", "/analytics/summary")["degraded"], 30)
        yield system


@pytest.fixture
def system(running: System) -> Iterator[System]:
    """Services that the test leaves stopped are started again."""
    yield running
    running.restore()


@pytest.fixture
def shop(system: System) -> Shop:
    return Shop(system.api)


def check(shop: Shop, user: Json, laptop: Json, acknowledged: set[str]) -> None:
    """Wait until the system is idle, then check: every acknowledged order exists once, and each confirmed one has taken
    its unit, got its notification and is counted, once.
    """
    assert eventually(lambda: not shop.orders_of(user, "pending"), LEASE_SECONDS)
    confirmed = [order["id"] for order in shop.orders_of(user, "confirmed")]
    assert len(confirmed) == len(set(confirmed))
    assert acknowledged <= set(confirmed)
    units = Units(stock=STOCK - len(confirmed), reserved=len(confirmed), sold=0)
    assert eventually(lambda: shop.units(laptop) == units, LEASE_SECONDS), shop.units(laptop)
    assert eventually(lambda: sent_by_order(shop, user) == dict.fromkeys(confirmed, 1), LEASE_SECONDS)
    assert eventually(lambda: counted(shop, laptop) == len(confirmed), LEASE_SECONDS), counted(shop, laptop)
    for service in ("order", "notification", "product", "analytics", "user"):
        assert shop.get(service, "/health")["checks"]["events"]["dead_letters"] == 0


def test_every_event_on_the_exchange_is_a_cloud_event_and_true_to_its_schema(shop: Shop, rabbitmq: RabbitMQ) -> None:
    """As an external consumer gets them, events without a subscriber included."""
    heard: list[Any] = []
    with consumers.channel(rabbitmq.url) as listener:
        queue = listener.queue_declare(exclusive=True).queue
        listener.queue_bind(queue, broker.events.name, "#")
        let_everything_happen(shop)

        def all_types() -> bool:
            while message := listener.basic_get(queue, no_ack=True):
                heard.append(message)
            return {message.delivery_info["routing_key"] for message in heard} == set(SUBSCRIPTIONS)

        assert eventually(all_types, 30)
    for message in heard:
        event = orjson.loads(message.body)
        assert faults(event) == []
        assert message.delivery_info["routing_key"] == event["type"]
        assert message.properties["content_type"] == broker.EVENT_JSON


def counted(shop: Shop, laptop: Json) -> int:
    """How many sold units of a product analytics has counted."""
    top = shop.get("analytics", "/analytics/products/top?by=units&limit=100")["items"]
    return sum(item["units"] for item in top if item["product_id"] == laptop["id"])


def test_acknowledged_orders_survive_the_sigkill_of_the_order_service(system: System, shop: Shop) -> None:
    test_crashes.test_what_was_acknowledged_survives_sigkill_under_load(system, shop, "order")


def test_orders_are_accepted_while_rabbitmq_is_down_and_nothing_is_lost(shop: Shop, rabbitmq: RabbitMQ) -> None:
    user, laptop = shop.new_user(), shop.new_product(STOCK)
    with ordering(shop, user, laptop) as acknowledged:
        assert eventually(lambda: len(acknowledged) > 40, 30)
        rabbitmq.kill()
        before, back_at = len(acknowledged), time.monotonic() + OUTAGE_SECONDS
        assert eventually(lambda: len(acknowledged) > before + 40, 30)
        assert shop.get("order", "/health")["status"] in ("healthy", "degraded")
        eventually(lambda: time.monotonic() > back_at, OUTAGE_SECONDS + 1)
        meanwhile = len(acknowledged)
        rabbitmq.start()
        assert eventually(lambda: len(acknowledged) > meanwhile + 40, 30)
    check(shop, user, laptop, set(acknowledged))


@contextmanager
def persistent(shop: Shop, user: Json, laptop: Json) -> Iterator[list[str]]:
    """Eight customers who send each order with a key, again and again until it is answered with 201."""
    acknowledged: list[str] = []
    over = threading.Event()

    def order() -> None:
        customer = Shop(Quintet(shop.api.base_port))
        while not over.wait(0.02):
            key = uuid4().hex
            assert eventually(lambda key=key: sent(customer, key), 60)  # type: ignore[misc]

    def sent(customer: Shop, key: str) -> bool:
        with suppress(requests.RequestException):
            answer = customer.order(user, laptop, Idempotency_Key=key)
            assert answer.status_code in (201, 409, 503, 504), answer.text
            if answer.status_code == 201:
                acknowledged.append(answer.json()["id"])
                return True
        return False

    customers = [threading.Thread(target=order) for _ in range(8)]
    for customer in customers:
        customer.start()
    try:
        yield acknowledged
    finally:
        over.set()
        for customer in customers:
            customer.join()


def test_postgresql_restarted_under_load_loses_and_doubles_nothing(shop: Shop, postgres: Postgres) -> None:
    user, laptop = shop.new_user(), shop.new_product(STOCK)
    with persistent(shop, user, laptop) as acknowledged:
        assert eventually(lambda: len(acknowledged) > 40, 30)
        postgres.restart()
        wanted = len(acknowledged) + 100
        assert eventually(lambda: len(acknowledged) > wanted, 60)
    assert len(acknowledged) == len(set(acknowledged))
    check(shop, user, laptop, set(acknowledged))
    # Each key was sent until it was acknowledged: any further confirmed order is a duplicate.
    assert {order["id"] for order in shop.orders_of(user, "confirmed")} == set(acknowledged)
