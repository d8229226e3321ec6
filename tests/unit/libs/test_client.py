"""The client against `responses` where only the answer matters, and against real servers where time or the wire does.

The client knows no API, so the paths and answers here are made up. The tests of the services' own clients use answers
that the providers' documents allow (tests/network.py).
"""

import socket
import threading
import time
import timeit
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import requests

from libs.common import context, metrics
from libs.common.calls import client
from libs.common.calls import connections as adapter
from libs.common.calls.client import ServiceClient
from libs.common.calls.resilience import RetryBudget
from libs.common.config import Settings
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, Problem
from tests.processes import in_threads
from tests.unit.libs.tcp import OK, Server, keep_alive, one_request

URL = "http://product.test/api/v1"


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts take a millisecond where the service asks for none."""
    monkeypatch.setattr(client.random, "uniform", lambda low, high: 0.001)


def make(**given: Any) -> ServiceClient:
    return ServiceClient("product", Settings(service="order", product_service_url="http://product.test", **given))


@pytest.fixture
def product() -> ServiceClient:
    return make()


def count(outcome: str, counter: Any = metrics.CALLS) -> float:
    value: float = counter.labels("product", outcome)._value.get()
    return value


# What is sent ------------------------------------------------------------------------------------------------------


def test_a_call_goes_to_the_current_version_of_the_api(peer: Any, product: ServiceClient) -> None:
    peer.get(f"{URL}/x", json={"id": "1"}, headers={"ETag": '"3"'})
    answer = product.get("/x")
    assert (answer.status, answer.body, answer.headers["ETag"]) == (200, {"id": "1"}, '"3"')


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_what_machines_ask_lies_outside_the_api(peer: Any, product: ServiceClient, path: str) -> None:
    peer.get(f"http://product.test{path}", json={})
    assert product.get(path).status == 200


def test_a_body_is_json(peer: Any, product: ServiceClient) -> None:
    peer.post(f"{URL}/x", json={}, status=201)
    assert product.call("POST", "/x", json={"name": "é"}).status == 201
    sent = peer.calls[0].request
    assert sent.body == '{"name":"é"}'.encode()
    assert sent.headers["Content-Type"] == "application/json"
    assert sent.headers["Accept"] == "application/json"


def test_an_empty_body_is_a_body(peer: Any, product: ServiceClient) -> None:
    peer.post(f"{URL}/x", json={})
    product.call("POST", "/x", json=[])
    assert peer.calls[0].request.body == b"[]"


def test_headers_of_the_caller_win(peer: Any, product: ServiceClient) -> None:
    peer.post(f"{URL}/x", json={})
    product.call("POST", "/x", json=[], headers={"Content-Type": "application/cloudevents-batch+json"})
    assert peer.calls[0].request.headers["Content-Type"] == "application/cloudevents-batch+json"


def test_the_request_id_and_the_trace_travel_on(peer: Any, product: ServiceClient) -> None:
    peer.get(f"{URL}/x", json={})
    work = context.begin(5, request_id="req-1")
    product.get("/x")
    sent = peer.calls[0].request.headers
    assert sent["X-Request-ID"] == "req-1"
    assert sent["traceparent"] == work.traceparent


def test_the_deadline_travels_as_the_time_that_is_left(peer: Any, product: ServiceClient) -> None:
    peer.get(f"{URL}/x", json={})
    context.begin(1.5)
    product.get("/x")
    assert 1000 < int(peer.calls[0].request.headers["X-Request-Timeout-Ms"]) <= 1500


def test_without_a_request_the_deadline_is_the_usual_one(peer: Any, product: ServiceClient) -> None:
    peer.get(f"{URL}/x", json={})
    product.get("/x")
    sent = peer.calls[0].request.headers
    assert 4500 < int(sent["X-Request-Timeout-Ms"]) <= 5000
    assert "X-Request-ID" not in sent


def test_the_deadline_shrinks_with_each_attempt(peer: Any, product: ServiceClient) -> None:
    left: list[int] = []

    def slow(request: Any) -> Any:
        left.append(int(request.headers["X-Request-Timeout-Ms"]))
        time.sleep(0.02)
        return 503, {"Retry-After": "0"}, ""

    peer.add_callback("GET", f"{URL}/x", slow)
    with pytest.raises(DependencyUnavailable):
        product.get("/x", deadline=time.monotonic() + 2)
    assert left[0] - left[1] >= 20
    assert left[1] - left[2] >= 20


def test_every_call_has_timeouts_within_its_deadline(peer: Any, product: ServiceClient) -> None:
    peer.get(f"{URL}/x", json={})
    product.get("/x")
    product.get("/x", deadline=time.monotonic() + 0.4)
    first, second = (call.request.req_kwargs["timeout"] for call in peer.calls)
    assert first == (0.5, 2.0)
    assert max(second) <= 0.4


# What comes back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 404, 409, 412, 413, 422])
def test_an_answer_that_says_something_is_an_answer(peer: Any, product: ServiceClient, status: int) -> None:
    body = {} if status in (204, 304) else {"json": {"a": 1}}
    peer.get(f"{URL}/x", status=status, **body)
    assert product.get("/x").status == status
    assert len(peer.calls) == 1


def test_an_answer_without_a_body_has_none(peer: Any, product: ServiceClient) -> None:
    peer.delete(f"{URL}/x", status=204)
    assert product.call("DELETE", "/x").body is None


def test_a_redirect_is_not_followed(peer: Any, product: ServiceClient) -> None:
    peer.get(f"{URL}/x", status=302, headers={"Location": "http://elsewhere.test/"})
    assert product.get("/x").status == 302


@pytest.mark.parametrize(
    "fault",
    [
        requests.ConnectionError("refused"),
        requests.ConnectTimeout(),
        requests.ReadTimeout(),
        requests.exceptions.ChunkedEncodingError(),
        requests.exceptions.ContentDecodingError(),
        requests.exceptions.SSLError(),
        requests.exceptions.InvalidURL(),
    ],
)
def test_a_foreign_error_is_an_unavailable_service(peer: Any, product: ServiceClient, fault: Exception) -> None:
    peer.get(f"{URL}/x", body=fault)
    with pytest.raises(DependencyUnavailable) as caught:
        product.get("/x", attempts=1)
    assert caught.value.detail == "The product service is unavailable."
    assert caught.value.__cause__ is fault


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
def test_an_answer_that_says_try_again_is_an_unavailable_service(
    peer: Any, product: ServiceClient, status: int
) -> None:
    peer.get(f"{URL}/x", json={}, status=status)
    with pytest.raises(DependencyUnavailable):
        product.get("/x", attempts=1)


@pytest.mark.parametrize("body", [b"<html>", b"{", b"\xff", b"NaN"])
def test_an_answer_that_is_not_json_is_an_unavailable_service(peer: Any, product: ServiceClient, body: bytes) -> None:
    peer.get(f"{URL}/x", body=body)
    with pytest.raises(DependencyUnavailable):
        product.get("/x", attempts=1)


def test_calls_are_counted_by_what_became_of_them(peer: Any, product: ServiceClient) -> None:
    answered, failed = count("answered"), count("failed")
    peer.get(f"{URL}/x", status=503)
    peer.get(f"{URL}/x", status=404)
    product.get("/x")
    assert (count("answered") - answered, count("failed") - failed) == (1, 1)


# Trying again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_what_is_safe_to_repeat_is_tried_three_times(peer: Any, product: ServiceClient, method: str) -> None:
    peer.add(method, f"{URL}/x", status=503)
    with pytest.raises(DependencyUnavailable):
        product.call(method, "/x")
    assert len(peer.calls) == 3


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_is_not_safe_to_repeat_is_tried_once(peer: Any, product: ServiceClient, method: str) -> None:
    peer.add(method, f"{URL}/x", status=503)
    with pytest.raises(DependencyUnavailable):
        product.call(method, "/x", json={})
    assert len(peer.calls) == 1


def test_a_post_that_is_declared_idempotent_is_repeated(peer: Any, product: ServiceClient) -> None:
    peer.post(f"{URL}/x", body=requests.ConnectionError())
    peer.post(f"{URL}/x", json={}, status=201)
    assert product.call("POST", "/x", json={}, idempotent=True).status == 201


def test_an_answer_ends_the_attempts(peer: Any, product: ServiceClient) -> None:
    peer.get(f"{URL}/x", status=503)
    peer.get(f"{URL}/x", status=404)
    assert product.get("/x").status == 404
    assert len(peer.calls) == 2


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_the_attempts_can_be_named(peer: Any, product: ServiceClient, attempts: int) -> None:
    peer.get(f"{URL}/x", status=503)
    with pytest.raises(DependencyUnavailable):
        product.get("/x", attempts=attempts)
    assert len(peer.calls) == attempts


@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_the_attempts_can_be_set(peer: Any, attempts: int) -> None:
    peer.get(f"{URL}/x", status=503)
    with pytest.raises(DependencyUnavailable):
        make(call_attempts=attempts).get("/x")
    assert len(peer.calls) == attempts


def test_a_retry_after_within_the_deadline_is_kept(peer: Any, product: ServiceClient) -> None:
    peer.get(f"{URL}/x", status=503, headers={"Retry-After": "1"})
    peer.get(f"{URL}/x", json={})
    started = time.monotonic()
    assert product.get("/x").status == 200
    assert time.monotonic() - started >= 1


def test_a_retry_after_beyond_the_deadline_is_passed_on_at_once(peer: Any, product: ServiceClient) -> None:
    peer.get(f"{URL}/x", status=503, headers={"Retry-After": "60"})
    started = time.monotonic()
    with pytest.raises(DependencyUnavailable) as caught:
        product.get("/x")
    assert time.monotonic() - started < 4
    assert len(peer.calls) == 1
    assert caught.value.headers["Retry-After"] == "60"


@pytest.mark.parametrize("odd", ["soon", "-1", "1.5", "", "²", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 5000])
def test_an_odd_retry_after_counts_as_absent(peer: Any, product: ServiceClient, odd: str) -> None:
    peer.get(f"{URL}/x", status=503, headers={"Retry-After": odd})
    with pytest.raises(DependencyUnavailable) as caught:
        product.get("/x", attempts=2)
    assert len(peer.calls) == 2
    assert caught.value.headers["Retry-After"] == "2"


def test_without_time_nothing_is_sent(peer: Any, product: ServiceClient) -> None:
    context.begin(0)
    with pytest.raises(DeadlineExceeded):
        product.get("/x")
    assert not peer.calls


# The retry budget --------------------------------------------------------------------------------------------------

NEVER = 10**6
"""Failures that do not open the breaker."""


def test_a_thousand_calls_of_a_dead_service_are_hardly_more_than_a_thousand_requests(peer: Any) -> None:
    product, allowed = make(breaker_failures=NEVER), 1.1 * 1000 + RetryBudget.CAPACITY
    peer.get(f"{URL}/x", body=requests.ConnectionError())
    for _ in range(1000):
        with pytest.raises(DependencyUnavailable):
            product.get("/x")
    assert 1100 <= len(peer.calls) <= allowed


def test_without_a_token_a_call_is_not_repeated(peer: Any) -> None:
    product = make(breaker_failures=NEVER)
    before = [count(outcome, metrics.RETRIES) for outcome in ("made", "over_budget")]
    peer.get(f"{URL}/x", status=503)
    for _ in range(5):
        with pytest.raises(DependencyUnavailable):
            product.get("/x")
    assert len(peer.calls) == 5 + 5
    made, over_budget = (count(outcome, metrics.RETRIES) for outcome in ("made", "over_budget"))
    # The third call could have had two retries and got one.
    assert (made - before[0], over_budget - before[1]) == (5, 3)


def test_calls_that_succeed_or_may_not_be_repeated_earn_retries_too(peer: Any) -> None:
    product = make(breaker_failures=NEVER, retry_budget=0.5)
    peer.get(f"{URL}/down", status=503)
    peer.get(f"{URL}/up", json={})
    peer.post(f"{URL}/down", status=503)
    with pytest.raises(DependencyUnavailable):
        product.get("/down", attempts=100)
    for _ in range(2):
        product.get("/up")
        with pytest.raises(DependencyUnavailable):
            product.call("POST", "/down")
    sent = len(peer.calls)
    with pytest.raises(DependencyUnavailable):
        product.get("/down", attempts=100)
    assert len(peer.calls) - sent == 1 + 3


# The breaker -------------------------------------------------------------------------------------------------------


def is_open(product: ServiceClient, peer: Any) -> bool:
    """Whether a call is refused without being sent."""
    peer.assert_all_requests_are_fired = False
    peer.get(f"{URL}/is-open", json={})
    sent = len(peer.calls)
    try:
        product.get("/is-open")
    except DependencyUnavailable:
        assert len(peer.calls) == sent
        return True
    return False


def problem(code: str) -> bytes:
    return b'{"code": "%s"}' % code.encode()


@pytest.mark.parametrize(
    "answer",
    [
        {"body": requests.ConnectionError("refused")},
        {"body": requests.ConnectTimeout()},
        {"body": requests.ReadTimeout()},
        {"body": requests.exceptions.ChunkedEncodingError()},
        {"body": b"<html>", "status": 200},
        {"body": b"", "status": 200},
        {"status": 500},
        {"body": problem("internal-error"), "status": 500},
        {"body": problem("overloaded"), "status": 500},
        {"status": 502},
        {"status": 503},
        {"body": b"<html>", "status": 503},
        {"body": b'["overloaded"]', "status": 503},
        {"body": problem("dependency-unavailable"), "status": 503},
    ],
    ids=str,
)
def test_what_is_a_failure_opens_the_breaker(peer: Any, answer: Any) -> None:
    product = make(breaker_failures=3)
    peer.get(f"{URL}/x", **answer)
    for _ in range(3):
        assert not is_open(product, peer)
        with pytest.raises(DependencyUnavailable):
            product.get("/x", attempts=1)
    assert is_open(product, peer)


@pytest.mark.parametrize(
    "answer",
    [
        {"body": problem("overloaded"), "status": 503},
        {"body": problem("rate-limited"), "status": 429},
        {"body": problem("deadline-exceeded"), "status": 504},
        {"status": 501},
        {"body": b"{}", "status": 404},
        {"body": b"{}", "status": 409},
        {"status": 302},
    ],
    ids=str,
)
def test_what_is_no_failure_leaves_the_breaker_closed(peer: Any, answer: Any) -> None:
    product = make(breaker_failures=1)
    peer.get(f"{URL}/x", **answer)
    for _ in range(3):
        try:
            product.get("/x", attempts=1)
        except DependencyUnavailable:
            pass
        assert not is_open(product, peer)


@pytest.mark.parametrize(
    ("fault", "seconds", "counts"),
    [
        (requests.ReadTimeout(), 1.9, False),
        (requests.ReadTimeout(), 2.1, True),
        (requests.ConnectTimeout(), 0.4, False),
        (requests.ConnectTimeout(), 0.6, True),
        (requests.ConnectionError(), 0.1, True),
    ],
    ids=str,
)
def test_a_time_that_the_caller_cut_short_says_nothing_of_the_service(
    peer: Any, fault: Exception, seconds: float, counts: bool
) -> None:
    product = make(breaker_failures=1, connect_timeout_seconds=0.5, read_timeout_seconds=2.0)
    peer.get(f"{URL}/x", body=fault)
    with pytest.raises(DependencyUnavailable):
        product.get("/x", attempts=1, deadline=time.monotonic() + seconds)
    assert is_open(product, peer) is counts


@pytest.mark.parametrize("fault", [gevent.Timeout(), gevent.GreenletExit()], ids=lambda fault: type(fault).__name__)
def test_a_caller_that_is_killed_says_nothing_of_the_service(
    peer: Any, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    product = make(breaker_failures=1, breaker_reset_seconds=0.3, bulkhead_calls=1)

    def die(*args: Any, **kwargs: Any) -> None:
        raise fault

    def killed() -> None:
        with monkeypatch.context() as patch, pytest.raises(type(fault)):
            patch.setattr(adapter.Adapter, "send", die)
            product.get("/x")

    killed()
    assert not is_open(product, peer)
    peer.get(f"{URL}/down", status=503)
    with pytest.raises(DependencyUnavailable):
        product.get("/down")
    time.sleep(0.3)
    # As a probe it makes room for the next one.
    killed()
    assert not is_open(product, peer)


@pytest.fixture
def opened(peer: Any) -> ServiceClient:
    """A client whose breaker has just opened, and probes after 7.5 seconds."""
    product = make(breaker_failures=2, breaker_reset_seconds=7.5)
    peer.get(f"{URL}/down", body=requests.ConnectionError())
    with pytest.raises(DependencyUnavailable):
        product.get("/down")
    return product


def test_while_the_breaker_is_open_nothing_is_sent(peer: Any, opened: ServiceClient) -> None:
    refused, sent = count("short_circuited"), len(peer.calls)
    for method in ("GET", "POST"):
        with pytest.raises(DependencyUnavailable):
            opened.call(method, "/x")
    assert (count("short_circuited") - refused, len(peer.calls)) == (2, sent)


def test_while_the_breaker_is_open_a_call_takes_microseconds(opened: ServiceClient) -> None:
    def call() -> None:
        with pytest.raises(DependencyUnavailable):
            opened.get("/x")

    # The best of ten: the machine may be busy with something else.
    assert min(timeit.repeat(call, number=100, repeat=10)) < 0.05


def test_the_call_that_opens_the_breaker_is_not_tried_again(peer: Any) -> None:
    product, before = make(breaker_failures=2), count("made", metrics.RETRIES)
    peer.get(f"{URL}/x", status=500)
    with pytest.raises(DependencyUnavailable):
        product.get("/x")
    # The second attempt opened the breaker: a third would cost a pause and a token, and be refused.
    assert (len(peer.calls), count("made", metrics.RETRIES) - before) == (2, 1)


def test_who_is_refused_is_told_when_the_next_probe_is_due(peer: Any, opened: ServiceClient) -> None:
    with pytest.raises(DependencyUnavailable) as caught:
        opened.get("/x")
    assert caught.value.headers["Retry-After"] == "8"
    assert caught.value.detail == "The product service is unavailable."


def test_who_is_refused_is_told_to_wait_for_a_second_at_least(peer: Any) -> None:
    product, told = make(breaker_failures=1, breaker_reset_seconds=0.3), []

    def refused() -> None:
        with pytest.raises(DependencyUnavailable) as caught:
            product.get("/x")
        told.append(caught.value.headers["Retry-After"])

    def probe(request: Any) -> Any:
        refused()
        return 200, {}, "{}"

    peer.get(f"{URL}/down", status=500)
    peer.add_callback("GET", f"{URL}/probe", probe)
    with pytest.raises(DependencyUnavailable):
        product.get("/down")
    refused()
    time.sleep(0.3)
    assert product.get("/probe").status == 200
    assert told == ["1", "1"]


def test_the_breaker_says_in_the_log_what_becomes_of_it_and_not_whom_it_refuses(
    peer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    product = make(breaker_failures=1, breaker_reset_seconds=2)
    open_ones = metrics.BREAKERS_OPEN.labels("product")._value
    before = open_ones.get()

    def lines() -> list[Any]:
        found = [(record.getMessage(), record.dependency) for record in caplog.records]  # type: ignore[attr-defined]
        caplog.clear()
        return found

    peer.get(f"{URL}/down", status=500)
    with pytest.raises(DependencyUnavailable):
        product.get("/down")
    assert lines() == [("call.failed", "product"), ("breaker.opened", "product")]
    for _ in range(100):
        with pytest.raises(DependencyUnavailable):
            product.get("/x")
    assert lines() == []
    assert open_ones.get() - before == 1
    time.sleep(2)
    assert not is_open(product, peer)
    assert lines() == [("breaker.closed", "product")]
    assert open_ones.get() == before


def test_how_a_service_is_can_be_asked_while_the_breaker_is_open(peer: Any, opened: ServiceClient) -> None:
    peer.get("http://product.test/health", json={"status": "healthy"})
    assert opened.get("/health").body == {"status": "healthy"}
    # One that is well may still not answer: that only a call can tell.
    assert is_open(opened, peer)


def test_how_a_service_is_tells_the_breaker_nothing(peer: Any) -> None:
    product = make(breaker_failures=1)
    peer.get("http://product.test/health", status=500)
    with pytest.raises(DependencyUnavailable):
        product.get("/health")
    assert not is_open(product, peer)


def test_a_service_that_says_that_it_is_not_well_has_answered(peer: Any) -> None:
    product = make(breaker_failures=1)
    peer.get("http://product.test/health", json={"status": "unhealthy"}, status=503)
    answer = product.get("/health")
    assert (answer.status, answer.body) == (503, {"status": "unhealthy"})
    assert len(peer.calls) == 1
    assert not is_open(product, peer)


# The bulkhead ------------------------------------------------------------------------------------------------------


def test_a_pause_between_two_attempts_takes_no_place(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    product, meanwhile = make(bulkhead_calls=1), []
    peer.get(f"{URL}/x", status=503)
    peer.get(f"{URL}/x", json={})
    peer.get(f"{URL}/y", json={})
    monkeypatch.setattr(client.time, "sleep", lambda seconds: meanwhile.append(product.get("/y").status))
    assert product.get("/x").status == 200
    assert meanwhile == [200]


# Over the wire -----------------------------------------------------------------------------------------------------


def test_a_connection_is_used_again(serve: Callable[..., Server]) -> None:
    server = serve(keep_alive)
    product = server.client()
    for _ in range(20):
        product.get("/x")
    assert server.connections == 1


def test_a_server_that_closes_idle_connections_fails_no_call(serve: Callable[..., Server]) -> None:
    """It closes each connection right after an answer, without announcing it, so every call finds a closed connection."""

    def close_after_answer(connection: socket.socket, number: int) -> None:
        one_request(connection)
        connection.sendall(OK)

    server = serve(close_after_answer)
    product = server.client()
    for _ in range(100):
        assert product.get("/x").status == 200


def test_a_connection_that_dies_under_a_request_is_not_a_failure_where_a_repeat_is_safe(
    serve: Callable[..., Server],
) -> None:
    """A race that no check of the connection beforehand can rule out: the server closes it as the request arrives."""

    def drop_the_second(connection: socket.socket, number: int) -> None:
        assert one_request(connection)
        connection.sendall(OK)
        one_request(connection)

    server = serve(drop_the_second)
    product = server.client()
    for _ in range(20):
        assert product.get("/x").status == 200
        assert product.call("POST", "/x", idempotent=True).status == 200


def test_a_connection_that_dies_under_a_post_is_told_and_not_repeated(serve: Callable[..., Server]) -> None:
    server = serve(lambda connection, number: one_request(connection) and None)
    with pytest.raises(DependencyUnavailable):
        server.client().call("POST", "/x")
    assert server.connections == 1


def test_the_environment_is_not_asked(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert serve(keep_alive).client().get("/x").status == 200


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(keep_alive)
    product = server.client()
    product.get("/x")
    monkeypatch.setattr(adapter, "MAX_IDLE_SECONDS", -1.0)
    product.get("/x")
    assert server.connections == 2


def test_a_connection_that_is_old_is_not_used_again(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(keep_alive)
    product = server.client()
    product.get("/x")
    monkeypatch.setattr(adapter, "MAX_AGE_SECONDS", 0.5)
    time.sleep(0.55)
    for _ in range(3):
        product.get("/x")
    # The new one is young again.
    assert server.connections == 2


def test_a_server_that_says_nothing_costs_no_more_than_the_read_timeout(serve: Callable[..., Server]) -> None:
    server = serve(lambda connection, number: time.sleep(5))
    started = time.monotonic()
    with pytest.raises(DependencyUnavailable):
        server.client(read_timeout_seconds=0.1).get("/x", attempts=1)
    assert 0.1 <= time.monotonic() - started < 4


def test_all_attempts_together_keep_the_deadline(serve: Callable[..., Server]) -> None:
    server = serve(lambda connection, number: time.sleep(5))
    context.begin(0.3)
    started = time.monotonic()
    with pytest.raises(Problem):
        server.client().get("/x", attempts=100)
    assert time.monotonic() - started < 4


@pytest.mark.parametrize(
    "sent",
    [
        OK[:-1],
        OK[:-2].replace(b"Content-Length: 2", b"Transfer-Encoding: chunked") + b"9\r\n{",
        OK[:20],
        OK[:5],
        b"",
    ],
)
def test_an_answer_that_is_cut_off_is_an_unavailable_service(serve: Callable[..., Server], sent: bytes) -> None:
    server = serve(lambda connection, number: one_request(connection) and connection.sendall(sent))
    with pytest.raises(DependencyUnavailable):
        server.client().get("/x", attempts=1)


@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_of_any_size_and_framing_is_read_to_its_end(serve: Callable[..., Server], chunked: bool) -> None:
    body = b'"' + b"x" * 300_000 + b'"'

    def talk(connection: socket.socket, number: int) -> None:
        while one_request(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            if not chunked:
                connection.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
                continue
            connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 70_000):
                part = body[start : start + 70_000]
                connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            connection.sendall(b"0\r\n\r\n")

    server = serve(talk)
    product = server.client()
    for _ in range(3):
        assert product.get("/x").body == "x" * 300_000
    assert server.connections == 1


def test_a_server_that_sends_drop_by_drop_keeps_nobody_past_the_deadline(serve: Callable[..., Server]) -> None:
    def drip(connection: socket.socket, number: int) -> None:
        one_request(connection)
        connection.sendall(OK[:-2].replace(b"Length: 2", b"Length: 100"))
        for _ in range(100):
            connection.sendall(b" ")
            time.sleep(0.05)

    server = serve(drip)
    started = time.monotonic()
    with pytest.raises(DependencyUnavailable):
        server.client().get("/x", deadline=time.monotonic() + 0.2, attempts=1)
    assert time.monotonic() - started < 4


def test_a_service_that_is_down_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    settings = Settings(service="order", product_service_url=f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(DependencyUnavailable):
        ServiceClient("product", settings).get("/x")
    assert time.monotonic() - started < 4


def test_a_service_that_is_back_is_called_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    product = ServiceClient("product", Settings(service="order", product_service_url=url, breaker_reset_seconds=0.2))
    for _ in range(3):
        with pytest.raises(DependencyUnavailable):
            product.get("/x")
    refused = count("short_circuited")
    server = Server(keep_alive, port)
    try:
        with pytest.raises(DependencyUnavailable):
            product.get("/x")
        assert count("short_circuited") == refused + 1
        time.sleep(0.2)
        assert [product.get("/x").status for _ in range(3)] == [200] * 3
    finally:
        server.close()


def test_a_service_that_hangs_opens_the_breaker_unless_its_callers_are_impatient(serve: Callable[..., Server]) -> None:
    server = serve(lambda connection, number: time.sleep(5))
    product = server.client(read_timeout_seconds=0.1, breaker_failures=2)

    def ask(seconds: float) -> None:
        with pytest.raises(DependencyUnavailable):
            product.get("/x", attempts=1, deadline=time.monotonic() + seconds)

    for _ in range(5):
        ask(0.05)
    assert server.connections == 5
    for _ in range(5):
        ask(1)
    assert server.connections == 7


def test_a_connection_that_cannot_be_made_in_time_is_told_from_an_answer_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has its own timeout."""

    def hang(address: Any, seconds: float) -> Any:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", hang)
    with pytest.raises(DependencyUnavailable) as caught:
        ServiceClient("product", Settings(service="order", product_service_url="http://127.0.0.1:1")).get(
            "/x", attempts=1
        )
    assert isinstance(caught.value.__cause__, requests.ConnectTimeout)


# Names ---------------------------------------------------------------------------------------------------------------


class Resolver:
    """Stands in for the resolver of the system: hangs until `go`, then returns these addresses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str):
        self._addresses, self.asked, self.go = addresses, 0, threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)

    def _answer(self, host: str, port: int, *options: Any, **named: Any) -> list[Any]:
        if host[0].isdigit():  # an address
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        self.asked += 1
        assert self.go.wait(10)
        if not self._addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self._addresses]


def named(port: int, **given: Any) -> ServiceClient:
    return ServiceClient(
        "product", Settings(service="order", product_service_url=f"http://product.test:{port}", **given)
    )


def test_a_resolver_that_hangs_keeps_nobody_past_the_time_to_connect(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, resolver = serve(keep_alive), Resolver(monkeypatch, "127.0.0.1")
    product = named(server.port, connect_timeout_seconds=0.1, breaker_failures=100)

    def ask(number: int) -> None:
        started = time.monotonic()
        with pytest.raises(DependencyUnavailable) as caught:
            product.get("/x", attempts=1)
        assert isinstance(caught.value.__cause__, requests.ConnectTimeout)
        assert time.monotonic() - started < 4

    in_threads(5, ask)
    ask(0)
    assert resolver.asked == 1  # however many wait
    resolver.go.set()
    assert product.get("/x").status == 200


def test_a_name_that_nobody_has_is_told_at_once_and_asked_for_again(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, resolver = serve(keep_alive), Resolver(monkeypatch)
    resolver.go.set()
    product = named(server.port)
    for _ in range(2):
        with pytest.raises(DependencyUnavailable) as caught:
            product.get("/x", attempts=1)
        assert isinstance(caught.value.__cause__, requests.ConnectionError)
    resolver._addresses = ("127.0.0.1",)
    assert product.get("/x").status == 200
    assert resolver.asked == 3


def test_of_the_addresses_of_a_host_the_first_that_answers_is_used(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, resolver = serve(keep_alive), Resolver(monkeypatch, "127.0.0.2", "127.0.0.1")  # the first refuses
    resolver.go.set()
    assert named(server.port).get("/x").status == 200


def test_all_addresses_together_have_the_time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.3")
    resolver.go.set()
    tried: list[str] = []

    def hang(address: tuple[str, int], seconds: float) -> Any:
        tried.append(address[0])
        time.sleep(seconds)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", hang)
    started = time.monotonic()
    with pytest.raises(DependencyUnavailable) as caught:
        named(1, connect_timeout_seconds=0.3).get("/x", attempts=1)
    assert isinstance(caught.value.__cause__, requests.ConnectTimeout)
    assert time.monotonic() - started < 2
    assert tried == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


def test_a_slow_service_takes_no_more_than_its_share_of_those_who_call(serve: Callable[..., Server]) -> None:
    let_go, full = threading.Event(), count("bulkhead_full")

    def slow(connection: socket.socket, number: int) -> None:
        while one_request(connection):
            assert let_go.wait(10)
            connection.sendall(OK)

    server = serve(slow)
    product, answers = server.client(bulkhead_calls=4), list[int]()
    threads = [threading.Thread(target=lambda: answers.append(product.get("/x").status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while server.connections < 4:
        time.sleep(0.01)
    started = time.monotonic()
    for _ in range(10):
        with pytest.raises(DependencyUnavailable, match="Too many calls"):
            product.get("/x")
    assert time.monotonic() - started < 4
    assert (server.connections, count("bulkhead_full") - full) == (4, 10)
    # Calls of other services have their own places.
    assert serve(keep_alive).client(bulkhead_calls=1).get("/x").status == 200
    let_go.set()
    for thread in threads:
        thread.join()
    assert answers == [200] * 4
    assert product.get("/x").status == 200


def test_a_kept_connection_that_is_gone_is_neither_a_failure_nor_a_retry(serve: Callable[..., Server]) -> None:
    def drop_the_second(connection: socket.socket, number: int) -> None:
        assert one_request(connection)
        connection.sendall(OK)
        one_request(connection)

    server = serve(drop_the_second)
    product, before = server.client(breaker_failures=1), (count("failed"), count("made", metrics.RETRIES))
    for _ in range(20):
        assert product.get("/x", attempts=1).status == 200
    assert (count("failed"), count("made", metrics.RETRIES)) == before
    assert server.connections == 20


def test_a_kept_connection_that_ends_within_the_answer_is_a_failure(serve: Callable[..., Server]) -> None:
    def cut_off_the_second(connection: socket.socket, number: int) -> None:
        assert one_request(connection)
        connection.sendall(OK)
        one_request(connection)
        connection.sendall(OK[:5])

    product, before = serve(cut_off_the_second).client(), count("failed")
    product.get("/x", attempts=1)
    with pytest.raises(DependencyUnavailable):
        product.get("/x", attempts=1)
    assert count("failed") == before + 1


def test_a_post_on_a_kept_connection_that_is_gone_is_told_and_not_repeated(serve: Callable[..., Server]) -> None:
    def drop_the_second(connection: socket.socket, number: int) -> None:
        assert one_request(connection)
        connection.sendall(OK)
        one_request(connection)

    server = serve(drop_the_second)
    product = server.client()
    product.get("/x")
    with pytest.raises(DependencyUnavailable):
        product.call("POST", "/x")
    assert server.connections == 1


def test_threads_share_a_client(serve: Callable[..., Server]) -> None:
    server = serve(keep_alive)
    product = server.client()
    answers: list[int] = []

    def work() -> None:
        answers.extend(product.get("/x").status for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 160
    assert server.connections <= 8


ODD = {
    "no http": b"SSH-2.0-x\r\n\r\n",
    "no status": b"HTTP/1.1 abc\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n{}",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
    "a chunk without size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("sent", ODD.values(), ids=ODD)
def test_what_is_no_answer_is_an_unavailable_service(serve: Callable[..., Server], sent: bytes) -> None:
    server = serve(lambda connection, number: one_request(connection) and connection.sendall(sent))
    with pytest.raises(DependencyUnavailable):
        server.client().get("/x", attempts=1)


COMPLETE = {
    "after a hint": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
    "until the end": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "with a trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nX: 1\r\n\r\n",
    "and the last one": OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1),
    "from an old server": OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("sent", COMPLETE.values(), ids=COMPLETE)
def test_an_answer_may_be_framed_in_any_way(serve: Callable[..., Server], sent: bytes) -> None:
    server = serve(lambda connection, number: one_request(connection) and connection.sendall(sent))
    product = server.client()
    assert [product.get("/x").body for _ in range(3)] == [{}, {}, {}]


def test_what_nobody_asked_for_is_taken_for_no_answer(serve: Callable[..., Server]) -> None:
    def talk(connection: socket.socket, number: int) -> None:
        while one_request(connection):
            connection.sendall(OK + OK.replace(b"200 OK", b"404 No"))

    product = serve(talk).client()
    assert [product.get("/x").status for _ in range(3)] == [200, 200, 200]


def test_a_head_that_comes_drop_by_drop_keeps_nobody_past_the_deadline(serve: Callable[..., Server]) -> None:
    def drip(connection: socket.socket, number: int) -> None:
        one_request(connection)
        for byte in OK:
            connection.sendall(bytes([byte]))
            time.sleep(0.2)

    started = time.monotonic()
    with pytest.raises(DependencyUnavailable):
        serve(drip).client(read_timeout_seconds=0.2).get("/x", attempts=1)
    assert 0.2 <= time.monotonic() - started < 4
