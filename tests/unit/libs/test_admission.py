"""Which requests get a place, wait or are refused; with threads in place of greenlets."""

import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import orjson
import pytest
from prometheus_client import REGISTRY

from demo.api import eventually
from libs.common import context
from libs.common.errors import Overloaded
from libs.common.web import admission
from libs.common.web.admission import REFUSED, WAITED, Admission

PATIENCE = 1.0

Environ = dict[str, Any]


class App:
    """Records its requests; each blocks until it is released."""

    def __init__(self) -> None:
        self.inside: list[Environ] = []
        self.gates: dict[int, threading.Event] = {}

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        self.inside.append(environ)
        assert self.gates.setdefault(environ["number"], threading.Event()).wait(10)
        return [b"done"]

    def let_go(self, number: int) -> None:
        self.gates.setdefault(number, threading.Event()).set()

    def has_seen(self, count: int) -> bool:
        return len(self.inside) == count

    @property
    def numbers(self) -> list[int]:
        return [environ["number"] for environ in self.inside]


class Client:
    """A request in its own thread."""

    def __init__(self, admission: Admission, number: int = 0, **environ: Any):
        self.environ = {"PATH_INFO": "/api/v1/orders", "REQUEST_METHOD": "POST", "number": number, **environ}
        self.started, self.seconds = time.monotonic(), 0.0
        self.head: list[Any] = []
        self._thread = threading.Thread(target=self._ask, args=(admission,))
        self._thread.start()

    def _ask(self, admission: Admission) -> None:
        self.body = b"".join(admission(self.environ, lambda *head: self.head.extend(head)))
        self.seconds = time.monotonic() - self.started

    @property
    def refused(self) -> bool:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.body != b"done"


@pytest.fixture
def app() -> Iterator[App]:
    made = App()
    yield made
    for number in range(100):
        made.let_go(number)


def _have_come(app: App, made: Admission, count: int) -> bool:
    return len(app.inside) + len(made._waiting) == count


def fill(app: App, *, places: int, queue: int) -> tuple[Admission, list[Client]]:
    """An Admission whose places are taken by the numbers from 0 on, and whose queue is full of the next ones."""
    made = Admission(app, places, queue, PATIENCE)
    clients = []
    for number in range(places + queue):
        clients.append(Client(made, number))
        assert eventually(partial(_have_come, app, made, len(clients)))
    return made, clients


def test_as_many_are_under_way_as_there_are_places_and_others_follow_in_order(app: App) -> None:
    _, clients = fill(app, places=2, queue=3)
    assert sorted(app.numbers) == [0, 1]
    for number in (1, 0, 2, 3, 4):
        before = len(app.inside)
        app.let_go(number)
        assert not clients[number].refused
        assert eventually(partial(app.has_seen, min(before + 1, 5)))
    assert app.numbers[2:] == [2, 3, 4]


def test_who_comes_when_the_queue_is_full_is_refused_at_once(app: App) -> None:
    full, _ = fill(app, places=1, queue=1)
    assert full.is_full()
    late = Client(full, 9)
    assert late.refused
    assert late.seconds < PATIENCE
    assert 9 not in app.numbers


def test_nobody_waits_for_longer_than_patience_allows(app: App) -> None:
    _, clients = fill(app, places=1, queue=1)
    assert clients[1].refused
    assert PATIENCE <= clients[1].seconds < PATIENCE + 4
    assert app.numbers == [0]


def test_nobody_waits_past_the_time_that_the_caller_gives(app: App) -> None:
    full, _ = fill(app, places=1, queue=0)
    full._in_a_burst = 1
    hasty = Client(full, 1, HTTP_X_REQUEST_TIMEOUT_MS="50")
    assert hasty.refused
    assert hasty.seconds < PATIENCE


def test_who_gave_up_waiting_is_passed_over(app: App) -> None:
    made, clients = fill(app, places=1, queue=1)
    assert clients[1].refused
    app.let_go(0)
    assert not clients[0].refused
    app.let_go(2)
    assert not Client(made, 2).refused


def test_a_place_is_free_again_whatever_became_of_the_request() -> None:
    def fails(environ: Environ, start_response: Any) -> Iterable[bytes]:
        raise ZeroDivisionError

    made = Admission(fails, 1, 0, PATIENCE)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            made({"PATH_INFO": "/api/v1/orders", "REQUEST_METHOD": "GET"}, None)  # type: ignore[arg-type]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("given_a_place", [False, True])
def test_who_is_killed_while_it_waits_takes_no_place_along(
    app: App, monkeypatch: pytest.MonkeyPatch, given_a_place: bool
) -> None:
    made, _ = fill(app, places=1, queue=0)
    made._in_a_burst = 1

    def kill(*_: Any) -> float:
        if given_a_place:
            app.let_go(0)
            assert eventually(lambda: not made._waiting)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(context, "limited", kill)
        made({"PATH_INFO": "/api/v1/orders", "REQUEST_METHOD": "GET"}, None)  # type: ignore[arg-type]
    app.let_go(0)
    app.let_go(1)
    assert not Client(made, 1).refused
    assert not made._waiting


def keep_busy(made: Admission, app: App, seconds: float) -> None:
    """Keep at least one request waiting and being served."""
    give_up = time.monotonic() + seconds
    number = 50
    while time.monotonic() < give_up:
        number += 1
        Client(made, number)
        assert eventually(lambda: made._waiting)
        time.sleep(0.02)
        app.let_go(app.numbers[-1])
        assert eventually(lambda: not made._waiting)


def test_a_queue_that_lasts_is_kept_as_short_as_there_are_places(app: App) -> None:
    made, _ = fill(app, places=1, queue=0)
    made._in_a_burst, made._in_an_overload = 5, 1
    keep_busy(made, app, PATIENCE + 0.1)
    Client(made, 1)
    assert eventually(lambda: made._waiting)
    assert made.is_full()
    assert Client(made, 2).refused


def test_after_a_calm_the_queue_may_be_long_again(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = fill(app, places=1, queue=0)
    made._in_a_burst, made._in_an_overload = 5, 1
    keep_busy(made, app, PATIENCE + 0.1)
    time.sleep(admission.CALM_SECONDS + 0.05)
    for number in (1, 2, 3):
        Client(made, number)
    assert eventually(lambda: len(made._waiting) == 3)
    assert not made.is_full()


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics", "/openapi.json", "/", "/apis"])
def test_what_lies_outside_of_the_api_is_never_refused(app: App, path: str) -> None:
    full, _ = fill(app, places=1, queue=0)
    app.let_go(1)
    assert not Client(full, 1, PATH_INFO=path).refused


def test_a_browser_may_always_ask_whether_it_may_ask(app: App) -> None:
    full, _ = fill(app, places=1, queue=0)
    app.let_go(1)
    browser = Client(full, 1, REQUEST_METHOD="OPTIONS", HTTP_ORIGIN="http://shop.example")
    assert not browser.refused
    assert REFUSED not in browser.environ


def test_a_refusal_is_a_whole_problem_document(app: App) -> None:
    full, _ = fill(app, places=1, queue=0)
    refused = Client(full, 1, HTTP_X_REQUEST_ID="a.given-id", PATH_INFO="/api/v1/caf\u00c3\u00a9")
    assert refused.refused
    status, headers = refused.head
    assert status == "503 Service Unavailable"
    document = orjson.loads(refused.body)
    assert document == Overloaded().document("/api/v1/café", "a.given-id")
    assert document["instance"] == "/api/v1/caf%C3%A9"
    assert dict(headers) == {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(refused.body)),
        "Retry-After": "1",
        "X-Request-ID": "a.given-id",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
        "Vary": "Origin",
    }


def test_a_head_request_is_refused_without_a_body(app: App) -> None:
    full, _ = fill(app, places=1, queue=0)
    client = Client(full, 1, REQUEST_METHOD="HEAD")
    assert client.refused
    assert client.body == b""
    assert int(dict(client.head[1])["Content-Length"]) > 0


@pytest.mark.parametrize("given", [None, "", "not an id", "x" * 129])
def test_a_refusal_without_a_good_request_id_gets_a_fresh_one(app: App, given: str | None) -> None:
    full, _ = fill(app, places=1, queue=0)
    environ = {} if given is None else {"HTTP_X_REQUEST_ID": given}
    clients = [Client(full, number, **environ) for number in (1, 2)]
    assert all(client.refused for client in clients)
    found = [dict(client.head[1])["X-Request-ID"] for client in clients]
    assert [len(one) for one in found] == [32, 32]
    assert found == [orjson.loads(client.body)["request_id"] for client in clients]
    assert found[0] != found[1]


def test_the_refusal_of_a_browser_is_left_to_the_app(app: App) -> None:
    full, _ = fill(app, places=1, queue=0)
    app.let_go(1)
    browser = Client(full, 1, HTTP_ORIGIN="http://shop.example")
    assert not browser.refused
    assert browser.environ[REFUSED]


def test_who_had_to_wait_is_told_how_long(app: App) -> None:
    _, clients = fill(app, places=1, queue=1)
    time.sleep(0.1)
    app.let_go(0)
    assert eventually(lambda: 1 in app.numbers)
    assert 0.1 <= clients[1].environ[WAITED] < PATIENCE
    assert WAITED not in clients[0].environ


def value(name: str) -> float:
    found = REGISTRY.get_sample_value(name)
    assert found is not None
    return found


def test_who_is_under_way_waits_and_is_refused_is_counted(app: App) -> None:
    before = value("requests_shed_total")
    made, clients = fill(app, places=2, queue=3)
    assert (value("requests_in_progress"), value("requests_queued")) == (2, 3)
    assert Client(made, 9).refused
    app.let_go(9)
    assert not Client(made, 9, HTTP_ORIGIN="http://shop.example").refused
    for number in range(5):
        app.let_go(number)
    assert not any(client.refused for client in clients)
    assert (value("requests_in_progress"), value("requests_queued")) == (0, 0)
    assert value("requests_shed_total") - before == 2


def test_a_thousand_requests_over_a_few_places_lose_none_of_them() -> None:
    """A race: a place that was lost or given twice would show at the end."""
    most, now, lock = 0, 0, threading.Lock()

    def work(environ: Environ, start_response: Any) -> Iterable[bytes]:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.0002)
        with lock:
            now -= 1
        return [b"done"]

    made = Admission(work, 3, 40, 0.002)

    def ask() -> None:
        for _ in range(50):
            made({"PATH_INFO": "/api/v1/orders", "REQUEST_METHOD": "GET"}, lambda *head: None)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == 3
    assert (made._free, len(made._waiting)) == (3, 0)
