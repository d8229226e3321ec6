"""The adapter as one of `requests`, and the bytes that go over the wire."""

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.structures import CaseInsensitiveDict

from libs.common import context
from libs.common.calls.client import ServiceClient
from libs.common.calls.connections import Adapter
from libs.common.config import Settings
from libs.common.errors import DependencyUnavailable
from tests.network import network
from tests.unit.libs.tcp import OK, Server, keep_alive, one_request

Serve = Callable[..., Server]


# A part of requests ------------------------------------------------------------------------------------------------

BODY = b'{"name": "\xc3\xa9"}'
ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: %d\r\nETag: "7"\r\n'
    b"Vary: Origin\r\nX-Long:   padded \r\nvary: Accept\r\n\r\n%s" % (len(BODY), BODY)
)


def test_a_session_of_requests_can_use_it(serve: Serve) -> None:
    server = serve(
        lambda connection, number: [connection.sendall(ANSWER) for _ in iter(lambda: one_request(connection), False)]
    )
    url = f"http://127.0.0.1:{server.port}"
    with requests.Session() as session:
        session.mount(url, Adapter(url))
        for stream in (False, True):
            answer = session.get(f"{url}/x?a=b", timeout=(1, 5), stream=stream)
            answer.raise_for_status()
            assert (answer.status_code, answer.ok, answer.url) == (200, True, f"{url}/x?a=b")
            assert b"".join(answer.iter_content(4)) == BODY
            assert (answer.json(), answer.text, answer.content) == ({"name": "é"}, BODY.decode(), BODY)
            assert (answer.history, list(answer.cookies), answer.links) == ([], [], {})
            assert answer.request.method == "GET"
            assert answer.elapsed.total_seconds() > 0
    assert server.connections == 1


def test_headers_are_those_of_requests(serve: Serve) -> None:
    answer = serve(lambda connection, number: one_request(connection) and connection.sendall(ANSWER)).client().get("/x")
    wanted = {"Content-Type": "application/json", "Content-Length": str(len(BODY)), "ETag": '"7"', "X-Long": "padded"}
    assert answer.headers == CaseInsensitiveDict({**wanted, "Vary": "Origin, Accept"})
    assert (answer.headers["etag"], answer.headers.get("Retry-After")) == ('"7"', None)


PATHS = [
    "/users/0b5c6f0e-7f3b-4e0e-9b0a-000000000000", "/users?ids=a,b-c&limit=200", "/reservations/batch", "/events",
    "/a//b", "/a/", "/a?", "/a?x", "/a/../b", "/a/./b", "/a.b", "/a%41", "/a%2fb?c=%20d", "/a b", "/é", "/a?x=é", "/a#b",
    "/a?b#c", "/a?b?c", "/a\r\nX: 1", "/~a;b+c:d@e!$'()*", "/%zz", "/health", "/livez", "/readyz", "",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("base", ["http://product.test", "http://Product.Test:80/shop/", "http://[::1]:8002"])
def test_a_url_is_the_one_that_requests_would_make(base: str, path: str) -> None:
    client = ServiceClient("product", Settings(service="order", product_service_url=base))
    root = "" if path.startswith(("/health", "/livez", "/readyz")) else "/api/v1"
    wanted = requests.Request("GET", base.rstrip("/") + root + path).prepare()
    with network(assert_all_requests_are_fired=False) as mock:
        mock.get(wanted.url, json={})
        client.get(path)
        sent: Any = mock.calls[0].request
    assert (sent.url, sent.path_url) == (wanted.url, wanted.path_url)


def received(serve: Serve, call: Callable[[ServiceClient], Any]) -> tuple[bytes, list[str], bytes]:
    """What arrives of a call: the request line, the sorted headers and the body."""
    taken: list[bytes] = []

    def talk(connection: socket.socket, number: int) -> None:
        taken.append(connection.recv(65536))
        connection.sendall(OK)

    call(serve(talk).client())
    head, _, body = taken[0].partition(b"\r\n\r\n")
    line, *headers = head.split(b"\r\n")
    return line, sorted(header.decode() for header in headers), body


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("body", [None, {}, [1, "é"]])
def test_a_request_has_one_length_and_the_headers_of_its_work(serve: Serve, method: str, body: Any) -> None:
    work = context.begin(0.9)
    line, headers, sent = received(serve, lambda product: product.call(method, "/x", json=body, headers={"X-A": "b"}))
    context.end()
    data = {None: b"", "{}": b"{}"}.get(body if body is None else str(body), '[1,"é"]'.encode())
    assert line == f"{method} /api/v1/x HTTP/1.1".encode()
    assert sent == data
    fixed = ["Accept: application/json", "User-Agent: quintet-order", "X-A: b", f"X-Request-ID: {work.request_id}"]
    fixed.append(f"traceparent: {work.traceparent}")
    if body is not None or method not in ("GET", "HEAD"):
        fixed.append(f"Content-Length: {len(data)}")
    if body is not None:
        fixed.append("Content-Type: application/json")
    varying = ("Host: 127.0.0.1:", "X-Request-Timeout-Ms: 8")
    assert sorted(fixed) == [header for header in headers if not header.startswith(varying)]
    assert len(headers) == len(fixed) + 2


@pytest.mark.parametrize("value", ["a\r\nX-B: 1", "a\nb", "a\rb", " a"])
def test_a_header_cannot_begin_another(serve: Serve, value: str) -> None:
    server = serve(keep_alive)
    for headers in ({"X-A": value}, {value: "a"}):
        with pytest.raises(requests.exceptions.InvalidHeader):
            server.client().get("/x", headers=headers)
    assert server.connections == 0


# The wire ----------------------------------------------------------------------------------------------------------

LARGE = {"text": "x" * 8_000_000}


def test_a_body_that_no_buffer_holds_is_sent_to_its_end(serve: Serve) -> None:
    sizes: list[int] = []

    def talk(connection: socket.socket, number: int) -> None:
        data = bytearray()
        while not data.endswith(b'x"}'):
            data += connection.recv(1_000_000)
        sizes.append(len(bytes(data).partition(b"\r\n\r\n")[2]))
        connection.sendall(OK)

    assert (
        serve(talk)
        .client(read_timeout_seconds=20.0, request_deadline_seconds=30.0)
        .call("POST", "/x", json=LARGE)
        .status
        == 200
    )
    assert sizes == [len(LARGE["text"]) + len('{"text":""}')]


def test_a_server_that_does_not_read_keeps_nobody_past_the_deadline(serve: Serve) -> None:
    over = threading.Event()
    product = serve(lambda connection, number: over.wait(10)).client(read_timeout_seconds=0.2)
    started = time.monotonic()
    with pytest.raises(DependencyUnavailable) as caught:
        product.call("POST", "/x", json=LARGE)
    over.set()
    assert isinstance(caught.value.__cause__, requests.ReadTimeout)
    assert 0.2 <= time.monotonic() - started < 4


def test_what_comes_while_nothing_is_asked_is_no_answer_to_the_next_request(serve: Serve) -> None:
    came = threading.Event()

    def talk(connection: socket.socket, number: int) -> None:
        while one_request(connection):
            connection.sendall(OK)
            if number == 1:
                time.sleep(0.05)
                connection.sendall(OK.replace(b"200 OK", b"404 No"))
                came.set()

    server = serve(talk)
    product = server.client()
    assert product.get("/x").status == 200
    assert came.wait(10)
    assert [product.get("/x").status for _ in range(3)] == [200] * 3
    assert server.connections == 2


# TLS ---------------------------------------------------------------------------------------------------------------


def over_tls(certificate: Path) -> Callable[[socket.socket, int], object]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)

    def talk(connection: socket.socket, number: int) -> None:
        with server.wrap_socket(connection, server_side=True) as wrapped:
            keep_alive(wrapped, number)

    return talk


def calls(server: Server) -> ServiceClient:
    return ServiceClient("product", Settings(service="order", product_service_url=f"https://localhost:{server.port}"))


def test_a_connection_with_tls_is_used_again(serve: Serve, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = serve(over_tls(certificate))
    product = calls(server)
    for _ in range(5):
        assert product.get("/x").status == 200
        time.sleep(0.01)  # so that the session tickets arrive
    assert server.connections == 1


def test_a_server_that_nobody_vouches_for_is_not_called(serve: Serve, certificate: Path) -> None:
    product = calls(serve(over_tls(certificate)))
    with pytest.raises(DependencyUnavailable) as caught:
        product.call("POST", "/x")
    assert isinstance(caught.value.__cause__, requests.ConnectionError)


# Greenlets ---------------------------------------------------------------------------------------------------------

GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent
from tests.unit.libs.tcp import OK, Server, one_request

def slow(connection, number):
    while one_request(connection):
        gevent.sleep(0.05)
        connection.sendall(OK)

server = Server(slow)
product = server.client(bulkhead_calls=100)
for _ in range(3):
    answers = [gevent.spawn(product.get, "/x") for _ in range(20)]
    assert [answer.get().status for answer in answers] == [200] * 20
print(server.connections)
"""


def test_greenlets_call_at_the_same_time_and_use_connections_again() -> None:
    started = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", GREENLETS], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.returncode) == ("20\n", 0), ran.stderr
    assert time.monotonic() - started < 20
