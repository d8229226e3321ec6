"""The examples of the OpenAPI documents: each is valid by its schema, and each request gets the answer of the example.
Refusals are in test_openapi_refusals.py.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from libs.common.web import messages as api
from libs.topology import SERVICES
from tests.contract.walk import UUID, Walk, document_of, fits, sends
from tests.openapi import resolved

pytestmark = [
    pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session"),
    pytest.mark.parametrize("service", SERVICES),
]

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def masked(value: Any) -> Any:
    """The answer with ids, times and durations masked, which differ each time."""
    if isinstance(value, dict):
        return {name: "…" if name == "latency_ms" else masked(member) for name, member in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return TIME.sub("a time", UUID.sub("an id", value)) if isinstance(value, str) else value


def test_the_example_of_a_request_gets_the_answer_of_the_example(service: str, walk: Callable[[], Walk]) -> None:
    for name, (_, _, operation) in walk().operations.items():
        for media_type in operation.get("requestBody", {}).get("content", [api.JSON]):
            walked = walk()
            walked.prepare(name)
            answer = walked.send(name, media_type=media_type)
            response = operation["responses"].get(str(answer.status_code))
            assert response, (name, answer.status_code, answer.text)
            sends(walked.document, response, answer)
            if "content" in response:
                fits(walked.document, response["content"][api.JSON]["schema"], answer.json)
            assert masked(answer.json if answer.data else None) == masked(walked.example(name)), name


def test_a_key_gets_the_answer_again(service: str, walk: Callable[[], Walk]) -> None:
    for name in walk().taking("Idempotency-Key"):
        walked = walk()
        walked.prepare(name)
        first, again = (walked.send(name, headers=walked.key()) for _ in range(2))
        assert (again.status_code, again.json) == (first.status_code, first.json)
        assert "Idempotent-Replayed" in again.headers
        sends(walked.document, walked.operations[name][2]["responses"][str(again.status_code)], again)


@pytest.mark.parametrize(
    ("header", "read", "changed"), [("If-None-Match", {304}, {412}), ("If-Match", {200}, {200, 204})]
)
def test_the_etag_that_was_told_is_taken(
    service: str, walk: Callable[[], Walk], header: str, read: set[int], changed: set[int]
) -> None:
    for name in walk().taking(header):
        walked = walk()
        walked.prepare(name)
        is_read = walked.operations[name][1] == "get"
        answer = walked.send(name, headers=walked.header(header))
        assert answer.status_code in (read if is_read else changed), (name, answer.text)
        response = walked.operations[name][2]["responses"][str(answer.status_code)]
        sends(walked.document, resolved(walked.document, response), answer)


def test_every_example_fits_its_schema(service: str, make_app: Callable[[str], Flask]) -> None:
    document = document_of(make_app(service))
    checked = 0
    for schema, example in examples(document, document):
        fits(document, schema, example)
        checked += 1
    assert checked > 30


def examples(document: dict[str, Any], part: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every example in a part of a document with its schema."""
    if isinstance(part, list):
        for inner in part:
            yield from examples(document, inner)
    elif isinstance(part, dict):
        found = part.get("examples", [])
        if isinstance(found, dict):
            found = [resolved(document, example)["value"] for example in found.values() if "schema" in part]
        found = [*found, part["example"]] if "example" in part else found
        yield from ((part.get("schema", part), example) for example in found)
        for name in part.keys() - {"example", "examples", "value"}:
            yield from examples(document, part[name])
