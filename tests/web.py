"""A client of a service in this process that checks every answer."""

import json
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from libs.common.errors import PROBLEM_JSON
from tests.differential import request_bytes, ways_of

MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id"}
ROOT = str(Path(__file__).parents[1]).lower()
INTERNAL = ("traceback", "sqlite", "psycopg", "sqlalchemy", "select ", "insert ", ROOT, "127.0.0.1", ".py", "0x7f")
"""Internal details that no answer may contain."""


class Api:
    """Paths are below /api/v1, bodies are JSON. Every answer is checked: no 500, and every error is a problem."""

    def __init__(self, app: Flask, prefix: str = "/api/v1"):
        self._app, self._client, self._prefix = app, app.test_client(), prefix
        self.is_broken = False
        """Set by tests that inject a fault into the service: it may then answer with 500."""

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.send("GET", path, **options)

    def post(self, path: str, body: Any, **options: Any) -> TestResponse:
        return self.send("POST", path, body, **options)

    def put(self, path: str, body: Any, **options: Any) -> TestResponse:
        return self.send("PUT", path, body, **options)

    def patch(self, path: str, body: Any, **options: Any) -> TestResponse:
        return self.send("PATCH", path, body, **options)

    def delete(self, path: str, **options: Any) -> TestResponse:
        return self.send("DELETE", path, **options)

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **options: Any
    ) -> TestResponse:
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            options = {"data": data, "content_type": "application/json", **options}
        self._compare_ways(method, path, headers or {}, options)
        answer = self._client.open(self._prefix + path, method=method, headers=headers or {}, buffered=True, **options)
        assert self.is_broken or answer.status_code != 500, answer.text
        assert answer.headers["X-Request-ID"]
        if answer.status_code >= 400:
            check_problem(answer)
        return answer

    def _compare_ways(self, method: str, path: str, headers: dict[str, str], options: dict[str, Any]) -> None:
        """Every request of the tests, unless they race, would be answered through the lane as it is through Flask."""
        if options.keys() <= {"data", "content_type"} and current_thread() is main_thread():
            given = {**headers, **({"Content-Type": options["content_type"]} if "content_type" in options else {})}
            data = request_bytes(method, self._prefix + path, given, options.get("data"))
            ways_of(self._app).compare(data)


def check_problem(answer: TestResponse) -> None:
    """Check that the answer is a problem document as docs/api.md describes it, and names nothing internal."""
    assert answer.content_type == PROBLEM_JSON
    document = answer.json
    assert set(document) - {"errors"} == MEMBERS
    assert document["status"] == answer.status_code
    assert document["type"] == f"/errors/{document['code']}"
    # A stored answer has the request id of the first request.
    if "Idempotent-Replayed" not in answer.headers:
        assert document["request_id"] == answer.headers["X-Request-ID"]
    assert document["instance"].startswith("/")
    for fault in document.get("errors", ()):
        assert {"pointer", "detail"} <= set(fault)
        assert fault["pointer"] == "" or fault["pointer"].startswith("/")
    if answer.status_code in (429, 503, 504):
        assert int(answer.headers["Retry-After"]) >= 0
    text = answer.text.replace(document["instance"], "").lower()
    assert not [word for word in INTERNAL if word in text]


def refused(answer: TestResponse, status: int, code: str, pointer: str | None = None) -> dict[str, Any]:
    """The problem document, which has this status and code and, where it is given, points there."""
    document: dict[str, Any] = answer.json
    assert (answer.status_code, document["code"]) == (status, code), answer.text
    if pointer is not None:
        assert pointer in [fault["pointer"] for fault in document["errors"]], answer.text
    return document


def answered(answer: TestResponse, status: int = 200) -> Any:
    """The JSON of an answer that has this status."""
    assert answer.status_code == status, answer.text
    return answer.json
