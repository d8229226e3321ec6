"""The CPU time of an order in proportion to that of a fixed piece of work, which hardly depends on the machine.

`python -m tests.load.costs 10` measures it ten times, each with a new system, and prints the medians and the bound that
tests/load/test_costs.py should have.
"""

import sys
from collections.abc import Callable
from statistics import mean, median
from typing import NamedTuple

from libs.topology import SERVICES
from tests.load.calibration import pass_ms
from tests.load.deployment import Deployment, LoadError, check_orders
from tests.load.launched import launched
from tests.load.measure import Result, measure
from tests.load.processes import ProcessTree

FLOWS = ("orders", "keyed", "orders3")
CLIENTS, MANY_CLIENTS = 16, 64
ROUNDS = 3
WARM_UP_SECONDS, SECONDS = 0.8, 1.5
USERS, PRODUCTS, ORDERS = 100, 200, 50
SLACK = 1.6
"""A doubling of the cost exceeds the bound, and what other programs do to the measurement does not."""


class Costs(NamedTuple):
    passes: list[float]
    """CPU milliseconds of a pass of the calibration loop, before and after each round."""
    rounds: list[dict[str, Result]]
    many: list[Result]
    """Orders of many clients."""

    @property
    def order(self) -> float:
        """Passes that cost as much CPU as an order."""
        around = [mean(pair) for pair in zip(self.passes, self.passes[1:], strict=False)]
        return median(one["orders"].cpu_ms / ms for one, ms in zip(self.rounds, around, strict=True))

    @property
    def keyed(self) -> float:
        """What an order with an Idempotency-Key costs in proportion to one without."""
        return self._cpu_ms("keyed") / self._cpu_ms("orders")

    @property
    def three_lines(self) -> float:
        """What an order of three lines costs in proportion to one of one line."""
        return self._cpu_ms("orders3") / self._cpu_ms("orders")

    def _cpu_ms(self, flow: str) -> float:
        """Of the cheapest round, since other programs can only make one dearer."""
        return min(one[flow].cpu_ms for one in self.rounds)

    @property
    def tails(self) -> tuple[float, float]:
        """With few and with many clients, in seconds. The shortest, since other programs can only lengthen it."""
        return min(one["orders"].tail_seconds for one in self.rounds), min(one.tail_seconds for one in self.many)

    def __repr__(self) -> str:
        few, many = self.tails
        return (
            f"order {self.order:.2f} passes of {median(self.passes):.2f} ms, keyed x {self.keyed:.2f}, three lines "
            f"x {self.three_lines:.2f}, tail {few:.2f} s with {CLIENTS} clients and {many:.2f} s with {MANY_CLIENTS}"
        )


def measure_costs() -> Costs:
    """Of a new system with one worker for each service, on SQLite. Raises LoadError if an answer is wrong."""
    with launched(WEB_CONCURRENCY="1") as system:
        deployment = Deployment([system.quintet.url(service) for service in SERVICES])
        processes = ProcessTree([system.pid])
        catalogue = deployment.fill(USERS, PRODUCTS, ORDERS)

        def drive(flow: str, clients: int = CLIENTS, seconds: float = SECONDS) -> Result:
            return measure(deployment, catalogue, flow, clients, seconds, processes)

        for flow in FLOWS:
            drive(flow, seconds=WARM_UP_SECONDS)
        passes, rounds = [pass_ms()], []
        for number in range(ROUNDS):
            # In turns, since what else the machine does, and the size of the database, change meanwhile.
            rounds.append({flow: drive(flow) for flow in FLOWS[:: -1 if number % 2 else 1]})
            passes.append(pass_ms())
        many = [drive(FLOWS[0], MANY_CLIENTS) for _ in range(2)]
        results = [*many, *(result for one in rounds for result in one.values())]
        if wrong := [result.failures for result in results if result.failures]:
            raise LoadError("; ".join(wrong))
        check_orders(deployment, catalogue)
        return Costs(passes, rounds, many)


def main() -> None:
    found = []
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        found.append(measure_costs())
        print(found[-1], flush=True)
    figures: dict[str, Callable[[Costs], float]] = {
        "order": lambda costs: costs.order,
        "keyed": lambda costs: costs.keyed,
        "three lines": lambda costs: costs.three_lines,
    }
    for name, figure in figures.items():
        values = [figure(costs) for costs in found]
        print(f"{name}: {min(values):.2f} to {max(values):.2f}, median {median(values):.2f}")
    print(f"bound of an order: {SLACK * median(costs.order for costs in found):.1f} passes")


if __name__ == "__main__":
    main()
