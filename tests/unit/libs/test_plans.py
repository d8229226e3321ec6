"""A plan loads and dumps as marshmallow does: for each schema of each service, valid data and invalid data alike."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC
from decimal import Decimal
from importlib import import_module
from types import MappingProxyType, SimpleNamespace
from typing import Any

import marshmallow as ma
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow.utils import get_value

from libs.common.money import CURRENCIES
from libs.common.times import write_time
from libs.common.web import fields
from libs.common.web.plans import PlannedSchema
from libs.topology import PACKAGES
from user_service.models import NewPassword

ROUTES = [route for package in PACKAGES.values() for route in import_module(f"{package}.routes").routes.all]
LOADED = {schema for route in ROUTES for schema in (route.body, route.patch, route.query) if schema}
DUMPED = {schema for route in ROUTES for schema in (route.body, route.returns) if schema}
EXAMPLES = 25
"""For each schema, since there are many."""


def by_name(schemas: set[Any]) -> Any:
    """Each schema, with its module and its name for the id of the test."""
    ordered = sorted(schemas, key=lambda schema: (schema.__module__, schema.__name__))
    return pytest.mark.parametrize("schema", ordered, ids=lambda s: f"{s.__module__.split('.')[0]}-{s.__name__}")


@contextmanager
def marshmallow_alone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load", "dump", "_serialize"):
            patch.setattr(PlannedSchema, name, getattr(ma.Schema, name))
        patch.setattr(ma.Schema, "get_attribute", member_of)
        yield


def member_of(schema: ma.Schema, obj: Any, name: str, default: Any) -> Any:
    """Marshmallow itself takes the method `items` for a member of that name that a dictionary does not have."""
    return obj.get(name, default) if isinstance(obj, Mapping) else get_value(obj, name, default)


def outcome(call: Any, *args: Any, **options: Any) -> Any:
    """What the call returns, or what it raises, in a form that tells 1 from True and one order from another."""
    try:
        return told(call(*args, **options))
    except ma.ValidationError as exc:
        return "faults", exc.messages
    except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as exc:
        return type(exc), str(exc)


def told(value: Any) -> Any:
    match value:
        case dict():
            return [(name, told(member)) for name, member in value.items()]
        case list():
            return [told(item) for item in value]
        case NewPassword():
            return NewPassword, value._plain
    return type(value), repr(value)


# Data --------------------------------------------------------------------------------------------------------------

moments = st.datetimes(timezones=st.just(UTC))
scalars = st.none() | st.booleans() | st.integers() | st.decimals() | st.text(max_size=5) | moments
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
)
amounts = st.decimals(min_value=0, max_value=10**10, places=2)


def to_load(field: Any) -> st.SearchStrategy[Any]:
    """Values that a field probably takes."""
    match field:
        case ma.fields.Nested():
            return objects(field.schema.load_fields, to_load)
        case ma.fields.List():
            return st.lists(to_load(field.inner), min_size=1, max_size=3)
        case fields.Choice():
            return st.sampled_from(field.words)
        case fields.QueryInteger() | fields.Version():
            return st.integers(0, 300).map(str)
        case fields.Integer(min=low, max=high):
            return st.integers(low - 1, high + 1) | st.integers(low, high).map(Decimal)
        case fields.Money():
            return amounts.map(str) | amounts
        case fields.Id():
            return st.uuids().map(str) | st.uuids().map(lambda one: str(one).upper())
        case fields.IdList():
            return st.lists(st.uuids().map(str), min_size=1, max_size=3).map(",".join)
        case fields.Timestamp():
            return moments.map(write_time)
        case fields.QueryBoolean():
            return st.sampled_from(["true", "false"])
        case fields.String(_pattern=pattern) if pattern:
            return st.from_regex(pattern.regex, fullmatch=True)
        case fields.String(_min=shortest):
            return st.text(min_size=shortest, max_size=shortest + 10)
        case ma.fields.String():
            return st.text(max_size=10)
    return st.booleans() | st.dictionaries(st.text(max_size=3), scalars, max_size=3)


def to_dump(field: Any) -> st.SearchStrategy[Any]:
    """Values that a field can write."""
    match field:
        case ma.fields.Nested():
            return objects(field.schema.dump_fields, to_dump)
        case ma.fields.List():
            return st.lists(to_dump(field.inner), max_size=3)
        case fields.CurrencyCode() | fields.Currency():
            return st.sampled_from(sorted(CURRENCIES))
        case fields.Money():
            return amounts
        case fields.Timestamp():
            return moments
        case fields.Integer() | ma.fields.Integer():
            return st.integers()
        case fields.Dict():
            return st.dictionaries(st.sampled_from(["a", "b"]), st.integers())
        case ma.fields.Dict():
            return st.dictionaries(st.text(max_size=3), scalars, max_size=3)
        case ma.fields.Float():
            return st.floats(0, 1) | st.integers()
        case ma.fields.Boolean():
            return st.booleans()
    return st.text(max_size=10)


@st.composite
def objects(draw: st.DrawFn, members: Any, strategy: Any) -> dict[str, Any]:
    """Mostly complete ones, with something wrong or strange in some of them."""
    loads = strategy is to_load
    made = {}
    for name, field in members.items():
        if not loads or field.required or draw(st.booleans()):
            made[(loads and field.data_key) or field.attribute or name] = draw(strategy(field))
    change = draw(st.sampled_from(["none"] * 4 + ["null", "junk", "gone", "unknown"]))
    chosen = draw(st.sampled_from(sorted(made))) if made else ""
    if change == "unknown":
        made[draw(st.text(max_size=3))] = draw(scalars)
    elif chosen and change != "none":
        made[chosen] = None if change == "null" else draw(anything)
        if change == "gone":
            del made[chosen]
    return made


# Tests -------------------------------------------------------------------------------------------------------------


@by_name(LOADED)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_a_schema_loads_as_marshmallow_does(schema: Any, data: st.DataObject) -> None:
    drawn = data.draw(objects(schema().load_fields, to_load) | anything)
    found = outcome(schema().load, drawn)
    with marshmallow_alone():
        assert outcome(schema().load, drawn) == found
    # Without this, plans that leave everything to marshmallow would do.
    is_served = outcome(schema().load_valid, drawn) == found
    assert is_served is (not is_refused(found) and not any(schema._hooks.values()))


def is_refused(found: Any) -> bool:
    return isinstance(found, tuple)


@by_name(DUMPED)
@settings(max_examples=EXAMPLES)
@given(data=st.data())
def test_a_schema_dumps_as_marshmallow_does(schema: Any, data: st.DataObject) -> None:
    drawn = data.draw(objects(schema().dump_fields, to_dump))
    forms = (drawn, MappingProxyType(drawn), SimpleNamespace(**drawn))
    found = [outcome(schema().dump, form) for form in forms]
    many = outcome(schema().dump, forms, many=True)
    with marshmallow_alone():
        assert [outcome(schema().dump, form) for form in forms] == found
        assert outcome(schema().dump, forms, many=True) == many


class Inner(fields.Schema):
    number = fields.Integer(min=0, max=9, required=True)


class Outer(fields.Schema):
    renamed = fields.Nested(Inner, data_key="inner", attribute="stored")
    numbers = fields.List(fields.Integer(min=0, max=9), max=3, load_default=list)
    child = fields.Nested("Outer", allow_none=True)


def test_a_member_may_have_other_names_in_the_data_and_in_the_object() -> None:
    loaded = Outer().load({"inner": {"number": 1}})
    assert loaded == {"stored": {"number": 1}, "numbers": []}
    assert Outer().load_valid({"inner": {"number": 1}}) == loaded
    assert Outer().dump({**loaded, "child": None}) == {"inner": {"number": 1}, "numbers": [], "child": None}


def test_a_default_is_made_for_each_object() -> None:
    assert Outer().load({})["numbers"] is not Outer().load({})["numbers"]


def test_a_schema_may_be_nested_in_itself() -> None:
    assert Outer().load({"child": {"numbers": [1]}})["child"] == {"numbers": [1]}


class Doubled(fields.Schema):
    number = fields.Integer(min=0, max=9, required=True, validate=ma.validate.NoneOf([5]))
    text = ma.fields.String(pre_load=str.strip, post_load=str.upper)

    @ma.post_dump
    def _double(self, data: dict[str, Any], **options: Any) -> dict[str, Any]:
        return {**data, "number": 2 * data["number"]}


def test_hooks_and_validators_run() -> None:
    assert Doubled().load({"number": 4, "text": " a "}) == {"number": 4, "text": "A"}
    assert Doubled().dump({"number": 4, "text": "a"}) == {"number": 8, "text": "a"}
    with pytest.raises(ma.ValidationError, match=re.escape("number")):
        Doubled().load({"number": 5})


def test_options_are_obeyed() -> None:
    assert Inner().load({"colour": "red"}, unknown=ma.EXCLUDE, partial=True) == {}
    assert Inner(many=True).load([{"number": 1}]) == Inner(many=True).dump([{"number": 1}]) == [{"number": 1}]
