"""Every answer says whether a cache may keep it (RFC 9111), and the documents say the same."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from libs.common.web.routes import REVALIDATE, SHORTLY
from libs.topology import SERVICES
from tests.contract.walk import Walk, document_of, operations
from tests.openapi import resolved

pytestmark = [
    pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session"),
    pytest.mark.parametrize("service", SERVICES),
]

KEPT = {
    "get_product": SHORTLY, "list_products": SHORTLY,
    "get_order": REVALIDATE, "get_reservation": REVALIDATE,
}  # fmt: skip
"""Operation → the Cache-Control of its success. All others are personal, change all the time or have no validator."""

NO_STORE, NO_CACHE = "no-store", "no-cache"
PAGES = {
    "/livez": NO_STORE, "/readyz": NO_STORE, "/health": NO_STORE, "/metrics": NO_STORE, "/openapi.json": NO_STORE,
    "/errors/not-found": NO_STORE, "/nowhere": NO_STORE, "/docs": NO_STORE, "/docs/": NO_STORE,
    "/docs/swagger-ui-bundle.js": NO_CACHE,
}  # fmt: skip


def test_every_answer_of_every_operation_says_whether_it_may_be_kept(service: str, walk: Callable[[], Walk]) -> None:
    for name in walk().operations:
        walked = walk()
        walked.prepare(name)
        for answer in answers(walked, name):
            is_kept = answer.status_code in (200, 304)
            wanted = KEPT.get(name, NO_STORE) if is_kept else NO_STORE
            assert answer.headers.getlist("Cache-Control") == [wanted], (name, answer.status)


def answers(walked: Walk, name: str) -> Iterator[TestResponse]:
    """Refusals of several kinds, then a success, since refusals change nothing."""
    yield walked.send(name, method="PROPFIND")
    yield walked.send(name, query_string="colour=red")
    yield walked.send(name, headers={"X-Request-Timeout-Ms": "0"})
    if walked.operations[name][1] == "get":
        yield walked.send(name, headers={"If-None-Match": "*"})
        yield walked.send(name, headers={"If-Match": '"0"'})
        yield walked.send(name, method="HEAD")
    yield walked.send(name)


def test_a_document_says_of_every_answer_whether_it_may_be_kept(service: str, make_app: Callable[[str], Flask]) -> None:
    document = document_of(make_app(service))
    for _, _, operation in operations(document):
        for status, part in operation["responses"].items():
            header = resolved(document, resolved(document, part)["headers"]["Cache-Control"])
            is_kept = status in ("200", "304")
            wanted = KEPT.get(operation["operationId"], NO_STORE) if is_kept else NO_STORE
            assert (header["schema"]["enum"], header["required"]) == ([wanted], True)


def test_all_else_says_so_too(service: str, make_app: Callable[[str], Flask]) -> None:
    client = make_app(service).test_client()
    found = {path: client.get(path, buffered=True).headers.getlist("Cache-Control") for path in PAGES}
    assert found == {path: [wanted] for path, wanted in PAGES.items()}
    assert client.options("/api/v1/nowhere").headers["Cache-Control"] == NO_STORE
