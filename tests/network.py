"""Mocks of the network below the services' client (`responses`), and services that answer there as their documents
allow.
"""

import json
import re
from functools import cache
from typing import Any

import responses
from jsonschema import Draft202012Validator

from libs.common.calls.client import ServiceClient
from libs.common.config import Settings
from libs.common.errors import PROBLEM_JSON
from libs.common.web.exchange import JSON
from tests.cloudevents import FORMATS
from tests.events import ASYNCAPI
from tests.openapi import header_value, read, resolved

Json = dict[str, Any]

REFUSALS_OF_EVENTS = ("400", "413", "415", "422", "429", "500", "503", "504")
OPEN = ("Fault",)
"""Faults may have further members, depending on the code."""
HEALTH: Json = {
    "content": {
        JSON: {
            "schema": {
                "type": "object",
                "properties": {
                    "status": {"enum": ["healthy", "degraded", "unhealthy"]},
                    "service": {"type": "string"},
                    "version": {"type": "string"},
                    "timestamp": {"type": "string", "format": "date-time"},
                    "checks": {"type": "object", "additionalProperties": {"required": ["status", "latency_ms"]}},
                },
                "required": ["status", "service", "version", "timestamp", "checks"],
                "additionalProperties": False,
            },
            "example": {
                "status": "healthy",
                "service": "user",
                "version": "0.1.0",
                "timestamp": "2026-01-31T12:00:00.000000Z",
                "checks": {"database": {"status": "healthy", "latency_ms": 0.31}},
            },
        }
    }
}
"""The body of /health, whatever its status."""
HEADERS = {"X-Request-ID": "req-1", "Location": "/api/v1/made"}
"""Values of those that answers must have, beside the ETag, which is the version of the body."""


def network(**options: Any) -> responses.RequestsMock:
    return responses.RequestsMock(target="libs.common.calls.connections.Adapter.send", **options)


class Provider:
    """A service as its callers see it, whose answers must be allowed by its OpenAPI document.

    user.answers("GET", "/users/7")                         the example of the document
    user.answers("GET", "/users/7", status="suspended")     the same, but for this member
    user.answers("GET", "/users/7", 404)                    the example of that status
    user.misbehaves("GET", "/users/7", because="a proxy is in between", status=502)
    user.fails("GET", "/users/7", requests.ConnectionError())
    """

    def __init__(self, service: str, peer: responses.RequestsMock):
        self._url, self._peer = f"http://{service}.test", peer
        self._document = _document(service)
        settings = {f"{service}_service_url": self._url}
        self.client = ServiceClient(service, Settings(service="order", **settings))  # type: ignore[arg-type]

    def answers(
        self, method: str, path: str, status: int = 200, /, *, headers: dict[str, str] | None = None, **members: Any
    ) -> responses.BaseResponse:
        body = self.body(method, path, status, **members)
        media_type = _media_type(path, status)
        sent = self._headers(method, path, status, body, headers or {})
        answer = {"status": status, "json": body, "content_type": media_type, "headers": sent}
        return self._peer.add(method, self._at(path), **answer)

    def misbehaves(self, method: str, path: str, *, because: str, **answer: Any) -> responses.BaseResponse:
        """Give an answer that the document does not allow, as a proxy might; raises AssertionError where it is allowed."""
        made = responses.Response(method, self._at(path), **answer)
        try:
            body = json.loads(made.body or b"null")
        except ValueError:
            body = made.body
        assert self.faults(method, path, made.status, made.content_type, body), f"it can answer so, not only {because}"
        return self._peer.add(made)

    def fails(self, method: str, path: str, fault: Exception) -> responses.BaseResponse:
        """No answer comes."""
        return self._peer.add(method, self._at(path), body=fault)

    def body(self, method: str, path: str, status: int = 200, /, **members: Any) -> Any:
        """The example of the document with these members in place of its own; raises AssertionError where the document
        does not allow that.
        """
        media_type = _media_type(path, status)
        example = self._example(method, path, status, media_type, members.get("code"))
        body = {**(example or {}), **members} if members else example
        assert (found := self.faults(method, path, status, media_type, body)) == [], found
        return body

    def faults(self, method: str, path: str, status: int, media_type: str | None, body: Any) -> list[str]:
        """Why the service cannot answer so."""
        answers = self._operation(method, path)
        if str(status) not in answers:
            return [f"{method} {path} is not answered with {status}"]
        content = resolved(self._document, answers[str(status)]).get("content", {})
        if not content:
            return [] if body is None else [f"{status} has no body"]
        if media_type not in content:
            return [f"{status} is not {media_type}"]
        schema = {**content[media_type]["schema"], "components": self._document["components"]}
        found = _differences(schema, body)
        examples = content[media_type].get("examples")
        if examples and not found and body["code"] not in examples:
            found.append(f"{status} does not mean {body['code']}")
        return found

    def _example(self, method: str, path: str, status: int, media_type: str, code: str | None) -> Any:
        """Of problems there is one for each code; the first is the usual one."""
        answer = resolved(self._document, self._operation(method, path).get(str(status), {}))
        content = answer.get("content", {}).get(media_type, {})
        if examples := content.get("examples"):
            return resolved(self._document, examples.get(code) or next(iter(examples.values())))["value"]
        return content.get("example")

    def _headers(self, method: str, path: str, status: int, body: Any, given: dict[str, str]) -> dict[str, str]:
        """These, and the others that the document requires; raises AssertionError where the document does not have
        them.
        """
        answer = resolved(self._document, self._operation(method, path)[str(status)])
        documented = {name: resolved(self._document, header) for name, header in answer.get("headers", {}).items()}
        usual = {**HEADERS, "ETag": f'"{(body or {}).get("version", 1)}"'}
        usual |= {
            name: header["schema"]["enum"][0] for name, header in documented.items() if "enum" in header["schema"]
        }
        sent = {name: usual[name] for name, header in documented.items() if header.get("required")} | given
        schemas = {name: header["schema"] for name, header in documented.items()}
        values = {name: header_value(schemas.get(name, {}), text) for name, text in sent.items()}
        found = _differences({"properties": schemas, "additionalProperties": False}, values)
        assert found == [], found
        return sent

    def _operation(self, method: str, path: str) -> Json:
        """Status → answer, of the operation that takes this path; a name in a rule is preferred to a parameter."""
        plain = path.partition("?")[0]
        for rule, operations in sorted(self._document["paths"].items(), key=lambda item: item[0].count("{")):
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", rule), plain) and method.lower() in operations:
                answers: Json = operations[method.lower()]["responses"]
                return answers
        raise AssertionError(f"there is no {method} {path}")

    def _at(self, path: str) -> str:
        return self._url + ("" if path == "/health" else "/api/v1") + path


def _media_type(path: str, status: int) -> str:
    """The health of a service is never a problem document, whatever its status."""
    return JSON if status < 400 or path == "/health" else PROBLEM_JSON


def _differences(schema: Json, value: Any) -> list[str]:
    validator = Draft202012Validator(schema, format_checker=FORMATS)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


@cache
def _document(service: str) -> Json:
    """The OpenAPI document of a service, with what lies outside of the API and so is no part of it: `GET /health`, and
    `POST /events`, whose outcomes docs/asyncapi.json describes and whose refusals are those of any other body.
    """
    document = read(service)
    operations = [operation for each in document["paths"].values() for operation in each.values()]
    refusals = {status: answer for operation in operations if "requestBody" in operation
                for status, answer in operation["responses"].items() if status in REFUSALS_OF_EVENTS}  # fmt: skip
    outcomes = json.loads(ASYNCAPI.read_text(encoding="utf-8"))["components"]["messages"]["outcomes"]["payload"]
    taken = {"content": {JSON: {"schema": outcomes, "example": {}}}}
    document["paths"]["/health"] = {"get": {"responses": {"200": HEALTH, "503": HEALTH}}}
    document["paths"]["/events"] = {"post": {"responses": {**refusals, "200": taken}}}
    _close(document)
    return document


def _close(value: Any) -> None:
    """Forbid unknown members: callers must tolerate them, but no service sends any yet."""
    if isinstance(value, dict):
        if "properties" in value:
            value.setdefault("additionalProperties", False)
        for name, each in value.items():
            if name not in OPEN:
                _close(each)
    elif isinstance(value, list):
        for each in value:
            _close(each)
