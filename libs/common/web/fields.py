"""Marshmallow fields that refuse what the stock ones let through, and say the same in OpenAPI.

The stock Integer takes "1_000" and 2.7, the stock Decimal rounds 1.005 in silence, and the stock String passes NUL
and lone surrogates, which PostgreSQL then refuses.
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

MAX_AMOUNT = Decimal("99999999999.9999")
MAX_COUNT = 2**53
"""The highest whole number that every reader of JSON can take (RFC 8259, section 6)."""
_ANY_TEXT = r"^[^\x00]*$"
_SOME_TEXT = r"^[^\x00]*[^\x00\s][^\x00]*$"
_amount = re.compile(r"\d{1,11}(\.\d{1,4})?")


_MAX_TIME = 64
"""Characters of a time that a client writes."""


class Schema(ma.Schema):
    """What a request carries: members in declared order; unknown ones are refused.

    The docstring of a schema, and of each field its `doc`, its `example` and its `metadata`, which are keywords of JSON
    Schema, go into the OpenAPI document.
    """

    class Meta:
        unknown = ma.RAISE

    def load(self, data: Any, **options: Any) -> Any:
        """As the base class does. What is right, which most is, takes half the time: the machinery that gathers faults
        runs when there is one. It gathers no more than are reported.
        """
        if not options and not any(self._hooks.values()):
            try:
                return self._load_right(data)
            except ValidationError:
                pass
        return super().load(self._shortened(data), **options)

    def _shortened(self, data: Any) -> Any:
        """Without most of the unknown members, where there are many."""
        if not isinstance(data, dict) or len(data) <= len(self.load_fields) + MAX_FAULTS:
            return data
        known = {field.data_key or name for name, field in self.load_fields.items()}
        unknown = islice((name for name in data if name not in known), MAX_FAULTS + 1)
        return {name: data[name] for name in (*(known & data.keys()), *unknown)}

    def _load_right(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise ValidationError("Must be an object.")
        loaded, known = {}, 0
        for name, field in self.load_fields.items():
            key = field.data_key or name
            known += key in data
            value = field.deserialize(data.get(key, ma.missing), key, data)
            if value is not ma.missing:
                loaded[field.attribute or name] = value
        if known < len(data):
            raise ValidationError("There are others.")
        return loaded

    def _serialize(self, obj: Any, *, many: bool = False) -> Any:
        """A dictionary, field by field; the base class also looks for dotted names and attributes."""
        if many or not isinstance(obj, dict):
            return super()._serialize(obj, many=many)
        shown = {}
        for name, field in self.dump_fields.items():
            value = obj.get(field.attribute or name, field.dump_default)
            if value is not ma.missing:
                shown[field.data_key or name] = field._serialize(value, name, obj)
        return shown


class Answer(Schema):
    """What is answered: every member is there, null where it has no value, except for those that are `optional`. Later
    versions may have more members.
    """

    optional: ClassVar[tuple[str, ...]] = ()


class Documented(ma.fields.Field):
    """A field that says what it is."""

    keywords: ClassVar[Mapping[str, Any]] = {}
    """Keywords of JSON Schema that all fields of the class have."""

    def __init__(self, *args: Any, doc: str | None = None, example: Any = None, **kwargs: Any):
        described = {"description": doc, "examples": None if example is None else [example]}
        own = {name: value for name, value in described.items() if value is not None}
        super().__init__(*args, metadata={**self.keywords, **kwargs.pop("metadata", {}), **own}, **kwargs)


class Boolean(Documented, ma.fields.Boolean):
    """True or false, in an answer."""


class Float(Documented, ma.fields.Float):
    """A number that is not negative, in an answer."""

    keywords: ClassVar = {"minimum": 0}


class Nested(Documented, ma.fields.Nested):
    """An object of another schema."""


class Dumped(Documented, ma.fields.Dict):
    """An object that is dumped already, in one of these shapes: a schema, or the name of one of the document."""

    def __init__(self, *shapes: type[Schema] | str, **kwargs: Any):
        super().__init__(**kwargs)
        self.shapes = shapes


class Dict(Documented, ma.fields.Dict):
    """An object whose members have names of one kind and values of another."""


class List(Documented, ma.fields.List):
    """`min` to `max` items. The length is checked first, and no more faults are gathered than are reported."""

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
        """That was done first."""


def _count(messages: Any) -> int:
    """Of marshmallow's nested messages."""
    if isinstance(messages, dict):
        return sum(_count(inner) for inner in messages.values())
    return len(messages)


class _Pattern(validate.Regexp):
    """Covers the whole text: for `re.match`, `$` also means before a newline at the end."""

    def __call__(self, value: Any) -> Any:
        if not self.regex.fullmatch(value):
            raise ValidationError(self._format_error(value))
        return value


class String(Documented, ma.fields.String):
    """Text that every engine can store: no NUL, no lone surrogate. Length counts characters. Text with a minimum length
    must not be blank.
    """

    keywords: ClassVar = {"pattern": _ANY_TEXT}

    def __init__(self, *, min: int = 0, max: int, pattern: str | None = None, **kwargs: Any):
        self._length = validate.Length(min=min or None, max=max)
        self._pattern = _Pattern(pattern) if pattern else None
        if pattern or (min and "pattern" in self.keywords):
            kwargs["metadata"] = {"pattern": pattern or _SOME_TEXT, **kwargs.get("metadata", {})}
        super().__init__(validate=[self._length, self._pattern] if self._pattern else self._length, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        self._length(value)
        if "\x00" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
            raise ValidationError("Must not contain NUL or lone surrogates.")
        return value

    def _validate(self, value: Any) -> None:
        """The length was checked first."""
        if self._pattern:
            self._pattern(value)
        elif self._length.min and value.isspace():
            raise ValidationError("Must not be blank.")


class Choice(Documented, ma.fields.String):
    """One of these words; the first of them is the example.

    A subclass names the words once for all schemas. It is a component of the document, which has its name and its
    docstring, so that a generated client has one type for it.
    """

    words: tuple[str, ...] = ()

    def __init__(self, words: Iterable[str] = (), **kwargs: Any):
        self.words = tuple(words) or self.words
        super().__init__(validate=validate.OneOf(self.words), **kwargs)


class Integer(Documented):
    """A whole JSON number; "2", true and 1.5 are not. 2.0 is, as JSON Schema has it."""

    def __init__(self, *, min: int, max: int, **kwargs: Any):
        width = "int32" if min >= -(2**31) and max < 2**31 else "int64"
        metadata = {"type": "integer", "format": width, "minimum": min, "maximum": max, **kwargs.pop("metadata", {})}
        super().__init__(metadata=metadata, **kwargs)
        self.min, self.max = min, max

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise ValidationError("Must be a whole number.")
        # Compared first: int() of a Decimal such as 1e999999 would be very long.
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
    """The same in a query string, where all is text."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", str(value)):
            raise ValidationError("Must be a whole number.")
        return super()._deserialize(int(value), attr, data, **kwargs)


class Count(Documented, ma.fields.Integer):
    """How many there are, in an answer."""

    keywords: ClassVar = {"format": "int64", "minimum": 0, "maximum": MAX_COUNT}


class QueryBoolean(Documented):
    """`true` or `false`."""

    keywords: ClassVar = {"type": "boolean"}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if value not in ("true", "false"):
            raise ValidationError("Must be true or false.")
        return bool(value == "true")


def _amount_text(digits: int) -> dict[str, Any]:
    pattern = rf"^\d{{1,{digits}}}(\.\d{{1,4}})?$"
    return {"type": "string", "maxLength": digits + 5, "pattern": pattern}


class Money(Documented):
    """An amount, not negative, of at most eleven digits and four after the point; which of these the currency has,
    the schema checks. Read from a string or a number.
    """

    # How many digits a number may have, JSON Schema cannot say: to `multipleOf`, 19.99 is no multiple of 0.01.
    keywords: ClassVar = {
        "anyOf": [_amount_text(11), {"type": "number", "minimum": 0, "maximum": float(MAX_AMOUNT)}],
    }

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Decimal:
        if isinstance(value, str) and _amount.fullmatch(value) and value.isascii():
            return Decimal(value).normalize() + 0
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            amount = Decimal(value)
            # Bounds first: normalize() of a very long number is work for nothing.
            if amount.is_finite() and 0 <= amount <= MAX_AMOUNT and amount == round(amount, 4):
                return round(amount, 4).normalize() + 0
        raise ValidationError('Must be an amount such as "19.99": not negative, at most four digits after the point.')

    def _serialize(self, value: Any, attr: Any, obj: Any, **kwargs: Any) -> str | None:
        """With the digits of the object's `currency`."""
        currency = obj["currency"] if isinstance(obj, Mapping) else obj.currency
        return None if value is None or currency is None else format_amount(value, currency)


class QueryMoney(Money):
    """The same in a query string, where all is text."""

    keywords: ClassVar = _amount_text(11)


class Amount(Money):
    """An amount in an answer: always a string, with so many digits before the point and those of the object's
    `currency` after it.
    """

    keywords: ClassVar = {}

    def __init__(self, *, digits: int = 11, **kwargs: Any):
        super().__init__(metadata=_amount_text(digits), **kwargs)


class WrittenAmount(Documented, ma.fields.String):
    """The same where the string is there already."""

    def __init__(self, *, digits: int = 11, **kwargs: Any):
        super().__init__(metadata=_amount_text(digits), **kwargs)


class Currency(Choice):
    """A code of ISO 4217."""

    words = tuple(sorted(CURRENCIES))


class CurrencyCode(Documented, ma.fields.String):
    """The same in an answer, where another one may come some day."""

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
    """RFC 3339. Read with any offset, written in UTC with `Z`."""

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
    """The same in a query string: with as many digits of a second as the client likes."""

    keywords: ClassVar = {"type": "string", "format": "date-time", "maxLength": _MAX_TIME}
