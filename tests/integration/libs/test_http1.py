"""Conformance with HTTP/1.1 (RFC 9110 and 9112) and attempts at request smuggling, with the lane and without it."""

import re
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.servers import Running

pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")

PATH = b"/api/v1/products/stats"
GET = b"GET %s HTTP/1.1\r\nHost: shop.example\r\n" % PATH
POST = b"POST /api/v1/products HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\n"
SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module", params=["on", "off"])
def product(request: Any, databases: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The product service with FAST_LANE on and off."""
    directory = tmp_path_factory.mktemp("product")
    with Running("product", databases.migrated("product_service"), directory, FAST_LANE=request.param) as running:
        yield running


def statuses(product: Running, *parts: bytes) -> list[int]:
    """The status of every answer on a connection whose client sends nothing more."""
    with socket.create_connection(("127.0.0.1", product.port), 10) as client:
        for part in parts:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while data := client.recv(65536):
                received += data
        except ConnectionResetError:
            pass
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3})", received)]


WHOLE = {
    "a GET": (GET + b"\r\n", [200]),
    "a tab before a value, and mixed case": (b"GET %s HTTP/1.1\r\nhoSt:\tshop.example\r\n\r\n" % PATH, [200]),
    "an empty header": (GET + b"Accept:\r\n\r\n", [200]),
    "an unknown header that is empty": (GET + b"X-Empty: \r\n\r\n", [200]),
    "an absolute URI": (b"GET http://shop.example%s HTTP/1.1\r\nHost: shop.example\r\n\r\n" % PATH, [200]),
    "two requests at once": (GET + b"\r\n" + GET + b"\r\n", [200, 200]),
    "the end of the connection": (GET + b"Connection: close\r\n\r\n" + GET + b"\r\n", [200]),
    "an expectation": (POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", [100, 422]),
    "a POST with a body": (POST + b"Content-Length: 2\r\n\r\n{}", [422]),
    "a POST in chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", [422]),
    "HTTP/1.0": (b"GET %s HTTP/1.0\r\n\r\n" % PATH, [200]),
    "no version": (b"GET %s \r\n\r\n" % PATH, [400]),
    "another version": (b"GET %s HTTP/9.9\r\nHost: x\r\n\r\n" % PATH, [400]),
    "a word too many": (b"Extra " + GET + b"\r\n", [400]),
    "a name with brackets": (GET + b"X-Invalid[]: test\r\n\r\n", [400]),
    "no Host": (b"GET %s HTTP/1.1\r\nAccept: */*\r\n\r\n" % PATH, [400]),
    "two Hosts": (GET + b"Host: other.example\r\n\r\n", [400]),
    "a control character": (GET + b"Accept: a\x07b\r\n\r\n", [400]),
    "a NUL": (GET + b"Accept: a\x00b\r\n\r\n", [400]),
    "a lone carriage return": (GET + b"\rAccept: x\r\n\r\n", [400]),
    "a space before the colon": (GET + b"Accept : x\r\n\r\n", [400]),
    "a folded header": (GET + b"Accept: x\r\n y\r\n\r\n", [400]),
    "an unknown coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", [501]),
}


@pytest.mark.parametrize(("data", "expected"), WHOLE.values(), ids=WHOLE)
def test_a_whole_request_is_answered_by_the_rules(product: Running, data: bytes, expected: list[int]) -> None:
    assert statuses(product, data) == expected


def test_half_a_request_is_waited_for(product: Running) -> None:
    whole = GET + b"\r\n"
    cuts = [1, 4, 12, len(b"GET %s" % PATH), *range(len(b"GET %s " % PATH), len(whole), 4), len(whole) - 1]
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", product.port), 10)) for _ in cuts]
        for client, cut in zip(clients, cuts, strict=True):
            client.sendall(whole[:cut])
        assert select.select(clients, [], [], 0.5)[0] == []
        for client, cut in zip(clients, cuts, strict=True):
            client.sendall(whole[cut:])
            assert client.recv(12) == b"HTTP/1.1 200"


REFUSED = {
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a huge negative length": POST + b"Content-Length: -123456789123456789123456789\r\n\r\n{}",
    "a length with a plus": POST + b"Content-Length: +2\r\n\r\n{}",
    "a hexadecimal length": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "a length in words": POST + b"Content-Length: two\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunks, and not": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "something like chunks": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a vertical tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "a folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a line that ends too early": POST + b"X: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_after_a_request_whose_end_is_in_doubt_nothing_is_read(product: Running, data: bytes) -> None:
    found = statuses(product, data + SMUGGLED)
    assert len(found) == 1
    assert 400 <= found[0] < 600


BODIES = {
    "a request in a body": (POST + b"Content-Length: %d\r\n\r\n%s" % (len(SMUGGLED), SMUGGLED), [400]),
    "a request in a body that comes later": (POST + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED), SMUGGLED, [400]),
    "a request in the body of a GET": (GET + b"Content-Length: %d\r\n\r\n%s" % (len(SMUGGLED), SMUGGLED), [200]),
    "a request in a body of another type": (
        POST.replace(b"json", b"text") + b"Content-Length: %d\r\n\r\n%s" % (len(SMUGGLED), SMUGGLED), [415],
    ),
    "a length with a zero in front": (POST + b"Content-Length: 0%d\r\n\r\n%s" % (len(SMUGGLED), SMUGGLED), [400]),
    "a request in a name with an underscore": (POST + b"Content_Length: %d\r\n\r\n%s" % (len(SMUGGLED), SMUGGLED), [400, 200]),
}  # fmt: skip


@pytest.mark.parametrize("case", BODIES.values(), ids=BODIES)
def test_what_is_in_a_body_is_no_request(product: Running, case: tuple[Any, ...]) -> None:
    *parts, expected = case
    assert statuses(product, *parts) == expected
