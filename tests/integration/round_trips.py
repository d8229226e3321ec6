"""Checks that every member of every request body in docs/openapi is read back as it was written.

Values come from the schema of the member: every one of an enumeration, both ends of a number, texts of both ends in
many scripts, and null. Where the schema is not enough, a test gives values; a member without values fails.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.integration.lists import resolved
from tests.openapi import read
from tests.web import Api, answered

Item = dict[str, Any]

MIXED = "aé😀漢\u202eאe\u0301\ufeff\x01\n\u2028'\"\\%_ "
"""Texts that are often lost or changed on the way to a database and back."""

TEXT = (None, r"^[^\x00]*$", r"^[^\x00]*[^\x00\s][^\x00]*$")
"""Patterns of free text: anything but NUL, or anything but NUL and blanks alone."""


class Resource(NamedTuple):
    service: str
    path: str
    minimal: Callable[..., Item]
    """A body with these members, and what else it needs."""
    given: Mapping[str, list[Any]] = {}
    """Member → values that cannot be derived from its schema."""

    @property
    def one(self) -> str:
        return f"{self.path}/{{{self.service}_id}}"


def shape(service: str, method: str, path: str) -> dict[str, Item]:
    """Member of the body → its schema."""
    document = read(service)
    (content, *_) = document["paths"][path][method]["requestBody"]["content"].values()
    return {name: resolved(document, s) for name, s in resolved(document, content["schema"])["properties"].items()}


def values(schema: Item) -> list[Any]:
    """Valid boundary values; none where they cannot be derived from the schema."""
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    null = [None] if "null" in kinds else []
    if "anyOf" in schema:
        return [value for one in schema["anyOf"] for value in values(one)]
    if "enum" in schema:
        return list(schema["enum"])
    if "integer" in kinds:
        return [*null, schema["minimum"], schema["minimum"] + 1, schema["maximum"] - 1, schema["maximum"]]
    if "boolean" in kinds:
        return [*null, True, False]
    if "string" in kinds and schema.get("format", "text") == "text" and schema.get("pattern") in TEXT:
        least, most = schema.get("minLength", 0), schema["maxLength"]
        mixed = (MIXED * (most // len(MIXED) + 1))[:most]
        return [*null, "x" * least, *([] if least else [" "]), mixed, "😀" * most]
    return null if kinds == ["null"] else []


def bodies(service: str, method: str, path: str, given: Mapping[str, list[Any]]) -> Iterator[Item]:
    """Bodies of one member each, with every value of it: those that are given, or those of the schema."""
    for name, schema in shape(service, method, path).items():
        found = given.get(name) or values(schema)
        assert found, f"no value for {name}"
        yield from ({name: value} for value in found)


def defaults(service: str, method: str, path: str) -> Item:
    """Member → its value when it is left out: its default, or null; required and secret members have none."""
    members = shape(service, method, path)
    return {
        name: one.get("default") for name, one in members.items() if "default" in one or "null" in one.get("type", ())
    }


def written(api: Api, method: str, path: str, body: Any) -> Item:
    """Write a body; checks that the answer is what is read back, alone and in its list."""
    answer = api.send(method, path, json.dumps(body, ensure_ascii=False).encode())
    item: Item = answered(answer, 201 if "Location" in answer.headers else 200)
    where = answer.headers.get("Location", "").removeprefix("/api/v1") or path
    assert answered(api.get(where)) == item
    listed = answered(api.get(f"{where.rpartition('/')[0]}?limit=200"))["items"]
    assert [other for other in listed if other["id"] == item["id"]] == [item]
    return item


def round_trips(api: Api, resource: Resource, method: str, **before: Any) -> Iterator[tuple[Item, Item]]:
    """For each body that is sent by POST, PUT or PATCH: the expected and the actual resource. A changed resource had
    the members `before`.
    """
    service, path, minimal, given = resource
    where = path if method == "post" else resource.one
    for body in bodies(service, method, where, given):
        if method == "post":
            sent = minimal(**body)
            expected, found = {**defaults(service, method, path), **sent}, written(api, "POST", path, sent)
        else:
            old, left_out = written(api, "POST", path, minimal(**before)), defaults(service, "put", where)
            sent = minimal(**body) if method == "put" else body
            sent = {name: value for name, value in sent.items() if name in shape(service, method, where)}
            merged = {name: left_out.get(name) if value is None else value for name, value in sent.items()}
            expected = {**left_out, **sent} if method == "put" else {**old, **merged}
            found = written(api, method.upper(), f"{path}/{old['id']}", sent)
            if any(old.get(name) != value for name, value in expected.items()):
                expected = {**expected, "updated_at": found["updated_at"], "version": 2}
            expected = {**old, **expected}
        yield expected, found
        assert api.delete(f"{path}/{found['id']}").status_code == 204
