"""The load generator (tests/load/generator.py) in its own process on its own core, and what the services did with theirs
meanwhile.
"""

import multiprocessing
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.load import generator
from tests.load.generator import Answer, Crowd, quantile

CONNECTIONS = 1500
"""Connections, opened beforehand. A request without a free connection is not sent, and counts as failed."""


class Core:
    """A core that the services do not share with the load generator, though perhaps with other programs."""

    def __init__(self, number: int, processes: Sequence[int]):
        self._number, self._sessions = number, set(processes)

    def seconds(self) -> float:
        """How long the core has worked for the services or has been idle, without the time that other programs took."""
        lines = Path("/proc/stat").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(f"cpu{self._number} "))
        idle = sum(map(int, line.split()[4:6]))
        return (idle + sum(map(self._ticks, Path("/proc").glob("[0-9]*/stat")))) / os.sysconf("SC_CLK_TCK")

    def _ticks(self, stat: Path) -> int:
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            return 0
        return sum(map(int, fields[11:13])) if int(fields[3]) in self._sessions else 0


class Load(NamedTuple):
    """The answers to requests that were sent for `seconds`, during which the services had `core_seconds` of their core."""

    answers: list[Answer]
    seconds: float
    core_seconds: float

    @property
    def rate(self) -> float:
        """Orders per second, without those that were unanswered at the end."""
        return sum(a.status == 201 and a.at + a.seconds <= self.seconds for a in self.answers) / self.seconds

    @property
    def core_rate(self) -> float:
        """Orders per second of core time."""
        return self.rate * self.seconds / self.core_seconds

    @property
    def outcomes(self) -> Counter[tuple[int, str]]:
        return Counter((answer.status, answer.code) for answer in self.answers)

    def times(self, status: int, since: float = 0.0) -> list[float]:
        """The response times of the requests that were due since then."""
        return [a.seconds for a in self.answers if a.status == status and a.at >= since]

    def __str__(self) -> str:
        shown = [f"{self.core_rate:.0f} orders/s in {self.core_seconds:.1f} s of {self.seconds:.0f}"]
        for (status, code), count in sorted(self.outcomes.items()):
            p50, p99 = (quantile(self.times(status), share) * 1000 for share in (0.5, 0.99))
            shown.append(f"{count} x {status} {code} p50 {p50:.0f} ms p99 {p99:.0f} ms".replace("  ", " "))
        return ", ".join(shown)


def offer(core: Core, port: int, bodies: Sequence[bytes], rate: float, seconds: float) -> Load:
    """Send orders at a rate for some time, as independent clients would."""
    return _drive(core, port, bodies, CONNECTIONS, generator.offer, rate, seconds)


def saturate(core: Core, port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let `clients` clients each send the next order as soon as the last one is answered."""
    return _drive(core, port, bodies, clients, generator.saturate, seconds)


def _drive(
    core: Core, port: int, bodies: Sequence[bytes], clients: int, pace: Callable[..., None], *arguments: float
) -> Load:
    """The last of the arguments are the seconds."""
    head = b"POST /api/v1/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    requests = [b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body) for body in bodies]
    crowd = Crowd(("127.0.0.1", port), iter(lambda: random.choice(requests), b""), clients, reopen=False)
    began = core.seconds()
    pace(crowd, *arguments)
    had = core.seconds() - began
    return Load(crowd.finish(), arguments[-1], had)


def on_core(number: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a new process that stays on this core."""
    with multiprocessing.get_context("spawn").Pool(1, os.sched_setaffinity, (0, {number})) as pool:
        return pool.apply(function, arguments)


@contextmanager
def pinned(number: int) -> Iterator[None]:
    """Inside the block, this process and its children run on this core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
