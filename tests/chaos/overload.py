"""A load generator in its own process, and its results.

Open loop: requests are sent at their scheduled times, whatever the answers to earlier ones, as independent clients
would send them. Response times are measured from the scheduled time, even when the generator itself is late.
"""

import multiprocessing
import os
import random
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

CONNECTIONS = 1500
"""Connections, opened beforehand. A request without a free connection is not sent, and counts as failed."""
GIVE_UP_SECONDS = 10.0
"""Longer than any request may take."""


class Answer(NamedTuple):
    """The outcome of one request, which was due `at` seconds after the start; status 0: no answer."""

    at: float
    status: int
    code: str
    seconds: float


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
    """Send orders at a rate for some time, with the exponential gaps of independent clients."""
    crowd = _Crowd(port, bodies, CONNECTIONS)
    began, due = core.seconds(), 0.0
    while due < seconds:
        while (early := due - crowd.now()) > 0:
            crowd.listen(early)
        crowd.send(due)
        due += random.expovariate(rate)
    had = core.seconds() - began
    return Load(crowd.finish(), seconds, had)


def saturate(core: Core, port: int, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let `clients` clients each send the next order as soon as the last one is answered."""
    crowd = _Crowd(port, bodies, clients)
    began = core.seconds()
    while crowd.now() < seconds:
        while crowd.idle:
            crowd.send(crowd.now())
        crowd.listen(0.1)
    had = core.seconds() - began
    return Load(crowd.finish(), seconds, had)


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


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


class _Connection:
    def __init__(self, port: int):
        self.sock = socket.create_connection(("127.0.0.1", port), GIVE_UP_SECONDS)
        self.due: float | None = None
        self.received = b""

    def answer(self) -> tuple[int, bytes] | None:
        """Status and body, once all of it is there."""
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return (int(head[9:12]), body) if len(body) >= length else None


class _Crowd:
    """Connections that are kept, each with one request under way at most."""

    def __init__(self, port: int, bodies: Sequence[bytes], connections: int):
        head = b"POST /api/v1/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._requests = [b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body) for body in bodies]
        self._epoll = select.epoll()
        # The connection that has been idle for longest is used first, or the service would close it.
        self.idle = deque(_Connection(port) for _ in range(connections))
        self._all = {connection.sock.fileno(): connection for connection in self.idle}
        for number in self._all:
            self._epoll.register(number, select.EPOLLIN)
        self._answers: list[Answer] = []
        self._started = time.monotonic()

    def now(self) -> float:
        return time.monotonic() - self._started

    def send(self, due: float) -> None:
        if not self.idle:
            self._answers.append(Answer(due, 0, "no connection was free", 0.0))
            return
        connection = self.idle.popleft()
        connection.due = due
        with suppress(ConnectionError):  # which `listen` reports, too
            connection.sock.sendall(random.choice(self._requests))

    def listen(self, seconds: float) -> None:
        """Read answers; returns when there were some, or when the time is over."""
        for number, _ in self._epoll.poll(seconds):
            self._receive(self._all[number])

    def finish(self) -> list[Answer]:
        give_up = self.now() + GIVE_UP_SECONDS
        while len(self.idle) < len(self._all) and self.now() < give_up:
            self.listen(0.1)
        for connection in self._all.values():
            if connection.due is not None:
                self._note(connection, 0, "no answer")
            connection.sock.close()
        return self._answers

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self._replace(connection)
            return
        connection.received += data
        if answer := connection.answer():
            status, body = answer
            self._note(connection, status, orjson.loads(body)["code"] if status >= 400 else "")
            self.idle.append(connection)

    def _replace(self, connection: _Connection) -> None:
        """A worker that has too many connections closes the one that has waited for the longest. Its request, if there
        is one, was not read, so it is sent again on another connection.
        """
        if connection.received:
            raise ConnectionError("The service has closed a connection during an answer.")
        del self._all[connection.sock.fileno()]
        connection.sock.close()
        if connection.due is None:
            self.idle.remove(connection)
        else:
            self.send(connection.due)

    def _note(self, connection: _Connection, status: int, code: str) -> None:
        assert connection.due is not None
        self._answers.append(Answer(connection.due, status, code, self.now() - connection.due))
        connection.due, connection.received = None, b""
