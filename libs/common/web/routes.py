"""The routes of a service: operations are declared once, checked at start, and described in the OpenAPI document.

    routes = Routes()

    @routes.post("/users", body=NewUser, returns=User, status=201, refuses=[EmailTaken], idempotent=True)
    def create_user(session: Session, body: dict[str, Any]) -> User:
        return use_cases.create_user(session, body)

A view gets its arguments by name:

    session            one unit of work: a transaction that is committed when the view returns, or for GET a snapshot
    body, query        the request, validated by its schema; for PUT and PATCH, `body` is a function (see below)
    raw                the body as it was sent, after validation
    page               the data.paging.PageQuery of a list
    match              the data.changes.VersionCheck of the request: call it with the version of the resource, or None
                       if there is no resource; it raises if `If-Match` or `If-None-Match` does not hold
    key                the idempotency.Key of the request, or None
    work               the context.Context of the request
    <path parameter>   as in the rule
    anything else      a dependency that create_app has passed to `Service.serve`

A view with any other parameter raises TypeError at start.

PUT replaces and PATCH merges (RFC 7396). For both, `body` is a function from the current resource to the validated
new members, so that one use case serves both. A network call that must precede the transaction belongs in `before`, a
function with parameters from the same list, without `session` and `match`.
"""

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

import marshmallow as ma

from libs.common import errors
from libs.common.web.exchange import JSON
from libs.common.web.fields import Choice, QueryInteger, Schema

REVALIDATE = "private, no-cache"
"""The Cache-Control of a resource with an ETag: private caches may store it and must revalidate it."""
SHORTLY = "public, max-age=10"
"""The Cache-Control of public data that may be some seconds old."""

PREFIX = "/api/v1"
ALIAS = "/api"

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def path_template(rule: str) -> str:
    """`/users/{user_id}` for `/users/<id:user_id>`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


class Decorator(Protocol):
    """Adds a view to the routes and returns it unchanged."""

    def __call__(self, view: Callable[Given, Returned]) -> Callable[Given, Returned]: ...


@dataclass(frozen=True)
class Route:
    """One operation: its request, its answers, and its view."""

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
    """Whether it gives partial answers while a dependency is down, and so never raises DependencyUnavailable."""
    before: Callable[..., None] | None = None
    cache: str = ""
    """The Cache-Control of a GET; by default REVALIDATE if there is an ETag, else NO_STORE."""
    media_type: str = JSON
    location: str = ""
    example: Mapping[str, Any] | None = None
    """The example of the request body in the OpenAPI document, instead of that of the schema."""
    shows: Mapping[str, Any] = field(default_factory=dict)
    """Members that replace those of the schema in the example of the answer."""
    needs: tuple[str, ...] = field(init=False)
    """The names of the view's parameters."""
    before_needs: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", tuple(inspect.signature(self.view).parameters))
        before = inspect.signature(self.before).parameters if self.before else ()
        object.__setattr__(self, "before_needs", tuple(before))

    @property
    def path_parameters(self) -> list[str]:
        return re.findall(r"<(?:\w+:)?(\w+)>", self.rule)

    def gives(self) -> set[str]:
        """The names of the parameters that a view of this route can have, without dependencies."""
        given = {"session", "work", "match", *self.path_parameters}
        offered = {"body": self.body, "raw": self.body, "query": self.query, "page": self.sorts, "key": self.idempotent}
        return given | {name for name, has in offered.items() if has}

    @property
    def versioned(self) -> bool:
        """Whether the answer is a single resource with an ETag."""
        return self.returns is not None and not self.many and "version" in self.returns._declared_fields

    @property
    def cache_control(self) -> str:
        """The Cache-Control of a successful answer."""
        if self.method != "GET":
            return errors.NO_STORE
        return self.cache or (REVALIDATE if self.versioned else errors.NO_STORE)

    @property
    def conditional(self) -> bool:
        """Whether it evaluates `If-Match` and `If-None-Match`."""
        return "match" in self.needs or (self.versioned and self.method == "GET")


class Routes:
    """The operations of one service, in the order of their declaration. `tags` maps the first part of a path to the
    description of the resource.
    """

    def __init__(self, **tags: str) -> None:
        self.all: list[Route] = []
        self.tags = tags

    def get(self, rule: str, **options: Any) -> Decorator:
        return self._add("GET", rule, options)

    def list(self, rule: str, *, query: type[Schema], sorts: tuple[str, ...], **options: Any) -> Decorator:
        """A GET that returns a page of a list; `sorts` are the names of the sort orders, the default is the first one
        descending.
        """
        options |= {"query": _list_query(query, sorts), "sorts": sorts, "many": True}
        return self._add("GET", rule, options)

    def post(self, rule: str, **options: Any) -> Decorator:
        return self._add("POST", rule, options)

    def put(self, rule: str, **options: Any) -> Decorator:
        return self._add("PUT", rule, options)

    def patch(self, rule: str, *, body: type[Schema], **options: Any) -> Decorator:
        """`body` is the schema of the merged resource."""
        return self._add("PATCH", rule, {**options, "body": body, "patch": _patch_schema(body)})

    def delete(self, rule: str, **options: Any) -> Decorator:
        return self._add("DELETE", rule, {"status": 204, **options})

    def _add(self, method: str, rule: str, options: dict[str, Any]) -> Decorator:
        def decorate(view: Callable[Given, Returned]) -> Callable[Given, Returned]:
            self.all.append(Route(method=method, rule=rule, view=view, **options))
            return view

        return decorate


def _list_query(schema: type[Schema], sorts: tuple[str, ...]) -> type[Schema]:
    names = [sign + name for name in sorts for sign in ("", "-")]
    return type(schema.__name__, (schema,), {
        "limit": QueryInteger(min=1, max=200, load_default=50, doc="How many items a page may have."),
        # Cursors are validated by paging.py.
        "cursor": ma.fields.String(metadata={
            "description": "`next_cursor` of the page before, with the same filters and the same sort.",
            "pattern": "^[A-Za-z0-9_-]*$", "maxLength": 2000,
        }),
        "sort": Choice(names, doc=f"By what to sort; `-` is descending. Without it, `-{sorts[0]}`."),
    })  # fmt: skip


def _patch_schema(schema: type[Schema]) -> type[Schema]:
    """The schema of a merge patch: all members are optional, and null is allowed for those that are not required."""
    members: dict[str, Any] = {}
    for name, declared in schema._declared_fields.items():
        member = copy.copy(declared)
        member.allow_none = not declared.required
        member.required, member.load_default = False, ma.missing
        members[name] = member
    return type(schema.__name__ + "Patch", (Schema,), members)
