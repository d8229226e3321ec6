from decimal import Decimal
from json import loads

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.data.idempotency import Key


def key(
    secret: str = "s", caller: str = "anonymous", operation: str = "/users", name: str = "k", body: object = 1
) -> Key:
    return Key.of(secret, caller, operation, name, body)


def test_the_same_request_has_the_same_key() -> None:
    assert key(body={"a": 1, "b": [2]}) == key(body={"b": [2], "a": 1})


@pytest.mark.parametrize("other", [{"caller": "ada"}, {"operation": "/products"}, {"name": "K"}])
def test_a_key_is_scoped_to_the_caller_and_the_operation(other: dict[str, str]) -> None:
    assert key().name != key(**other).name


@pytest.mark.parametrize("body", [2, "1", [1], {"a": 1}, None, Decimal("1.5"), True])
def test_another_body_has_another_fingerprint(body: object) -> None:
    assert key().fingerprint != key(body=body).fingerprint
    assert key().name == key(body=body).name


def test_the_fingerprint_needs_the_secret() -> None:
    """A body of few possible values, such as a password, cannot be guessed from its hash."""
    assert key(secret="other").fingerprint != key().fingerprint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.0", "1"), ("19.990", "19.99"), ("1e3", "1000"), ("1E+2", "100.00"), ("0.0", "0"), ("-0.0", "0"),
        ("-1.50", "-1.5"), ("1e-7", "0.00000010"), ("1e999999", "10e999998"), ("1.5e30", "15e29"),
    ],
)  # fmt: skip
def test_numbers_are_compared_by_value(one: str, other: str) -> None:
    bodies = [loads(f'{{"price": {text}}}', parse_float=Decimal) for text in (one, other)]
    assert key(body=bodies[0]) == key(body=bodies[1])


@pytest.mark.parametrize(
    ("one", "other"), [("1.5", '"1.5"'), ("1", '"1"'), ("1", "true"), ("19.99", "19.9"), ("-1", "1")]
)
def test_what_has_another_value_is_another_body(one: str, other: str) -> None:
    assert key(body=loads(one, parse_float=Decimal)) != key(body=loads(other, parse_float=Decimal))


@given(st.decimals(allow_nan=False, allow_infinity=False), st.decimals(allow_nan=False, allow_infinity=False))
def test_two_numbers_have_one_fingerprint_exactly_where_they_are_equal(one: Decimal, other: Decimal) -> None:
    assert (key(body=one) == key(body=other)) is (one == other)


@given(st.text(max_size=300), st.text(max_size=300))
def test_names_are_short_and_tell_nothing(caller: str, name: str) -> None:
    made = key(caller=caller, name=name)
    assert len(made.name) == len(made.fingerprint) == 64
    assert set(made.name + made.fingerprint) <= set("0123456789abcdef")
