"""Breaking changes of an event's schema: within a version only optional members may be added.

A consumer may validate events by the older schema; and older events, in an outbox, a queue or a dead letter, are read
by newer consumers. So each schema must accept the events of the other: members stay as they are, a wider enumeration
breaks as much as a narrower one, and no new member is required.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]

ANNOTATIONS = {"$comment", "$id", "$schema", "default", "deprecated", "description", "examples", "title"}
"""Keywords that are annotations only."""


def breaches(published: Json, proposed: Json) -> list[str]:
    """Both are name → schema; one line for each break. An event type may go when a later version of it is there."""
    found: list[str] = []
    for name, schema in published.items():
        if name in proposed:
            found += _changes(schema, proposed[name], name)
        elif not any(_succeeds(other, name) for other in proposed):
            found.append(f"{name}: is gone and has no successor")
    return found


def _succeeds(other: str, name: str) -> bool:
    (theirs, _, later), (event, _, version) = (text.rpartition(".v") for text in (other, name))
    return bool(event) and theirs == event and int(later) > int(version)


def _changes(old: Json, new: Json, where: str) -> Iterator[str]:
    for keyword in sorted((old.keys() | new.keys()) - ANNOTATIONS):
        before, after = old.get(keyword), new.get(keyword)
        if keyword == "properties":
            yield from _changes_of_members(before or {}, after or {}, where)
        elif keyword == "items" and before and after:
            yield from _changes(before, after, f"{where}[]")
        elif _unordered(before) != _unordered(after):
            yield f"{where}: {keyword} was {before}, is {after}"


def _changes_of_members(old: Json, new: Json, where: str) -> Iterator[str]:
    for member, schema in old.items():
        if member in new:
            yield from _changes(schema, new[member], f"{where}.{member}")
        else:
            yield f"{where}.{member}: is gone"


def _unordered(value: Any) -> Any:
    """The order in `type`, `enum` and `required` does not matter."""
    return sorted(map(str, value)) if isinstance(value, list) else value
