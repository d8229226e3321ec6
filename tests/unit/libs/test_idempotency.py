from decimal import Decimal

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


def test_amounts_are_compared_as_they_were_sent() -> None:
    assert key(body={"price": Decimal("1.50")}) == key(body={"price": Decimal("1.50")})


@given(st.text(max_size=300), st.text(max_size=300))
def test_names_are_short_and_tell_nothing(caller: str, name: str) -> None:
    made = key(caller=caller, name=name)
    assert len(made.name) == len(made.fingerprint) == 64
    assert set(made.name + made.fingerprint) <= set("0123456789abcdef")
