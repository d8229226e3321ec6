"""What is replaced in Gunicorn is what it uses (ADR 13); what it does with it, tests/integration/libs shows."""

import dis
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from gevent.socket import socketpair
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import IterUnreader, SocketUnreader
from gunicorn.workers import ggevent

from libs.common.server import answers, requests, worker
from libs.common.server.bodies import STEP

PEER = ("127.0.0.1", 5)
PLAIN = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"


class Peer:
    """A socket that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.asked_for: list[int] = []

    def send(self, data: bytes, *options: Any) -> int:
        self.sent.append(data)
        return len(data)

    sendall = send

    def recv(self, size: int) -> bytes:
        self.asked_for.append(size)
        return b"x"


def parse(data: bytes) -> requests.Request:
    return requests.Request(Config(), IterUnreader([data]), PEER)


def response_to(data: bytes, client: Peer) -> wsgi.Response:
    return wsgi.create(parse(data), client, PEER, ("127.0.0.1", 8000), Config())[0]


@contextmanager
def parser_of(data: bytes) -> Iterator[RequestParser]:
    """The parser of a connection on which a client has sent this."""
    config = Config()
    config.__dict__["lane"] = SimpleNamespace(take=lambda data: None)
    here, there = socketpair()
    with closing(here), closing(there):
        there.sendall(data)
        yield RequestParser(config, here, PEER)


def test_the_parser_makes_our_requests_and_loses_nothing_that_was_looked_at() -> None:
    with parser_of(PLAIN + b"Expect: 100-continue\r\n\r\n{}") as parser:
        request = next(parser)

        assert isinstance(request, requests.Request)
        assert request.body.read(2) == b"{}"


def test_a_head_has_our_bound_and_not_that_of_gunicorn() -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 4000) for n in range(10))

    with pytest.raises(LimitRequestHeaders):
        requests.Request(Config(), IterUnreader([PLAIN, lines]), PEER)


def test_a_client_is_told_to_go_on_unless_its_body_is_coded() -> None:
    plain, coded = Peer(), Peer()
    response_to(PLAIN + b"Expect: 100-continue\r\n\r\n", plain)
    response = response_to(PLAIN + b"Expect: 100-continue\r\nContent-Encoding: gzip\r\n\r\n", coded)

    assert plain.sent == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    assert coded.sent == []
    assert response.should_close()


def test_after_a_body_that_was_not_read_to_its_end_there_is_no_further_request() -> None:
    with parser_of(PLAIN + b"\r\n{}" + PLAIN + b"\r\n{}") as parser:
        next(parser).body.failed = True

        with pytest.raises(StopIteration):
            next(parser)


def test_a_body_is_read_in_steps() -> None:
    client = Peer()
    SocketUnreader(client).read(1, read_ahead=1024 * 1024)

    assert client.asked_for == [STEP]


@pytest.mark.parametrize(
    ("length", "framing", "body"),
    [([("Content-Length", "2")], b"Content-Length: 2", b"{}"), ([], b"Transfer-Encoding: chunked", b"2\r\n{}\r\n")],
)
def test_head_and_body_of_an_answer_leave_together(length: list[tuple[str, str]], framing: bytes, body: bytes) -> None:
    client = Peer()
    response = response_to(PLAIN + b"\r\n{}", client)
    response.start_response("200 OK", length)
    response.write(b"{}")
    head, _, rest = client.sent[0].partition(b"\r\n\r\n")
    response.close()

    assert isinstance(response, answers.Response)
    assert (framing in head, rest) == (True, body)
    assert client.sent[1:] == ([] if length else [b"0\r\n\r\n"])


def test_the_worker_listens_by_our_listener() -> None:
    loaded = {i.argval for i in dis.get_instructions(ggevent.GeventWorker.run) if i.opname == "LOAD_GLOBAL"}

    assert "StreamServer" in loaded
    assert vars(ggevent)["StreamServer"] is worker._Listener


def test_gunicorn_starts_a_worker_by_the_method_that_is_replaced() -> None:
    assert "init_process" in Arbiter.spawn_worker.__code__.co_names


def test_what_gunicorn_logs_goes_to_our_handlers() -> None:
    logger = worker.Logger(Config())

    assert logger.error_log.propagate
    assert not logger.error_log.handlers
    assert not logger.access_log.propagate


def test_a_setting_that_was_copied_is_what_gunicorn_reads() -> None:
    config = Config()
    config.__dict__.update({name: setting.get() for name, setting in config.settings.items()})
    config.__dict__["keepalive"] = 99

    assert config.keepalive == 99
