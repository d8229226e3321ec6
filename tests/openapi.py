"""The OpenAPI documents of docs/openapi, and how to read one."""

import json
from pathlib import Path
from typing import Any

DOCUMENTS = Path(__file__).resolve().parents[1] / "docs/openapi"


def read(name: str) -> dict[str, Any]:
    """The document of a service; `released/user` is what its consumers may rely on."""
    document: dict[str, Any] = json.loads((DOCUMENTS / f"{name}.json").read_bytes())
    return document


def resolved(document: Any, part: Any) -> Any:
    """A part of the document with its references resolved. Keywords beside a reference count, too."""
    if "$ref" not in part:
        return part
    found = document
    for name in part["$ref"].split("/")[1:]:
        found = found[name]
    return {**resolved(document, found), **{name: value for name, value in part.items() if name != "$ref"}}


def header_value(schema: Any, text: str) -> str | int:
    """What a header says, which is text on the wire."""
    return int(text) if schema.get("type") == "integer" and text.isdecimal() else text
