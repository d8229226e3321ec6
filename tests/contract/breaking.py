"""Breaking changes of an OpenAPI document, for clients that were written against the older one.

A request that the older document allowed must still be accepted, and an answer must still be one that the older
document allowed. Both are the same question: which values does one schema accept that another does not?

The names of tags and components may change: they are no part of HTTP, and a generated client continues to work.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from libs.common.errors import PROBLEM_JSON
from tests.openapi import resolved

Json = Mapping[str, Any]

MAXIMA = ("maximum", "maxLength", "maxItems")
MINIMA = ("minimum", "minLength", "minItems")
EQUAL = ("pattern", "const", "multipleOf", "uniqueItems")
"""Keywords that cannot be compared: a change of them counts as narrower."""


def may_break(released: str, version: str) -> bool:
    """Whether semantic versioning allows this version to break the promises of that one."""
    (was_major, was_minor, _), (major, minor, _) = (tuple(map(int, each.split("."))) for each in (released, version))
    return major > was_major or (major == was_major == 0 and minor > was_minor)


def breaks(released: Json, proposed: Json) -> list[str]:
    """One line for each promise of the released document that the proposed one breaks."""
    comparison = _Comparison(released, proposed)
    return [*comparison.servers(), *comparison.operations()]


class _Comparison:
    def __init__(self, released: Json, proposed: Json):
        self._old, self._new = released, proposed

    def servers(self) -> Iterator[str]:
        before, after = ({server["url"] for server in document["servers"]} for document in (self._old, self._new))
        for url in sorted(before - after):
            yield f"server {url}: is gone"

    def operations(self) -> Iterator[str]:
        for path, methods in self._old["paths"].items():
            for method, old in methods.items():
                where = f"{method.upper()} {path}"
                new = self._new["paths"].get(path, {}).get(method)
                if new is None:
                    yield f"{where}: is gone"
                    continue
                if new["operationId"] != old["operationId"]:
                    yield f"{where}: operationId was {old['operationId']}, is {new['operationId']}"
                yield from self._parameters(old, new, where)
                yield from self._request(old.get("requestBody"), new.get("requestBody"), where)
                yield from self._responses(old["responses"], new["responses"], where)

    def _parameters(self, old: Json, new: Json, where: str) -> Iterator[str]:
        before, after = (
            {(one["in"], one["name"]): one for one in (resolved(document, part) for part in operation["parameters"])}
            for document, operation in ((self._old, old), (self._new, new))
        )
        for key in before.keys() - after.keys():
            yield f"{where}: {key[0]} parameter {key[1]} is gone"
        for key, parameter in after.items():
            here = f"{where}: {key[0]} parameter {key[1]}"
            known = before.get(key, {})
            if parameter.get("required") and not known.get("required"):
                yield f"{here} is required now"
            if known:
                if not known.get("required"):
                    yield from _other_default(self._old, known["schema"], self._new, parameter["schema"], here)
                yield from self._request_schema(known["schema"], parameter["schema"], here)

    def _request(self, old: Json | None, new: Json | None, where: str) -> Iterator[str]:
        if new and new.get("required") and not (old and old.get("required")):
            yield f"{where}: the body is required now"
        if old:
            yield from self._content(old, new or {}, f"{where}: body", self._request_schema)

    def _responses(self, old: Json, new: Json, where: str) -> Iterator[str]:
        for status in old:
            here = f"{where}: {status}"
            if status not in new:
                yield f"{here} is gone"
                continue
            before, after = resolved(self._old, old[status]), resolved(self._new, new[status])
            yield from self._content(before, after, here, self._answer_schema)
            for code in sorted(_codes(self._old, before) - _codes(self._new, after)):
                yield f"{here}: {code} is gone"
            yield from self._headers(before.get("headers", {}), after.get("headers", {}), here)

    def _headers(self, old: Json, new: Json, where: str) -> Iterator[str]:
        for name in old:
            here = f"{where} {name}"
            before, after = resolved(self._old, old[name]), resolved(self._new, new.get(name, {}))
            if not after:
                yield f"{here} is gone"
            elif before.get("required") and not after.get("required"):
                yield f"{here} may be missing now"
            else:
                yield from self._answer_schema(before["schema"], after["schema"], here)

    def _content(self, old: Json, new: Json, where: str, compare: Any) -> Iterator[str]:
        for media_type, content in old.get("content", {}).items():
            if media_type not in new.get("content", {}):
                yield f"{where} as {media_type} is gone"
            else:
                yield from compare(content["schema"], new["content"][media_type]["schema"], where)

    def _request_schema(self, old: Json, new: Json, where: str) -> Iterator[str]:
        """The requests that were accepted and are refused now."""
        yield from _excess(self._old, old, self._new, new, where)
        yield from _other_defaults(self._old, old, self._new, new, where)

    def _answer_schema(self, old: Json, new: Json, where: str) -> Iterator[str]:
        """The answers that are new, and the members that are gone."""
        yield from _excess(self._new, new, self._old, old, where)
        yield from _gone(self._old, old, self._new, new, where)


def _codes(document: Json, response: Json) -> set[str]:
    """The codes of a problem. Each has an example, so where one is gone, it comes no more."""
    examples = response.get("content", {}).get(PROBLEM_JSON, {}).get("examples", {})
    return {resolved(document, example)["value"]["code"] for example in examples.values()}


def _gone(before: Json, old: Json, after: Json, new: Json, where: str) -> Iterator[str]:
    """Members of an answer, those that are optional too, that the new schema does not have."""
    remaining = _parts(after, new)
    for name, part in _parts(before, old).items():
        if name in remaining:
            yield from _gone(before, part, after, remaining[name], f"{where}{name}")
        else:
            yield f"{where}{name}: is gone"


def _other_defaults(before: Json, old: Json, after: Json, new: Json, where: str) -> Iterator[str]:
    """Optional members of a request whose default has changed."""
    remaining = _parts(after, new)
    sent = {f" /{name}" for each in _alternatives(before, old) for name in each.get("required", ())}
    for name, part in _parts(before, old).items():
        if name in remaining:
            if name not in sent:
                yield from _other_default(before, part, after, remaining[name], f"{where}{name}")
            yield from _other_defaults(before, part, after, remaining[name], f"{where}{name}")


def _other_default(before: Json, old: Json, after: Json, new: Json, where: str) -> Iterator[str]:
    was, now = resolved(before, old).get("default"), resolved(after, new).get("default")
    if was != now:
        yield f"{where}: default {was} against {now}"


def _parts(document: Json, schema: Json) -> dict[str, Json]:
    """The schemas of the members of an object, and that of the items of a list."""
    found: dict[str, Json] = {}
    for each in _alternatives(document, schema):
        found |= {f" /{name}": member for name, member in each.get("properties", {}).items()}
        found |= {"/*": each["items"]} if "items" in each else {}
    return found


def _excess(document: Json, schema: Json, limits: Json, limit: Json, where: str) -> Iterator[str]:
    """The values that `schema` accepts and `limit` does not; each schema comes with its document."""
    narrow = _alternatives(limits, limit)
    for wide in _alternatives(document, schema):
        found = [list(_excess_of_one(document, wide, limits, each, where)) for each in narrow]
        yield from min(found, key=len)


def _alternatives(document: Json, schema: Json) -> list[Json]:
    """The schema as a list of schemas of which each has one type and no anyOf."""
    found = resolved(document, schema)
    if "anyOf" in found:
        return [one for each in found["anyOf"] for one in _alternatives(document, each)]
    types = found.get("type", [])
    return [_of_type(found, one) for one in types] if isinstance(types, list) and types else [found]


def _of_type(schema: Json, kind: str) -> Json:
    """The schema for one of its types, without the keywords of the others."""
    words = (
        {"enum": [word for word in schema["enum"] if (word is None) == (kind == "null")]} if "enum" in schema else {}
    )
    return {**schema, **words, "type": kind}


def _excess_of_one(document: Json, wide: Json, limits: Json, narrow: Json, where: str) -> Iterator[str]:
    kind, allowed = wide.get("type"), narrow.get("type")
    if allowed not in (None, [], kind) and (kind, allowed) != ("integer", "number"):
        yield f"{where}: type {kind} against {allowed}"
        return
    if kind == "null":
        return
    if "enum" in narrow and (more := set(wide.get("enum", ["any other"])) - set(narrow["enum"])):
        yield f"{where}: {', '.join(sorted(map(str, more)))} against the enum"
    for name in (*MAXIMA, *MINIMA):
        bound, other = narrow.get(name), wide.get(name)
        if bound is not None and (other is None or (other > bound if name in MAXIMA else other < bound)):
            yield f"{where}: {name} {other} against {bound}"
    for name in ("format", *EQUAL):
        if name in narrow and "enum" not in wide and wide.get(name) != narrow[name]:
            yield f"{where}: {name} {wide.get(name)} against {narrow[name]}"
    for name in sorted(set(narrow.get("required", ())) - set(wide.get("required", ()))):
        yield f"{where} /{name}: required against optional"
    yield from _excess_of_members(document, wide, limits, narrow, where)
    if "items" in wide and "items" in narrow:
        yield from _excess(document, wide["items"], limits, narrow["items"], f"{where}/*")


def _excess_of_members(document: Json, wide: Json, limits: Json, narrow: Json, where: str) -> Iterator[str]:
    members, others = narrow.get("properties", {}), narrow.get("additionalProperties", True)
    for name, member in wide.get("properties", {}).items():
        if name in members:
            yield from _excess(document, member, limits, members[name], f"{where} /{name}")
        elif others is False:
            yield f"{where} /{name}: is not known"
    more = wide.get("additionalProperties", True)
    if others is False and more is not False:
        yield f"{where}: other members against none"
    elif isinstance(others, dict):
        yield from _excess(document, more if isinstance(more, dict) else {}, limits, others, f"{where}/*")
