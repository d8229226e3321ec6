"""The OpenAPI 3.1 document of a service, made from its routes."""

import re
from typing import Any

import marshmallow as ma
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from libs.common import errors
from libs.common.api import JSON, MERGE_PATCH, PREFIX, Route, Routes
from libs.common.fields import Schema

PROBLEM = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "A page that explains the code."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "code": {"type": "string", "description": "Stable; what programs switch on."},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
                "required": ["pointer", "detail"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "instance", "code", "request_id"],
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Makes a repetition safe: the same key and body get the same answer for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[\\x21-\\x7e]+$"},
}


def document(service: str, version: str, description: str, routes: Routes) -> dict[str, Any]:
    """The document as plain JSON values."""
    plugin = MarshmallowPlugin(schema_name_resolver=_schema_name)
    spec = APISpec(
        title=f"Quintet {service} service",
        version=version,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": description, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[{"url": PREFIX}],
        tags=[{"name": service}],
    )
    spec.components.schema("Problem", PROBLEM)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes.all:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route.rule)
        paths.setdefault(path, {})[route.method.lower()] = _operation(service, route)
    for path, operations in paths.items():
        spec.path(path=path, operations=operations)
    return spec.to_dict()


def _schema_name(schema: Any) -> str:
    cls = ma.class_registry.get_class(schema) if isinstance(schema, str) else schema
    name = cls.__name__ if isinstance(cls, type) else type(cls).__name__
    return str(name)


def _operation(service: str, route: Route) -> dict[str, Any]:
    doc = (route.view.__doc__ or route.view.__name__.replace("_", " ").capitalize() + ".").strip()
    operation: dict[str, Any] = {
        "operationId": route.view.__name__,
        "tags": [service],
        "summary": doc.splitlines()[0].rstrip("."),
        "description": re.sub(r"\s+", " ", doc),
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if route.body:
        media_types = [MERGE_PATCH, JSON] if route.patch else [route.media_type]
        content = {media_type: {"schema": route.patch or route.body} for media_type in media_types}
        operation["requestBody"] = {"required": not route.body_optional, "content": content}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in re.findall(r"<(?:\w+:)?(\w+)>", route.rule)
    ]
    if route.query:
        found.append({"in": "query", "schema": route.query})
    if route.idempotent:
        found.append(_KEY)
    if route.versioned and route.method == "GET":
        found.append({"name": "If-None-Match", "in": "header", "schema": {"type": "string"}})
    if "match" in route.needs:
        found.append({"name": "If-Match", "in": "header", "schema": {"type": "string"}})
    return found


def _responses(route: Route) -> dict[str, Any]:
    headers: dict[str, Any] = {"X-Request-ID": {"schema": {"type": "string"}}}
    if route.versioned:
        headers["ETag"] = {"schema": {"type": "string"}}
    if route.status == 201:
        headers["Location"] = {"schema": {"type": "string", "format": "uri-reference"}}
    if route.idempotent:
        headers["Idempotent-Replayed"] = {"schema": {"type": "string", "enum": ["true"]}}
    if route.sorts:
        headers["Link"] = {"schema": {"type": "string"}, "description": "The next page, if there is one."}
    success: dict[str, Any] = {"description": "Done.", "headers": headers}
    if route.returns:
        success["content"] = {JSON: {"schema": _page(route.returns) if route.many else route.returns}}
    responses: dict[str, Any] = {str(route.status): success}
    if route.versioned and route.method == "GET":
        responses["304"] = {"description": "Not modified.", "headers": {"ETag": headers["ETag"]}}
    for status, problems in sorted(_problems(route).items()):
        codes = ", ".join(f"`{problem.code}`" for problem in problems)
        responses[str(status)] = {
            "description": f"{problems[0].title} ({codes}).",
            "content": {errors.PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses


def _problems(route: Route) -> dict[int, list[type[errors.Problem]]]:
    """Every problem that the operation can answer with, by status."""
    found: list[type[errors.Problem]] = [errors.MethodNotAllowed, errors.ValidationFailed, *route.refuses]
    if "<" in route.rule:
        found.append(errors.NotFound)
    if route.body:
        found += [errors.MalformedRequest, errors.PayloadTooLarge, errors.UnsupportedMediaType]
    if route.sorts:
        found.append(errors.MalformedRequest)
    if route.idempotent:
        found.append(errors.IdempotencyKeyReused)
    if "match" in route.needs:
        found.append(errors.PreconditionFailed)
    found += [errors.InternalError, errors.Overloaded, errors.DependencyUnavailable, errors.DeadlineExceeded]
    by_status: dict[int, list[type[errors.Problem]]] = {}
    for problem in dict.fromkeys(found):
        by_status.setdefault(problem.status, []).append(problem)
    return by_status


def _page(item: type[Schema]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"items": {"type": "array", "items": item}, "next_cursor": {"type": ["string", "null"]}},
        "required": ["items", "next_cursor"],
    }
