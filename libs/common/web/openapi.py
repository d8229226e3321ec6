"""The OpenAPI 3.1 document of a service, made from its routes.

Descriptions come from the docstrings of views, schemas and problems, and from the `doc` of fields. The examples of
bodies are made from those of their members.
"""

import re
from typing import Any

from libs.common import errors
from libs.common.ids import example_id
from libs.common.web.exchange import JSON
from libs.common.web.json_schema import COMPONENTS, JsonSchemas, example_of
from libs.common.web.messages import MAX_BODY, MAX_REQUEST_LINE, MERGE_PATCH
from libs.common.web.routes import PREFIX, REVALIDATE, SHORTLY, Route, Routes, path_template

CONVENTIONS = f"""
- Paths are below `{PREFIX}`; `/api` without a version is an alias of the current one.
- Every error is a problem document (RFC 9457). Switch on its `code`.
- What is no request, or a larger one than is taken, is refused before an operation sees it, with 400, 414, 417, 431 or
  501, and the connection is closed.
- Every request may carry `X-Request-ID` and `traceparent` (W3C), which are passed on, and `X-Request-Timeout-Ms`: how
  long the caller will wait.
- Members and parameters that are not known are refused. Answers may get new members: ignore what you do not know.
"""
EXAMPLE_REQUEST_ID = "0f1c9b0e5a7d4c3b8e2f6a1d9c4b7e30"

_TEXT = {"type": "string", "pattern": "^[^\\x00]*$"}
_REQUEST_ID = {"type": "string", "maxLength": 128, "pattern": "^[A-Za-z0-9._-]{1,128}$"}
_TAGS = {**_TEXT, "examples": ['"1"']}
_FAULT = {
    "type": "object",
    "description": "One fault of a request. Some codes add members of their own.",
    "properties": {
        # It may contain the name of an unknown member, of any length.
        "pointer": {"type": "string", "format": "json-pointer", "maxLength": 2 * MAX_BODY,
                    "description": "Where it is (RFC 6901): a member of the body, a parameter or a header."},
        "detail": {**_TEXT, "maxLength": 2000, "description": "What is wrong there, for people."},
    },
    "required": ["pointer", "detail"],
    "additionalProperties": True,
}  # fmt: skip
_PROBLEM = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "maxLength": 100,
                 "description": "A page on the same service that explains the code."},
        "title": {**_TEXT, "maxLength": 100, "description": "What the code means, for people."},
        "status": {"type": "integer", "format": "int32", "minimum": 400, "maximum": 599,
                   "description": "The status of the answer."},
        "detail": {**_TEXT, "maxLength": 2000, "description": "What is wrong, for people."},
        "instance": {"type": "string", "format": "uri-reference", "maxLength": MAX_REQUEST_LINE, "pattern": "^/",
                     "description": "The path of the request."},
        "code": {"type": "string", "maxLength": 40, "pattern": "^[a-z]+(-[a-z]+)*$",
                 "description": "Stable: what programs switch on."},
        "request_id": {**_REQUEST_ID, "description": "It stands in the log lines of the request."},
        "errors": {"type": "array", "maxItems": errors.MAX_FAULTS, "items": {"$ref": COMPONENTS + "Fault"},
                   "description": "The faults of the request; where there are more, `detail` says so."},
    },
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
}  # fmt: skip
_PARAMETERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "description": "Makes a repetition safe: the same key and body get the same answer for 24 hours.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$",
                   "examples": ["4b1d6c5e-my-first-order"]},
    },
    "If-Match": {"description": "Refuse with 412 unless the resource has this `ETag`.", "schema": _TAGS},
    "If-None-Match": {"description": "Answer GET with 304, and all else with 412, while the resource has this `ETag`.",
                      "schema": _TAGS},
}  # fmt: skip
_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {"description": "The id of the request: the caller's own, or a new one.", "required": True,
                     "schema": _REQUEST_ID},
    "RateLimit": {"description": "Where a limit is set: what is left of it, and for how many seconds.",
                  "schema": {"type": "string", "maxLength": 100, "pattern": '^"default";r=[0-9]+;t=[0-9]+$'}},
    "RateLimit-Policy": {"description": "Where a limit is set: how many requests in how many seconds.",
                         "schema": {"type": "string", "maxLength": 100, "pattern": '^"default";q=[0-9]+;w=[0-9]+$'}},
    "Access-Control-Allow-Origin": {"description": "To a browser: the origin that may read this.",
                                    "schema": {"type": "string", "maxLength": 255, "pattern": "^(\\*|https?://.+)$"}},
    "ETag": {"description": "The version of the resource, for `If-Match` and `If-None-Match`.", "required": True,
             "schema": {"type": "string", "maxLength": 18, "pattern": '^"[0-9]{1,16}"$'}},
    "Location": {"description": "The path of what was made.", "required": True,
                 "schema": {"type": "string", "format": "uri-reference", "maxLength": 255}},
    "Link": {"description": "The next page, where there is one.",
             "schema": {"type": "string", "maxLength": 2 * MAX_REQUEST_LINE, "pattern": '^<.+>; rel="next"$'}},
    "Idempotent-Replayed": {"description": "An earlier request with the same key got this answer.",
                            "schema": {"type": "string", "enum": ["true"]}},
    "Retry-After": {"description": "After so many seconds another attempt makes sense.",
                    "schema": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 2**31 - 1}},
    "Accept-Encoding": {"description": "Where the body had a Content-Encoding: none is taken.",
                        "schema": {"type": "string", "enum": ["identity"]}},
    "Allow": {"description": "The methods that the path takes.",
              "schema": {"type": "string", "maxLength": 100, "pattern": "^[A-Z]+(, [A-Z]+)*$"}},
}  # fmt: skip
_CACHE_CONTROL = {
    errors.NO_STORE: ("NotStored", "No cache keeps this."),
    REVALIDATE: ("Revalidated", "The caller's own cache may keep this, and asks each time whether it is still so."),
    SHORTLY: ("StoredShortly", "Every cache may keep this for some seconds."),
}
"""Cache-Control → the name of its component, and its description."""
_ON_ALL = ("X-Request-ID", "RateLimit", "RateLimit-Policy", "Access-Control-Allow-Origin")


def document(service: str, version: str, description: str, routes: Routes) -> dict[str, Any]:
    """The document as JSON values."""
    made = _Document()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes.all:
        paths.setdefault(path_template(route.rule), {})[route.method.lower()] = made.operation(route)
    tags = dict.fromkeys(_tag(route) for route in routes.all)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Quintet {service} service",
            "version": version,
            "description": f"{description}\n{CONVENTIONS}",
            "contact": {"name": "The Quintet authors"},
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{
            "url": PREFIX, "x-internal": False,
            "description": "The service that serves this document, be it local, for tests or in production.",
        }],
        "tags": [{"name": tag, "description": routes.tags.get(tag, description)} for tag in tags],
        "paths": paths,
        "components": made.components,
    }  # fmt: skip


class _Document:
    """The operations of one document, and the components that they share."""

    def __init__(self) -> None:
        self._schemas = JsonSchemas()
        self.components: dict[str, dict[str, Any]] = {
            "schemas": self._schemas.found, "parameters": {}, "headers": {}, "responses": {}, "examples": {},
        }  # fmt: skip
        self._schemas.refer("Fault", _FAULT)
        self._schemas.refer("Problem", _PROBLEM)

    def operation(self, route: Route) -> dict[str, Any]:
        first, *more = _paragraphs(route.view.__doc__ or route.view.__name__.replace("_", " ").capitalize() + ".")
        operation: dict[str, Any] = {
            "operationId": route.view.__name__,
            "tags": [_tag(route)],
            "summary": first.removesuffix("."),
            "description": "\n\n".join(more or [first]),
            "parameters": self._parameters(route),
        }
        if route.body:
            schema = route.patch or route.body
            content = {
                "schema": self._schemas.resolve_nested_schema(schema),
                "example": route.example or example_of(schema()),
            }
            media_types = [MERGE_PATCH, JSON] if route.patch else [route.media_type]
            operation["requestBody"] = {
                "required": not route.body_optional, "content": dict.fromkeys(media_types, content)
            }  # fmt: skip
        return {**operation, "responses": self._responses(route)}

    def _parameters(self, route: Route) -> list[dict[str, Any]]:
        found = [self._path_parameter(name) for name in route.path_parameters]
        if route.query:
            found += self._schemas.schema2parameters(route.query(), location="query")
        headers = {
            "Idempotency-Key": route.idempotent,
            "If-None-Match": route.conditional,
            "If-Match": route.conditional,
        }
        for name in (name for name, taken in headers.items() if taken):
            found.append(self._refer("parameters", name, {"name": name, "in": "header", **_PARAMETERS[name]}))
        return found

    def _path_parameter(self, name: str) -> dict[str, Any]:
        schema = {"type": "string", "format": "uuid", "maxLength": 36, "examples": [example_id(name)]}
        about = {"description": f"The id of the {name.removesuffix('_id')}.", "schema": schema}
        return self._refer("parameters", name, {"name": name, "in": "path", "required": True, **about})

    def _responses(self, route: Route) -> dict[str, Any]:
        sent = {
            "ETag": route.versioned,
            "Location": route.status == 201,
            "Link": route.many,
            "Idempotent-Replayed": route.idempotent,
        }
        cache = route.cache_control
        headers = self._headers(*(name for name, is_sent in sent.items() if is_sent), cache=cache)
        found: dict[str, Any] = {str(route.status): self._success(route, headers)}
        if route.versioned and route.method == "GET":
            found["304"] = {"description": "It still has that `ETag`.", "headers": self._headers("ETag", cache=cache)}
        for status, problems in sorted(_problems(route).items()):
            found[str(status)] = self._refusal(route, status, problems)
        return found

    def _success(self, route: Route, headers: dict[str, Any]) -> dict[str, Any]:
        if not route.returns:
            return {"description": "Done. There is nothing to show.", "headers": headers}
        schema = self._schemas.resolve_nested_schema(route.returns)
        example: Any = {**example_of(route.returns()), **route.shows}
        description = " ".join((route.returns.__doc__ or "Done.").split())
        if route.many:
            schema = self._schemas.refer(f"{route.returns.__name__}Page", _page(schema))
            example = {"items": [example], "next_cursor": None}
            description = "A page of the list."
        content = {JSON: {"schema": schema, "example": example}}
        return {"description": description, "headers": headers, "content": content}

    def _refusal(self, route: Route, status: int, problems: list[type[errors.Problem]]) -> dict[str, Any]:
        """A response component, shared by all operations with the same problems for this status."""
        sent: dict[str, bool] = {
            "Retry-After": any(problem.retry_after is not None for problem in problems),
            "Allow": errors.MethodNotAllowed in problems,
            "Accept-Encoding": errors.UnsupportedMediaType in problems,
            "ETag": errors.PreconditionFailed in problems,
            "Idempotent-Replayed": any(_is_kept(route, problem) for problem in problems),
        }
        kept = "OrReplayed" if sent["Idempotent-Replayed"] else ""
        content = {
            "schema": {"$ref": COMPONENTS + "Problem"},
            "examples": {problem.code: self._example(route, problem) for problem in problems},
        }
        response = {
            "description": "\n".join(f"- `{problem.code}`: {' '.join((problem.__doc__ or '').split())}"
                                     for problem in problems),
            "headers": self._headers(*(name for name, is_sent in sent.items() if is_sent)),
            "content": {errors.PROBLEM_JSON: content},
        }  # fmt: skip
        return self._refer("responses", "Or".join(problem.__name__ for problem in problems) + kept, response)

    def _example(self, route: Route, problem: type[errors.Problem]) -> dict[str, Any]:
        instance = PREFIX + re.sub(r"{(\w+)}", lambda found: example_id(found[1]), path_template(route.rule))
        value = problem(**problem.example).document(instance, EXAMPLE_REQUEST_ID)
        return self._refer("examples", problem.code, {"summary": problem.title, "value": value})

    def _headers(self, *names: str, cache: str = errors.NO_STORE) -> dict[str, Any]:
        component, meaning = _CACHE_CONTROL[cache]
        header = {"description": meaning, "required": True, "schema": {"type": "string", "enum": [cache]}}
        found = {name: self._refer("headers", name, _HEADERS[name]) for name in (*names, *_ON_ALL)}
        return {**found, "Cache-Control": self._refer("headers", component, header)}

    def _refer(self, kind: str, name: str, component: dict[str, Any]) -> dict[str, Any]:
        self.components[kind].setdefault(name, component)
        return {"$ref": f"#/components/{kind}/{name}"}


def _tag(route: Route) -> str:
    return route.rule.split("/")[1]


def _paragraphs(doc: str) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in doc.strip().split("\n\n")]


def _problems(route: Route) -> dict[int, list[type[errors.Problem]]]:
    """Status → the problems that the operation can answer with."""
    found: list[type[errors.Problem]] = [errors.MethodNotAllowed, errors.ValidationFailed, *route.refuses]
    if "<" in route.rule:
        found.append(errors.NotFound)
    if route.body:
        found += [errors.MalformedRequest, errors.PayloadTooLarge, errors.UnsupportedMediaType]
    if route.sorts:
        found.append(errors.MalformedRequest)
    if route.idempotent:
        found.append(errors.IdempotencyKeyReused)
    if route.conditional:
        found.append(errors.PreconditionFailed)
    found += [errors.RateLimited, errors.InternalError, errors.Overloaded]
    if not route.degrades:
        found.append(errors.DependencyUnavailable)
    found.append(errors.DeadlineExceeded)
    by_status: dict[int, list[type[errors.Problem]]] = {}
    for problem in dict.fromkeys(found):
        by_status.setdefault(problem.status, []).append(problem)
    return by_status


def _is_kept(route: Route, problem: type[errors.Problem]) -> bool:
    """Whether this problem may be stored and replayed for the same Idempotency-Key. Endpoint stores the 409s of a view;
    a view with a `key` parameter stores its own answers, and so may store others too.
    """
    is_declared = route.idempotent and problem in route.refuses
    return is_declared and (problem.status == 409 or "key" in route.needs)


def _page(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "A page of a list.",
        "properties": {
            "items": {"type": "array", "maxItems": 200, "items": item},
            "next_cursor": {
                "type": ["string", "null"], "maxLength": 2000, "pattern": "^[A-Za-z0-9_-]+$",
                "description": "The `cursor` of the next page; null on the last page. Only this says whether there is "
                "more: with several filters, a page may have fewer items than its limit, or none.",
            },
        },
        "required": ["items", "next_cursor"],
    }  # fmt: skip
