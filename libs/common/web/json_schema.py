"""JSON Schemas and examples for the OpenAPI document, made from marshmallow schemas."""

from typing import Any

import marshmallow as ma
from apispec.ext.marshmallow.openapi import OpenAPIConverter

from libs.common.ids import example_id
from libs.common.web import fields

COMPONENTS = "#/components/schemas/"
EXAMPLE_TIME = "2026-01-31T12:00:00.000000Z"


class JsonSchemas(OpenAPIConverter):
    """Makes JSON Schemas, and collects the components that are referred to in `found`."""

    def __init__(self) -> None:
        super().__init__("3.1.0", None, None)  # type: ignore[arg-type]
        self.found: dict[str, dict[str, Any]] = {}

    def refer(self, name: str, schema: dict[str, Any]) -> dict[str, Any]:
        self.found[name] = schema
        return {"$ref": COMPONENTS + name}

    def resolve_nested_schema(self, schema: Any) -> dict[str, Any]:
        """A reference to the schema, which is an instance, a class or the name of a component in `found`."""
        if isinstance(schema, str):
            return {"$ref": COMPONENTS + schema}
        made = schema if isinstance(schema, ma.Schema) else schema()
        name = type(made).__name__
        return {"$ref": COMPONENTS + name} if name in self.found else self.refer(name, self.schema2jsonschema(made))

    def schema2jsonschema(self, schema: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "object"}
        if doc := type(schema).__dict__.get("__doc__"):
            found["description"] = " ".join(doc.split())
        found |= super().schema2jsonschema(schema)
        if isinstance(schema, fields.Answer):
            del found["additionalProperties"]
            found["required"] = [name for name in found["properties"] if name not in schema.optional]
        return found

    def field2property(self, field: ma.fields.Field) -> dict[str, Any]:
        found: dict[str, Any] = super().field2property(field)
        if "default" in found and found["default"] is None:
            del found["default"]  # implied, since the member is optional and nullable
        if isinstance(field, fields.Choice) and type(field) is not fields.Choice:
            named = self._named(field)
            others = {name: value for name, value in found.items() if name in ("description", "default", "examples")}
            return {**others, **({"anyOf": [named, {"type": "null"}]} if field.allow_none else named)}
        if isinstance(field, fields.Dumped):
            first, *more = [self.resolve_nested_schema(shape) for shape in field.shapes]
            return {"anyOf": [first, *more], **field.metadata} if more else first
        if isinstance(field, ma.fields.Dict) and field.key_field:
            found["propertyNames"] = self.field2property(field.key_field)
        return found

    def _named(self, field: fields.Choice) -> dict[str, Any]:
        doc = " ".join((type(field).__doc__ or "").split())
        return self.refer(type(field).__name__, {"type": "string", "description": doc, "enum": list(field.words)})


def example_of(schema: ma.Schema) -> dict[str, Any]:
    """A valid example for the schema. For a request it has only the members that are required or have an example."""
    whole = isinstance(schema, fields.Answer)
    return {
        field.data_key or name: example_value(field, f"{type(schema).__name__.lower()}_id" if name == "id" else name)
        for name, field in schema.fields.items()
        if whole or field.required or "examples" in field.metadata
    }


def example_value(field: ma.fields.Field, name: str) -> Any:
    """A valid example for the field; None if there is none."""
    if "examples" in field.metadata:
        return field.metadata["examples"][0]
    if field.allow_none:
        return None
    if isinstance(field, ma.fields.Nested):
        return example_of(field.schema)
    if isinstance(field, fields.Dumped):
        return example_of(field.shapes[0]())  # type: ignore[operator]
    if isinstance(field, ma.fields.List):
        return [example_value(field.inner, name)]
    if isinstance(field, fields.Choice):
        return field.words[0]
    if isinstance(field, fields.Timestamp):
        return EXAMPLE_TIME
    return example_id(name) if isinstance(field, fields.Id) else None
