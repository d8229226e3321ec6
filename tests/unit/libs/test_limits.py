"""Whose requests are counted together; what is shared over Redis, tests/engines/test_limits.py shows."""

import pytest

from libs.common.errors import RateLimited
from libs.common.web.limits import RateLimiter


@pytest.fixture
def limiter() -> RateLimiter:
    """One request a day."""
    return RateLimiter("1/day", "", "order", ("127.0.0.0/8", "2001:db8:5::/48"))


def counts_as_one(limiter: RateLimiter, one: str, other: str) -> bool:
    limiter.check(one)
    try:
        limiter.check(other)
    except RateLimited:
        return True
    return False


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "192.0.2.1"), ("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::2"),
        ("2001:db8::1", "2001:0db8:0:0:ffff:ffff:ffff:ffff"), ("nobody", "nobody"), ("fe80::1%eth0", "fe80::2"),
    ],
)  # fmt: skip
def test_the_addresses_of_one_client_are_counted_together(limiter: RateLimiter, one: str, other: str) -> None:
    assert counts_as_one(limiter, one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8:0:1::1"), ("nobody", "somebody")]
)
def test_those_of_two_clients_are_not(limiter: RateLimiter, one: str, other: str) -> None:
    assert not counts_as_one(limiter, one, other)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::ffff:127.0.0.1", "2001:db8:5::1"])
def test_a_client_that_is_exempt_is_not_counted(limiter: RateLimiter, address: str) -> None:
    assert [limiter.check(address) for _ in range(3)] == [{}, {}, {}]
