"""The calls to the other services, and the handling of their answers."""

import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from analytics_service.clients import (
    FIGURES,
    FakeServices,
    Figures,
    Health,
    ServiceClients,
    Services,
    SharedCall,
    SideBySide,
)
from analytics_service.events import (
    NotificationDead,
    NotificationSent,
    OrderCancelled,
    OrderConfirmed,
    OrderDelivered,
    OrderRejected,
    OrderShipped,
)
from libs.common import context
from libs.common.errors import DependencyUnavailable
from tests.network import Provider
from tests.unit.analytics_service.samples import NOON_TEXT, a_notification, an_order

# Figures and health ------------------------------------------------------------------------------------------------


def clients(provider: Provider, service: str = "order") -> ServiceClients:
    return ServiceClients({service: provider.client})


@pytest.fixture
def order(provider: Callable[[str], Provider]) -> Provider:
    return provider("order")


@pytest.mark.parametrize("service", FIGURES)
def test_a_service_is_asked_for_its_figures(provider: Callable[[str], Provider], service: str) -> None:
    asked = provider(service)
    path = f"/{service}s/stats"
    call = asked.answers("GET", path)

    found = clients(asked, service).figures(service)

    assert call.call_count == 1
    assert found.values == {name: asked.body("GET", path)[name] for name in FIGURES[service]}


@pytest.mark.parametrize(
    "answer",
    [{"status": 404, "json": {}}, *({"json": body} for body in ([], None, {"total": 1}, {"total": None}))],
    ids=str,
)
def test_an_answer_without_the_figures_is_none(order: Provider, answer: dict[str, Any]) -> None:
    order.misbehaves("GET", "/orders/stats", because="something else listens there", **answer)

    with pytest.raises(DependencyUnavailable):
        clients(order).figures("order")


def test_a_service_is_asked_for_its_health(order: Provider) -> None:
    call = order.answers("GET", "/health", status="degraded")

    found = clients(order).health("order")

    assert call.call_count == 1
    assert found.status == "degraded"
    assert found.latency_ms >= 0


def test_a_service_that_is_not_well_says_so(order: Provider) -> None:
    call = order.answers("GET", "/health", 503, status="unhealthy")

    assert clients(order).health("order").status == "unhealthy"
    assert call.call_count == 1


@pytest.mark.parametrize(
    "answer", [{"json": {"status": 503, "code": "overloaded"}}, {"json": {}}, {"body": "<html>"}], ids=str
)
def test_a_503_that_says_nothing_of_health_is_no_answer(order: Provider, answer: dict[str, Any]) -> None:
    order.misbehaves("GET", "/health", because="a proxy is in between", status=503, **answer)

    with pytest.raises(DependencyUnavailable):
        clients(order).health("order")


# Pages -------------------------------------------------------------------------------------------------------------


def page(provider: Provider, service: str, *items: dict[str, Any]) -> list[Any]:
    provider.answers("GET", f"/{service}s", items=list(items), next_cursor=None)
    told, following = clients(provider, service).page(service, None)
    assert following is None
    return told


def test_pages_are_asked_for_oldest_first(order: Provider) -> None:
    call = order.answers("GET", "/orders", items=[], next_cursor="n-xt_")

    assert clients(order).page("order", None) == ([], "n-xt_")
    clients(order).page("order", "n=xt")

    first = "/api/v1/orders?limit=200&sort=created_at"
    assert [sent.request.path_url for sent in call.calls] == [first, f"{first}&cursor=n%3Dxt"]


def test_a_confirmed_order_tells_what_its_event_told(order: Provider) -> None:
    shown = an_order()

    (told,) = page(order, "order", shown)

    assert isinstance(told, OrderConfirmed)
    assert told.data() == {
        "order_id": shown["id"], "items": shown["items"], "total": "19.98", "currency": "EUR",
        "confirmed_at": NOON_TEXT,
    }  # fmt: skip


def test_an_order_tells_each_of_its_steps(order: Provider) -> None:
    delivered = an_order(status="delivered", shipped_at=NOON_TEXT, delivered_at=NOON_TEXT)
    cancelled = an_order(status="cancelled", cancelled_at=NOON_TEXT)

    told = page(order, "order", delivered, cancelled)

    steps = [OrderConfirmed, OrderShipped, OrderDelivered, OrderConfirmed, OrderCancelled]
    assert [type(each) for each in told] == steps


def test_an_order_without_a_confirmation_tells_no_lines(order: Provider) -> None:
    pending, rejected = (an_order(status=status, confirmed_at=None) for status in ("pending", "rejected"))

    (told,) = page(order, "order", pending, rejected)

    assert isinstance(told, OrderRejected)
    assert (told.order_id, told.rejected_at) == (rejected["id"], NOON_TEXT)


def test_a_notification_tells_what_became_of_it(provider: Callable[[str], Provider]) -> None:
    sent, dead = a_notification(), a_notification(status="dead", sent_at=None)
    waiting = [a_notification(status=status, sent_at=None) for status in ("queued", "failed")]

    first, second = page(provider("notification"), "notification", sent, *waiting, dead)

    assert isinstance(first, NotificationSent)
    assert isinstance(second, NotificationDead)


@pytest.mark.parametrize(
    "body", [{}, {"items": None, "next_cursor": None}, {"items": [{}], "next_cursor": None}, {"items": []}]
)
def test_an_answer_that_is_no_page_is_refused(order: Provider, body: dict[str, Any]) -> None:
    order.misbehaves("GET", "/orders", because="something else listens there", json=body)

    with pytest.raises(DependencyUnavailable):
        clients(order).page("order", None)


# The fake ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["figures", "health", "page"])
def test_the_fake_has_the_interface_of_the_client(name: str) -> None:
    signatures = {inspect.signature(getattr(cls, name)) for cls in (Services, ServiceClients, FakeServices)}
    assert len(signatures) == 1


def test_the_fake_pages_through_its_items() -> None:
    fake = FakeServices()
    fake.items["order"] = sorted((an_order() for _ in range(5)), key=lambda order: str(order["id"]))
    found, cursor = fake.page("order", None)
    while cursor:
        told, cursor = fake.page("order", cursor)
        found += told
    assert [one.subject for one in found] == [order["id"] for order in fake.items["order"]]


def test_the_fake_can_be_down() -> None:
    fake = FakeServices()
    fake.down.add("user")
    assert isinstance(fake.figures("order"), Figures)
    assert isinstance(fake.health("order"), Health)
    with pytest.raises(DependencyUnavailable):
        fake.figures("user")


# Shared calls ------------------------------------------------------------------------------------------------------


class Slow:
    """A call that blocks until it is released; counts its starts."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Semaphore(0), threading.Semaphore(0)
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        mine = self.count
        self.begun.release()
        assert self.let_go.acquire(timeout=10)
        return mine


def test_who_asks_alone_gets_a_call() -> None:
    call = SharedCall(lambda: "answer", 1)
    assert [call.ask().result(5) for _ in range(3)] == ["answer"] * 3


def test_who_comes_meanwhile_shares_the_next() -> None:
    slow = Slow()
    call = SharedCall(slow, 10)
    first = call.ask()
    assert slow.begun.acquire(timeout=5)
    others = [call.ask() for _ in range(5)]
    slow.let_go.release(2)
    assert first.result(5) == 1
    assert [other.result(5) for other in others] == [2] * 5
    assert slow.count == 2


def test_the_next_call_needs_no_thread_of_its_own_and_goes_out_in_the_name_of_who_asked_for_it() -> None:
    slow = Slow()
    threads: list[int] = []
    names: list[str] = []

    def work() -> None:
        slow()
        found = context.current()
        assert found
        threads.append(threading.get_ident())
        names.append(found.request_id)

    call = SharedCall(work, 10)
    asked = []
    for name in ("first", "second", "third"):
        context.begin(1, request_id=name)
        asked.append(call.ask())
        if name == "first":
            assert slow.begun.acquire(timeout=5)
    slow.let_go.release(2)
    for one in asked:
        one.result(5)
    assert threads[0] == threads[1]
    assert names == ["first", "second"]


def test_a_call_that_has_not_ended_has_no_result() -> None:
    slow = Slow()
    asked = SharedCall(slow, 10).ask()
    with pytest.raises(TimeoutError):
        asked.result(0.01)
    slow.let_go.release()
    assert asked.result(5) == 1


def test_a_failed_call_is_told_to_all_who_share_it_and_to_nobody_else() -> None:
    outcomes: list[Any] = [DependencyUnavailable("down"), ValueError("a bug"), "answer"]

    def work() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return str(outcome)

    call = SharedCall(work, 1)
    with pytest.raises(DependencyUnavailable):
        call.ask().result(5)
    with pytest.raises(ValueError, match="a bug"):
        call.ask().result(5)
    assert call.ask().result(5) == "answer"


def test_a_call_that_never_ends_blocks_nobody_for_long() -> None:
    slow = Slow()
    call = SharedCall(slow, 0.05)
    stuck = call.ask()
    assert slow.begun.acquire(timeout=5)
    time.sleep(0.06)
    second = call.ask()
    assert slow.begun.acquire(timeout=5)
    slow.let_go.release(2)
    assert {stuck.result(5), second.result(5)} == {1, 2}
    # A call that was overtaken does not start another when it ends.
    assert slow.count == 2
    slow.let_go.release()
    assert call.ask().result(5) == 3


def test_what_comes_after_an_answer_delays_nobody_and_fails_nobody() -> None:
    gate = threading.Event()

    def after(answer: str) -> None:
        assert gate.wait(5)
        raise DependencyUnavailable("the database")

    call = SharedCall(lambda: "answer", 5, after)
    assert call.ask().result(1) == "answer"
    gate.set()
    assert call.ask().result(5) == "answer"


def test_a_call_goes_out_in_the_name_of_who_asked_and_with_time_of_its_own() -> None:
    seen: list[context.Context] = []

    def work() -> bool:
        found = context.current()
        assert found
        seen.append(found)
        return True

    mine = context.begin(0.01, request_id="mine")
    assert SharedCall(work, 3).ask().result(5)
    assert (seen[0].request_id, seen[0].trace_id) == ("mine", mine.trace_id)
    assert seen[0].seconds_left() > 1


def test_services_are_asked_side_by_side() -> None:
    together = threading.Barrier(3)

    def ask(service: str) -> str:
        together.wait(5)
        return service.upper()

    assert SideBySide(("a", "b", "c"), ask, 5).ask() == {"a": "A", "b": "B", "c": "C"}


def test_who_fails_or_is_late_is_left_out() -> None:
    let_go = threading.Event()

    def ask(service: str) -> str:
        if service == "late":
            let_go.wait(5)
        if service == "down":
            raise DependencyUnavailable
        return "answer"

    started = time.monotonic()
    assert SideBySide(("up", "down", "late"), ask, 0.2).ask() == {"up": "answer"}
    assert 0.2 <= time.monotonic() - started < 4
    let_go.set()


@pytest.mark.parametrize(("seconds", "asked_at_most"), [(0.05, 0.5), (-1, 0.5)])
def test_no_longer_than_the_request_may_take(seconds: float, asked_at_most: float) -> None:
    let_go = threading.Event()
    ask: Callable[[str], bool] = lambda service: let_go.wait(5)  # noqa: E731
    context.begin(seconds)
    started = time.monotonic()
    assert SideBySide(("a",), ask, 5).ask() == {}
    assert time.monotonic() - started < asked_at_most
    let_go.set()


def test_each_answer_is_handed_on_with_its_service() -> None:
    seen: dict[str, str] = {}
    both = threading.Semaphore(0)

    def after(service: str, answer: str) -> None:
        seen[service] = answer
        both.release()

    SideBySide(("a", "b"), str.upper, 5, after).ask()
    assert all(both.acquire(timeout=5) for _ in range(2))
    assert seen == {"a": "A", "b": "B"}
