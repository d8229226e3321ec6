"""Every bad request over a real socket gets its problem document, never a 500, and changes nothing."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from demo.api import eventually
from libs.common.errors import PROBLEM_JSON
from libs.topology import PORT_OFFSETS
from tests.e2e.shop import Json, Shop, a_user, answered, check_problem
from tests.e2e.system import System

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}
ID = "01890000-0000-7000-8000-000000000000"


class Case(NamedTuple):
    """A request and the problem that it gets. USER and LAPTOP stand for ids that exist."""

    name: str
    service: str
    method: str
    path: str
    body: bytes | None
    status: int
    code: str
    headers: dict[str, str] = JSON


ORDER = b'{"user_id": "USER", "items": [{"product_id": "LAPTOP", "quantity": 1}]}'
POSTS = {
    "user": ("/users", b'{"email": "bad-input@example.com", "name": "Ada"}'),
    "product": ("/products", b'{"name": "Laptop", "price": "1.00"}'),
    "order": ("/orders", ORDER),
    "notification": ("/notifications/send", b'{"recipient": "bad-input@example.com", "body": "x"}'),
}


def bodies() -> Iterator[Case]:
    """Bodies that are not JSON, or not the right JSON, for every operation that creates a resource."""
    for service, (path, good) in POSTS.items():
        broken: dict[str, tuple[bytes, int, str]] = {
            "an open brace": (b"{", 400, "malformed-request"),
            "nothing": (b"", 400, "malformed-request"),
            "text after the end": (good + b"x", 400, "malformed-request"),
            "invalid UTF-8": (b'{"name": "\xff"}', 400, "malformed-request"),
            "UTF-16": (good.decode().encode("utf-16"), 400, "malformed-request"),
            "a bare NaN": (b'{"price": NaN}', 400, "malformed-request"),
            "a bare Infinity": (b'{"price": -Infinity}', 400, "malformed-request"),
            "very deep nesting": (b"[" * 200_000, 400, "malformed-request"),
            "a list": (b"[" + good + b"]", 422, "validation-failed"),
            "null": (b"null", 422, "validation-failed"),
            "an unknown member": (good[:-1] + b', "colour": "red"}', 422, "validation-failed"),
            "an empty object": (b"{}", 422, "validation-failed"),
            "2 MiB": (good[:-1] + b" " * 2 * MIB + b"}", 413, "payload-too-large"),
        }
        for name, (body, status, code) in broken.items():
            yield Case(f"{service}: {name}", service, "POST", path, body, status, code)
        for media_type in ("text/plain", "application/x-www-form-urlencoded", "application/merge-patch+json", ""):
            headers = {"Content-Type": media_type} if media_type else {}
            name = f"{service}: content type {media_type or 'missing'}"
            yield Case(name, service, "POST", path, good, 415, "unsupported-media-type", headers)
        for key in (" ", "a b", "x" * 256, "ü"):
            name = f"{service}: idempotency key {key[:5]!r}"
            yield Case(name, service, "POST", path, good, 422, "validation-failed", {**JSON, "Idempotency-Key": key})


def members() -> Iterator[Case]:
    """Bodies with one invalid member."""
    for name in (r"\u0000", r"a\u0000b", r"\ud800", r"a\udfffb", "", "x" * 201):
        body = f'{{"email": "bad-input@example.com", "name": "{name}"}}'.encode()
        yield Case(f"user: name {name[:10]!r}", "user", "POST", "/users", body, 422, "validation-failed")
        body = f'{{"name": "{name}", "price": "1.00"}}'.encode()
        yield Case(f"product: name {name[:10]!r}", "product", "POST", "/products", body, 422, "validation-failed")
    for email in ("", "ada", "a@b", "a@b c.de", "a@@b.de", "a\\n@b.de", "x" * 250 + "@b.de"):
        body = f'{{"email": "{email}", "name": "Ada"}}'.encode()
        yield Case(f"user: email {email[:10]!r}", "user", "POST", "/users", body, 422, "validation-failed")
    for price in (
        '"1e3"', '"NaN"', '"Infinity"', '"-1"', '"1,00"', '" 1"', '"1_000"', '"1.005"', '""', '"0x10"', '"\u0661"',
        "1.005", "-1", "-0.01", "1e400", "1e-400", "1e12", "true", "null", "[]", "{}",
    ):  # fmt: skip
        body = f'{{"name": "Laptop", "price": {price}}}'.encode()
        yield Case(f"product: price {price}", "product", "POST", "/products", body, 422, "validation-failed")
    for stock in ("-1", "1.5", '"2"', "1e30", "true"):
        body = f'{{"name": "Laptop", "price": 1, "stock": {stock}}}'.encode()
        yield Case(f"product: stock {stock}", "product", "POST", "/products", body, 422, "validation-failed")
    for quantity in ("0", "-1", "1.5", '"2"', "1000000000", "10001", "1e400", "true", "null"):
        body = ORDER.replace(b'"quantity": 1', f'"quantity": {quantity}'.encode())
        yield Case(f"order: quantity {quantity}", "order", "POST", "/orders", body, 422, "validation-failed")
    for items in ("[]", "{}", "null", "[null]", "[1]", "[{}]", "[" + ",".join(["{}"] * 101) + "]"):
        body = f'{{"user_id": "USER", "items": {items}}}'.encode()
        yield Case(f"order: items {items[:10]}", "order", "POST", "/orders", body, 422, "validation-failed")
    for user_id in ("1", '"1"', "null", f'"{ID}x"', "[]"):
        body = ORDER.replace(b'"USER"', user_id.encode())
        yield Case(f"order: user_id {user_id[:10]}", "order", "POST", "/orders", body, 422, "validation-failed")
    yield Case(
        "order: unknown user", "order", "POST", "/orders", ORDER.replace(b"USER", ID.encode()), 422, "unknown-user"
    )
    for member in ('"id": "x"', '"version": 9', '"stock": 9', '"reserved": 9', '"created_at": "2026-01-01T00:00:00Z"'):
        body = f"{{{member}}}".encode()
        yield Case(f"product: PATCH {member}", "product", "PATCH", "/products/LAPTOP", body, 422, "validation-failed")
    yield Case("product: PATCH of what must be", "product", "PATCH", "/products/LAPTOP", b'{"name": null}', 422,
               "validation-failed")  # fmt: skip
    yield Case("product: stale If-Match", "product", "PATCH", "/products/LAPTOP", b'{"name": "x"}', 412,
               "precondition-failed", {**JSON, "If-Match": '"999"'})  # fmt: skip
    yield Case("product: more out than in", "product", "POST", "/products/LAPTOP/stock",
               b'{"delta": -26, "reason": "theft"}', 409, "insufficient-stock")  # fmt: skip


def queries() -> Iterator[Case]:
    lists = {"user": "/users", "product": "/products", "order": "/orders", "notification": "/notifications"}
    for service, path in lists.items():
        for query, status in (
            ("cursor=abc", 400), ("cursor=%00", 400), ("cursor=%ff", 400), (f"cursor={'A' * 400}", 400),
            ("limit=0", 422), ("limit=201", 422), ("limit=x", 422), ("limit=1e2", 422), ("limit=", 422),
            ("sort=password", 422), ("colour=red", 422), ("limit=1&limit=2", 422),
        ):  # fmt: skip
            code = {400: "malformed-request", 422: "validation-failed"}[status]
            yield Case(f"{service}: ?{query[:20]}", service, "GET", f"{path}?{query}", None, status, code, {})
        yield Case(f"{service}: unknown id", service, "GET", f"{path}/{ID}", None, 404, "not-found", {})
        yield Case(f"{service}: no id", service, "GET", f"{path}/1", None, 404, "not-found", {})
        yield Case(f"{service}: NUL in the path", service, "GET", f"{path}/%00", None, 404, "not-found", {})
        yield Case(f"{service}: wrong method", service, "PUT", path, b"{}", 405, "method-not-allowed")
        yield Case(f"{service}: unknown method", service, "BREW", path, None, 405, "method-not-allowed", {})
        yield Case(f"{service}: unknown path", service, "GET", "/nothing", None, 404, "not-found", {})
    for path in ("/analytics/summary?x=1", "/analytics/products/top?by=colour", "/analytics/products/top?limit=0",
                 "/analytics/orders/timeseries?interval=year", "/analytics/orders/timeseries?from=yesterday"):  # fmt: skip
        yield Case(f"analytics: {path}", "analytics", "GET", path, None, 422, "validation-failed", {})


def events() -> Iterator[Case]:
    batch = {"Content-Type": "application/cloudevents-batch+json"}
    for service in ("product", "order", "notification", "analytics"):
        for name, body, status, code in (
            ("no list", b"{}", 422, "validation-failed"),
            ("malformed", b"[", 400, "malformed-request"),
            ("101 events", b"[" + b",".join([b"{}"] * 101) + b"]", 413, "payload-too-large"),
            ("over 512 KiB", b'["' + b"x" * 513 * 1024 + b'"]', 413, "payload-too-large"),
        ):
            yield Case(f"{service}: events, {name}", service, "POST", "/events", body, status, code, batch)
        yield Case(f"{service}: events as text", service, "POST", "/events", b"[]", 415, "unsupported-media-type",
                   {"Content-Type": "text/plain"})  # fmt: skip


CASES = [*bodies(), *members(), *queries(), *events()]


@contextmanager
def nothing_changes(shop: Shop) -> Iterator[None]:
    # Wait for the effects of earlier orders.
    assert eventually(lambda: not shop.waiting(), 10.0)
    before = figures(shop)
    yield
    assert figures(shop) == before


def figures(shop: Shop) -> Json:
    return {**shop.stats(), "notification": shop.get("notification", "/notifications/stats")["total"]}


@pytest.fixture
def known(shop: Shop) -> dict[str, str]:
    return {"USER": shop.new_user()["id"], "LAPTOP": shop.new_product(25)["id"]}


def test_every_bad_request_gets_its_problem_document_and_changes_nothing(
    system: System, shop: Shop, known: dict[str, str], subtests: pytest.Subtests
) -> None:
    """All of the table in one test: 200 cases over open connections take a second or two."""
    connections = {service: connect(system, service) for service in PORT_OFFSETS}
    with nothing_changes(shop):
        for case in CASES:
            with subtests.test(case.name):
                check(case, connections[case.service], known)
    for connection in connections.values():
        connection.close()


def connect(system: System, service: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", system.base_port + PORT_OFFSETS[service], timeout=10)


def check(case: Case, connection: http.client.HTTPConnection, known: dict[str, str]) -> None:
    path, body = f"/api/v1{case.path}", case.body
    for name, value in known.items():
        path = path.replace(name, value)
        body = body.replace(name.encode(), value.encode()) if body and len(body) < MIB else body
    headers = {name: value.encode("latin-1") for name, value in case.headers.items()}
    connection.request(case.method, path, body, headers)  # type: ignore[arg-type]  # bytes are taken as they are
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == case.status, text
    assert answer.headers["Content-Type"] == PROBLEM_JSON
    document = check_problem(text, answer.status, answer.headers)
    assert document["code"] == case.code, text
    assert case.status != 405 or answer.headers["Allow"]


@pytest.mark.parametrize("lines", ["one", "chunks"])
def test_a_body_of_2_mib_is_answered_also_to_a_client_that_sends_all_of_it_first(
    system: System, shop: Shop, lines: str
) -> None:
    body = json.dumps({**a_user(), "name": "x" * 2 * MIB}).encode()
    chunked = lines == "chunks"
    with nothing_changes(shop), closing(connect(system, "user")) as connection:
        connection.request("POST", "/api/v1/users", iter([body]) if chunked else body, JSON, encode_chunked=chunked)
        answer = connection.getresponse()
        document = check_problem(answer.read().decode(), answer.status, answer.headers)
    assert document["code"] == "payload-too-large"


RAW = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /api/v1/users\r\n\r\n",
    "a header without a colon": b"GET /api/v1/users HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
    "a very long line": b"GET /" + b"x" * 6_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a very long header": b"GET /api/v1/users HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9_000 + b"\r\n\r\n",
    "hundreds of headers": b"GET /api/v1/users HTTP/1.1\r\nHost: x\r\n" + b"X: 1\r\n" * 500 + b"\r\n",
    "a negative length": b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length that is none": b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
    "two lengths": b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a length and chunks": b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk": b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    "an unknown encoding": b"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: rot13\r\n\r\n{}",
}  # fmt: skip


def open_socket(system: System, service: str, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", system.base_port + PORT_OFFSETS[service]), timeout=10)
    client.sendall(data)
    return client


def sent_and_closed(system: System, data: bytes) -> bytes:
    """The whole answer to a client that sends this, closes its side, and reads to the end."""
    with open_socket(system, "user", data) as client, client.makefile("rb") as answer:
        client.shutdown(socket.SHUT_WR)
        return answer.read()


@pytest.mark.parametrize("data", RAW.values(), ids=RAW)
def test_what_is_no_http_is_refused_and_changes_nothing(system: System, shop: Shop, data: bytes) -> None:
    with nothing_changes(shop):
        answer = sent_and_closed(system, data)
    assert answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 501"), answer[:200]


def test_half_a_request_changes_nothing(system: System, shop: Shop) -> None:
    """The head announces more than the client sends before it disconnects."""
    body = json.dumps(a_user()).encode()
    head = f"POST /api/v1/users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with nothing_changes(shop):
        for data in (head.encode(), head.encode() + b"\r\n\r\n", head.encode() + b"\r\n\r\n" + body[:-1]):
            for abrupt in (False, True):
                if abrupt:
                    open_socket(system, "user", data).close()
                else:
                    answer = sent_and_closed(system, data)
                    assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer[:200]


def test_half_open_connections_hold_nobody_up(system: System, shop: Shop) -> None:
    user, laptop = shop.new_user(), shop.new_product(25)
    halves = [
        open_socket(system, service, data)
        for service in ("order", "product", "user")
        for data in (b"", b"POST /api/v1/orders HTTP/1.1\r\nHost", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        for _ in range(40)
    ]
    started = time.monotonic()
    for _ in range(10):
        answered(shop.order(user, laptop), 201)
    assert time.monotonic() - started < 10
    for half in halves:
        half.close()


def test_a_refused_order_of_an_unknown_product_is_recorded_and_holds_nothing(shop: Shop) -> None:
    user = shop.new_user()
    before: dict[str, Any] = shop.stats()
    answer = shop.order(user, {"id": str(uuid4())})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown-product")
    assert [order["status"] for order in shop.orders_of(user)] == ["rejected"]
    assert shop.stats()["product"] == before["product"]
    assert shop.stats()["order"]["revenue"] == before["order"]["revenue"]
