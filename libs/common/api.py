"""The REST surface of a service: a route is declared once, checked at start, and written into the OpenAPI document.

    routes = Routes()

    @routes.post("/users", body=NewUser, returns=User, status=201, refuses=[EmailTaken], idempotent=True)
    def create_user(session, body):
        return use_cases.create_user(session, body)

A view names what it needs, and gets it by name:

    session            one unit of work: a transaction (a read-only one for GET) that is committed when the view returns
    body, query        the request, checked by its schema; for PUT and PATCH, `body` is a function (see below)
    raw                the body as it was sent, which the schema has found to be well-formed
    page               what was asked of a list: limit, sort, cursor
    match              call it with the resource's version: it refuses when `If-Match` names another
    key                the idempotency.Key of the request, or None
    <path parameter>   as in the rule
    anything else      a dependency that create_app gave to `install`

PUT replaces and PATCH merges (RFC 7396). For both, `body` is a function from the current resource to the validated
new members, so that one use case serves them. What needs a network call before the transaction goes into `before`, a
function that takes parts of the same list, `session` and `match` excepted.
"""

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from json import JSONDecoder
from typing import Any
from urllib.parse import urlencode

import marshmallow as ma
import orjson
from flask import Flask, Response, g, request
from sqlalchemy import Row

from libs.common import errors, idempotency
from libs.common.db import Database, roll_back_to
from libs.common.fields import Choice, QueryInteger, Schema
from libs.common.paging import Page, PageQuery

PREFIX = "/api/v1"
ALIAS = "/api"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
MAX_BODY = 1024 * 1024
_visible_ascii = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Route:
    """One operation: what it takes, what it answers, and the view that does it."""

    method: str
    rule: str
    view: Callable[..., Any]
    body: type[Schema] | None = None
    body_optional: bool = False
    patch: type[Schema] | None = None
    query: type[Schema] | None = None
    sorts: tuple[str, ...] = ()
    returns: type[Schema] | None = None
    many: bool = False
    status: int = 200
    refuses: Sequence[type[errors.Problem]] = ()
    idempotent: bool = False
    degrades: bool = False
    """Whether it answers without what is down, and says so: then it never refuses with DependencyUnavailable."""
    before: Callable[..., None] | None = None
    media_type: str = JSON
    location: str = ""
    example: Mapping[str, Any] | None = None
    """The body of the document's example, where that of its schema does not do."""
    shows: Mapping[str, Any] = field(default_factory=dict)
    """The members in which the document's example of the answer is not that of its schema."""
    needs: tuple[str, ...] = field(default=())

    @property
    def versioned(self) -> bool:
        """Whether it answers with a single resource that has an ETag."""
        return self.returns is not None and not self.many and "version" in self.returns._declared_fields


class Routes:
    """The operations of one service, in the order of their declaration. `tags` says what the resources are, by the
    first part of their paths.
    """

    def __init__(self, **tags: str) -> None:
        self.all: list[Route] = []
        self.tags = tags

    def get(self, rule: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._add("GET", rule, options)

    def list(
        self, rule: str, *, query: type[Schema], sorts: tuple[str, ...], **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A GET that answers with a page; `sorts` are the names that may be sorted by, the first one descending is
        the default.
        """
        options |= {"query": _list_query(query, sorts), "sorts": sorts, "many": True}
        return self._add("GET", rule, options)

    def post(self, rule: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._add("POST", rule, options)

    def put(self, rule: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._add("PUT", rule, options)

    def patch(
        self, rule: str, *, body: type[Schema], **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """`body` is the schema of the merged resource."""
        return self._add("PATCH", rule, {**options, "body": body, "patch": _patch_schema(body)})

    def delete(self, rule: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._add("DELETE", rule, {"status": 204, **options})

    def _add(
        self, method: str, rule: str, options: dict[str, Any]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
            needs = tuple(inspect.signature(view).parameters)
            self.all.append(Route(method=method, rule=rule, view=view, needs=needs, **options))
            return view

        return decorate


def install(app: Flask, routes: Routes, db: Database, secret: str, dependencies: Mapping[str, Any]) -> None:
    """Register every route under its canonical path and, in this one place, under its alias without a version."""
    for route in routes.all:
        endpoint = _Endpoint(route, db, secret, dependencies)
        for prefix in (PREFIX, ALIAS):
            name = f"{prefix}:{route.method}:{route.rule}"
            app.add_url_rule(prefix + route.rule, name, endpoint, methods=[route.method])


class _Endpoint:
    """Parse, run the view in its unit of work, dump."""

    def __init__(self, route: Route, db: Database, secret: str, dependencies: Mapping[str, Any]):
        self._route, self._db, self._secret = route, db, secret
        self._body = route.body() if route.body else None
        self._patch = route.patch() if route.patch else None
        self._query = route.query() if route.query else None
        self._returns = route.returns() if route.returns else None
        self._takes = set(route.needs)
        self._path = set(re.findall(r"<(?:\w+:)?(\w+)>", route.rule))
        wanted = self._takes | set(inspect.signature(route.before).parameters if route.before else ())
        own = self._path | {"session", "body", "raw", "query", "page", "match", "key"}
        self._dependencies = {name: dependencies[name] for name in wanted - own}
        self._unit = None
        if "session" in self._takes:
            self._unit = db.read if route.method == "GET" else db.write

    def __call__(self, **path: str) -> Response:
        route = self._route
        args: dict[str, Any] = {**self._dependencies, **path}
        if self._query or request.query_string:
            args["query"] = self._parse_query(args)
        raw = None
        if self._body:
            raw = self._read_body()
            args["body"] = self._parse_body(raw)
            args["raw"] = raw
        args["key"] = key = self._parse_key(raw) if route.idempotent else None
        if "match" in self._takes:
            args["match"] = check_match
        if route.before:
            if key and (stored := self._find(key)):
                return _replay(stored)
            route.before(**{name: args[name] for name in inspect.signature(route.before).parameters})
        if not self._unit:
            return self._dump(route.view(**{name: args[name] for name in route.needs}))
        with self._unit() as session:
            args["session"] = session
            call = {name: args[name] for name in route.needs}
            if not key:
                return self._dump(route.view(**call))
            return self._once(session, key, call)

    def _read_body(self) -> Any:
        nothing = not request.content_length and "Transfer-Encoding" not in request.headers
        if self._route.body_optional and nothing:
            return {}
        return read_json(MERGE_PATCH if self._patch else self._route.media_type)

    def _once(self, session: Any, key: idempotency.Key, call: dict[str, Any]) -> Response:
        stored = idempotency.claim(session, key)
        if stored:
            return _replay(stored)
        savepoint = session.begin_nested()
        try:
            response = self._dump(self._route.view(**call))
        except errors.Problem as problem:
            # A refusal on the merits is an answer too, and is kept; its effects are undone.
            if problem.status != 409:
                raise
            roll_back_to(session, savepoint)
            response = problem_response(problem)
        kept = {name: response.headers[name] for name in ("Location", "ETag") if name in response.headers}
        resource_id = response.headers.get("Location", "").rpartition("/")[2] or None
        idempotency.store(
            session, key, idempotency.StoredAnswer(response.status_code, kept, response.get_data()), resource_id
        )
        return response

    def _find(self, key: idempotency.Key) -> idempotency.StoredAnswer | None:
        """The answer of an earlier request: it stands, whatever `before` would say now."""
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
            filters = sorted((n, v) for n, v in given.items() if n not in ("limit", "cursor", "sort"))
            question = f"{self._route.rule}?{urlencode(filters)}"
            args["page"] = PageQuery(limit, sort, cursor, question, self._secret)
        return query

    def _parse_body(self, raw: Any) -> Any:
        assert self._body is not None
        if not self._patch:
            body = _load(self._body, raw)
            return (lambda current: body) if self._route.method == "PUT" else body
        loaded = _load(self._patch, raw)
        # What is dear to make, such as a hash, was made just now, and no transaction waits while it is made again.
        made = {n: loaded[n] for n, f in self._patch.fields.items() if n in loaded and getattr(f, "made_once", False)}
        return lambda current: _load(self._body, merge_patch(self._writable(current), {**raw, **made}))

    def _writable(self, current: Any) -> dict[str, Any]:
        """The current resource as a client could have sent it."""
        assert self._body is not None
        return {name: value for name, value in self._body.dump(current).items() if value is not None}

    def _parse_key(self, raw: Any) -> idempotency.Key | None:
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return None
        if not _visible_ascii.fullmatch(key):
            fault = {"pointer": "/Idempotency-Key", "detail": "Must be 1 to 255 visible ASCII characters."}
            raise errors.ValidationFailed(errors=[fault])
        operation = request.path.removeprefix(PREFIX).removeprefix(ALIAS)
        return idempotency.Key.of(self._secret, "anonymous", operation, key, raw)

    def _dump(self, result: Any) -> Response:
        route = self._route
        headers: dict[str, str] = {}
        content: Any
        if isinstance(result, idempotency.Replayed):
            result = result.resource
            headers["Idempotent-Replayed"] = "true"
        if route.status == 204:
            return Response(status=204)
        if isinstance(result, Page):
            if result.next_cursor:
                following = urlencode({**request.args.to_dict(), "cursor": result.next_cursor}, safe=",")
                headers["Link"] = (
                    f'<{PREFIX}{request.path.removeprefix(PREFIX).removeprefix(ALIAS)}?{following}>; rel="next"'
                )
            assert self._returns is not None
            content = {"items": self._returns.dump(result.items, many=True), "next_cursor": result.next_cursor}
        else:
            shown: Any = result._mapping if isinstance(result, Row) else result
            if route.versioned:
                headers["ETag"] = tag = f'"{_member(shown, "version")}"'
                if route.method == "GET" and _names(request.headers.get("If-None-Match"), tag, weak=True):
                    return Response(status=304, headers=headers)
            if route.status == 201:
                headers["Location"] = f"{PREFIX}{route.location or route.rule}/{_member(shown, 'id')}"
            content = self._returns.dump(shown) if self._returns else shown
        return JsonResponse(content, route.status, headers)


class JsonResponse(Response):
    def __init__(
        self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None, media_type: str = JSON
    ):
        super().__init__(orjson.dumps(content), status, headers, content_type=media_type)

    def get_wsgi_headers(self, environ: Any) -> Any:
        """As they are: the length is among them, and a Location is made of ASCII."""
        return self.headers


def _replay(stored: idempotency.StoredAnswer) -> Response:
    headers = {**stored.headers, "Idempotent-Replayed": "true"}
    media_type = JSON if stored.status < 400 else errors.PROBLEM_JSON
    return Response(stored.body, stored.status, headers, content_type=media_type)


def _member(resource: Any, name: str) -> Any:
    return resource[name] if isinstance(resource, Mapping) else getattr(resource, name)


def read_json(media_type: str = JSON, limit: int = MAX_BODY) -> Any:
    """The JSON of the request's body, numbers with a point as Decimal; raises 400, 413 or 415."""
    declared = request.content_length or 0
    if declared > limit:
        raise errors.PayloadTooLarge(f"At most {limit} bytes are taken.")
    accepted = (media_type, JSON) if media_type != JSON else (JSON,)
    if request.mimetype not in accepted:
        raise errors.UnsupportedMediaType(f"Send {' or '.join(accepted)}.")
    try:
        # Not by Flask's get_data(), which cuts a long body in chunks off at the limit in silence.
        raw = request.environ["wsgi.input"].read(limit + 1)
    except Exception as exc:  # the server's own, for a broken chunk
        raise errors.MalformedRequest("The body cannot be read.") from exc
    if len(raw) > limit:
        raise errors.PayloadTooLarge(f"At most {limit} bytes are taken.")
    if len(raw) < declared:
        raise errors.MalformedRequest("The body ends too early.")
    try:
        return _decoder.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError, ArithmeticError):
        raise errors.MalformedRequest("The body is not JSON in UTF-8.") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decoder = JSONDecoder(parse_float=Decimal, parse_constant=_no_constant)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: null removes a member, an object merges, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def check_match(version: int) -> None:
    """Refuse when the request's If-Match does not name this version."""
    given = request.headers.get("If-Match")
    if given is not None and not _names(given, f'"{version}"', weak=False):
        raise errors.PreconditionFailed("If-Match does not name the current version.", headers={"ETag": f'"{version}"'})


def _names(header: str | None, tag: str, *, weak: bool) -> bool:
    """Whether an If-Match or If-None-Match header names the tag (RFC 9110, section 13.1)."""
    if header is None:
        return False
    tags = [part.strip() for part in header.split(",")]
    return "*" in tags or tag in tags or (weak and f"W/{tag}" in tags)


def problem_response(problem: errors.Problem) -> Response:
    """The problem document, as the answer to the current request."""
    document = problem.document(request.path, g.work.request_id)
    return JsonResponse(document, problem.status, problem.headers, errors.PROBLEM_JSON)


def _load(schema: ma.Schema, data: Any) -> Any:
    try:
        return schema.load(data)
    except ma.ValidationError as exc:
        raise errors.ValidationFailed(errors=list(_pointers(exc.messages))) from None


def _pointers(messages: Any, pointer: str = "") -> Any:
    """Marshmallow's nested messages as JSON pointers."""
    if isinstance(messages, dict):
        for name, inner in messages.items():
            escaped = str(name).replace("~", "~0").replace("/", "~1").encode("utf-8", "replace").decode()
            yield from _pointers(inner, pointer if name == "_schema" else f"{pointer}/{escaped}")
    else:
        for message in messages if isinstance(messages, list) else [messages]:
            yield {"pointer": pointer, "detail": str(message)}


def _list_query(schema: type[Schema], sorts: tuple[str, ...]) -> type[Schema]:
    names = [sign + name for name in sorts for sign in ("", "-")]
    return type(schema.__name__, (schema,), {
        "limit": QueryInteger(min=1, max=200, load_default=50, doc="How many items a page may have."),
        # Whatever is wrong with a cursor, paging.py finds it.
        "cursor": ma.fields.String(metadata={
            "description": "`next_cursor` of the page before, with the same filters and the same sort.",
            "pattern": "^[A-Za-z0-9_-]*$", "maxLength": 2000,
        }),
        "sort": Choice(names, doc=f"By what to sort; `-` is descending. Without it, `-{sorts[0]}`."),
    })  # fmt: skip


def _patch_schema(schema: type[Schema]) -> type[Schema]:
    """The shape of a merge patch: every member optional, and null where leaving it out is allowed."""
    members: dict[str, Any] = {}
    for name, declared in schema._declared_fields.items():
        member = copy.copy(declared)
        member.allow_none = not declared.required
        member.required, member.load_default = False, ma.missing
        members[name] = member
    return type(schema.__name__ + "Patch", (Schema,), members)
