"""Lists, compared with what a plain look at all items says."""

import re
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any
from urllib.parse import urlencode

from tests.web import Api, answered

Filter = tuple[dict[str, str], Callable[[dict[str, Any]], bool]]
"""Query parameters, and whether an item passes them."""


def walk(api: Api, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
    """All items of a list, page by page, as the `Link` of each page leads to the next."""
    items: list[dict[str, Any]] = []
    answer = api.get(f"{path}?{urlencode(query)}")
    while True:
        page = answered(answer)
        assert set(page) == {"items", "next_cursor"}
        assert len(page["items"]) <= int(query.get("limit", 50))
        items += page["items"]
        if page["next_cursor"] is None:
            assert "Link" not in answer.headers
            return items
        assert len(page["items"]) == int(query.get("limit", 50))
        link = re.fullmatch(r'<(?:/api/v1)(.+)>; rel="next"', answer.headers["Link"])
        assert link
        assert urlencode({"cursor": page["next_cursor"]}) in link[1]
        answer = api.get(link[1])


def pairs(filters: Iterable[Filter]) -> Iterable[Filter]:
    """None of them, each, and every two that do not name the same parameter."""
    filters = list(filters)
    yield {}, lambda item: True
    yield from filters
    for (query, passes), (other_query, other_passes) in combinations(filters, 2):
        if not query.keys() & other_query.keys():
            yield (
                {**query, **other_query},
                lambda item, passes=passes, other_passes=other_passes: passes(item) and other_passes(item),
            )


def compare(
    api: Api,
    path: str,
    items: list[dict[str, Any]],
    filters: Iterable[Filter],
    sorts: dict[str, Callable[[dict[str, Any]], Any]],
    limit: int = 7,
) -> int:
    """Every filter, alone and with every other, in every order; how many lists were compared."""
    compared = 0
    for query, passes in pairs(filters):
        passing = [item for item in items if passes(item)]
        for sort, key in sorts.items():
            expected = sorted(passing, key=lambda item, key=key: (key(item), item["id"]))
            for sign, order in (("", expected), ("-", expected[::-1])):
                found = walk(api, path, {**query, "sort": sign + sort, "limit": str(limit)})
                assert [item["id"] for item in found] == [item["id"] for item in order], (query, sign + sort)
                assert found == order
                compared += 1
    return compared
