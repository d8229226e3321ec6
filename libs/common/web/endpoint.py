"""Endpoints: parse the request, run the view in its unit of work, dump the result.

The parameters that a view can have are listed in routes.py.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlencode

import marshmallow as ma

from libs.common import errors
from libs.common.data import idempotency
from libs.common.data.database import Database, Session
from libs.common.data.paging import Page, PageQuery
from libs.common.web.exchange import (
    JSON,
    Answer,
    Exchange,
    Headers,
    Operation,
    bytes_answer,
    empty_answer,
    json_answer,
    problem_answer,
)
from libs.common.web.messages import MERGE_PATCH, check_match, check_preconditions, declared_length, read_json
from libs.common.web.routes import ALIAS, PREFIX, Route, Routes, path_template

_visible_ascii = re.compile(r"[\x21-\x7e]{1,255}")


def operations(routes: Routes, db: Database, secret: str, dependencies: Mapping[str, object]) -> list[Operation]:
    """The endpoint of every route."""
    return [Operation(r.method, r.rule, Endpoint(r, db, secret, dependencies)) for r in routes.all]


class Endpoint:
    """The handler of one operation."""

    def __init__(self, route: Route, db: Database, secret: str, dependencies: Mapping[str, object]):
        self._route, self._db, self._secret = route, db, secret
        self._body = route.body() if route.body else None
        self._patch = route.patch() if route.patch else None
        self._query = route.query() if route.query else None
        self._returns = route.returns() if route.returns else None
        self._cache_control = route.cache_control
        self._versioned = route.versioned
        self._operation = path_template(route.rule)
        wanted = set(route.needs) | set(route.before_needs)
        if unknown := sorted(wanted - route.gives() - dependencies.keys()):
            raise TypeError(_unknown_parameters(route, unknown, dependencies))
        self._dependencies = {name: dependencies[name] for name in wanted & dependencies.keys()}
        self._unit = None
        if "session" in route.needs:
            self._unit = db.read if route.method == "GET" else db.write

    def __call__(self, exchange: Exchange, path: Mapping[str, str]) -> Answer:
        route = self._route
        args: dict[str, Any] = {**self._dependencies, **path, "work": exchange.work}
        if self._query or exchange.query:
            args["query"] = self._parse_query(exchange, args)
        raw = None
        if self._body:
            raw = self._read_body(exchange)
            args["body"] = self._parse_body(raw)
            args["raw"] = raw
        args["key"] = key = self._parse_key(exchange, path, raw) if route.idempotent else None
        args["match"] = partial(check_match, exchange.headers)
        if route.before:
            if key and (stored := self._find(key)):
                return _replay(stored)
            route.before(**{name: args[name] for name in route.before_needs})
        if not self._unit:
            return self._dump(exchange, route.view(**{name: args[name] for name in route.needs}))
        with self._unit() as session:
            args["session"] = session
            call = {name: args[name] for name in route.needs}
            if not key:
                return self._dump(exchange, route.view(**call))
            assert isinstance(session, Session)
            return self._run_idempotent(exchange, session, key, call)

    def _read_body(self, exchange: Exchange) -> Any:
        if self._route.body_optional and not declared_length(exchange) and "transfer-encoding" not in exchange.headers:
            return {}
        return read_json(exchange, MERGE_PATCH if self._patch else self._route.media_type)

    def _run_idempotent(
        self, exchange: Exchange, session: Session, key: idempotency.Key, call: dict[str, Any]
    ) -> Answer:
        stored = idempotency.claim(session, key)
        if stored:
            return _replay(stored)
        roll_back = session.savepoint()
        try:
            status, headers, body = self._dump(exchange, self._route.view(**call))
        except errors.Problem as problem:
            # A conflict is the result of the operation, so it is stored too; the effects of the view are rolled back.
            if problem.status != 409:
                raise
            roll_back()
            status, headers, body = problem_answer(problem, exchange.path, exchange.work.request_id)
        kept: Headers = {name: headers[name] for name in ("Location", "ETag") if name in headers}
        resource_id = headers.get("Location", "").rpartition("/")[2] or None
        idempotency.store(session, key, idempotency.StoredAnswer(status, kept, body), resource_id)
        return status, headers, body

    def _find(self, key: idempotency.Key) -> idempotency.StoredAnswer | None:
        """The stored answer of an earlier request with this key, which is valid whatever `before` would do now."""
        if not self._unit:
            return None
        with self._db.read() as session:
            return idempotency.find(session, key)

    def _parse_query(self, exchange: Exchange, args: dict[str, Any]) -> dict[str, Any]:
        given = dict(exchange.query)
        if len(given) < len(exchange.query):
            names = [name for name, _ in exchange.query]
            repeated = next(name for name in names if names.count(name) > 1)
            raise errors.ValidationFailed(errors=list(_pointers({repeated: "Given more than once."})))
        if not self._query:
            raise errors.ValidationFailed(errors=list(_pointers({next(iter(given), ""): "Unknown parameter."})))
        query: dict[str, Any] = _load(self._query, given)
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

    def _parse_key(self, exchange: Exchange, path: Mapping[str, str], raw: Any) -> idempotency.Key | None:
        """The idempotency.Key of the request, if it has one. `path` has canonical ids, in lower case."""
        key = exchange.headers.get("idempotency-key")
        if key is None:
            return None
        if not _visible_ascii.fullmatch(key):
            detail = "Must be one header of 1 to 255 visible ASCII characters."
            raise errors.ValidationFailed(errors=[{"pointer": "/Idempotency-Key", "detail": detail}])
        return idempotency.Key.of(self._secret, "anonymous", self._operation.format(**path), key, raw)

    def _dump(self, exchange: Exchange, result: Any) -> Answer:
        route = self._route
        headers = {"Cache-Control": self._cache_control}
        if isinstance(result, idempotency.Replayed):
            result = result.resource
            headers["Idempotent-Replayed"] = "true"
        if route.status == 204:
            return empty_answer(204, headers)
        if isinstance(result, Page):
            return self._dump_page(exchange, result, headers)
        if self._versioned:
            version = _member(result, "version")
            headers["ETag"] = f'"{version}"'
            if route.method == "GET" and not check_preconditions(exchange.headers, version, is_safe=True):
                return empty_answer(304, headers)
        if route.status == 201:
            headers["Location"] = f"{PREFIX}{route.location or route.rule}/{_member(result, 'id')}"
        return json_answer(self._returns.dump(result) if self._returns else result, route.status, headers)

    def _dump_page(self, exchange: Exchange, page: Page, headers: Headers) -> Answer:
        if page.next_cursor:
            following = urlencode({**dict(exchange.query), "cursor": page.next_cursor}, safe=",")
            place = exchange.path.removeprefix(PREFIX).removeprefix(ALIAS)
            headers["Link"] = f'<{PREFIX}{place}?{following}>; rel="next"'
        assert self._returns is not None
        items = self._returns.dump(page.items, many=True)
        return json_answer({"items": items, "next_cursor": page.next_cursor}, self._route.status, headers)


def _unknown_parameters(route: Route, unknown: Sequence[str], dependencies: Mapping[str, object]) -> str:
    known = ", ".join(sorted(route.gives() | dependencies.keys()))
    return (
        f"{route.method} {route.rule}: {route.view.__name__} asks for {', '.join(unknown)}, "
        f"which this route does not give; it gives {known}."
    )


def _replay(stored: idempotency.StoredAnswer) -> Answer:
    headers = {**stored.headers, "Idempotent-Replayed": "true"}
    media_type = JSON if stored.status < 400 else errors.PROBLEM_JSON
    return bytes_answer(stored.body, stored.status, headers, media_type)


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
