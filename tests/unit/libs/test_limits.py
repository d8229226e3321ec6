"""The limits of one process, without Redis."""

from collections.abc import Callable

import pytest
from flask import Flask

from libs.common.config import Settings
from libs.common.errors import RateLimited
from libs.common.web.flask_app import make_flask
from libs.common.web.frame import Frame
from libs.common.web.limits import RateLimiter


def a_limiter(rate: str = "3/hour", service: str = "order", exempt: tuple[str, ...] = ()) -> RateLimiter:
    return RateLimiter(rate, "", service, exempt)


def taken(limiter: RateLimiter, address: str, requests: int = 5) -> int:
    """How many of `count` requests are allowed."""
    passed = 0
    for _ in range(requests):
        try:
            limiter.check(address)
            passed += 1
        except RateLimited:
            pass
    return passed


@pytest.mark.parametrize("address", ["10.0.0.1", "2001:db8::1"])
def test_a_client_gets_as_many_requests_as_the_limit_says(address: str) -> None:
    assert taken(a_limiter(), address) == 3


def test_each_client_has_a_count_of_its_own() -> None:
    limiter = a_limiter()
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.11", "2001:db8::1", "2001:db8:0:1::1", ""]
    assert [taken(limiter, address) for address in addresses] == [3] * 6
    assert [taken(limiter, address) for address in addresses] == [0] * 6


def test_each_service_has_a_count_of_its_own() -> None:
    assert [taken(a_limiter(service=service), "10.0.0.1") for service in ("order", "user")] == [3, 3]


@pytest.mark.parametrize("address", ["10.1.0.1", "10.1.255.255", "::ffff:10.1.0.1", "::1", "192.0.2.7"])
def test_a_client_of_an_exempt_network_is_not_limited(address: str) -> None:
    limiter = a_limiter(exempt=("10.1.0.0/16", "::1/128", "192.0.2.7"))
    assert taken(limiter, address, 50) == 50
    assert limiter.check(address) == {}


@pytest.mark.parametrize("address", ["10.2.0.1", "::2", "192.0.2.8", "", "unknown", "10.1.0.1.evil"])
def test_a_client_of_no_exempt_network_is_limited(address: str) -> None:
    assert taken(a_limiter(exempt=("10.1.0.0/16", "::1/128", "192.0.2.7")), address) == 3


def test_without_exemptions_nobody_is_exempt() -> None:
    assert taken(a_limiter(), "127.0.0.1") == 3


def test_an_answer_tells_how_many_requests_are_left() -> None:
    limiter = a_limiter()
    limiter.check("10.0.0.9")
    left = [limiter.check("10.0.0.1")["RateLimit"].split(";")[1] for _ in range(3)]
    assert left == ["r=2", "r=1", "r=0"]
    with pytest.raises(RateLimited) as caught:
        limiter.check("10.0.0.1")
    assert caught.value.headers["RateLimit-Policy"] == '"default";q=3;w=3600'
    assert caught.value.headers["RateLimit"].split(";")[1] == "r=0"
    assert 1 <= int(caught.value.headers["Retry-After"]) <= 3600


def test_the_exempt_networks_are_those_of_the_settings(make_settings: Callable[..., Settings]) -> None:
    def statuses(app: Flask, address: str) -> list[int]:
        client = app.test_client()
        return [client.get("/api/v1/x", environ_base={"REMOTE_ADDR": address}).status_code for _ in range(4)]

    settings = make_settings("order", rate_limit="3/hour", rate_limit_exempt=("10.1.0.0/16",))
    app = make_flask(settings, Frame(settings))
    assert statuses(app, "10.1.0.1") == [404] * 4
    assert statuses(app, "10.2.0.1") == [404] * 3 + [429]
    assert statuses(app, "10.2.0.2") == [404] * 3 + [429]
    assert statuses(app, "127.0.0.1") == [404] * 3 + [429]


def counts_as_one(one: str, other: str) -> bool:
    limiter = a_limiter("1/day")
    return [taken(limiter, one, 1), taken(limiter, other, 1)] == [1, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "192.0.2.1"), ("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::2"),
        ("2001:db8::1", "2001:0db8:0:0:ffff:ffff:ffff:ffff"), ("nobody", "nobody"), ("fe80::1%eth0", "fe80::2"),
    ],
)  # fmt: skip
def test_the_addresses_of_one_client_are_counted_together(one: str, other: str) -> None:
    assert counts_as_one(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:1::1"), ("nobody", "somebody")]
)
def test_those_of_two_clients_are_not(one: str, other: str) -> None:
    assert not counts_as_one(one, other)
