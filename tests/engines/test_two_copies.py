"""Two copies of each service on the same databases and the same broker, behind nginx as a round-robin balancer: clients
and other services see one service.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo.api import Quintet, eventually
from demo.walk import STEPS, Walk, take
from libs.topology import PORT_OFFSETS
from tests.e2e.shop import Shop
from tests.e2e.system import System
from tests.e2e.test_races import (
    test_200_simultaneous_requests_with_one_key_make_one_order,
    test_cancelling_and_shipping_at_one_moment_leaves_one_winner,
)
from tests.engines.servers import Nginx
from tests.engines.test_whole_system import BASE_PORT

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.timeout(240)]

FRONT, FIRST, SECOND = BASE_PORT + 10, BASE_PORT + 20, BASE_PORT + 30

once = test_200_simultaneous_requests_with_one_key_make_one_order
one_winner = test_cancelling_and_shipping_at_one_moment_leaves_one_winner
# Otherwise pytest would run them with the fixtures of this module as well.
del test_200_simultaneous_requests_with_one_key_make_one_order
del test_cancelling_and_shipping_at_one_moment_leaves_one_winner


@pytest.fixture(scope="module")
def copies(engines: Path, fresh_broker: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[System]]:
    """Each copy knows the other services by the ports of nginx only."""
    directory = tmp_path_factory.mktemp("copies")
    lines = [f"{name.upper()}_SERVICE_URL=http://127.0.0.1:{FRONT + n}" for name, n in PORT_OFFSETS.items()]
    lines += ["WEB_CONCURRENCY=1"]
    (directory / "env").write_text("\n".join([engines.read_text(), *lines]))
    nginx = Nginx({FRONT + n: [FIRST + n, SECOND + n] for n in PORT_OFFSETS.values()})
    os.environ["TEST_E2E_ENV_FILE"] = str(directory / "env")
    try:
        nginx.start()
        with System(FIRST, directory / "first") as first, System(SECOND, directory / "second") as second:
            assert eventually(lambda: all(is_well(copy) for copy in (first, second)), 30)
            yield [first, second]
    finally:
        os.environ["TEST_E2E_ENV_FILE"] = str(engines)
        nginx.stop()


def is_well(system: System) -> bool:
    shop = Shop(system.api)
    parts = [shop.get(service, "/health")["status"] for service in PORT_OFFSETS]
    return set(parts) == {"healthy"} and not shop.get("analytics", "/analytics/summary")["degraded"]


@pytest.fixture
def front(copies: list[System]) -> Any:
    """A client of the ports of nginx."""
    return SimpleNamespace(base_port=FRONT)


def requests_of(system: System, service: str) -> int:
    """How many requests this copy of a service has answered."""
    return (system.log_dir / f"{service}.log").read_text().count('"event":"request"')


def test_the_walk_goes_through_and_both_copies_take_part(copies: list[System]) -> None:
    walk = Walk(Quintet(FRONT))
    for step in STEPS:
        take(step, walk)
    for service in PORT_OFFSETS:
        assert eventually(lambda service=service: all(requests_of(copy, service) > 1 for copy in copies), 10)  # type: ignore[misc]


def test_200_simultaneous_requests_with_one_key_make_one_order_over_both(front: Any) -> None:
    once(front, Shop(Quintet(FRONT)))


def test_one_of_cancelling_and_shipping_wins_over_both(front: Any) -> None:
    one_winner(front, Shop(Quintet(FRONT)))


def test_one_copy_of_each_is_enough(copies: list[System]) -> None:
    shop = Shop(Quintet(SECOND))
    order = shop.order(shop.new_user(), shop.new_product()).json()
    assert eventually(lambda: [one["status"] for one in shop.notifications(order)] == ["sent"], 10)
