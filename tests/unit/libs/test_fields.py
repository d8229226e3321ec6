import re
import time
from datetime import UTC, datetime
from decimal import Decimal
from json import loads
from typing import Any

import marshmallow as ma
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.times import read_time, write_time
from libs.common.web import fields

ONE_ID = "0190D2A4-1111-7aaa-8bbb-0123456789ab"


def load(field: ma.fields.Field, value: Any) -> Any:
    return field.deserialize(value)


def refuses(field: ma.fields.Field, value: Any) -> bool:
    try:
        field.deserialize(value)
    except ma.ValidationError:
        return True
    return False


def as_json(text: str) -> Any:
    """A number as the services parse it."""
    return loads(text, parse_float=Decimal)


# Integer -----------------------------------------------------------------------------------------------------------

whole = fields.Integer(min=1, max=10_000)


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("10000", 10_000), ("2.0", 2), ("1e3", 1000), ("20e-1", 2)])
def test_a_whole_number_is_taken_however_json_writes_it(text: str, value: int) -> None:
    found = load(whole, as_json(text))
    assert (found, type(found)) == (value, int)


@pytest.mark.parametrize("text", ["0", "10001", "-1", "1.5", "2.7", "1e-1", "1e5", '"2"', "true", "null", "[]", "{}"])
def test_what_is_no_whole_number_in_the_bounds_is_refused(text: str) -> None:
    assert refuses(whole, as_json(text))


@pytest.mark.parametrize("value", ["1_000", " 1", "", 2.0, float("nan"), False])
def test_what_python_takes_for_a_number_and_json_does_not_is_refused(value: Any) -> None:
    assert refuses(whole, value)


@pytest.mark.parametrize("text", ["1e999999", "-1e999999", "1e-999999", "1" + "0" * 4000, "0." + "1" * 100_000])
@pytest.mark.parametrize("field", [whole, fields.Money()])
def test_a_monstrous_number_is_refused_at_once(field: ma.fields.Field, text: str) -> None:
    started = time.process_time()
    assert refuses(field, as_json(text))
    assert time.process_time() - started < 0.5


@given(st.integers())
def test_exactly_the_integers_in_the_bounds_are_taken(number: int) -> None:
    assert refuses(whole, number) == (number not in range(1, 10_001))


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("007", 7), ("200", 200)])
def test_a_number_in_a_query_is_text(text: str, value: int) -> None:
    assert load(fields.QueryInteger(min=1, max=200), text) == value


@pytest.mark.parametrize("text", ["", "0", "201", "1.0", "1_0", "+1", " 1", "1\n", "٣", "1e1", "0x1", "9" * 5000])
def test_what_is_no_number_in_a_query_is_refused(text: str) -> None:
    assert refuses(fields.QueryInteger(min=1, max=200), text)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_a_boolean_in_a_query_is_true_or_false(text: str, value: bool) -> None:
    assert load(fields.QueryBoolean(), text) is value


@pytest.mark.parametrize("text", ["", "True", "1", "yes", "true\n"])
def test_nothing_else_is_a_boolean(text: str) -> None:
    assert refuses(fields.QueryBoolean(), text)


# String ------------------------------------------------------------------------------------------------------------

text_field = fields.String(min=1, max=5)


@pytest.mark.parametrize("text", ["a", "abcde", "äöü€𝄞", "😀😀😀😀😀", " a", "\na\t"])
def test_text_is_taken_by_its_characters(text: str) -> None:
    assert load(text_field, text) == text


@pytest.mark.parametrize("text", ["", "abcdef", "a\x00", "\x00", "\ud800", "a\udfffb", "\udc80"])
def test_text_that_an_engine_could_not_keep_is_refused(text: str) -> None:
    assert refuses(text_field, text)


@pytest.mark.parametrize("text", [" ", "\n\t", "   ", "\u00a0", "\u2003\u3000", "\x1f"])
def test_text_that_is_needed_is_not_blank(text: str) -> None:
    assert refuses(text_field, text)
    assert load(fields.String(max=5), text) == text


@pytest.mark.parametrize("value", [1, True, None, b"abc", ["a"], {"a": 1}, Decimal(1)])
def test_what_is_no_text_is_refused(value: Any) -> None:
    assert refuses(text_field, value)


def test_a_surrogate_pair_in_json_is_one_character() -> None:
    assert load(fields.String(max=1), as_json(r'"\ud83d\ude00"')) == "😀"


@given(st.text(st.characters(), max_size=5))
def test_what_is_taken_can_be_stored(text: str) -> None:
    taken = not refuses(fields.String(max=5), text)
    assert taken is (re.search("[\x00\ud800-\udfff]", text) is None)
    if taken:
        text.encode()


@pytest.mark.parametrize("text", ["abc\n", "abc ", "\nabc", "abc\nabc"])
def test_a_pattern_covers_the_whole_text(text: str) -> None:
    assert not refuses(fields.String(max=9, pattern="^[a-c]+$"), "abc")
    assert refuses(fields.String(max=9, pattern="^[a-c]+$"), text)


# Lists -------------------------------------------------------------------------------------------------------------


class Line(fields.Schema):
    quantity = fields.Integer(min=1, max=9, required=True)


class Lines(fields.Schema):
    lines = fields.List(fields.Nested(Line), min=1, max=100, required=True)


def faults_of(schema: fields.Schema, data: Any) -> Any:
    with pytest.raises(ma.ValidationError) as caught:
        schema.load(data)
    return caught.value.messages


@pytest.mark.parametrize("value", [{}, "ab", 1, (1,), None])
def test_what_is_no_list_is_refused(value: Any) -> None:
    assert "lines" in faults_of(Lines(), {"lines": value})


@pytest.mark.parametrize("count", [0, 101, 100_000])
def test_the_length_of_a_list_is_looked_at_before_its_items(count: int) -> None:
    assert faults_of(Lines(), {"lines": [{}] * count}) == {"lines": ["Length must be between 1 and 100."]}


def test_each_item_that_is_wrong_is_pointed_at() -> None:
    lines = [{"quantity": 1}, {"quantity": 0}, {}, {"quantity": 2, "colour": "red"}]
    assert set(faults_of(Lines(), {"lines": lines})["lines"]) == {1, 2, 3}


def test_no_more_faults_are_looked_for_than_are_told() -> None:
    class Orders(fields.Schema):
        orders = fields.List(fields.Nested(Lines), max=100)

    found = faults_of(Orders(), {"orders": [{"lines": [{}] * 60}] * 100})
    assert set(found["orders"]) == {0, 1}


def test_of_many_unknown_members_some_are_told() -> None:
    found = faults_of(Line(), {"quantity": 0, **{str(number): 0 for number in range(100_000)}})
    assert len(found) == 102
    assert "quantity" in found


def test_text_that_is_too_long_is_looked_at_no_further() -> None:
    field = fields.String(max=5, pattern="^a+$")
    with pytest.raises(ma.ValidationError) as caught:
        load(field, "\x00" * 6)
    assert caught.value.messages == ["Longer than maximum length 5."]


# Money -------------------------------------------------------------------------------------------------------------

money = fields.Money()


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ('"19.99"', "19.99"),
        ("19.99", "19.99"),
        ("2499.99", "2499.99"),
        ("0.1", "0.1"),
        ("5", "5"),
        ("0", "0"),
        ("-0.0", "0"),
        ('"0"', "0"),
        ("1e3", "1000"),
        ("1.0000000000", "1"),
        ("99999999999.9999", "99999999999.9999"),
        ('"99999999999.9999"', "99999999999.9999"),
    ],
)
def test_an_amount_is_read_exactly(text: str, amount: str) -> None:
    found = load(money, as_json(text))
    assert isinstance(found, Decimal)
    assert found == Decimal(amount)
    assert not found.is_signed()
    assert "E" not in str(found)


@pytest.mark.parametrize(
    "text",
    [
        '"1e3"', '"NaN"', '"Infinity"', '"-1"', '"-0"', '"+1"', '"1_000"', '"1,5"', '" 1"', '"1 "', '"1\\n"', '""', '"."',
        '"1."', '".5"', '"1.00005"', '"100000000000"', '"٣"', '"0x10"', '"1\\u0000"', '"\\ud800"',
        "-1", "-0.01", "1.00005", "100000000000", "1e11", "true", "false", "null", "[]", '{"amount": 1}',
    ],
)  # fmt: skip
def test_what_is_no_amount_is_refused(text: str) -> None:
    assert refuses(money, as_json(text))


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN"), 1.5, float("nan")])
def test_a_number_that_is_no_decimal_number_is_refused(value: Any) -> None:
    assert refuses(money, value)


@given(st.decimals(min_value=0, max_value=10**10, places=4))
def test_text_and_number_mean_the_same_amount(amount: Decimal) -> None:
    assert load(money, str(amount)) == load(money, as_json(str(amount))) == amount


class Priced(fields.Schema):
    price = fields.Money(dump_only=True)


def test_an_amount_is_written_with_the_digits_of_the_currency_beside_it() -> None:
    class Row:
        price, currency = Decimal("5"), "KWD"

    assert Priced().dump(Row()) == {"price": "5.000"}
    assert Priced().dump({"price": Decimal("5"), "currency": "EUR"}) == {"price": "5.00"}
    assert Priced().dump({"price": None, "currency": "EUR"}) == {"price": None}


def test_a_currency_is_a_code_of_iso_4217() -> None:
    assert load(fields.Currency(), "EUR") == "EUR"
    assert all(refuses(fields.Currency(), bad) for bad in ("eur", "EURO", "XXX", "", "EUR\n", 1, None, []))


# Ids and times -----------------------------------------------------------------------------------------------------


def test_an_id_is_written_in_lower_case() -> None:
    assert load(fields.Id(), ONE_ID) == ONE_ID.lower()


@pytest.mark.parametrize(
    "value", ["", "1", ONE_ID[:-1], ONE_ID + "0", ONE_ID + "\n", ONE_ID.replace("-", ""), f"{{{ONE_ID}}}", 5, None]
)
def test_what_is_no_uuid_is_refused(value: Any) -> None:
    assert refuses(fields.Id(), value)


def test_a_list_of_ids_is_taken_up_to_two_hundred() -> None:
    assert load(fields.IdList(), f"{ONE_ID},{ONE_ID}") == [ONE_ID.lower()] * 2
    assert len(load(fields.IdList(), ",".join([ONE_ID] * 200))) == 200
    assert refuses(fields.IdList(), ",".join([ONE_ID] * 201))
    assert all(refuses(fields.IdList(), bad) for bad in ("", ",", f"{ONE_ID},", f"{ONE_ID};{ONE_ID}", "1"))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456+01:00", datetime(2026, 1, 31, 11, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-31T00:30:00-05:30", datetime(2026, 1, 31, 6, tzinfo=UTC)),
        ("2026-01-31T12:00:00.1Z", datetime(2026, 1, 31, 12, 0, 0, 100000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.1234567Z", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456789Z", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2016-12-31T23:59:60.5Z", datetime(2017, 1, 1, 0, 0, 0, 500000, tzinfo=UTC)),
        ("2017-01-01T05:29:60+05:30", datetime(2017, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_with_any_offset(text: str, moment: datetime) -> None:
    found = load(fields.Timestamp(), text)
    assert (found, found.tzinfo) == (moment, UTC)


@pytest.mark.parametrize(
    "value",
    [
        "", "2026-01-31", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z", "2026-01-31 12:00:00Z", "2026-01-31T25:00:00Z",
        "2026-01-31T12:00Z", "20260131T120000Z", "2026-W05-6T12:00:00Z", "2026-01-31T12:00:00Z\n", "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "٢٠٢٦-01-31T12:00:00Z", "2026-01-31T12:00:00+25:00",
        "2026-01-31T12:00:00.Z", "2026-01-31T12:00:61Z", "2026-01-31T12:00:60Z", "2026-01-30T23:59:60Z",
        "2016-12-31T23:59:60+01:00", "9999-12-31T23:59:60Z", "2026-01-31T12:00:00." + "1" * 100 + "Z",
        1769860800, None, True,
    ],
)  # fmt: skip
def test_what_is_no_time_of_rfc_3339_is_refused(value: Any) -> None:
    assert refuses(fields.Timestamp(), value)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_that_is_written_is_read_as_the_same(moment: datetime) -> None:
    text = write_time(moment)
    assert text.endswith("Z")
    assert read_time(text) == load(fields.Timestamp(), text) == moment


def test_written_times_sort_as_times() -> None:
    earlier, later = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert write_time(earlier) < write_time(later)


def test_an_unknown_member_is_refused() -> None:
    with pytest.raises(ma.ValidationError):
        Priced().load({"surprise": 1})


class Dotted(fields.Answer):
    plain = fields.Integer(attribute="a.b", min=0, max=9)


def test_a_member_is_looked_up_by_its_name_as_it_is() -> None:
    """Marshmallow itself would look for `b` within `a`."""
    assert Dotted().dump({"a.b": 1}) == {"plain": 1}
