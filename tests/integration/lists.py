"""Compares lists with a filtering and sorting of all items in Python.

Filters, their values and sorts are read from docs/openapi: a comparison that lacks a documented one fails.
"""

import os
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa

from libs.common.data.database import Database
from tests import openapi
from tests.web import Api, answered

Item = dict[str, Any]
Passes = Callable[[Item], bool]
Filter = tuple[dict[str, str], Passes]
"""One query parameter, and whether an item passes it."""
Sorts = dict[str, Callable[[Item], Any]]
"""The names that can be sorted by, and the value of an item that counts."""

MAX_LIMIT = 200
LONG = bool(os.environ.get("LONG"))
TOGETHER = None if LONG else 3
"""So many filters at once are tried where each combination takes many requests."""


def documented(service: str, path: str) -> dict[str, Item]:
    """Query parameter → its schema, in the document of the service."""
    document = openapi.read(service)
    found = document["paths"][path]["get"].get("parameters", ())
    return {one["name"]: resolved(document, one["schema"]) for one in found if one.get("in") == "query"}


def resolved(document: Item, schema: Item) -> Item:
    """A schema with what it refers to, by itself or in its alternatives."""
    whole: Item = openapi.resolved(document, schema)
    return {**whole, "anyOf": [resolved(document, one) for one in whole["anyOf"]]} if "anyOf" in whole else whole


def walk(api: Api, path: str, query: dict[str, str]) -> list[Item]:
    """All items of a list, page by page, following the `Link` of each page to the next."""
    return [item for page in pages(api, path, query) for item in page]


def pages(api: Api, path: str, query: dict[str, str]) -> Iterator[list[Item]]:
    limit = int(query.get("limit", 50))
    answer = api.get(f"{path}?{urlencode(query)}")
    while True:
        page = answered(answer)
        assert set(page) == {"items", "next_cursor"}
        assert len(page["items"]) <= limit
        yield page["items"]
        if page["next_cursor"] is None:
            assert "Link" not in answer.headers
            return
        assert len(page["items"]) == limit
        link = re.fullmatch(r'<(?:/api/v1)(.+)>; rel="next"', answer.headers["Link"])
        assert link
        assert urlencode({"cursor": page["next_cursor"]}) in link[1]
        answer = api.get(link[1])


def compare(
    api: Api, path: str, items: list[Item], filters: list[Filter], sorts: Sorts, together: int | None = None
) -> int:
    """Every combination of the filters, or those of `together` of them, in every order and with pages of many sizes;
    how many lists were compared.
    """
    check_complete(path, filters, sorts)
    compared = 0
    for query, passes in combined(filters, None if LONG else together):
        passing = [item for item in items if passes(item)]
        for sort, key in sorts.items():
            ascending = sorted(passing, key=lambda item, key=key: (key(item), item["id"]))
            for sign, expected in (("", ascending), ("-", ascending[::-1])):
                sizes = limits(len(expected))
                for limit in [sizes[compared % len(sizes)]] if query and not LONG else sizes:
                    found = walk(api, path, {**query, "sort": sign + sort, "limit": str(limit)})
                    asked = f"{query} sort={sign}{sort} limit={limit}"
                    assert [item["id"] for item in found] == [item["id"] for item in expected], asked
                    assert found == expected
                    compared += 1
    return compared


def check_complete(path: str, filters: list[Filter], sorts: Sorts) -> None:
    """Check that the tables have all filters, values and sorts of the document."""
    asked = documented(path.strip("/").removesuffix("s"), path)
    assert {"limit", "cursor"} <= asked.keys()
    assert set(asked.pop("sort")["enum"]) == {sign + sort for sort in sorts for sign in ("", "-")}
    given: dict[str, set[str]] = {}
    for query, _ in filters:
        ((name, value),) = query.items()
        given.setdefault(name, set()).add(value)
    assert given.keys() == asked.keys() - {"limit", "cursor"}
    for name, values in given.items():
        schema = asked[name]
        assert values >= set(schema.get("enum", ())), name
        assert schema["type"] != "boolean" or values == {"true", "false"}, name


def combined(filters: list[Filter], together: int | None) -> Iterator[Filter]:
    """None of them, each, and all that do not name the same parameter; at most `together` at once."""
    by_name: dict[str, list[Filter]] = {}
    for query, passes in filters:
        by_name.setdefault(next(iter(query)), []).append((query, passes))
    for number in range((len(by_name) if together is None else together) + 1):
        for names in combinations(by_name, number):
            for chosen in product(*(by_name[name] for name in names)):
                query = {name: value for one, _ in chosen for name, value in one.items()}
                yield query, lambda item, chosen=chosen: all(passes(item) for _, passes in chosen)


def limits(count: int) -> list[int]:
    """One item a page, pages that end with the list and such that do not, and one page for all."""
    return sorted(
        {limit for limit in (count // 7 + 1, count - 1, count, count + 1, MAX_LIMIT) if 0 < limit <= MAX_LIMIT}
    )


def most_steps(api: Api, db: Database, path: str, filters: list[Filter], sorts: Sorts) -> tuple[int, str]:
    """How many tens of instructions of SQLite the most expensive page takes, and which it is: of those behind the
    combinations of the filters, in every order, and behind the first cursor of each.
    """
    steps: list[None] = []

    @sa.event.listens_for(db.engine, "begin")
    def watch(connection: sa.Connection) -> None:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(None), 10)

    most = (0, "")
    for (query, _), sort, sign in product(combined(filters, TOGETHER), sorts, ("", "-")):
        asked = f"{path}?{urlencode({**query, 'sort': sign + sort, 'limit': '10'})}"
        for _ in range(2):
            steps.clear()
            cursor = answered(api.get(asked))["next_cursor"]
            most = max(most, (len(steps), asked))
            asked += f"&cursor={cursor}"
            if cursor is None:
                break
    return most


def walk_short(api: Api, path: str, query: dict[str, str]) -> list[Item]:
    """All items of a list whose pages may be shorter than their limit."""
    items, cursor = [], ""
    while cursor is not None:
        page = answered(api.get(f"{path}?{urlencode({**query, **({'cursor': cursor} if cursor else {})})}"))
        assert len(page["items"]) <= int(query["limit"])
        items += page["items"]
        cursor = page["next_cursor"]
    return items


def compare_short(api: Api, path: str, items: list[Item], filters: list[Filter], sorts: Sorts) -> None:
    """Every combination of the filters, in every order, where pages may be shorter than their limit."""
    for (query, passes), (sort, key), sign in product(combined(filters, TOGETHER), sorts.items(), ("", "-")):
        found = walk_short(api, path, {**query, "sort": sign + sort, "limit": "7"})
        passing = [item for item in items if passes(item)]
        expected = sorted(passing, key=lambda item, key=key: (key(item), item["id"]), reverse=sign == "-")
        assert [item["id"] for item in found] == [item["id"] for item in expected], f"{query} sort={sign}{sort}"


def compare_while_changing(
    api: Api, path: str, sorts: Sorts, all_items: Callable[[], list[Item]], change: Callable[[], Any], limit: int = 4
) -> None:
    """Items are added, changed or deleted between two pages: each page continues after the last item of the one before,
    in the current list.
    """
    for sort, key in sorts.items():
        for sign in ("", "-"):
            edge: Any = None
            behind: list[Any] = []
            for page in pages(api, path, {"sort": sign + sort, "limit": str(limit)}):
                there = sorted(((key(item), item["id"]) for item in all_items()), reverse=sign == "-")
                behind = [place for place in there if edge is None or (place < edge if sign else place > edge)]
                assert [item["id"] for item in page] == [item_id for _, item_id in behind[:limit]], sign + sort
                if page:  # it is empty when what was left went meanwhile
                    edge = (key(page[-1]), page[-1]["id"])
                change()
            assert len(behind) <= limit


def come_and_go(
    dice: random.Random,
    known: list[str],
    come: Callable[[], str],
    alter: Callable[[str], Any],
    go: Callable[[str], Any],
) -> None:
    """Add an item, or change or delete a known one."""
    chosen, fate = dice.choice(known), dice.choice(["come", "come", "alter", "go"])
    if fate == "come":
        known.append(come())
    elif fate == "alter":
        alter(chosen)
    else:
        known.remove(chosen)
        go(chosen)


def tie(db: Database, table: sa.Table) -> None:
    """Give all rows one of three creation times."""
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    with db.write() as session:
        ids = list(session.scalars(sa.select(table.c.id).order_by(table.c.id)))
        for number, row_id in enumerate(ids):
            moment = noon + timedelta(seconds=number * 7 % 3)
            session.execute(sa.update(table).where(table.c.id == row_id).values(created_at=moment))
