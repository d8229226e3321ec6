"""The randomised mode: faults of every kind, drawn from a seed, while customers send requests and gossip repeats
events.

    python -m tests.chaos.storm --seed 1 --kills 1000
    python -m tests.chaos.storm --seed 1 --kills 300 --production

prints a row for the table in docs/reliability.md. A seed repeats the requests and the faults, their kinds and their
pauses; the interleaving of threads is not repeatable.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from libs.topology import SERVICES
from tests.chaos.customers import Crowd
from tests.chaos.gossip import Gossip
from tests.chaos.points import POINTS
from tests.chaos.proxy import FaultProxy
from tests.chaos.system import ChaosSystem, Engines
from tests.engines.servers import Postgres, RabbitMQ

CALM_EVERY = 50
"""After this many kills all faults end, and the state is checked."""


class Storm:
    def __init__(self, system: ChaosSystem, seed: int, **crowd: bool):
        self.system, self.seed = system, seed
        self.crowd = Crowd(system.base_port, seed, **crowd)
        self.faults: Counter[str] = Counter()
        self.kills, self.told = 0, 0
        self._random = random.Random(f"{seed}/storm")
        self._later: list[threading.Thread] = []
        self._choices: list[tuple[int, Callable[[], None]]] = [
            (40, self.kill_worker), (25, self.kill_service), (12, self.crash_point), (5, self.freeze_worker),
            (4, self.freeze_service), (5, self.cut), (4, self.slow), (3, self.stall), (3, self.refuse), (4, self.step_clock),
        ]  # fmt: skip
        if system.engines:
            self._choices += [(3, self.kill_postgres), (2, self.kill_rabbitmq)]

    def run(self, kills: int) -> list[str]:
        """Run until `kills` processes were killed; returns the first promises that were broken, or none."""
        self.crowd.prepare()
        gossip = Gossip(self.system, self.seed)
        with gossip.abroad():
            while self.kills < kills:
                wanted = min(kills, self.kills + CALM_EVERY)
                with self.crowd.at_work():
                    while self.kills < wanted:
                        self._strike()
                    self._subside()
                if violations := self.system.check(self.crowd.history):
                    return violations
        self.told = gossip.told
        return []

    def _strike(self) -> None:
        weights, faults = zip(*self._choices, strict=True)
        fault = self._random.choices(faults, weights)[0]
        fault()
        self.faults[fault.__name__] += 1
        time.sleep(self._random.uniform(0.0, 0.4))

    def _subside(self) -> None:
        for thread in self._later:
            thread.join(60)
        self._later.clear()
        self.system.heal()
        self.system.restore()

    # Kills -----------------------------------------------------------------------------------------------------

    def kill_worker(self) -> None:
        self.kills += self.system.kill_worker(self._any(), self._random)

    def kill_service(self) -> None:
        """Kill a service, and start it again a little later."""
        service = self._any()
        self.system.kill(service)
        self.kills += 1
        time.sleep(self._random.uniform(0.0, 0.5))
        self.system.start(service)

    def crash_point(self) -> None:
        """Kill a service at a crash point that it soon reaches."""
        point = self._random.choice([point for point in POINTS.values() if not point.first])
        self.system.trap.arm(point.name)
        if self.system.await_death(point.service, 1.0):
            self.kills += 1
            self.system.bury(point.service)
        self.system.trap.disarm()

    def kill_postgres(self) -> None:
        assert self.system.engines
        self.system.engines.postgres.restart()
        self.kills += 1

    def kill_rabbitmq(self) -> None:
        assert self.system.engines
        self.system.engines.rabbitmq.kill()
        self.kills += 1
        time.sleep(self._random.uniform(0.0, 1.0))
        self.system.engines.rabbitmq.start()

    # Other faults ----------------------------------------------------------------------------------------------

    def freeze_worker(self) -> None:
        self._freeze(all_of_it=False)

    def freeze_service(self) -> None:
        self._freeze(all_of_it=True)

    def _freeze(self, *, all_of_it: bool) -> None:
        self.system.freeze(self._any(), self._random.uniform(0.2, 2.0), self._random, all_of_it=all_of_it)

    def cut(self) -> None:
        self._link().cut()

    def slow(self) -> None:
        link = self._link()
        link.slow(self._random.uniform(0.01, 0.2))
        self._afterwards(link.heal)

    def stall(self) -> None:
        link = self._link()
        link.stall()
        self._afterwards(link.heal)

    def refuse(self) -> None:
        link = self._link()
        link.refuse()
        link.cut()
        self._afterwards(link.heal)

    def step_clock(self) -> None:
        self.system.clock.ahead = self._random.choice([0.0, self._random.uniform(-90.0, 90.0)])

    def _afterwards(self, heal: Callable[[], None]) -> None:
        timer = threading.Timer(self._random.uniform(0.2, 2.0), heal)
        timer.start()
        self._later.append(timer)

    def _any(self) -> str:
        return self._random.choice(SERVICES)

    def _link(self) -> FaultProxy:
        return self.system.links[self._random.choice(sorted(self.system.links))]


def row(storm: Storm, engine: str, violations: list[str]) -> str:
    """The result of a run, as a row of the table in docs/reliability.md."""
    intents = storm.crowd.history.intents
    acknowledged = sum(intent.status == 201 for intent in storm.crowd.history.of("order"))
    others = sum(storm.faults.values()) - storm.kills
    tries = sum(intent.tries for intent in intents)
    cells = [engine, storm.seed, storm.kills, others, storm.told, len(intents), tries, acknowledged, len(violations)]
    return "| " + " | ".join(map(str, cells)) + " |"


@contextmanager
def _engines(production: bool) -> Iterator[Engines | None]:
    if not production:
        yield None
        return
    postgres, rabbitmq = Postgres(), RabbitMQ()
    try:
        rabbitmq.start()
        yield Engines.new(postgres, rabbitmq)
    finally:
        rabbitmq.stop()
        postgres.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--production", action="store_true", help="on PostgreSQL and RabbitMQ")
    parser.add_argument("--base-port", type=int, default=19100)
    given = parser.parse_args()
    engine = "PostgreSQL, RabbitMQ" if given.production else "SQLite, HTTP"
    directory = Path(tempfile.mkdtemp(prefix="quintet-storm-"))
    with _engines(given.production) as engines, ChaosSystem(given.base_port, directory, engines) as system:
        storm = Storm(system, given.seed)
        violations = storm.run(given.kills)
        print(row(storm, engine, violations))
        print(dict(storm.faults))
        for violation in violations:
            print(violation)
    if violations:
        print(f"seed {given.seed}; databases and logs are in {directory}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
