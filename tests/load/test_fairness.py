"""One worker serves its connections alike: none is starved, and none delays the others by more than its share."""

import time
from collections.abc import Iterator
from itertools import repeat
from statistics import mean, median

import pytest

from libs.topology import SERVICES
from tests.load.deployment import Deployment
from tests.load.flows import FLOWS
from tests.load.generator import Crowd
from tests.load.launched import launched
from tests.load.measure import Result, measure

pytestmark = pytest.mark.timeout(300)

ATTEMPTS = 3
"""What else the machine does can only make a measurement worse, so that the best of these counts."""
SECONDS = {16: 2.0, 64: 4.0}
"""For each number of clients, so that each client gets some answers."""
SLOWEST = 6
"""The 99th percentile of the response times in proportion to their median."""
STARVED = 1 / 3
"""The fewest answers of a connection in proportion to the mean."""
PIPELINED = 300
DELAY_SECONDS = 0.02
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"

each_flow = pytest.mark.parametrize("flow", ["order-reads", "order-pages", "orders", "mixed"])
each_number = pytest.mark.parametrize("clients", SECONDS)


class Running:
    def __init__(self, deployment: Deployment):
        self.deployment = deployment
        self.catalogue = deployment.fill(users=50, products=100, orders=100)
        self._measured: dict[tuple[str, int], list[Result]] = {}

    def attempts(self, flow: str, clients: int) -> Iterator[Result]:
        """Measurements, made when they are needed and kept for the other tests."""
        made = self._measured.setdefault((flow, clients), [])
        for number in range(ATTEMPTS):
            if number == len(made):
                made.append(measure(self.deployment, self.catalogue, flow, clients, SECONDS[clients]))
                assert not made[-1].failures
            yield made[number]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with launched(WEB_CONCURRENCY="1") as system:
        made = Running(Deployment([system.quintet.url(service) for service in SERVICES]))
        measure(made.deployment, made.catalogue, "mixed", 16, 2.0)  # warms up
        yield made


@each_number
@each_flow
def test_the_slowest_answers_take_a_few_times_as_long_as_most(running: Running, flow: str, clients: int) -> None:
    def is_even(found: Result) -> bool:
        p50, p99 = found.quantile_ms(0.5), found.quantile_ms(0.99)
        print(f"p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        return p99 < SLOWEST * p50

    assert any(map(is_even, running.attempts(flow, clients)))


@each_number
@each_flow
def test_no_connection_is_starved(running: Running, flow: str, clients: int) -> None:
    def is_fair(found: Result) -> bool:
        counts = found.by_client
        print(f"{min(counts)} to {max(counts)} answers for a connection, {mean(counts):.1f} on average")
        return min(counts) >= STARVED * mean(counts)

    assert any(map(is_fair, running.attempts(flow, clients)))


def test_a_busy_connection_does_not_delay_another(running: Running) -> None:
    """It has sent many requests at once, which the worker can read without waiting for the client."""
    address = running.deployment.address("order")
    requests = b"".join(FLOWS["order-reads"].request(running.catalogue) for _ in range(PIPELINED))
    alone = median(livez_seconds(address) for _ in range(20))

    def is_delayed() -> bool:
        busy = Crowd(address, repeat(requests), 1)
        busy.send(busy.now())
        time.sleep(0.02)  # it is being served
        delay = livez_seconds(address) - alone
        busy.finish()
        print(f"/livez took {delay * 1000:.1f} ms longer than the usual {alone * 1000:.1f} ms")
        return delay > DELAY_SECONDS

    assert not all(is_delayed() for _ in range(ATTEMPTS))


def livez_seconds(address: tuple[str, int]) -> float:
    crowd = Crowd(address, repeat(LIVEZ), 1)
    crowd.send(crowd.now())
    (answer,) = crowd.finish()
    assert answer.status == 200
    return answer.seconds
