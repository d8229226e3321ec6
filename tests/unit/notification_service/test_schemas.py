import time
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest
from marshmallow import ValidationError

from notification_service.schemas import MAX_NUMBER, MAX_VALUES, NewNotification, NotificationChange
from tests.unit.notification_service.samples import order_data

USER = "01890a5d-ac96-774b-bcce-b302099a8057"


def load(**given: Any) -> Any:
    return NewNotification().load({"user_id": USER, "body": "A text.", **given})


def test_what_is_left_out_has_its_default() -> None:
    loaded = load()
    assert (loaded["channel"], loaded["subject"], loaded["template"], loaded["data"]) == ("email", None, None, {})


@pytest.mark.parametrize(
    ("given", "member"),
    [
        ({"user_id": None}, "recipient"),
        ({"body": None}, "body"),
        ({"template": "order_confirmed"}, "body"),
        ({"template": "no_such"}, "template"),
        ({"template": "../models"}, "template"),
        ({"channel": "pigeon"}, "channel"),
        ({"channel": "sms"}, "recipient"),
        ({"recipient": "nobody"}, "recipient"),
        ({"subject": "x" * 301}, "subject"),
        ({"body": ""}, "body"),
        ({"body": "x" * 100_001}, "body"),
        ({"body": "a\x00b"}, "body"),
        ({"data": []}, "data"),
        ({"data": None}, "data"),
        ({"order_id": USER}, "order_id"),
        ({"status": "sent"}, "status"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], member: str) -> None:
    with pytest.raises(ValidationError) as caught:
        load(**given)
    assert list(caught.value.normalized_messages()) == [member]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\nBcc: bob@example.com", "\x0b", "\x85", "\u2028", "\u2029", "\x1c"])
def test_a_subject_cannot_begin_a_line(end: str) -> None:
    with pytest.raises(ValidationError):
        load(subject=f"Hello{end}")


def test_data_may_be_any_json_object() -> None:
    data = {"a": [1, 2.0, "x", None, True, {"b": []}], "": "ü€😀"}
    assert load(data=data)["data"] == data
    assert load(data=order_data())["data"]


def test_a_number_with_a_point_becomes_a_double() -> None:
    assert load(data={"a": Decimal("1.5")})["data"] == {"a": 1.5}


@pytest.mark.parametrize("number", [MAX_NUMBER + 1, -(10**400), Decimal("1e999999"), Decimal("-1e30")])
def test_a_number_that_no_double_holds_is_refused(number: Any) -> None:
    with pytest.raises(ValidationError):
        load(data={"a": [number]})


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "x" * 100_001])
def test_text_that_no_engine_holds_is_refused(text: str) -> None:
    for data in ({"a": text}, {text: 1}, {"a": [{"b": [text]}]}):
        with pytest.raises(ValidationError):
            load(data=data)


def test_depth_is_bounded() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    with pytest.raises(ValidationError):
        load(data={"a": deep})


def test_the_number_of_values_is_bounded_at_all_levels_together() -> None:
    lines = [{"name": "Laptop", "quantity": n} for n in range(600)]  # 1 member, 600 items and 1200 members
    assert load(data={"items": lines})["data"] == {"items": lines}
    for data in ({"items": [*lines, *lines]}, {"a": [[]] * MAX_VALUES}, {str(n): n for n in range(MAX_VALUES + 1)}):
        with pytest.raises(ValidationError, match="At most 2000 values"):
            load(data=data)


def test_a_body_full_of_values_costs_neither_time_nor_memory() -> None:
    data = {"a": [[] for _ in range(300_000)]}
    tracemalloc.start()
    started = time.monotonic()
    try:
        with pytest.raises(ValidationError):
            load(data=data)
        seconds, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert seconds < 0.5


@pytest.mark.parametrize("read", ["true", 1, 0, None, "", []])
def test_read_is_true_or_false(read: Any) -> None:
    with pytest.raises(ValidationError):
        NotificationChange().load({"read": read})
