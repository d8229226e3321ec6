"""Measures the system under load, and checks what it has answered:

    make bench                                                     # starts a system of its own
    make bench FLOWS=orders,keyed CONC=16 ROUNDS=5
    make bench URLS=http://10.0.0.5:8001,http://10.0.0.5:8002,...  # measures one that runs
    python -m tests.load --urls http://127.0.0.1:9000 --pids 4711

The variables FLOWS, CONC, ROUNDS, DURATION, URLS, PIDS and FLAME are the defaults of the options.

Each flow (tests/load/flows.py) is driven with each number of clients, in a closed loop: a client sends its next request
as soon as the last one is answered. One line of the table is the median of the rounds. `CPU ms` is the user and system
time that all processes of the services have spent on a request, until the last event has been taken and the last
notification sent; how long that took after the last answer is the `tail`. `PSS MiB` is their memory afterwards. That of
the load generator is not in it.

It needs no package that the services do not. With `--urls` it measures a deployment that runs: five base URLs in the
order of the services' ports, or one for all. That need not be this project: a service that offers the operations of a
flow can be compared with it. CPU and memory are then those of the processes in `--pids`, and of their children; without
these they are not known.

In the end every order that was acknowledged must be there, and no other, and the stock of the products, all created for
this, must add up. The exit status is 1 if they do not, or if a request had another answer than it should.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import product
from pathlib import Path
from platform import python_version
from statistics import median
from typing import NamedTuple

from libs.topology import SERVICES
from tests.load.deployment import Deployment, LoadError, check_orders
from tests.load.flame import flame_graph
from tests.load.flows import FLOWS
from tests.load.launched import launched
from tests.load.measure import Result, measure
from tests.load.processes import ProcessTree, listener

USERS, PRODUCTS, ORDERS = 200, 1000, 200
WARM_UP_SECONDS = 3.0
WARM_UP_CLIENTS = 16
TITLES = ("flow", "clients", "requests/s", "p50 ms", "p99 ms", "CPU ms", "tail s", "start s", "PSS MiB")
UNKNOWN = "-"


class Options(NamedTuple):
    flows: list[str]
    clients: list[int]
    rounds: int
    seconds: float
    urls: list[str]
    pids: list[int]
    flame: str


class Target(NamedTuple):
    """What is measured."""

    deployment: Deployment
    processes: ProcessTree | None
    start_seconds: float | None


def options(arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description="Measures the system under load.")
    for name, default, text in (
        ("flows", ",".join(FLOWS), "names, comma separated"),
        ("conc", "1,16,64", "numbers of clients, comma separated"),
        ("rounds", "3", "how often everything is measured"),
        ("duration", "3", "seconds of one measurement"),
        ("urls", "", "base URLs of a deployment that runs, one for all services or one for each, comma separated"),
        ("pids", "", "its processes, comma separated; their children are included"),
        ("flame", "", "a file for a flame graph of the order service, which needs py-spy"),
    ):
        variable = name.upper()
        parser.add_argument(
            f"--{name}", default=os.environ.get(variable) or default, help=f"{text} (default {default or 'none'})"
        )
    given = parser.parse_args(arguments)
    try:
        found = Options(
            _split(given.flows), [int(number) for number in _split(given.conc)], int(given.rounds),
            float(given.duration), _split(given.urls), [int(pid) for pid in _split(given.pids)], given.flame,
        )  # fmt: skip
    except ValueError as exc:
        parser.error(str(exc))
    if unknown := set(found.flows) - set(FLOWS):
        parser.error(f"there are no flows {', '.join(sorted(unknown))}; there are {', '.join(FLOWS)}")
    if not (found.flows and found.clients and min(*found.clients, found.rounds, found.seconds) > 0):
        parser.error("flows, clients, rounds and seconds are needed, all above 0")
    return found


def _split(text: str) -> list[str]:
    return [word for word in (word.strip() for word in text.split(",")) if word]


@contextmanager
def target(wanted: Options) -> Iterator[Target]:
    """The deployment that runs, or a new one."""
    if wanted.urls:
        yield Target(Deployment(wanted.urls), ProcessTree(wanted.pids) if wanted.pids else None, None)
        return
    with launched() as system:
        urls = [system.quintet.url(service) for service in SERVICES]
        # Without /proc, as on macOS, the rest can be measured.
        processes = ProcessTree([system.pid]) if Path("/proc/self/stat").exists() else None
        yield Target(Deployment(urls), processes, system.start_seconds)


def run(wanted: Options) -> Iterator[str]:
    """The lines of the table. Raises LoadError if an answer, or what is stored, is wrong."""
    with target(wanted) as (deployment, processes, start_seconds):
        catalogue = deployment.fill(USERS, PRODUCTS, ORDERS)
        warm_up = min(WARM_UP_SECONDS, wanted.seconds)
        everything = [measure(deployment, catalogue, flow, WARM_UP_CLIENTS, warm_up) for flow in wanted.flows]
        results: dict[tuple[str, int], list[Result]] = {}
        memory: dict[tuple[str, int], float] = {}
        with _sampling(deployment, wanted):
            for number in range(wanted.rounds):
                print(f"round {number + 1} of {wanted.rounds}", file=sys.stderr)
                for flow, clients in product(wanted.flows, wanted.clients):
                    found = measure(deployment, catalogue, flow, clients, wanted.seconds, processes)
                    results.setdefault((flow, clients), []).append(found)
                    memory[flow, clients] = processes.pss_mib() if processes else 0.0
                    everything.append(found)
        yield _line(TITLES)
        for key, rounds in results.items():
            yield _line(_cells(rounds, start_seconds, memory[key] if processes else None))
        wrong = [f"{one.flow} with {one.clients} clients: {one.failures}" for one in everything if one.failures]
        try:
            check_orders(deployment, catalogue, all(answer.status for one in everything for answer in one.answers))
        except LoadError as exc:
            wrong.append(str(exc))
        if wrong:
            raise LoadError("\n".join(wrong))
        yield f"{len(catalogue.acknowledged)} orders were acknowledged; they are there, and the stock adds up."


def _sampling(deployment: Deployment, wanted: Options) -> AbstractContextManager[None]:
    if not wanted.flame:
        return nullcontext()
    return flame_graph(Path(wanted.flame), "order", listener(deployment.address("order")[1]))


def _cells(rounds: list[Result], start_seconds: float | None, pss_mib: float | None) -> list[str]:
    first = rounds[0]
    return [
        first.flow,
        str(first.clients),
        f"{median(one.rate for one in rounds):.0f}",
        f"{median(one.quantile_ms(0.5) for one in rounds):.1f}",
        f"{median(one.quantile_ms(0.99) for one in rounds):.1f}",
        UNKNOWN if pss_mib is None else f"{median(one.cpu_ms for one in rounds):.2f}",
        f"{median(one.tail_seconds for one in rounds):.1f}",
        UNKNOWN if start_seconds is None else f"{start_seconds:.1f}",
        UNKNOWN if pss_mib is None else f"{pss_mib:.0f}",
    ]


def _line(cells: Sequence[str]) -> str:
    widths = [max(len(title), 8) for title in TITLES]
    return f"{cells[0]:12}" + "".join(f"{cell:>{width + 2}}" for cell, width in zip(cells[1:], widths[1:], strict=True))


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what was started is stopped
    wanted = options()
    try:
        print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}, Python {python_version()}")
        for line in run(wanted):
            print(line, flush=True)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (LoadError, OSError, ValueError) as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
