"""Rate limits over a real Redis: processes share one count, and without Redis each counts alone."""

import time
from collections.abc import Callable

import pytest
from flask import Flask
from prometheus_client import REGISTRY

from libs.common.errors import RateLimited
from libs.common.web.limits import RateLimiter
from tests.engines.servers import Redis
from tests.processes import PROCESSES, Workers

pytestmark = pytest.mark.redis

LIMIT = 30


def allowed(url: str, address: str, requests: int) -> tuple[int, float]:
    """How many of `count` requests one process allows, and the longest of their times in seconds."""
    import redis  # noqa: F401 - its import is none of the request's time

    limiter, passed, longest = RateLimiter(f"{LIMIT}/hour", url, "order", ()), 0, 0.0
    for _ in range(requests):
        started = time.monotonic()
        try:
            limiter.check(address)
            passed += 1
        except RateLimited:
            pass
        longest = max(longest, time.monotonic() - started)
    return passed, longest


def test_processes_share_one_count(redis: Redis, workers: Workers) -> None:
    passed = [each for each, _ in workers.race(allowed, *[(redis.url, "10.0.0.1", 25)] * PROCESSES)]
    assert sum(passed) == LIMIT


def test_services_and_clients_are_counted_apart(redis: Redis) -> None:
    for address in ("10.0.1.1", "10.0.1.2"):
        assert allowed(redis.url, address, LIMIT + 5)[0] == LIMIT


def test_without_redis_each_process_counts_alone_and_nobody_waits(redis: Redis, workers: Workers) -> None:
    redis.kill()
    try:
        outcomes = workers.race(allowed, *[(redis.url, "10.0.0.3", LIMIT + 5)] * PROCESSES)
    finally:
        redis.start()
    assert [passed for passed, _ in outcomes] == [LIMIT] * PROCESSES
    assert max(longest for _, longest in outcomes) < 1


@pytest.mark.postgres
def test_requests_are_answered_while_redis_is_down_and_shared_again_when_it_is_back(
    redis: Redis, make_service: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.web.limits.RETRY_SECONDS", 0.1)
    limits = {"redis_url": redis.url, "rate_limit": "5/hour", "rate_limit_exempt": ()}
    client = make_service("user", settings=limits).test_client()
    get = lambda: client.get("/api/v1/users/stats", environ_base={"REMOTE_ADDR": "10.0.0.4"})  # noqa: E731

    assert [get().status_code for _ in range(6)] == [200] * 5 + [429]
    before = REGISTRY.get_sample_value("rate_limits_alone_total") or 0
    redis.kill()
    try:
        assert [get().status_code for _ in range(6)] == [200] * 5 + [429]
    finally:
        redis.start()
    assert (REGISTRY.get_sample_value("rate_limits_alone_total") or 0) > before
    time.sleep(0.15)  # until the limiter tries Redis again
    answer = get()  # a restarted Redis has lost the counts
    assert (answer.status_code, answer.headers["RateLimit"].split(";")[1]) == (200, "r=4")
