"""The load generator counts every answer, whatever the service does with its connections."""

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, repeat

import pytest

from tests.load.generator import Crowd, offer, saturate

REQUEST = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REFUSAL = b'HTTP/1.1 503 X\r\ncontent-length: 21\r\n\r\n{"code":"overloaded"}'

Behaviour = Callable[[socket.socket, int], bool]
"""Handles a request on a connection, of which this is the number among all; returns whether the connection stays."""


class Server:
    def __init__(self, behaviour: Behaviour):
        self._behaviour, self._numbers, self._lock = behaviour, count(), threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while connection.recv(4096):
                with self._lock:
                    number = next(self._numbers)
                if not self._behaviour(connection, number):
                    return


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], tuple[str, int]]]:
    """`serve(behaviour)`: the address of a server that does this."""
    servers: list[Server] = []

    def start(behaviour: Behaviour) -> tuple[str, int]:
        servers.append(Server(behaviour))
        return servers[-1].address

    yield start
    for server in servers:
        server.close()


def test_an_answer_in_pieces_is_one_answer_with_its_body(serve: Callable[[Behaviour], tuple[str, int]]) -> None:
    def in_pieces(connection: socket.socket, number: int) -> bool:
        for at in range(0, len(OK), 7):
            connection.sendall(OK[at : at + 7])
        return True

    crowd = Crowd(serve(in_pieces), repeat(REQUEST), 2, keep_bodies=True)
    saturate(crowd, 0.1)
    answers = crowd.finish()

    assert len(answers) >= 4
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"ok")}
    assert {answer.client for answer in answers} == {0, 1}


def test_refusals_are_told_from_answers(serve: Callable[[Behaviour], tuple[str, int]]) -> None:
    def every_other(connection: socket.socket, number: int) -> bool:
        connection.sendall(REFUSAL if number % 2 else OK)
        return True

    crowd = Crowd(serve(every_other), repeat(REQUEST), 1)
    saturate(crowd, 0.1)

    outcomes = Counter((answer.status, answer.code) for answer in crowd.finish())
    assert outcomes.keys() == {(200, ""), (503, "overloaded")}
    assert abs(outcomes[200, ""] - outcomes[503, "overloaded"]) <= 1


def test_a_request_whose_connection_is_closed_has_no_answer(serve: Callable[[Behaviour], tuple[str, int]]) -> None:
    def close_the_third(connection: socket.socket, number: int) -> bool:
        if number != 2:
            connection.sendall(OK)
        return number != 2

    crowd = Crowd(serve(close_the_third), repeat(REQUEST), 1)
    saturate(crowd, 0.1)
    answers = crowd.finish()

    assert [answer.code for answer in answers if answer.status != 200] == ["the connection was closed"]
    assert [answer.status for answer in answers[:4]] == [200, 200, 0, 200]


def test_without_reopening_the_request_is_sent_on_another_connection(
    serve: Callable[[Behaviour], tuple[str, int]],
) -> None:
    def close_the_third(connection: socket.socket, number: int) -> bool:
        if number != 2:
            connection.sendall(OK)
        return number != 2

    crowd = Crowd(serve(close_the_third), repeat(REQUEST), 20, reopen=False)
    offer(crowd, 50, 0.4)

    assert {answer.status for answer in crowd.finish()} == {200}
    assert len(crowd.idle) == 19


def test_what_is_due_while_all_connections_are_busy_is_counted(
    serve: Callable[[Behaviour], tuple[str, int]],
) -> None:
    over = threading.Event()

    def late(connection: socket.socket, number: int) -> bool:
        over.wait(10)
        connection.sendall(OK)
        return True

    crowd = Crowd(serve(late), repeat(REQUEST), 1)
    offer(crowd, 100, 0.2)
    over.set()
    outcomes = Counter(answer.code for answer in crowd.finish())

    assert outcomes[""] == 1
    assert outcomes["no connection was free"] >= 3
