"""The routes of a service: each operation is declared once, checked at start, and written into the OpenAPI document.

    routes = Routes()

    @routes.post("/users", body=NewUser, returns=User, status=201, refuses=[EmailTaken], idempotent=True)
    def create_user(session: Session, body: dict[str, Any]) -> User:
        return use_cases.create_user(session, body)

A view names what it needs, and gets it by name:

    session            one unit of work: a transaction that is committed when the view returns, or for GET a snapshot
    body, query        the request, checked by its schema; for PUT and PATCH, `body` is a function (see below)
    raw                the body as it was sent, which the schema has found to be well-formed
    page               what was asked of a list: limit, sort, cursor
    match              call it with the resource's version, or None where there is no such resource: it refuses when a
                       precondition of the request, `If-Match` or `If-None-Match`, does not hold
    key                the idempotency.Key of the request, or None
    work               the context.Context of the request: its id, its trace, its deadline
    <path parameter>   as in the rule
    anything else      a dependency that create_app gave to `Service.serve`

A view that names anything else is refused at start.

PUT replaces and PATCH merges (RFC 7396). For both, `body` is a function from the current resource to the validated
new members, so that one use case serves them. What needs a network call before the transaction goes into `before`, a
function that takes parts of the same list, `session` and `match` excepted.
"""

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, Protocol, TypeVar

import marshmallow as ma

from libs.common import errors
from libs.common.web.fields import Choice, QueryInteger, Schema
from libs.common.web.messages import JSON

REVALIDATE = "private, no-cache"
"""The Cache-Control of a resource with an ETag: only the caller's own cache keeps it, and asks each time."""
SHORTLY = "public, max-age=10"
"""The Cache-Control of what is shown to everybody, where it does no harm if it is some seconds old."""

PREFIX = "/api/v1"
ALIAS = "/api"

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def path_template(rule: str) -> str:
    """`/users/{user_id}` of `/users/<id:user_id>`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


class Decorator(Protocol):
    """Adds a view to the routes, and leaves it as it is."""

    def __call__(self, view: Callable[Given, Returned]) -> Callable[Given, Returned]: ...


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
    cache: str = ""
    """The Cache-Control of what a GET shows. Without it: REVALIDATE where there is an ETag, and NO_STORE elsewhere."""
    media_type: str = JSON
    location: str = ""
    example: Mapping[str, Any] | None = None
    """The body of the document's example, where that of its schema does not do."""
    shows: Mapping[str, Any] = field(default_factory=dict)
    """The members in which the document's example of the answer is not that of its schema."""
    needs: tuple[str, ...] = field(init=False)
    """What the view names."""
    before_needs: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", tuple(inspect.signature(self.view).parameters))
        before = inspect.signature(self.before).parameters if self.before else ()
        object.__setattr__(self, "before_needs", tuple(before))

    @property
    def path_parameters(self) -> list[str]:
        return re.findall(r"<(?:\w+:)?(\w+)>", self.rule)

    def gives(self) -> set[str]:
        """The names that a view of this route may ask for, dependencies apart."""
        given = {"session", "work", "match", *self.path_parameters}
        offered = {"body": self.body, "raw": self.body, "query": self.query, "page": self.sorts, "key": self.idempotent}
        return given | {name for name, has in offered.items() if has}

    @property
    def versioned(self) -> bool:
        """Whether it answers with a single resource that has an ETag."""
        return self.returns is not None and not self.many and "version" in self.returns._declared_fields

    @property
    def cache_control(self) -> str:
        """The Cache-Control of its success."""
        if self.method != "GET":
            return errors.NO_STORE
        return self.cache or (REVALIDATE if self.versioned else errors.NO_STORE)

    @property
    def conditional(self) -> bool:
        """Whether it obeys `If-Match` and `If-None-Match`."""
        return "match" in self.needs or (self.versioned and self.method == "GET")


class Routes:
    """The operations of one service, in the order of their declaration. `tags` says what the resources are, by the
    first part of their paths.
    """

    def __init__(self, **tags: str) -> None:
        self.all: list[Route] = []
        self.tags = tags

    def get(self, rule: str, **options: Any) -> Decorator:
        return self._add("GET", rule, options)

    def list(self, rule: str, *, query: type[Schema], sorts: tuple[str, ...], **options: Any) -> Decorator:
        """A GET that answers with a page; `sorts` are the names that may be sorted by, the first one descending is
        the default.
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
