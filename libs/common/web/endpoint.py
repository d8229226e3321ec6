"""Endpoints: parse the request, run the view in its unit of work, dump the result.

The parameters that a view can have are listed in routes.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import marshmallow as ma
from flask import Flask, Response, g, request

from libs.common import errors
from libs.common.data import idempotency
from libs.common.data.database import Database, Session
from libs.common.data.paging import Page, PageQuery
from libs.common.web.messages import (
    JSON,
    MERGE_PATCH,
    JsonResponse,
    check_match,
    check_preconditions,
    problem_response,
    read_json,
)
from libs.common.web.routes import ALIAS, PREFIX, Route, Routes, path_template

_visible_ascii = re.compile(r"[\x21-\x7e]{1,255}")


def install(app: Flask, routes: Routes, db: Database, secret: str, dependencies: Mapping[str, object]) -> None:
    """Register every route under its canonical path and under the alias without a version."""
    for route in routes.all:
        endpoint = Endpoint(route, db, secret, dependencies)
        for prefix in (PREFIX, ALIAS):
            name = f"{prefix}:{route.method}:{route.rule}"
            app.add_url_rule(prefix + route.rule, name, endpoint, methods=[route.method])


class Endpoint:
    """The Flask view of one operation, called with the parameters of its path."""

    def __init__(self, route: Route, db: Database, secret: str, dependencies: Mapping[str, object]):
        self._route, self._db, self._secret = route, db, secret
        self._body = route.body() if route.body else None
        self._patch = route.patch() if route.patch else None
        self._query = route.query() if route.query else None
        self._returns = route.returns() if route.returns else None
        self._cache_control = route.cache_control
        self._operation = path_template(route.rule)
        wanted = set(route.needs) | set(route.before_needs)
        if unknown := sorted(wanted - route.gives() - dependencies.keys()):
            raise TypeError(_unknown_parameters(route, unknown, dependencies))
        self._dependencies = {name: dependencies[name] for name in wanted & dependencies.keys()}
        self._unit = None
        if "session" in route.needs:
            self._unit = db.read if route.method == "GET" else db.write

    def __call__(self, **path: str) -> Response:
        route = self._route
        args: dict[str, Any] = {**self._dependencies, **path, "work": g.work}
        if self._query or request.query_string:
            args["query"] = self._parse_query(args)
        raw = None
        if self._body:
            raw = self._read_body()
            args["body"] = self._parse_body(raw)
            args["raw"] = raw
        args["key"] = key = self._parse_key(path, raw) if route.idempotent else None
        args["match"] = check_match
        if route.before:
            if key and (stored := self._find(key)):
                return _replay(stored)
            route.before(**{name: args[name] for name in route.before_needs})
        if not self._unit:
            return self._dump(route.view(**{name: args[name] for name in route.needs}))
        with self._unit() as session:
            args["session"] = session
            call = {name: args[name] for name in route.needs}
            if not key:
                return self._dump(route.view(**call))
            assert isinstance(session, Session)
            return self._run_idempotent(session, key, call)

    def _read_body(self) -> Any:
        # A chunked body has a Content-Length by now, unless it is malformed (bodies.py).
        if self._route.body_optional and not request.content_length and "Transfer-Encoding" not in request.headers:
            return {}
        return read_json(MERGE_PATCH if self._patch else self._route.media_type)

    def _run_idempotent(self, session: Session, key: idempotency.Key, call: dict[str, Any]) -> Response:
        stored = idempotency.claim(session, key)
        if stored:
            return _replay(stored)
        roll_back = session.savepoint()
        try:
            response = self._dump(self._route.view(**call))
        except errors.Problem as problem:
            # A conflict is the result of the operation, so it is stored too; the effects of the view are rolled back.
            if problem.status != 409:
                raise
            roll_back()
            response = problem_response(problem)
        kept = {name: response.headers[name] for name in ("Location", "ETag") if name in response.headers}
        resource_id = response.headers.get("Location", "").rpartition("/")[2] or None
        idempotency.store(
            session, key, idempotency.StoredAnswer(response.status_code, kept, response.get_data()), resource_id
        )
        return response

    def _find(self, key: idempotency.Key) -> idempotency.StoredAnswer | None:
        """The stored answer of an earlier request with this key, which is valid whatever `before` would do now."""
        if not self._unit:
            return None
        with self._db.read() as session:
            return idempotency.find(session, key)

    def _parse_query(self, args: dict[str, Any]) -> dict[str, Any]:
        given = request.args
        repeated = [name for name, values in given.lists() if len(values) > 1]
        if repeated:
            raise errors.ValidationFailed(errors=list(_pointers({repeated[0]: "Given more than once."})))
        if not self._query:
            raise errors.ValidationFailed(errors=list(_pointers({next(iter(given), ""): "Unknown parameter."})))
        query: dict[str, Any] = _load(self._query, given.to_dict())
        if self._route.sorts:
            limit, cursor = query.pop("limit"), query.pop("cursor", None)
            sort = query.pop("sort", f"-{self._route.sorts[0]}")
            # The parsed values, so that a cursor is valid for the same filters in another notation.
            question = f"{self._route.rule}?{urlencode(sorted((name, str(value)) for name, value in query.items()))}"
            args["page"] = PageQuery(limit, sort, cursor, question, self._secret)
        return query

    def _parse_body(self, raw: Any) -> Any:
        assert self._body is not None
        if not self._patch:
            body = _load(self._body, raw)
            if self._route.method != "PUT":
                return body
            _precompute(self._body, body)
            return lambda current: body
        made = _precompute(self._patch, _load(self._patch, raw))
        return lambda current: _load(self._body, merge_patch(self._writable(current), {**raw, **made}))

    def _writable(self, current: Any) -> dict[str, Any]:
        """The current resource in the form of a request body."""
        assert self._body is not None
        return {name: value for name, value in self._body.dump(current).items() if value is not None}

    def _parse_key(self, path: dict[str, str], raw: Any) -> idempotency.Key | None:
        """The idempotency.Key of the request, if it has one. `path` has canonical ids, in lower case."""
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return None
        if not _visible_ascii.fullmatch(key):
            detail = "Must be one header of 1 to 255 visible ASCII characters."
            raise errors.ValidationFailed(errors=[{"pointer": "/Idempotency-Key", "detail": detail}])
        return idempotency.Key.of(self._secret, "anonymous", self._operation.format(**path), key, raw)

    def _dump(self, result: Any) -> Response:
        route = self._route
        headers = {"Cache-Control": self._cache_control}
        content: Any
        if isinstance(result, idempotency.Replayed):
            result = result.resource
            headers["Idempotent-Replayed"] = "true"
        if route.status == 204:
            return Response(status=204, headers=headers)
        if isinstance(result, Page):
            if result.next_cursor:
                following = urlencode({**request.args.to_dict(), "cursor": result.next_cursor}, safe=",")
                headers["Link"] = (
                    f'<{PREFIX}{request.path.removeprefix(PREFIX).removeprefix(ALIAS)}?{following}>; rel="next"'
                )
            assert self._returns is not None
            content = {"items": self._returns.dump(result.items, many=True), "next_cursor": result.next_cursor}
        else:
            if route.versioned:
                version = _member(result, "version")
                headers["ETag"] = f'"{version}"'
                if route.method == "GET" and not check_preconditions(request.environ, version, is_safe=True):
                    return Response(status=304, headers=headers)
            if route.status == 201:
                headers["Location"] = f"{PREFIX}{route.location or route.rule}/{_member(result, 'id')}"
            content = self._returns.dump(result) if self._returns else result
        return JsonResponse(content, route.status, headers)


def _unknown_parameters(route: Route, unknown: Sequence[str], dependencies: Mapping[str, object]) -> str:
    known = ", ".join(sorted(route.gives() | dependencies.keys()))
    return (
        f"{route.method} {route.rule}: {route.view.__name__} asks for {', '.join(unknown)}, "
        f"which this route does not give; it gives {known}."
    )


def _replay(stored: idempotency.StoredAnswer) -> Response:
    headers = {**stored.headers, "Idempotent-Replayed": "true"}
    media_type = JSON if stored.status < 400 else errors.PROBLEM_JSON
    return Response(stored.body, stored.status, headers, content_type=media_type)


def _member(resource: Any, name: str) -> Any:
    return resource[name] if isinstance(resource, Mapping) else getattr(resource, name)


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396): null removes a member, objects are merged, other values replace."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _load(schema: ma.Schema, data: Any) -> Any:
    try:
        return schema.load(data)
    except ma.ValidationError as exc:
        raise errors.ValidationFailed(errors=list(_pointers(exc.messages))) from None


def _precompute(schema: ma.Schema, loaded: dict[str, Any]) -> dict[str, Any]:
    """Compute expensive values of a valid body, such as a hash, once and before the transaction; returns the members
    that have them.
    """
    names = [name for name, field in schema.fields.items() if getattr(field, "made_once", False)]
    for name in names:
        if loaded.get(name) is not None:
            loaded[name].make()
    return {name: loaded[name] for name in names if name in loaded}


def _pointers(messages: Any, pointer: str = "") -> Iterator[dict[str, str]]:
    """Marshmallow's nested messages as {"pointer", "detail"} with JSON pointers (RFC 6901)."""
    if isinstance(messages, dict):
        for name, inner in messages.items():
            escaped = str(name).replace("~", "~0").replace("/", "~1").encode("utf-8", "replace").decode()
            yield from _pointers(inner, pointer if name == "_schema" else f"{pointer}/{escaped}")
    else:
        for message in messages if isinstance(messages, list) else [messages]:
            yield {"pointer": pointer, "detail": str(message)}
