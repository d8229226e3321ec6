"""Schemas that load and dump by a plan: what the fields declare is looked up once, and not for each value.

Marshmallow alone says what is valid, and how it is written: a plan calls the same fields. It serves objects that are
valid and complete; at the first fault, or where a member is missing, marshmallow does the whole work.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from operator import attrgetter
from typing import Any

import marshmallow as ma
from marshmallow import ValidationError

Fields = Mapping[str, ma.fields.Field]
Read = Callable[[Any, str | None, Any], Any]
"""Loads a value other than None; it also gets the name of the member, and the object that has it."""
Write = Callable[[Any, str, Any], Any]
"""Dumps a value other than None; the other parameters are as for `Read`."""


class PlannedSchema(ma.Schema):
    """A schema that loads and dumps by plans, unless it has hooks."""

    def load(self, data: Any, **options: Any) -> Any:
        if not self._has_hooks and all(option is None for option in options.values()):
            try:
                return self.load_valid(data)
            except ValidationError:
                pass
        return super().load(data, **options)

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        if self._has_hooks:
            return super().dump(obj, many=many)
        if many or (many is None and self.many):
            return [self._dump_one(each) for each in obj]
        return self._dump_one(obj)

    def _dump_one(self, obj: Any) -> Any:
        try:
            return self._dump_complete(obj)
        except (KeyError, AttributeError):
            return self._serialize(obj)

    def _serialize(self, obj: Any, *, many: bool = False) -> Any:
        """Members of a mapping are found by their names as they are; the base class also looks for dotted names and
        attributes.
        """
        if many or not isinstance(obj, Mapping):
            return super()._serialize(obj, many=many)
        shown = {}
        for name, field in self.dump_fields.items():
            value = obj.get(field.attribute or name, field.dump_default)
            if value is not ma.missing:
                shown[field.data_key or name] = field._serialize(value, name, obj)
        return shown

    # The plans are made at their first use: a schema may be nested in itself.

    @cached_property
    def load_valid(self) -> Callable[[Any], dict[str, Any]]:
        """Loads one valid object. Raises ValidationError for any other, without saying what is wrong with it."""
        return _left_to_marshmallow if self._has_hooks else _load_plan(self.load_fields)

    @cached_property
    def _dump_complete(self) -> Callable[[Any], dict[str, Any]]:
        """Dumps one object that has every member. Raises KeyError or AttributeError for others."""
        return _dump_plan(self.dump_fields)

    @cached_property
    def _has_hooks(self) -> bool:
        return any(self._hooks.values())


def _left_to_marshmallow(data: Any) -> dict[str, Any]:
    raise ValidationError("It has hooks.")


def _load_plan(fields: Fields) -> Callable[[Any], dict[str, Any]]:
    members = [
        (field.data_key or name, field.attribute or name, field.required, field.allow_none, field.load_default, read)
        for name, field, read in ((name, field, _reader(field)) for name, field in fields.items())
    ]

    def load(data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise ValidationError("It is not an object.")
        loaded, known = {}, 0
        for key, name, required, nullable, default, read in members:
            if key in data:
                known += 1
                value = data[key]
                if value is not None:
                    loaded[name] = read(value, key, data)
                elif nullable:
                    loaded[name] = None
                else:
                    raise ValidationError("A member is null.")
            elif required:
                raise ValidationError("A member is missing.")
            elif default is not ma.missing:
                loaded[name] = default() if callable(default) else default
        if known < len(data):
            raise ValidationError("There are unknown members.")
        return loaded

    return load


def _reader(field: ma.fields.Field) -> Read:
    """What `field.deserialize` does with a valid value."""
    kind = type(field)
    if kind.deserialize is not ma.fields.Field.deserialize or field.pre_load or field.post_load:
        return field.deserialize
    if isinstance(field, ma.fields.List):
        return _list_reader(field)
    if isinstance(field, ma.fields.Nested) and isinstance(field.schema, PlannedSchema) and not field.many:
        schema = field.schema
        return _validated(field, lambda value, key, data: schema.load_valid(value))
    return _validated(field, field._deserialize)


def _validated(field: ma.fields.Field, read: Read) -> Read:
    validate = field._validate
    if type(field)._validate is ma.fields.Field._validate and not field.validators:
        return read

    def read_and_validate(value: Any, key: str | None, data: Any) -> Any:
        loaded = read(value, key, data)
        validate(loaded)
        return loaded

    return read_and_validate


def _list_reader(field: ma.fields.List) -> Read:
    read_item, validators = _reader(field.inner), field.validators

    def read(value: Any, key: str | None, data: Any) -> list[Any]:
        if not isinstance(value, list) or None in value:
            raise ValidationError("It is not a list, or has a null.")
        for validate in validators:
            validate(value)
        return [read_item(each, None, None) for each in value]

    return read


def _dump_plan(fields: Fields) -> Callable[[Any], dict[str, Any]]:
    members = [
        (field.data_key or name, field.attribute or name, _unchanged(field), _writer(field))
        for name, field in fields.items()
    ]
    attributes = [(name, attrgetter(name)) for _, name, _, _ in members]

    def dump(obj: Any) -> dict[str, Any]:
        is_mapping = type(obj) is dict or isinstance(obj, Mapping)
        values = obj if is_mapping else {name: get(obj) for name, get in attributes}
        shown = {}
        for key, name, unchanged, write in members:
            value = values[name]
            if value is None or type(value) is unchanged or write is None:
                shown[key] = value
            else:
                shown[key] = write(value, name, obj)
        return shown

    return dump


def _unchanged(field: ma.fields.Field) -> type | None:
    """The type of values that the field writes as they are."""
    match type(field)._serialize:
        case ma.fields.String._serialize:
            return str
        case ma.fields.Boolean._serialize:
            return bool
    if isinstance(field, ma.fields.Integer | ma.fields.Float) and not field.as_string:
        return field.num_type
    return None


def _writer(field: ma.fields.Field) -> Write | None:
    """What `field._serialize` does with a value other than None; None if that is nothing."""
    if isinstance(field, ma.fields.Nested) and not field.many:
        dump = field.schema.dump
        return lambda value, name, obj: dump(value)
    if isinstance(field, ma.fields.List):
        return _list_writer(field)
    return None if type(field)._serialize is ma.fields.Field._serialize else field._serialize


def _list_writer(field: ma.fields.List) -> Write:
    unchanged, write_item = _unchanged(field.inner), _writer(field.inner)
    if write_item is None:
        return lambda values, name, obj: list(values)
    write = write_item
    return lambda values, name, obj: [
        each if each is None or type(each) is unchanged else write(each, name, obj) for each in values
    ]
