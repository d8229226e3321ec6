"""A load generator: one process, and connections that are kept, each with one request under way at most.

It speaks as much HTTP/1.1 as the answers of a service need, since a library for clients would cost more than the
services that are measured. It sends more than 3000 requests per second on one core.
"""

import gc
import json
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

GIVE_UP_SECONDS = 10.0
"""Longer than any request may take."""


class Answer(NamedTuple):
    """The outcome of one request, which was due `at` seconds after the start; status 0: no answer."""

    at: float
    status: int
    seconds: float
    client: int
    """The number of its connection."""
    body: bytes
    """Of errors always, of other answers only if the crowd keeps them; with status 0 the reason."""

    @property
    def code(self) -> str:
        """The code of the problem document, if it is one."""
        if self.status == 0:
            return self.body.decode()
        if self.status < 400:
            return ""
        try:
            return str(json.loads(self.body).get("code", ""))
        except (ValueError, AttributeError):
            return ""


class Crowd:
    """Clients, each with a connection of its own; they take the next of the endless `requests` in turn.

    A connection that the service closes is opened anew if `reopen`, and the request that was under way on it has no
    answer. Otherwise there is one connection less from then on, and its request is sent on another: so it is with a
    worker that has too many connections and closes those on which it has read nothing.
    """

    def __init__(
        self,
        address: tuple[str, int],
        requests: Iterator[bytes],
        clients: int,
        *,
        reopen: bool = True,
        keep_bodies: bool = False,
    ):
        self._address, self._requests = address, requests
        self._reopen, self._keep_bodies = reopen, keep_bodies
        self._selector = selectors.DefaultSelector()
        # The connection that has been idle for longest is used first, or the service would close it.
        self.idle: deque[_Connection] = deque()
        self._under_way: set[_Connection] = set()
        for client in range(clients):
            self._open(client)
        self._answers: list[Answer] = []
        self._started = time.perf_counter()

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def send(self, due: float) -> None:
        """Send the next request, which was due then; without an idle connection it has no answer."""
        if not self.idle:
            self._answers.append(Answer(due, 0, 0.0, -1, b"no connection was free"))
            return
        connection = self.idle.popleft()
        connection.due = due
        self._under_way.add(connection)
        with suppress(ConnectionError):  # which `listen` notices, too
            connection.sock.sendall(next(self._requests))

    def listen(self, seconds: float) -> None:
        """Read answers; returns when there were some, or when the time is over."""
        for key, _ in self._selector.select(seconds):
            self._receive(key.data)

    def finish(self) -> list[Answer]:
        """Wait for the answers that are missing, close all connections, and return the answers in their order."""
        give_up = self.now() + GIVE_UP_SECONDS
        while self._under_way and self.now() < give_up:
            self.listen(0.1)
        for connection in self._under_way:
            self._note(connection, 0, b"no answer")
        for key in list(self._selector.get_map().values()):
            key.data.sock.close()
        self._selector.close()
        return self._answers

    def _open(self, client: int) -> None:
        connection = _Connection(client, self._address)
        self._selector.register(connection.sock, selectors.EVENT_READ, connection)
        self.idle.append(connection)

    def _receive(self, connection: "_Connection") -> None:
        try:
            data = connection.sock.recv(262144)
        except ConnectionResetError:
            data = b""
        if not data:
            self._closed(connection)
            return
        connection.received += data
        if answer := connection.answer():
            status, body = answer
            self._note(connection, status, body if self._keep_bodies or status >= 400 else b"")
            self._under_way.remove(connection)
            self.idle.append(connection)

    def _closed(self, connection: "_Connection") -> None:
        if connection.received and not self._reopen:
            raise ConnectionError("The service has closed a connection during an answer.")
        self._selector.unregister(connection.sock)
        connection.sock.close()
        is_under_way = connection in self._under_way
        (self._under_way if is_under_way else self.idle).remove(connection)
        if self._reopen:
            if is_under_way:
                self._note(connection, 0, b"the connection was closed")
            self._open(connection.client)
        elif is_under_way:
            self.send(connection.due)

    def _note(self, connection: "_Connection", status: int, body: bytes) -> None:
        self._answers.append(Answer(connection.due, status, self.now() - connection.due, connection.client, body))
        connection.received = b""


class _Connection:
    def __init__(self, client: int, address: tuple[str, int]):
        self.client = client
        self.sock = socket.create_connection(address, GIVE_UP_SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.received = b""

    def answer(self) -> tuple[int, bytes] | None:
        """Status and body, once all of it is there."""
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        _, announced, rest = head.lower().partition(b"\r\ncontent-length:")
        if not announced:
            raise ValueError(f"An answer without Content-Length cannot be read: {head.decode('latin-1')}")
        return (int(head[9:12]), body) if len(body) >= int(rest.partition(b"\r\n")[0]) else None


def saturate(crowd: Crowd, seconds: float) -> None:
    """Closed loop: each client sends its next request as soon as its last one is answered."""
    with _no_garbage_collection():
        while crowd.now() < seconds:
            while crowd.idle:
                crowd.send(crowd.now())
            crowd.listen(0.1)


def offer(crowd: Crowd, rate: float, seconds: float) -> None:
    """Open loop: send at a rate, with the exponential gaps of independent clients, whatever the answers to earlier
    requests. Response times are measured from the time at which a request was due, even when this process is late.
    """
    due = 0.0
    with _no_garbage_collection():
        while due < seconds:
            while (early := due - crowd.now()) > 0:
                crowd.listen(early)
            crowd.send(due)
            due += random.expovariate(rate)


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection takes longer than most answers, and would be measured as theirs."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
