"""Each crash point kills its service under load, and every promise holds afterwards."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from demo.api import eventually
from tests.chaos.conftest import LONG, Start
from tests.chaos.customers import Crowd
from tests.chaos.points import POINTS, Point
from tests.chaos.system import ChaosSystem

pytestmark = pytest.mark.timeout(300)

DEATH_SECONDS = 20.0
PROGRESS = 25


class Shop(NamedTuple):
    system: ChaosSystem
    crowd: Crowd


@pytest.fixture(scope="module")
def shop(start: Start) -> Iterator[Shop]:
    with start() as system:
        crowd = Crowd(system.base_port, seed=4)
        crowd.prepare()
        yield Shop(system, crowd)
        # The tests run in any order; the state that they leave is checked last.
        assert system.check(crowd.history) == []


def die_at(system: ChaosSystem, point: Point) -> None:
    system.trap.arm(point.name)
    assert system.await_death(point.service, DEATH_SECONDS), f"nobody came to {point.name}"
    system.bury(point.service)


def die_after(crowd: Crowd, system: ChaosSystem, point: Point) -> None:
    """Kill until the first crash leaves work for the second: an order whose client does not retry."""
    crowd.hasty = True
    # Orders that are in progress now will be retried by their clients, and left alone by recovery.
    time.sleep(1.0)
    for _ in range(5):
        die_at(system, POINTS[point.first])
        system.trap.arm(point.name)
        if system.await_death(point.service, DEATH_SECONDS / 2):
            break
    crowd.hasty = False
    assert system.died(point.service), f"nobody came to {point.name}"
    system.bury(point.service)


def acknowledged(crowd: Crowd) -> int:
    return sum(intent.status == 201 for intent in crowd.history.of("order"))


@pytest.mark.parametrize("name", POINTS)
def test_a_service_may_die_here(shop: Shop, name: str) -> None:
    system, crowd, point = *shop, POINTS[name]
    if point.transport and point.transport != ("broker" if system.engines else "http"):
        pytest.skip("it belongs to the other transport")
    if system.engines and not LONG:
        pytest.skip("on these engines only with LONG=1")
    with crowd.at_work():
        if point.first:
            die_after(crowd, system, point)
        else:
            die_at(system, point)
        wanted = acknowledged(crowd) + PROGRESS
        assert eventually(lambda: acknowledged(crowd) > wanted, 30), "no order goes through any more"
    if LONG:
        assert system.check(crowd.history) == []
