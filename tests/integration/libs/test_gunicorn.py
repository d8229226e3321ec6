"""What only the running service shows: gunicorn, gevent, sockets, more than one worker, and its end."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import requests
import sqlalchemy as sa

from libs.common import context, outbox
from libs.common.client import ServiceClient
from libs.common.config import Settings
from libs.common.db import Database, new_id
from libs.common.errors import DependencyUnavailable
from libs.common.outbox import Claimed, Relay, Route
from libs.common.transport import Courier, HttpSender
from product_service.events import OrderRejected
from tests.factories import a_cloud_event, a_product, a_reservation, a_user
from tests.processes import in_threads
from tests.servers import Running

pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def product(databases: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The product service, for all tests of this module."""
    url = databases.migrated("product_service")
    with Running("product", url, tmp_path_factory.mktemp("product")) as running:
        yield running
    assert running.process.returncode == 0, running.printed()


def send(running: Running, data: bytes, then: Callable[[socket.socket], None] = lambda connection: None) -> bytes:
    """Send bytes, and whatever `then` sends, as a client that reads the answer only afterwards."""
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


# Bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MEBIBYTE + 1, 2 * MEBIBYTE, 7 * MEBIBYTE])
@pytest.mark.parametrize("path", ["/api/v1/products", "/api/v1/events"])
def test_a_client_that_sends_too_much_can_read_why_it_is_refused(product: Running, size: int, path: str) -> None:
    """Not a reset: it sends everything before it reads."""
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
    """Else the rest of the body would be taken for a request."""
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
    assert time.monotonic() - started < 5
    for half in halves:
        half.close()


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
    # Whichever worker is asked.
    assert {count() - before for _ in range(8)} == {80.0}


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
    db.session_info["outbox"] = Route("order")
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
    """It holds up its own subject, and the log says so."""
    event = a_cloud_event("order.rejected.v1", {"order_id": new_id(), "padding": "x" * 600_000})
    row = Claimed(1, json.dumps(event), 0)
    assert sender(product).send([row]) == ([], [row])


def test_what_the_subscriber_could_not_do_yet_is_wanted_again(product: Running) -> None:
    good, dead = (
        a_cloud_event("order.rejected.v1", {"order_id": new_id()}),
        a_cloud_event("order.rejected.v1", {}),
    )
    rows = [Claimed(n, json.dumps(event), 0) for n, event in enumerate((good, dead))]
    # What is dead there is kept there, and not sent again.
    assert sender(product).send(rows) == ([0, 1], [])


def test_a_subscriber_that_is_down_has_nothing(order_db: Database) -> None:
    with order_db.write() as session:
        outbox.add(session, OrderRejected(order_id=new_id()))
    client = ServiceClient("product", Settings(service="order", product_service_url="http://127.0.0.1:1"))
    courier = Courier(Relay(order_db, "product"), HttpSender(client).send)
    with pytest.raises(DependencyUnavailable):
        courier.step()
    assert len(Relay(order_db, "product").exchange()) == 1


# The end -----------------------------------------------------------------------------------------------------------


def test_at_the_end_what_runs_is_finished_and_nothing_is_lost(
    new_database: Callable[..., str], tmp_path: Any, open_database: Callable[[str], Database]
) -> None:
    url = new_database("user_service")
    answered: list[str] = []
    stopping = threading.Event()

    def register(number: int) -> None:
        """Until it is turned away. A connection of its own for each, as after a restart of the client."""
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
            assert time.monotonic() - started < 5

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
