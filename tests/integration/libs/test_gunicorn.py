"""The running service: gunicorn, gevent, sockets, several workers, and shutdown."""

import json
import os
import signal
import socket
import sqlite3
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pytest
import requests
import sqlalchemy as sa
from prometheus_client.mmap_dict import MmapedDict

from demo.api import eventually
from libs.common import context, migrate
from libs.common.calls.client import ServiceClient
from libs.common.config import Settings
from libs.common.data.database import Database
from libs.common.errors import DependencyUnavailable, Overloaded
from libs.common.events import outbox
from libs.common.events.courier import Courier
from libs.common.events.http import HttpSender
from libs.common.events.outbox import Claimed, Relay
from libs.common.ids import new_id
from product_service.events import OrderRejected
from tests.e2e.shop import check_problem
from tests.factories import a_cloud_event, a_product, a_reservation, a_user
from tests.processes import beside, in_threads
from tests.servers import Running

pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")

MEBIBYTE = 1024 * 1024
LISTENS = "0A"
"""A state in /proc/net/tcp."""


@pytest.fixture(scope="module")
def product(databases: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The product service, for all tests of this module."""
    url = databases.migrated("product_service")
    with Running("product", url, tmp_path_factory.mktemp("product")) as running:
        yield running
    assert running.process.returncode == 0, running.printed()


def send(running: Running, data: bytes, then: Callable[[socket.socket], None] = lambda connection: None) -> bytes:
    """Send bytes, and then those of `then`, as a client that reads the answer only afterwards."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        connection.sendall(data)
        then(connection)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def head(path: str = "/api/v1/products", **headers: Any) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def parsed(answer: bytes) -> tuple[int, Any]:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    top, _, body = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), orjson.loads(body)


def test_as_many_ids_as_the_document_allows_fit_into_a_request(product: Running) -> None:
    ids = ",".join(new_id() for _ in range(200))
    assert requests.get(f"{product.url}/products?limit=200&sort=-created_at&ids={ids}", timeout=10).status_code == 200


# Bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MEBIBYTE + 1, 2 * MEBIBYTE, 7 * MEBIBYTE])
@pytest.mark.parametrize("path", ["/api/v1/products", "/api/v1/events"])
def test_a_client_that_sends_too_much_can_read_why_it_is_refused(product: Running, size: int, path: str) -> None:
    """It gets no reset, although it sends everything before it reads."""
    status, problem = parsed(send(product, head(path, Content_Length=size), lambda c: c.sendall(b"x" * size)))
    assert (status, problem["code"]) == (413, "payload-too-large")


@pytest.mark.parametrize("size", [MEBIBYTE + 1, 2 * MEBIBYTE])
def test_a_client_that_sends_too_much_in_chunks_can_read_why_it_is_refused(product: Running, size: int) -> None:
    def chunks(connection: socket.socket) -> None:
        left = size
        while left:
            part = min(left, 60_000)
            connection.sendall(b"%x\r\n%s\r\n" % (part, b"x" * part))
            left -= part
        connection.sendall(b"0\r\n\r\n")

    status, problem = parsed(send(product, head(Transfer_Encoding="chunked"), chunks))
    assert (status, problem["code"]) == (413, "payload-too-large")


def test_events_in_chunks_have_the_same_bound(product: Running) -> None:
    event = a_cloud_event("order.rejected.v1", {"order_id": new_id(), "padding": "x" * 600_000})
    data = [json.dumps([event]).encode()]
    headers = {"Content-Type": "application/cloudevents-batch+json"}
    assert requests.post(f"{product.url}/events", data=iter(data), headers=headers, timeout=10).status_code == 413


def test_a_body_in_chunks_is_read(product: Running) -> None:
    data = [b'{"name": "Lap', b'top", "price"', b": 5}"]
    headers = {"Content-Type": "application/json"}
    answer = requests.post(f"{product.url}/products", data=iter(data), headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["price"]) == (201, "5.00")


def test_what_is_refused_unread_leaves_the_connection_to_the_next_request(product: Running) -> None:
    """Otherwise the rest of the body would be parsed as a request."""
    with requests.Session() as session:
        for path, headers, status in (
            ("/products", {"Content-Type": "text/plain"}, 415),
            ("/nowhere", {"Content-Type": "application/json"}, 404),
            ("/products/stats", {"Content-Type": "application/json"}, 405),
            ("/products?surprise=1", {"Content-Type": "application/json"}, 422),
        ):
            data = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000
            assert session.post(product.url + path, data=data, headers=headers, timeout=10).status_code == status
            assert session.get(f"{product.root}/livez", timeout=10).json() == {"status": "healthy"}


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP", "identity, gzip", "x"])
def test_a_coded_body_is_refused_before_it_comes(product: Running, coding: str) -> None:
    with socket.create_connection(("127.0.0.1", product.port), 5) as client, client.makefile("rb") as answers:
        client.sendall(head(Content_Length=100, Content_Encoding=coding, Expect="100-continue"))
        status, headers, problem = read_answer(answers)
    assert (status, problem["code"]) == (415, "unsupported-media-type")
    assert (headers["Connection"], headers["Accept-Encoding"]) == ("close", "identity")


def test_a_client_that_sends_all_of_a_coded_body_can_read_why_it_is_refused(product: Running) -> None:
    request = head(Content_Length=2 * MEBIBYTE, Content_Encoding="gzip")
    status, problem = parsed(send(product, request, lambda c: c.sendall(b"x" * 2 * MEBIBYTE)))
    assert (status, problem["code"]) == (415, "unsupported-media-type")


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_a_body_that_says_that_it_is_not_coded_is_read(product: Running, coding: str) -> None:
    body = json.dumps(a_product()).encode()
    assert parsed(send(product, head(Content_Length=len(body), Content_Encoding=coding) + body))[0] == 201


@pytest.mark.parametrize("host", ["x", "x:8002", "shop.example", "a_b", "127.0.0.1:1", "[::1]:8002", "%C3%A9"])
def test_a_host_that_is_one_is_taken(product: Running, host: str) -> None:
    request = f"GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    assert parsed(send(product, request)) == (200, {"status": "healthy"})


def test_an_old_request_needs_no_host(product: Running) -> None:
    assert send(product, b"GET /livez HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize("keys", [("a", "b"), ("a", "a"), ("a", "")])
def test_two_keys_are_no_key(product: Running, keys: tuple[str, str]) -> None:
    body = json.dumps(a_product()).encode()
    headers = "".join(f"Idempotency-Key: {key}\r\n" for key in keys).encode()
    request = head(Content_Length=len(body))[:-2] + headers + b"\r\n" + body
    status, problem = parsed(send(product, request))
    assert (status, problem["errors"][0]["pointer"]) == (422, "/Idempotency-Key")


def test_a_key_may_have_a_comma(product: Running) -> None:
    body = json.dumps(a_product()).encode()
    assert parsed(send(product, head(Content_Length=len(body), Idempotency_Key="a,b") + body))[0] == 201


def test_half_a_body_is_no_body(product: Running) -> None:
    status, problem = parsed(send(product, head(Content_Length=100) + b'{"name": "x", "price": 5}'))
    assert (status, problem["code"]) == (400, "malformed-request")


def test_half_a_request_holds_up_nobody(product: Running) -> None:
    halves = [socket.create_connection(("127.0.0.1", product.port)) for _ in range(50)]
    for half in halves:
        half.sendall(head(Content_Length=100))
    started = time.monotonic()
    for _ in range(20):
        assert requests.get(f"{product.url}/products/stats", timeout=5).status_code == 200
    assert time.monotonic() - started < 15
    for half in halves:
        half.close()


# Clients that stop in the middle ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(databases: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The product service with one worker and timeouts of five seconds."""
    url, worker = databases.migrated("product_service"), "--worker-class=tests.integration.libs.hasty.Worker"
    variables = {"GUNICORN_CMD_ARGS": f"{worker} --keep-alive=5", "WEB_CONCURRENCY": "1"}
    with Running("product", url, tmp_path_factory.mktemp("hasty"), **variables) as running:
        yield running
    assert "Traceback" not in running.printed()


def half_a_head(running: Running) -> socket.socket:
    return opened(running, head()[:-2])


def half_a_body(running: Running) -> socket.socket:
    return opened(running, head(Content_Length=1000) + b'{"name":')


def half_a_chunk(running: Running) -> socket.socket:
    return opened(running, head(Transfer_Encoding="chunked") + b"100\r\nxx")


def no_reader(running: Running) -> socket.socket:
    """A client that requests more than the socket buffers hold, four megabytes at most, and does not read."""
    return opened(running, b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 5)


STOPPED = {stop.__name__: stop for stop in (half_a_head, half_a_body, half_a_chunk, no_reader)}


def opened(running: Running, data: bytes) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(10)
    made.connect(("127.0.0.1", running.port))
    made.sendall(data)
    return made


@contextmanager
def stopped(running: Running, **counts: int) -> Iterator[int]:
    """Clients that stall in each of the ways; returns their number."""
    with ExitStack() as clients:
        for name, count in counts.items():
            for _ in range(count):
                clients.enter_context(STOPPED[name](running))
        yield sum(counts.values())


def worker_of(running: Running) -> Path:
    (pid,) = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    return Path(f"/proc/{pid}")


def sockets(running: Running) -> int:
    found = 0
    for path in (worker_of(running) / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += os.readlink(path).startswith("socket:")
    return found


def unread(running: Running) -> int:
    """Bytes in the socket buffers of the service."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [line for line in lines if line[1].endswith(f":{running.port:04X}") and line[3] != LISTENS]
    return sum(int(line[4].partition(":")[0], 16) for line in ours)


def resident(running: Running) -> int:
    """Bytes of memory."""
    return int((worker_of(running) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slowest(running: Running, requests_made: int = 20) -> float:
    """The slowest response time in seconds; half of the requests have a body."""
    with requests.Session() as session:
        seconds = []
        for number in range(requests_made):
            started = time.monotonic()
            if number % 2:
                assert session.get(f"{running.url}/products/stats", timeout=30).status_code == 200
            else:
                assert session.post(f"{running.url}/products", json=a_product(), timeout=30).status_code == 201
            seconds.append(time.monotonic() - started)
    return max(seconds)


def test_clients_that_stop_in_the_middle_hold_up_nobody_and_are_gone_in_time(hasty: Running) -> None:
    assert slowest(hasty) < 4
    before, memory = sockets(hasty), resident(hasty)
    with stopped(hasty, half_a_head=200, half_a_body=100, half_a_chunk=100, no_reader=50) as count:
        assert eventually(lambda: sockets(hasty) > before + count / 2, 4)
        assert eventually(lambda: unread(hasty) > 50 * MEBIBYTE, 4)
        assert slowest(hasty) < 4
        assert resident(hasty) - memory < 64 * MEBIBYTE
        assert eventually(lambda: sockets(hasty) <= before, 15)
        assert eventually(lambda: unread(hasty) == 0)


@pytest.mark.parametrize("begin", [half_a_body, half_a_chunk])
def test_a_body_that_drips_has_no_more_time_than_another(hasty: Running, begin: Callable[..., socket.socket]) -> None:
    with begin(hasty) as client:
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() < started + 15:
                client.sendall(b" ")
                time.sleep(0.1)
        assert 4 < time.monotonic() - started < 12


def test_a_body_that_comes_in_time_is_taken_however_slowly(hasty: Running) -> None:
    body = json.dumps(a_product()).encode()
    with opened(hasty, head(Content_Length=len(body))) as client:
        for start in range(0, len(body), 20):
            time.sleep(0.05)
            client.sendall(body[start : start + 20])
        assert client.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_a_client_is_told_to_go_on_before_its_body_is_waited_for(hasty: Running) -> None:
    body = json.dumps(a_product()).encode()
    with opened(hasty, head(Content_Length=len(body), Expect="100-continue")) as client:
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(65536).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize(
    ("headers", "part"),
    [
        ({"Content_Length": 10**12}, b"x" * 65536),
        ({"Transfer_Encoding": "chunked"}, b"10000\r\n%s\r\n" % (b"x" * 65536)),
        ({"Transfer_Encoding": "chunked"}, b"1\r\nx\r\n" * 10_000),
    ],
)
def test_a_body_without_end_has_an_end(hasty: Running, headers: dict[str, Any], part: bytes) -> None:
    """Also for a sender that is so fast that there is always more to read."""

    def send_for_ever() -> None:
        started = time.monotonic()
        with opened(hasty, head(**headers)) as client, pytest.raises(ConnectionError):
            while time.monotonic() < started + 15:
                client.sendall(part)

    with beside(send_for_ever):
        assert slowest(hasty) < 4


def test_an_answer_that_is_read_slowly_is_whole(product: Running) -> None:
    with no_reader(product) as client, client.makefile("rb") as answers:
        time.sleep(1)
        for _ in range(5):
            lines = iter(answers.readline, b"\r\n")
            headers = dict(line.rstrip().split(b": ", 1) for line in lines if b": " in line)
            assert len(answers.read(int(headers[b"Content-Length"]))) > MEBIBYTE


@pytest.mark.parametrize("name", STOPPED)
def test_at_the_end_nobody_waits_for_a_client_that_has_stopped(
    new_database: Callable[..., str], tmp_path: Path, name: str
) -> None:
    with Running("product", new_database("product_service"), tmp_path) as running, stopped(running, **{name: 20}):
        time.sleep(0.5)
        started = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - started < 8
    assert "timeout" not in running.printed()
    assert len([line for line in running.logged() if '"worker.stopped"' in line]) == 2


# Budgets -----------------------------------------------------------------------------------------------------------


def check_pulse(running: Running) -> None:
    """Check that the service answers promptly on new connections; one slow answer in ten is allowed, since other
    programs may slow the machine down.
    """
    seconds = []
    for _ in range(20):
        started = time.monotonic()
        assert requests.get(f"{running.root}/livez", timeout=30).json() == {"status": "healthy"}
        seconds.append(time.monotonic() - started)
        time.sleep(0.02)
    assert sorted(seconds)[17] < 0.25
    assert max(seconds) < 4


@contextmanager
def open_connections(running: Running, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(opened(running, data)) for _ in range(count)]


def test_bodies_that_never_end_hold_no_more_than_their_budget(hasty: Running) -> None:
    """The oldest of them are refused to make room."""
    slowest(hasty, 2)
    before = resident(hasty)
    part = head(Content_Length=MEBIBYTE) + b"x" * (MEBIBYTE - 10)
    with open_connections(hasty, 150, part) as clients, clients[0].makefile("rb") as answers:
        check_pulse(hasty)
        assert resident(hasty) - before < 64 * MEBIBYTE
        assert slowest(hasty, 4) < 4
        status, headers, problem = read_answer(answers)
    assert (status, problem["code"], headers["Connection"]) == (503, "overloaded", "close")


def test_heads_that_never_end_hold_little(hasty: Running) -> None:
    before = resident(hasty)
    half = head()[:-2] + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 8000) for number in range(3))
    with open_connections(hasty, 400, half):
        check_pulse(hasty)
        assert resident(hasty) - before < 64 * MEBIBYTE
    whole = half + b"".join(b"Y-%d: %s\r\n" % (number, b"x" * 8000) for number in range(2))
    status, problem = parsed(send(hasty, whole + b"\r\n"))
    assert (status, problem["code"]) == (431, "headers-too-large")


@pytest.mark.parametrize("data", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", head(Content_Length=5)])
def test_connections_that_wait_for_their_clients_do_not_keep_others_out(hasty: Running, data: bytes) -> None:
    """The oldest of them are closed."""
    with open_connections(hasty, 1100, data) as clients:
        check_pulse(hasty)
        assert slowest(hasty, 4) < 4
        assert sockets(hasty) < 900
        clients[0].settimeout(5)
        while clients[0].recv(65536):
            pass


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow_url(databases: Any) -> str:
    url: str = databases.migrated("product_service")
    return url


@pytest.fixture(scope="module")
def narrow(narrow_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The product service with one worker that handles one request at a time, without a queue."""
    narrow = {"WEB_CONCURRENCY": "1", "MAX_CONCURRENT_REQUESTS": "1", "MAX_QUEUED_REQUESTS": "0"}
    patient = {"REQUEST_DEADLINE_SECONDS": "30"}
    with Running("product", narrow_url, tmp_path_factory.mktemp("narrow"), **narrow, **patient) as running:
        yield running


@pytest.fixture
def full(narrow: Running, narrow_url: str) -> Iterator[Running]:
    """One request is in progress: it waits for a lock of the database."""
    with closing(sqlite3.connect(narrow_url.removeprefix("sqlite:///"), isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        with beside(lambda: slowest(narrow, 1)):
            assert eventually(lambda: figure(narrow, "requests_in_progress") == 1)
            yield narrow
            somebody.execute("COMMIT")
    assert figure(narrow, "requests_in_progress") == 0


def figure(running: Running, name: str) -> float:
    lines = requests.get(f"{running.root}/metrics", timeout=10).text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def read_answer(answers: BinaryIO) -> tuple[int, dict[str, str], Any]:
    status = int(answers.readline().split()[1])
    lines = [line.decode().rstrip() for line in iter(answers.readline, b"\r\n")]
    headers = dict(line.split(": ", 1) for line in lines)
    return status, headers, orjson.loads(answers.read(int(headers["Content-Length"])))


ORIGIN = {"Origin": "http://shop.example"}
REFUSED = {
    "a plain request": [head(Content_Length=2) + b"{}"],
    "without a body": [b"GET /api/v1/products HTTP/1.1\r\nHost: x\r\n\r\n"],
    "the body comes later": [head(Content_Length=2), b"{}"],
    "the head comes in parts": [head(Content_Length=2)[:40], head(Content_Length=2)[40:] + b"{}"],
    "in chunks": [head(Transfer_Encoding="chunked") + b"2\r\n{}\r\n0\r\n\r\n"],
    "a chunk comes later": [head(Transfer_Encoding="chunked") + b"2\r\n{}\r\n", b"0\r\n\r\n"],
    "a large body": [head(Content_Length=500_000), b"x" * 500_000],
    "a body that is too large": [head(Content_Length=2 * MEBIBYTE), b"x" * 2 * MEBIBYTE],
    "from a browser": [head(Content_Length=2, **ORIGIN) + b"{}"],
    "from a browser, in parts": [head(Content_Length=2, **ORIGIN), b"{}"],
    "with a path in need of decoding": [head("/api/v1/caf%C3%A9", Content_Length=2) + b"{}"],
}


@pytest.mark.parametrize("parts", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_for_want_of_room_leaves_the_connection_to_the_next_request(
    full: Running, parts: list[bytes]
) -> None:
    before = figure(full, "requests_shed_total")
    with socket.create_connection(("127.0.0.1", full.port), 10) as client, client.makefile("rb") as answers:
        for _ in range(2):
            for part in parts:
                client.sendall(part)
                time.sleep(0.05)
            status, headers, problem = read_answer(answers)
            assert (status, problem["code"], headers["Connection"]) == (503, "overloaded", "keep-alive")
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answer(answers)[2] == {"status": "healthy"}
        client.sendall(b"".join(parts) * 2)
        assert [read_answer(answers)[0] for _ in range(2)] == [503, 503]
    assert figure(full, "requests_shed_total") - before == 4


@pytest.mark.parametrize("headers", [{}, ORIGIN])
def test_a_refusal_is_the_same_whoever_makes_it(full: Running, headers: dict[str, str]) -> None:
    """It may be made by the lane, by the middleware, or by the app."""
    found = []
    for path, asked in (("/api/v1/products", headers), ("/api/v1/product%73", headers)):
        asked = {"X-Request-ID": "one", **asked}
        answer = requests.post(full.root + path, json={}, headers=asked, timeout=10)
        document = check_problem(answer.text, 503, answer.headers)
        assert document == Overloaded().document("/api/v1/products", "one")
        found.append({**answer.headers, "Date": "now", "traceparent": ""})
    assert found[0] == found[1]
    assert int(found[0]["Retry-After"]) >= 1
    assert ("Access-Control-Allow-Origin" in found[0]) == bool(headers)
    assert found[0]["Vary"] == "Origin"


def test_a_browser_learns_that_it_may_read_the_refusal(full: Running) -> None:
    asked = {**ORIGIN, "Access-Control-Request-Method": "POST"}
    preflight = requests.options(f"{full.url}/products", headers=asked, timeout=10)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN["Origin"])
    refused = requests.post(f"{full.url}/products", json={}, headers=ORIGIN, timeout=10)
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (503, ORIGIN["Origin"])
    assert "Retry-After" in refused.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics", "/openapi.json"])
def test_a_service_that_is_full_answers_machines(full: Running, path: str) -> None:
    assert requests.get(full.root + path, timeout=5).status_code == 200


def test_a_client_that_has_stopped_takes_up_no_place(narrow: Running) -> None:
    with stopped(narrow, half_a_head=5, half_a_body=5, half_a_chunk=5, no_reader=5):
        time.sleep(0.2)
        assert slowest(narrow, 4) < 4


# Workers -----------------------------------------------------------------------------------------------------------


def test_a_connection_is_kept_and_used_again(product: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    create = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda *args: opened.append(args) or create(*args))
    client = ServiceClient("product", Settings(service="order", product_service_url=product.root))
    for _ in range(20):
        assert client.get("/products/stats").status == 200
    assert len(opened) == 1


def test_every_worker_answers_for_all_of_them(product: Running) -> None:
    def count() -> float:
        text = requests.get(f"{product.root}/metrics", timeout=10).text
        name = 'http_requests_total{method="GET",route="/api/v1/products/<id:product_id>",status="404"} '
        return sum(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))

    before = count()
    in_threads(8, lambda _: [requests.get(f"{product.url}/products/{new_id()}", timeout=10) for _ in range(10)])
    # On any worker, at the latest 0.2 seconds after the last request.
    assert eventually(lambda: {count() - before for _ in range(8)} == {80.0})


RESTARTS = 40


def test_workers_that_died_leave_their_figures_and_no_files(databases: Any, tmp_path: Path) -> None:
    def requests_counted(running: Running) -> float:
        lines = requests.get(f"{running.root}/metrics", timeout=10).text.splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith("http_requests_total{"))

    url = databases.migrated("product_service")
    with Running("product", url, tmp_path, WEB_CONCURRENCY="1") as running:
        counted = 0.0
        for _ in range(RESTARTS):
            (worker,) = children(running.process.pid)
            assert requests.get(f"{running.url}/products", timeout=10).status_code == 200
            requests_counted(running)  # writes what the worker has counted, which a kill would lose
            os.kill(worker, signal.SIGKILL)
            assert eventually(lambda gone=worker: children(running.process.pid) not in ([], [gone]))
            before, counted = counted, requests_counted(running)
            assert counted > before
        assert counted >= RESTARTS
        assert figure(running, "requests_in_progress") == 0
        assert len(list((tmp_path / "run" / "product" / "metrics").rglob("*.db"))) < 20
    assert [line for line in running.logged() if '"metrics.lost"' in line] == []


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_right_after_the_requests_loses_no_count(databases: Any, tmp_path: Path, workers: str) -> None:
    url = databases.migrated("product_service")
    with Running("product", url, tmp_path, WEB_CONCURRENCY=workers) as running:
        in_threads(4, lambda _: [requests.get(f"{running.url}/products", timeout=10) for _ in range(10)])
        assert running.stop() == 0
    # With one worker, there is no other that could still be scraped.
    figures = [
        (json.loads(key)[:2], json.loads(key)[2].get("route"), value)
        for path in (tmp_path / "run" / "product" / "metrics").rglob("*.db")
        for key, value, *_ in MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
    ]

    def total(metric: str, name: str) -> float:
        return sum(value for of, route, value in figures if of == [metric, name] and route == "/api/v1/products")

    assert total("http_requests", "http_requests_total") == 40
    assert total("http_request_duration_seconds", "http_request_duration_seconds_bucket") == 40


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_second_copy_on_one_data_dir_leaves_the_metrics_of_the_first_alone(databases: Any, tmp_path: Path) -> None:
    url, metrics = databases.migrated("product_service"), tmp_path / "run" / "product" / "metrics"

    def counts(running: Running) -> bool:
        before = figure_of_stats(running)
        assert requests.get(f"{running.url}/products/stats", timeout=10).status_code == 200
        return bool(eventually(lambda: figure_of_stats(running) == before + 1))

    def figure_of_stats(running: Running) -> float:
        lines = requests.get(f"{running.root}/metrics", timeout=10).text.splitlines()
        name = 'http_requests_total{method="GET",route="/api/v1/products/stats",status="200"} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    with Running("product", url, tmp_path) as first:
        assert counts(first)
        (tmp_path / "second").mkdir()
        with Running("product", url, tmp_path / "second", DATA_DIR=str(tmp_path)) as second:
            assert counts(second)
            assert counts(first)
            assert figure_of_stats(first) == 2
        assert counts(first)
    with Running("product", url, tmp_path):
        assert len([path for path in metrics.iterdir() if path.is_dir()]) == 1


def test_five_hundred_orders_for_a_hundred_units_sell_a_hundred(product: Running) -> None:
    made = requests.post(f"{product.url}/products", json=a_product(stock=100), timeout=10).json()

    def buy(number: int) -> Counter[str]:
        with requests.Session() as session:
            answers = [
                session.post(f"{product.url}/reservations", json=a_reservation((made["id"], 1)), timeout=20)
                for _ in range(25)
            ]
        return Counter(str(answer.json().get("code", answer.status_code)) for answer in answers)

    assert sum(in_threads(20, buy), Counter()) == {"201": 100, "insufficient-stock": 400}
    left = requests.get(f"{product.url}/products/{made['id']}", timeout=10).json()
    assert (left["stock"], left["reserved"]) == (0, 100)


# Events over HTTP --------------------------------------------------------------------------------------------------


@pytest.fixture
def order_db(new_database: Callable[..., str], open_database: Callable[[str], Database]) -> Database:
    """A database of an order service, of which only the outbox is used."""
    db = open_database(new_database("order_service"))
    db.owner.service = "order"
    return db


def sender(product: Running) -> HttpSender:
    return HttpSender(ServiceClient("product", Settings(service="order", product_service_url=product.root)))


def test_events_reach_the_subscriber_and_take_effect_once(product: Running, order_db: Database) -> None:
    made = requests.post(f"{product.url}/products", json=a_product(stock=300), timeout=10).json()
    orders = [new_id() for _ in range(250)]
    for start in range(0, 250, 50):
        batch = {"reservations": [a_reservation((made["id"], 1), order_id=o) for o in orders[start : start + 50]]}
        requests.post(f"{product.url}/reservations/batch", json=batch, timeout=10)
    with order_db.write() as session:
        outbox.add(session, *[OrderRejected(order_id=order) for order in orders])
    courier = Courier(Relay(order_db, "product"), sender(product).send)
    context.begin(30)
    while courier.step():
        pass
    courier.finish()
    left = requests.get(f"{product.url}/products/{made['id']}", timeout=10).json()
    assert (left["stock"], left["reserved"]) == (300, 0)
    with order_db.read() as connection:
        waiting = sa.select(sa.func.count()).where(outbox.outbox.c.subscriber == "product")
        assert connection.scalar(waiting) == 0


def test_a_batch_that_is_too_large_is_halved(product: Running) -> None:
    orders = [new_id() for _ in range(5)]
    rows = []
    for number, order in enumerate(orders):
        event = a_cloud_event("order.rejected.v1", {"order_id": order, "padding": "x" * 200_000})
        rows.append(Claimed(number, json.dumps(event), 0))
    assert sender(product).send(rows) == ([0, 1, 2, 3, 4], [])
    for order in orders:
        assert requests.get(f"{product.url}/reservations/{order}", timeout=10).json()["status"] == "released"


def test_an_event_that_is_too_large_by_itself_is_wanted_again(product: Running) -> None:
    """It blocks its own subject, and the log says so."""
    event = a_cloud_event("order.rejected.v1", {"order_id": new_id(), "padding": "x" * 600_000})
    row = Claimed(1, json.dumps(event), 0)
    assert sender(product).send([row]) == ([], [row])


def test_what_the_subscriber_could_not_do_yet_is_wanted_again(product: Running) -> None:
    good, dead = (
        a_cloud_event("order.rejected.v1", {"order_id": new_id()}),
        a_cloud_event("order.rejected.v1", {}),
    )
    rows = [Claimed(n, json.dumps(event), 0) for n, event in enumerate((good, dead))]
    # A dead letter is stored by the subscriber, and not sent again.
    assert sender(product).send(rows) == ([0, 1], [])


def test_a_subscriber_that_is_down_has_nothing(order_db: Database) -> None:
    with order_db.write() as session:
        outbox.add(session, OrderRejected(order_id=new_id()))
    client = ServiceClient("product", Settings(service="order", product_service_url="http://127.0.0.1:1"))
    courier = Courier(Relay(order_db, "product"), HttpSender(client).send)
    with pytest.raises(DependencyUnavailable):
        courier.step()
    assert len(Relay(order_db, "product").exchange()) == 1


def open_breakers(running: Running) -> float:
    lines = requests.get(f"{running.root}/metrics", timeout=10).text.splitlines()
    name = 'breakers_open{service="order"} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def test_every_live_worker_whose_breaker_is_open_is_counted(new_database: Callable[..., str], tmp_path: Path) -> None:
    """The subscribers of the user events are down."""
    with Running("user", new_database("user_service"), tmp_path, BREAKER_FAILURES="1") as running:
        assert open_breakers(running) == 0
        requests.post(f"{running.url}/users", json=a_user(), timeout=10)
        assert eventually(lambda: open_breakers(running) == 2, 20)


# The end -----------------------------------------------------------------------------------------------------------


def test_at_the_end_what_runs_is_finished_and_nothing_is_lost(
    new_database: Callable[..., str], tmp_path: Any, open_database: Callable[[str], Database]
) -> None:
    url = new_database("user_service")
    answered: list[str] = []
    stopping = threading.Event()

    def register(number: int) -> None:
        """Register users until one is refused, each on a new connection."""
        while True:
            try:
                answer = requests.post(f"{running.url}/users", json=a_user(), timeout=10)
            except requests.ConnectionError:
                assert stopping.is_set()
                return
            assert answer.status_code == 201, answer.text
            answered.append(answer.json()["id"])

    with Running("user", url, tmp_path) as running:

        def stop_soon() -> None:
            while len(answered) < 40:
                time.sleep(0.005)
            stopping.set()
            started = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - started < 15

        in_threads(5, lambda number: stop_soon() if number == 0 else register(number))
    db = open_database(url)
    with db.read() as connection:
        stored = set(connection.scalars(sa.text("SELECT id FROM users")))
        leased = connection.scalar(sa.text("SELECT count(*) FROM outbox WHERE lease_token IS NOT NULL"))
    assert set(answered) <= stored
    assert leased == 0
    # Every request is in the log, the last ones too.
    lines = [json.loads(line) for line in running.logged()]
    assert len([line for line in lines if line["event"] == "request" and line.get("status") == 201]) >= len(answered)


# What is no request -------------------------------------------------------------------------------------------------

STATS = "/api/v1/products/stats"
HOST = b"Host: x\r\nX-Request-ID: one\r\n"
NO_REQUESTS = {
    "a long line": (b"GET " + STATS.encode() + b"?q=" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "uri-too-long"),
    "a large header": (b"GET /x HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 9000 + b"\r\n\r\n", 431, "headers-too-large"),
    "many headers": (b"GET /x HTTP/1.1\r\n" + HOST + b"X: x\r\n" * 200 + b"\r\n", 431, "headers-too-large"),
    "headers without end": (b"GET /x HTTP/1.1\r\n" + HOST + b"X: x\r\n" * 500_000, 431, "headers-too-large"),
    "no request line": (b"good morning\r\n" + HOST + b"\r\n", 400, "malformed-request"),
    "bytes": (b"\x16\x03\x01\x00\xff\r\n\r\n", 400, "malformed-request"),
    "no method": (b"get /x HTTP/1.1\r\n" + HOST + b"\r\n", 400, "malformed-request"),
    "no version": (b"GET /x HTTP/9\r\n" + HOST + b"\r\n", 400, "malformed-request"),
    "no header": (b"GET /x HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n", 400, "malformed-request"),
    "two lengths": (b"GET /x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n", 400, "malformed-request"),
    "an odd expectation": (b"GET /x HTTP/1.1\r\n" + HOST + b"Expect: tea\r\n\r\n", 417, "expectation-failed"),
    "no host": (b"GET /x HTTP/1.1\r\nX-Request-ID: one\r\n\r\n", 400, "malformed-request"),
    "an empty host": (b"GET /x HTTP/1.1\r\nHost:\r\nX-Request-ID: one\r\n\r\n", 400, "malformed-request"),
    "two hosts": (b"GET /x HTTP/1.1\r\n" + HOST + b"Host: x\r\n\r\n", 400, "malformed-request"),
    "a host with a path": (b"GET /x HTTP/1.1\r\nHost: x/y\r\n\r\n", 400, "malformed-request"),
    "a host with a user": (b"GET /x HTTP/1.1\r\nHost: ada@x\r\n\r\n", 400, "malformed-request"),
    "a host with a space": (b"GET /x HTTP/1.1\r\nHost: x y\r\n\r\n", 400, "malformed-request"),
    "an old request with a wrong host": (b"GET /x HTTP/1.0\r\nHost: x/y\r\n\r\n", 400, "malformed-request"),
    "two codings": (b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "unsupported-transfer-coding"),
    "identity and chunks": (b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity, chunked\r\n\r\n", 501, "unsupported-transfer-coding"),
    "two headers with codings": (b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n", 501, "unsupported-transfer-coding"),
    "chunks in chunks": (b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400, "malformed-request"),
    "an odd coding": (b"GET /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: tea\r\n\r\n", 501, "unsupported-transfer-coding"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "status", "code"), NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_what_is_no_request_gets_a_problem_document_and_the_connection_ends(
    product: Running, data: bytes, status: int, code: str
) -> None:
    check_last_answer(product, data, status, code)


def test_a_fault_of_the_server_gets_a_problem_document_and_the_connection_ends(
    new_database: Callable[..., str], tmp_path: Path
) -> None:
    worker = {"GUNICORN_CMD_ARGS": "--worker-class=tests.integration.libs.hasty.Worker"}
    with Running("product", new_database("product_service"), tmp_path, **worker) as faulty:
        check_last_answer(faulty, b"GET /fault HTTP/1.1\r\n" + HOST + b"\r\n", 500, "internal-error")


def check_last_answer(running: Running, data: bytes, status: int, code: str) -> None:
    """Check the answer to these bytes, after which the connection closes."""
    with socket.create_connection(("127.0.0.1", running.port), 10) as client, client.makefile("rb") as answers:
        client.sendall(data)
        answered_with, headers, problem = read_answer(answers)
        assert answers.read() == b""
    document = check_problem(json.dumps(problem), status, headers)
    assert (answered_with, document["code"], headers["Connection"]) == (status, code, "close")
    assert {"Date", "Server", "X-Content-Type-Options"} <= headers.keys()


@pytest.mark.parametrize(
    "header", ["SCRIPT_NAME: /y", "SCRIPT_NAME: /api", "PATH_INFO: /livez", "X-Forwarded-Prefix: /y"]
)
def test_no_header_of_a_client_says_where_the_application_is_mounted(product: Running, header: str) -> None:
    request = f"GET {STATS} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n"
    status, stats = parsed(send(product, request.encode()))
    assert (status, "total" in stats) == (200, True)


def test_two_headers_that_contradict_each_other_about_the_scheme_are_ignored(product: Running) -> None:
    request = f"GET {STATS} HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n"
    assert parsed(send(product, request.encode()))[0] == 200


def test_the_answer_to_what_is_no_request_names_what_can_be_made_out(product: Running) -> None:
    path = f"{STATS}/caf%C3%A9"
    status, problem = parsed(send(product, f"GET {path}?q HTTP/1.1\r\n".encode() + HOST + b"nonsense\r\n\r\n"))
    assert (status, problem["instance"], problem["request_id"]) == (400, path, "one")


def test_a_head_request_that_cannot_be_read_gets_no_body(product: Running) -> None:
    top, _, body = send(product, b"HEAD /x HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n").partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert (b"Content-Length: 0" in top, body) == (False, b"")


def test_a_client_that_sends_too_long_a_head_can_read_why_it_is_refused(product: Running) -> None:
    """It gets no reset, although it sends everything before it reads."""
    line = b"GET /x?" + b"x" * 2 * MEBIBYTE + b" HTTP/1.1\r\n\r\n"
    status, problem = parsed(send(product, line))
    assert (status, problem["code"]) == (414, "uri-too-long")


def test_what_is_no_request_stands_in_the_log_without_what_was_sent(product: Running) -> None:
    _, problem = parsed(send(product, b"ada@example.com\r\n\r\n"))
    assert eventually(lambda: [line for line in product.logged() if problem["request_id"] in line])
    (line,) = (line for line in product.logged() if problem["request_id"] in line)
    assert ('"request.unreadable"' in line, "ada@" in line) == (True, False)


# Files -------------------------------------------------------------------------------------------------------------


def test_what_a_service_writes_is_for_its_owner_alone(databases: Any, tmp_path: Path) -> None:
    """Even with a umask of 0."""
    data = tmp_path / "made" / "var"
    before = os.umask(0)
    try:
        db = Database(f"sqlite:///{data}/product.db")
        migrate.upgrade(db, "product_service")
        db.dispose()
        with Running(
            "product", f"sqlite:///{data}/product.db", tmp_path, DATA_DIR=str(data), LOG_DIR=f"{data}/log"
        ) as run:
            assert requests.post(f"{run.url}/products", json=a_product(), timeout=10).status_code == 201
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "made", *data.rglob("*")]}
    finally:
        os.umask(before)
    folders = {path for path in modes if path.is_dir()}
    assert {modes[path] for path in folders} == {0o700}
    assert {path.name for path in modes} >= {"product.db", "product.db-wal", "product.db.lock", "product.log", "run"}
    # The metrics files are in a private folder.
    assert {modes[path] for path in modes.keys() - folders if "metrics" not in path.parts} == {0o600}
