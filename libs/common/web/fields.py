"""Marshmallow schemas and fields that are stricter than the stock ones, with matching JSON Schema for OpenAPI.

The stock Integer accepts "1_000" and 2.7, the stock Decimal silently rounds 1.005, and the stock String accepts NUL
and lone surrogates, which PostgreSQL rejects.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any, ClassVar

import marshmallow as ma
from marshmallow import ValidationError, validate

from libs.common.errors import MAX_FAULTS
from libs.common.ids import UUID
from libs.common.money import CURRENCIES, format_amount
from libs.common.times import read_foreign_time, write_time
from libs.common.web.plans import PlannedSchema

MAX_AMOUNT = Decimal("99999999999.9999")
MAX_COUNT = 2**53
"""The highest integer that is exact in every JSON implementation (RFC 8259, section 6)."""
_ANY_TEXT = r"^[^\x00]*$"
_SOME_TEXT = r"^[^\x00]*[^\x00\s][^\x00]*$"
_amount = re.compile(r"\d{1,11}(\.\d{1,4})?")
_MAX_TIME = 64
"""Characters of a time in a request."""


class Schema(PlannedSchema):
    """The schema of a request; unknown members are rejected.

    The OpenAPI document has the docstring of a schema, and the `doc`, the `example` and the `metadata` (keywords of
    JSON Schema) of each field.
    """

    class Meta:
        unknown = ma.RAISE

    def load(self, data: Any, **options: Any) -> Any:
        """As the base class does, but with no more faults than are reported."""
        return super().load(self._shortened(data), **options)

    def _shortened(self, data: Any) -> Any:
        """The data with at most MAX_FAULTS + 1 unknown members."""
        if not isinstance(data, dict) or len(data) <= len(self.load_fields) + MAX_FAULTS:
            return data
        known = {field.data_key or name for name, field in self.load_fields.items()}
        unknown = islice((name for name in data if name not in known), MAX_FAULTS + 1)
        return {name: data[name] for name in (*(known & data.keys()), *unknown)}


class Answer(Schema):
    """The schema of an answer. It has every member, null if there is no value, except for those in `optional`. Later
    versions may add members.
    """

    optional: ClassVar[tuple[str, ...]] = ()


class Documented(ma.fields.Field):
    """A field with a description and an example for the OpenAPI document."""

    keywords: ClassVar[Mapping[str, Any]] = {}
    """Keywords of JSON Schema that all fields of the class have."""

    def __init__(self, *args: Any, doc: str | None = None, example: Any = None, **kwargs: Any):
        described = {"description": doc, "examples": None if example is None else [example]}
        own = {name: value for name, value in described.items() if value is not None}
        super().__init__(*args, metadata={**self.keywords, **kwargs.pop("metadata", {}), **own}, **kwargs)


class Boolean(Documented, ma.fields.Boolean):
    """A boolean in an answer."""


class Float(Documented, ma.fields.Float):
    """A non-negative number in an answer."""

    keywords: ClassVar = {"minimum": 0}


class Nested(Documented, ma.fields.Nested):
    """An object of another schema."""


class Dumped(Documented, ma.fields.Dict):
    """An object that has been dumped before. `shapes` are its possible schemas, or their names in the document."""

    def __init__(self, *shapes: type[Schema] | str, **kwargs: Any):
        super().__init__(**kwargs)
        self.shapes = shapes


class Dict(Documented, ma.fields.Dict):
    """An object with arbitrary names; `keys` and `values` are fields."""


class List(Documented, ma.fields.List):
    """`min` to `max` items. The length is checked first, and no more faults are collected than are reported."""

    def __init__(self, inner: ma.fields.Field, *, min: int = 0, max: int, **kwargs: Any):
        self._length = validate.Length(min=min or None, max=max)
        super().__init__(inner, validate=self._length, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        self._length(value)
        loaded: list[Any] = []
        faults: dict[int, Any] = {}
        left = MAX_FAULTS
        for place, each in enumerate(value):
            try:
                loaded.append(self.inner.deserialize(each, **kwargs))
            except ValidationError as exc:
                faults[place] = exc.messages
                left -= _count(exc.messages)
                if left < 0:
                    break
        if faults:
            raise ValidationError(faults)
        return loaded

    def _validate(self, value: Any) -> None:
        """Done in `_deserialize`, before the items."""


def _count(messages: Any) -> int:
    """The number of marshmallow's nested messages."""
    if isinstance(messages, dict):
        return sum(_count(inner) for inner in messages.values())
    return len(messages)


class _Pattern(validate.Regexp):
    """Matches the whole text; with `re.match`, `$` would also match before a newline at the end."""

    def __call__(self, value: Any) -> Any:
        if not self.regex.fullmatch(value):
            raise ValidationError(self._format_error(value))
        return value


class String(Documented, ma.fields.String):
    """Text that both engines can store: no NUL, no lone surrogates. `min` and `max` count characters. With a `min`, the
    text must not be blank.
    """

    keywords: ClassVar = {"pattern": _ANY_TEXT}

    def __init__(self, *, min: int = 0, max: int, pattern: str | None = None, **kwargs: Any):
        self._min, self._max = min, max
        self._length = validate.Length(min=min or None, max=max)
        self._pattern = _Pattern(pattern) if pattern else None
        if pattern or (min and "pattern" in self.keywords):
            kwargs["metadata"] = {"pattern": pattern or _SOME_TEXT, **kwargs.get("metadata", {})}
        super().__init__(validate=[self._length, self._pattern] if self._pattern else self._length, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        if not self._min <= len(value) <= self._max:
            self._length(value)
        if "\x00" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
            raise ValidationError("Must not contain NUL or lone surrogates.")
        return value

    def _validate(self, value: Any) -> None:
        """The length was checked in `_deserialize`."""
        if self._pattern:
            self._pattern(value)
        elif self._min and value.isspace():
            raise ValidationError("Must not be blank.")


class Choice(Documented, ma.fields.String):
    """One of these words; the first one is the example.

    A subclass declares the words once for all schemas. It becomes a component of the OpenAPI document, with its name
    and its docstring, so that a generated client has one type for it.
    """

    words: tuple[str, ...] = ()

    def __init__(self, words: Iterable[str] = (), **kwargs: Any):
        self.words = tuple(words) or self.words
        super().__init__(validate=validate.OneOf(self.words), **kwargs)


class Integer(Documented):
    """An integer as in JSON Schema: 2.0 is one; "2", true and 1.5 are not."""

    def __init__(self, *, min: int, max: int, **kwargs: Any):
        width = "int32" if min >= -(2**31) and max < 2**31 else "int64"
        metadata = {"type": "integer", "format": width, "minimum": min, "maximum": max, **kwargs.pop("metadata", {})}
        super().__init__(metadata=metadata, **kwargs)
        self.min, self.max = min, max

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        if type(value) is int and self.min <= value <= self.max:
            return value
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise ValidationError("Must be a whole number.")
        # Check the range first: int() of a Decimal such as 1e999999 takes very long.
        if not self.min <= value <= self.max:
            raise ValidationError(f"Must be from {self.min} to {self.max}.")
        if value != int(value):
            raise ValidationError("Must be a whole number.")
        return int(value)


class Version(Integer):
    """The version of a resource that has an ETag."""

    keywords: ClassVar = {"description": "Grows with every change; the `ETag` is made of it."}

    def __init__(self, **kwargs: Any):
        super().__init__(min=1, max=MAX_COUNT, **kwargs)


class QueryInteger(Integer):
    """An integer in a query string."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", str(value)):
            raise ValidationError("Must be a whole number.")
        return super()._deserialize(int(value), attr, data, **kwargs)


class Count(Documented, ma.fields.Integer):
    """A count in an answer."""

    keywords: ClassVar = {"format": "int64", "minimum": 0, "maximum": MAX_COUNT}


class QueryBoolean(Documented):
    """`true` or `false` in a query string."""

    keywords: ClassVar = {"type": "boolean"}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if value not in ("true", "false"):
            raise ValidationError("Must be true or false.")
        return bool(value == "true")


def _amount_text(digits: int) -> dict[str, Any]:
    pattern = rf"^\d{{1,{digits}}}(\.\d{{1,4}})?$"
    return {"type": "string", "maxLength": digits + 5, "pattern": pattern}


class Money(Documented):
    """A non-negative amount with at most eleven digits before the point and four after it, as a string or a number.
    Whether the currency has these digits is checked by the schema.
    """

    # JSON Schema cannot limit the digits of a number: for implementations with floats, 19.99 is no multiple of 0.01.
    keywords: ClassVar = {
        "anyOf": [_amount_text(11), {"type": "number", "minimum": 0, "maximum": float(MAX_AMOUNT)}],
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Decimal:
        if isinstance(value, str) and _amount.fullmatch(value) and value.isascii():
            return Decimal(value).normalize() + 0
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            amount = Decimal(value)
            # Check the range first: normalize() of a very long number is expensive.
            if amount.is_finite() and 0 <= amount <= MAX_AMOUNT and amount == round(amount, 4):
                return round(amount, 4).normalize() + 0
        raise ValidationError('Must be an amount such as "19.99": not negative, at most four digits after the point.')

    def _serialize(self, value: Any, attr: Any, obj: Any, **kwargs: Any) -> str | None:
        """The amount with the digits of the object's `currency`."""
        is_mapping = type(obj) is dict or isinstance(obj, Mapping)  # the first is the usual one, and cheaper
        currency = obj["currency"] if is_mapping else obj.currency
        return None if value is None or currency is None else format_amount(value, currency)


class QueryMoney(Money):
    """An amount in a query string."""

    keywords: ClassVar = _amount_text(11)


class Amount(Money):
    """An amount in an answer: a string with up to `digits` digits before the point, and those of the object's
    `currency` after it.
    """

    keywords: ClassVar = {}

    def __init__(self, *, digits: int = 11, **kwargs: Any):
        super().__init__(metadata=_amount_text(digits), **kwargs)


class WrittenAmount(Documented, ma.fields.String):
    """An amount in an answer that is a string already."""

    def __init__(self, *, digits: int = 11, **kwargs: Any):
        super().__init__(metadata=_amount_text(digits), **kwargs)


class Currency(Choice):
    """A code of ISO 4217."""

    words = tuple(sorted(CURRENCIES))


class CurrencyCode(Documented, ma.fields.String):
    """An ISO 4217 code in an answer: not an enumeration, since codes may be added."""

    keywords: ClassVar = {"pattern": "^[A-Z]{3}$", "maxLength": 3, "description": "A code of ISO 4217."}


class Id(Documented):
    """A UUID, written in lower case."""

    keywords: ClassVar = {"type": "string", "format": "uuid", "maxLength": 36}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not UUID.fullmatch(value):
            raise ValidationError("Must be a UUID.")
        return value.lower()


class IdList(Documented):
    """Up to 200 UUIDs, comma separated, in a query string."""

    keywords: ClassVar = {
        "type": "string",
        "pattern": f"^{UUID.pattern}(,{UUID.pattern}){{0,199}}$",
        "maxLength": 200 * 37 - 1,
        "description": "Only those with one of these ids: up to 200, separated by commas.",
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> list[str]:
        ids = str(value).split(",", 200)
        if len(ids) > 200 or not all(UUID.fullmatch(part) for part in ids):
            raise ValidationError("Must be up to 200 UUIDs, separated by commas.")
        return [part.lower() for part in ids]


class Timestamp(Documented):
    """An RFC 3339 time, read with any offset and written in UTC with `Z`."""

    keywords: ClassVar = {"type": "string", "format": "date-time", "maxLength": 32}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime:
        try:
            if not isinstance(value, str) or len(value) > _MAX_TIME:
                raise ValueError(value)
            return read_foreign_time(value)
        except (ValueError, OverflowError):
            raise ValidationError("Must be a time of RFC 3339, such as 2026-01-31T12:00:00Z.") from None

    def _serialize(self, value: Any, attr: Any, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else write_time(value)


class QueryTimestamp(Timestamp):
    """A time in a query string, with any number of digits of a second."""

    keywords: ClassVar = {"type": "string", "format": "date-time", "maxLength": _MAX_TIME}
