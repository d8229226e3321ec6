import base64
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.data.paging import PageQuery, _read_cursor, _write_cursor
from libs.common.errors import MalformedRequest

ID = "01a20598-7494-7095-a5b5-38cc38be70f6"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def asked(cursor: str | None = None, sort: str = "-name", question: str = "/users?", secret: str = "s") -> PageQuery:
    return PageQuery(50, sort, cursor, question, secret)


def cursor_of(value: Any, tie: str = ID, **given: str) -> str:
    return _write_cursor(asked(**given), value, tie)


@given(st.text() | st.decimals(allow_nan=False, allow_infinity=False, places=4) | st.datetimes(timezones=st.just(UTC)))
def test_a_cursor_brings_back_what_went_in(value: Any) -> None:
    found = _read_cursor(asked(cursor_of(value)))
    assert found == (value, ID)
    assert type(found[0]) is type(value)


def test_a_cursor_needs_no_escaping_in_a_url() -> None:
    assert set(cursor_of("é€😀~/?&=+" * 20)) <= set(ALPHABET)


@pytest.mark.parametrize(
    "other", [{"sort": "name"}, {"sort": "-price"}, {"question": "/users?role=admin"}, {"secret": "t"}]
)
def test_a_cursor_of_another_question_is_refused(other: dict[str, str]) -> None:
    with pytest.raises(MalformedRequest):
        _read_cursor(asked(cursor_of("Ada"), **other))


@pytest.mark.parametrize("value", ["Ada", Decimal("1.0000"), datetime(2026, 1, 31, tzinfo=UTC)])
def test_a_cursor_with_one_character_changed_is_refused(value: Any) -> None:
    good = cursor_of(value)
    for place in range(len(good)):
        for letter in ALPHABET:
            if letter != good[place]:
                with pytest.raises(MalformedRequest):
                    _read_cursor(asked(good[:place] + letter + good[place + 1 :]))


@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: c + "A", lambda c: c + "=", lambda c: "A" + c, lambda c: c * 2]
)
def test_a_cursor_that_was_cut_or_grew_is_refused(change: Any) -> None:
    with pytest.raises(MalformedRequest):
        _read_cursor(asked(change(cursor_of("Ada"))))


def test_the_other_alphabet_of_base64_is_refused() -> None:
    """Two servers might decode it differently."""
    seen = 0
    for number in range(200):
        good = cursor_of(f"name {number}")
        other = good.replace("-", "+").replace("_", "/")
        if other != good:
            seen += 1
            with pytest.raises(MalformedRequest):
                _read_cursor(asked(other))
    assert seen > 50


@pytest.mark.parametrize(
    "bad", ["", "x", "====", "é", "\x00", " ", "A" * 12, "A" * 16, "A" * 500, "null", "../..", "0"]
)
def test_what_is_no_cursor_is_refused(bad: str) -> None:
    with pytest.raises(MalformedRequest):
        _read_cursor(asked(bad))


@given(st.binary(max_size=100))
def test_no_bytes_pass_for_a_cursor(data: bytes) -> None:
    with pytest.raises(MalformedRequest):
        _read_cursor(asked(base64.urlsafe_b64encode(data).decode().rstrip("=")))
