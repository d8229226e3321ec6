"""Marshmallow fields that refuse what the stock ones let through, and say the same in OpenAPI.

The stock Integer takes "1_000" and 2.7, the stock Decimal rounds 1.005 in silence, and the stock String passes NUL
and lone surrogates, which PostgreSQL then refuses.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import ValidationError, validate

from libs.common.money import CURRENCIES, format_amount

MAX_AMOUNT = Decimal("99999999999.9999")
_amount = re.compile(r"\d{1,11}(\.\d{1,4})?")
_uuid = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_moment = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)")


class Schema(ma.Schema):
    """Members in declared order; unknown ones are refused."""

    class Meta:
        unknown = ma.RAISE

    def load(self, data: Any, **options: Any) -> Any:
        """As the base class does. What is right, which most is, takes half the time: the machinery that gathers faults
        runs when there is one.
        """
        if not options and not any(self._hooks.values()):
            try:
                return self._load_right(data)
            except ValidationError:
                pass
        return super().load(data, **options)

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


class _Pattern(validate.Regexp):
    """Covers the whole text: for `re.match`, `$` also means before a newline at the end."""

    def __call__(self, value: Any) -> Any:
        if not self.regex.fullmatch(value):
            raise ValidationError(self._format_error(value))
        return value


class String(ma.fields.String):
    """Text that every engine can store: no NUL, no lone surrogate. Length counts characters."""

    def __init__(self, *, min: int = 0, max: int, pattern: str | None = None, **kwargs: Any):
        checks: list[Any] = [validate.Length(min=min or None, max=max)]
        if pattern:
            checks.append(_Pattern(pattern))
        super().__init__(validate=checks, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise self.make_error("invalid")
        if "\x00" in value or (not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value)):
            raise ValidationError("Must not contain NUL or lone surrogates.")
        return value


class Integer(ma.fields.Field):
    """A whole JSON number; "2", true and 1.5 are not. 2.0 is, as JSON Schema has it."""

    def __init__(self, *, min: int, max: int, **kwargs: Any):
        metadata = {"type": "integer", "minimum": min, "maximum": max, **kwargs.pop("metadata", {})}
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


class QueryInteger(Integer):
    """The same in a query string, where all is text."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", str(value)):
            raise ValidationError("Must be a whole number.")
        return super()._deserialize(int(value), attr, data, **kwargs)


class QueryBoolean(ma.fields.Field):
    """`true` or `false`."""

    def __init__(self, **kwargs: Any):
        super().__init__(metadata={"type": "boolean", **kwargs.pop("metadata", {})}, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if value not in ("true", "false"):
            raise ValidationError("Must be true or false.")
        return bool(value == "true")


class Money(ma.fields.Field):
    """An amount, not negative, of at most eleven digits and four after the point; which of these the currency has,
    the schema checks. Read from a string or a number; written as a string with the digits of the object's `currency`.
    """

    def __init__(self, **kwargs: Any):
        text = {"type": "string", "pattern": r"^\d{1,11}(\.\d{1,4})?$", "examples": ["19.99"]}
        number = {"type": "number", "minimum": 0, "maximum": 99999999999, "multipleOf": 0.01}
        metadata = {**text} if kwargs.get("dump_only") else {"anyOf": [text, number]}
        super().__init__(metadata={**metadata, **kwargs.pop("metadata", {})}, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Decimal:
        if isinstance(value, str) and _amount.fullmatch(value) and value.isascii():
            return Decimal(value)
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            amount = Decimal(value)
            # Bounds first: normalize() of a very long number is work for nothing.
            if amount.is_finite() and 0 <= amount <= MAX_AMOUNT and amount == round(amount, 4):
                return round(amount, 4).normalize() + 0
        raise ValidationError('Must be an amount such as "19.99": not negative, at most four digits after the point.')

    def _serialize(self, value: Any, attr: Any, obj: Any, **kwargs: Any) -> str | None:
        currency = obj["currency"] if isinstance(obj, Mapping) else obj.currency
        return None if value is None or currency is None else format_amount(value, currency)


class Currency(ma.fields.String):
    """A code of ISO 4217."""

    def __init__(self, **kwargs: Any):
        metadata = {"description": "ISO 4217", **kwargs.pop("metadata", {})}
        super().__init__(validate=validate.OneOf(sorted(CURRENCIES)), metadata=metadata, **kwargs)


class Id(ma.fields.Field):
    """A UUID, written in lower case."""

    def __init__(self, **kwargs: Any):
        metadata = {"type": "string", "format": "uuid", **kwargs.pop("metadata", {})}
        super().__init__(metadata=metadata, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not _uuid.fullmatch(value):
            raise ValidationError("Must be a UUID.")
        return value.lower()


class IdList(ma.fields.Field):
    """Up to 200 UUIDs, comma separated, in a query string."""

    def __init__(self, **kwargs: Any):
        one = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
        metadata = {"type": "string", "pattern": f"^{one}(,{one}){{0,199}}$", **kwargs.pop("metadata", {})}
        super().__init__(metadata=metadata, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> list[str]:
        ids = str(value).split(",")
        if len(ids) > 200 or not all(_uuid.fullmatch(part) for part in ids):
            raise ValidationError("Must be up to 200 UUIDs, separated by commas.")
        return [part.lower() for part in ids]


class Timestamp(ma.fields.Field):
    """RFC 3339. Read with any offset, written in UTC with `Z`."""

    def __init__(self, **kwargs: Any):
        metadata = {"type": "string", "format": "date-time", **kwargs.pop("metadata", {})}
        super().__init__(metadata=metadata, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> datetime:
        try:
            if not isinstance(value, str) or not _moment.fullmatch(value):
                raise ValueError(value)
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValidationError("Must be a time of RFC 3339, such as 2026-01-31T12:00:00Z.") from None

    def _serialize(self, value: Any, attr: Any, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else write_time(value)


def write_time(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`; `moment` must be aware and in UTC."""
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def read_time(text: str) -> datetime:
    """The inverse of `write_time`."""
    return datetime.fromisoformat(text)


def now() -> datetime:
    return datetime.now(UTC)
