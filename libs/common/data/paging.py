"""Keyset pagination: a page begins after the last row of the previous one, so page 10 000 costs the same as page 1.

A cursor holds the sort value and the id of that row, signed together with the sort order and the filters: a cursor
that was not issued here, or was issued for another query, is rejected.
"""

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.sql import visitors

from libs.common.data.database import Reader
from libs.common.data.prepared import Prepared
from libs.common.errors import MalformedRequest
from libs.common.times import read_time, write_time


@dataclass(frozen=True)
class PageQuery:
    """The parameters of a list request. `question` names the list and its filters; a cursor is valid only for these."""

    limit: int
    sort: str
    cursor: str | None
    question: str
    secret: str


@dataclass(frozen=True)
class Page:
    items: list[Any]
    next_cursor: str | None


class Listing:
    """A list of the rows of a table, made once: what `query` selects, in pages. `sorts` maps a sort name to its column;
    `tie` is a unique column that breaks ties; each (sort column, tie) needs an index.
    """

    def __init__(self, query: sa.Select[Any], sorts: Mapping[str, sa.Column[Any]], tie: sa.Column[Any]):
        self._query, self._sorts, self._tie = query, sorts, tie
        self._prepared: dict[tuple[str, bool], Prepared] = {}

    def page(self, session: Reader, asked: PageQuery, filters: "Sequence[Filter]" = ()) -> Page:
        """One page of the rows that meet all filters, as mappings. Raises MalformedRequest for an invalid cursor."""
        if filters:
            return filtered_page(session, self._query, filters, asked, self._sorts, self._tie)
        column = self._sorts[asked.sort.lstrip("-")]
        edge = dict(zip(_EDGE, _read_cursor(asked), strict=True)) if asked.cursor is not None else {}
        rows = self._section(asked.sort, bool(edge)).mappings(session, **edge, limit=asked.limit + 1)
        return _page(rows, asked, column.key, self._tie.key)

    def _section(self, sort: str, goes_on: bool) -> Prepared:
        """The statement of the pages in this order: of the first, or of those after a cursor."""
        if (sort, goes_on) not in self._prepared:
            column, query = self._sorts[sort.lstrip("-")], self._query
            if goes_on:
                types = zip(_EDGE, (column.type, self._tie.type), strict=True)
                query = _after(query, sort, column, self._tie, [sa.bindparam(name, type_=of) for name, of in types])
            query = query.order_by(*_order(sort, column, self._tie)).limit(sa.bindparam("limit", type_=sa.Integer))
            self._prepared[sort, goes_on] = Prepared(query)
        return self._prepared[sort, goes_on]


_EDGE = ("edge", "edge_tie")
"""The parameters of a statement that are the position of a cursor."""


def page(
    session: Reader, query: sa.Select[Any], asked: PageQuery, sorts: Mapping[str, Any], tie: sa.ColumnElement[Any]
) -> Page:
    """One page of a query that is made for this request alone; all else is as for a Listing."""
    column = sorts[asked.sort.lstrip("-")]
    return _page(list(session.execute(_section(query, asked, column, tie)).mappings()), asked, column, tie)


MAX_LOOKED_AT = 2000
"""So many rows does a page with several filters look at, at most, in each of the indexes that it tries."""


@dataclass(frozen=True)
class Filter:
    """A condition of a list, or a part of it. An index finds the rows that meet it."""

    condition: sa.ColumnElement[bool]
    leads: bool = False
    """Whether each sort has an index behind it."""
    range_of: str | None = None
    """The sort whose column it bounds. The indexes of this sort serve it, alone and behind each filter that leads."""
    check: sa.ColumnElement[bool] | None = None
    """The same condition in a form that is cheaper for rows that are known."""

    @property
    def test(self) -> sa.ColumnElement[bool]:
        return self.condition if self.check is None else self.check


def filtered_page(
    session: Reader,
    query: sa.Select[Any],
    filters: Sequence[Filter],
    asked: PageQuery,
    sorts: Mapping[str, Any],
    tie: sa.ColumnElement[Any],
) -> Page:
    """One page of the rows of `query` that meet all filters. If no index has them all, the rows of an index that finds
    few are sorted; if none does, the index of the sort is read, up to a bound. So a page may have fewer items than its
    limit, or none, although another one follows. All else is as for a Listing.
    """
    walked = _walked(filters, asked)
    if len(walked) == len(filters):
        return page(session, query.where(*(one.condition for one in walked)), asked, sorts, tie)
    column = sorts[asked.sort.lstrip("-")]
    for chosen in _narrow(filters):
        found = _part(query.where(*(one.condition for one in chosen)), filters, column, tie).limit(MAX_LOOKED_AT + 1)
        if _count(session, found) <= MAX_LOOKED_AT:
            ids = _passing(session, found, filters, asked, column, tie)
            return _page(_rows(session, query, ids, tie), asked, column, tie)
    looked_at = _after_cursor(query.where(*(one.condition for one in walked)), asked, column, tie)
    part = _part(looked_at, filters, column, tie).order_by(*_order(asked.sort, column, tie)).limit(MAX_LOOKED_AT)
    rows = _rows(session, query, _passing(session, part, filters, asked, column, tie), tie)
    found_page = _page(rows, asked, column, tie)
    if found_page.next_cursor is None:
        last = part.with_only_columns(column, tie).limit(1).offset(MAX_LOOKED_AT - 1)
        if edge := session.execute(last).one_or_none():
            return Page(found_page.items, _write_cursor(asked, *edge))
    return found_page


def _walked(filters: Sequence[Filter], asked: PageQuery) -> list[Filter]:
    """Those that an index has, in the order of the sort: one that leads, and the bounds of the sort itself."""
    leading = [one for one in filters if one.leads][:1]
    return leading + [one for one in filters if one.range_of == asked.sort.lstrip("-")]


def _narrow(filters: Sequence[Filter]) -> list[list[Filter]]:
    """Parts of the filters that an index has, in whatever order."""
    bounds: dict[str, list[Filter]] = {}
    for one in filters:
        if one.range_of:
            bounds.setdefault(one.range_of, []).append(one)
    leading = [[one] for one in filters if one.leads]
    others = [[one] for one in filters if not one.leads and not one.range_of]
    return others + [a + b for a in leading or [[]] for b in list(bounds.values()) or [[]] if a + b]


def _part(query: sa.Select[Any], filters: Sequence[Filter], *needed: Any) -> sa.Select[Any]:
    """Of the rows of `query`, the columns that the filters look at, and others that are needed."""
    tested = {element for one in filters for element in visitors.iterate(one.test)}
    return query.with_only_columns(*(c for c in needed[0].table.c if c in tested or c in set(needed)))


def _count(session: Reader, found: sa.Select[Any]) -> int:
    rows = found.with_only_columns(sa.literal(1).label("one")).subquery()
    return session.execute(sa.select(sa.func.count()).select_from(rows)).scalar_one()


def _passing(
    session: Reader, part: sa.Select[Any], filters: Sequence[Filter], asked: PageQuery, column: Any, tie: Any
) -> list[str]:
    """Ids of the rows of a bounded part that pass all filters and come after the cursor, one more than a page has. The
    bound keeps planners from looking for them in another way.
    """
    rows = part.subquery()
    passing = sa.select(rows.c[tie.name]).where(*(_on(rows, one.test) for one in filters))
    section = _section(passing, asked, rows.c[column.name], rows.c[tie.name])
    return list(session.execute(section).scalars())


def _on(rows: sa.Subquery, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """The condition, with the columns of the subquery in the place of those of its table."""

    def replace(element: Any, **options: Any) -> Any:
        return rows.corresponding_column(element) if isinstance(element, sa.Column) else None

    replaced: sa.ColumnElement[bool] = visitors.replacement_traverse(condition, {}, replace)
    return replaced


def _rows(session: Reader, query: sa.Select[Any], ids: Sequence[str], tie: sa.ColumnElement[Any]) -> list[Any]:
    found = {row[tie]: row for row in session.execute(query.where(tie.in_(ids))).mappings()}
    return [found[row_id] for row_id in ids]


Position = tuple[datetime, str]
"""Creation time and id of the last row that `walk` has returned."""


def walk(
    session: Reader, table: sa.Table, after: Position | None, limit: int, *conditions: sa.ColumnElement[bool]
) -> list[Position]:
    """The next rows of a table that meet the conditions, oldest first. This needs an index on the columns of the
    conditions, then `created_at` and `id`.
    """
    created_at, row_id = table.c.created_at, table.c.id
    query = sa.select(created_at, row_id).where(*conditions).order_by(created_at, row_id).limit(limit)
    if after is not None:
        query = query.where(sa.tuple_(created_at, row_id) > sa.tuple_(*after, types=[created_at.type, row_id.type]))
    return [(row.created_at, row.id) for row in session.execute(query)]


def merged_page(
    session: Reader,
    query: sa.Select[Any],
    streams: Sequence[sa.Select[Any]],
    asked: PageQuery,
    sorts: Mapping[str, Any],
    tie: sa.ColumnElement[Any],
) -> Page:
    """One page of the merged rows of several `streams`: selects of disjoint parts of the table of `query`, each with an
    index in sort order. At most one page is read of each stream; `query` then fetches the rows of the page by id.
    Everything else is as for a Listing.
    """
    column = sorts[asked.sort.lstrip("-")]
    sections = [sa.select(_section(s.with_only_columns(column, tie), asked, column, tie).subquery()) for s in streams]
    merged = sa.union_all(*sections).subquery()
    sorted_by, row_id = merged.c
    edges = sa.select(row_id).order_by(*_order(asked.sort, sorted_by, row_id)).limit(asked.limit + 1)
    ids = session.execute(edges).scalars().all()
    return _page(_rows(session, query, ids, tie), asked, column, tie)


def _section(query: sa.Select[Any], asked: PageQuery, column: Any, tie: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """The rows after the cursor, limited to one more than a page, which shows whether there is a next page."""
    return _after_cursor(query, asked, column, tie).order_by(*_order(asked.sort, column, tie)).limit(asked.limit + 1)


def _after_cursor(query: sa.Select[Any], asked: PageQuery, column: Any, tie: Any) -> sa.Select[Any]:
    return query if asked.cursor is None else _after(query, asked.sort, column, tie, _read_cursor(asked))


def _after(query: sa.Select[Any], sort: str, column: Any, tie: Any, edge: Sequence[Any]) -> sa.Select[Any]:
    here, there = sa.tuple_(column, tie), sa.tuple_(*edge, types=[column.type, tie.type])
    return query.where(here < there if sort.startswith("-") else here > there)


def _order(sort: str, column: Any, tie: Any) -> tuple[Any, Any]:
    return (column.desc(), tie.desc()) if sort.startswith("-") else (column, tie)


def _page(rows: list[Any], asked: PageQuery, column: Any, tie: Any) -> Page:
    """`column` and `tie` are the keys of the mappings."""
    more = len(rows) > asked.limit
    rows = rows[: asked.limit]
    next_cursor = _write_cursor(asked, rows[-1][column], rows[-1][tie]) if more else None
    return Page(rows, next_cursor)


def _write_cursor(asked: PageQuery, value: Any, tie: str) -> str:
    if isinstance(value, datetime):
        tagged = ["t", write_time(value)]
    elif isinstance(value, Decimal):
        tagged = ["d", str(value)]
    else:
        tagged = ["s", value]
    payload = orjson.dumps([*tagged, tie])
    return _encode(_signature(asked, payload) + payload)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _read_cursor(asked: PageQuery) -> tuple[Any, str]:
    text = asked.cursor or ""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MalformedRequest("The cursor is not valid.") from None
    signature, payload = raw[:12], raw[12:]
    # Several base64 texts decode to the same bytes; only the canonical one was issued.
    if _encode(raw) != text or not hmac.compare_digest(signature, _signature(asked, payload)):
        raise MalformedRequest("The cursor was not issued for this list and these filters.")
    tag, value, tie = orjson.loads(payload)
    return _readers[tag](value), tie


_readers: dict[str, Callable[[str], Any]] = {"t": read_time, "d": Decimal, "s": str}


def _signature(asked: PageQuery, payload: bytes) -> bytes:
    message = b"\n".join((asked.question.encode(), asked.sort.encode(), payload))
    return hmac.new(asked.secret.encode(), message, "sha256").digest()[:12]
