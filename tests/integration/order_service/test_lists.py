"""GET /orders: every filter, sort and page against an oracle."""

import random
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import product
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from libs.common.db import new_id
from libs.common.fields import write_time
from order_service.models import STATUSES, orders
from tests.integration.order_service.shop import Shop
from tests.unit.order_service.factories import NOON, an_order
from tests.web import answered, refused

USERS = [new_id() for _ in range(3)]
SORTS = ("created_at", "-created_at", "total", "-total")


@pytest.fixture
def stored(shop: Shop) -> list[dict[str, Any]]:
    """Orders of two users and every status, with equal times and equal totals among them."""
    dice = random.Random(20260131)
    made = []
    for _ in range(60):
        moment = NOON + timedelta(minutes=dice.randrange(6))
        status = dice.choice(STATUSES)
        order = an_order(user_id=dice.choice(USERS[:2]), status=status, created_at=moment, updated_at=moment)
        if order.confirmed_at:
            order.total, order.currency = Decimal(dice.randrange(5)), dice.choice(["EUR", "JPY"])
        made.append({name: value for name, value in vars(order).items() if not name.startswith("_")})
    dice.shuffle(made)
    with shop.db.write() as session:
        session.execute(sa.insert(orders), made)
    return made


def walk(shop: Shop, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The items of all pages, by `Link` as a client follows it."""
    path = f"/orders?{urlencode(query)}"
    while path:
        answer = shop.api.get(path)
        page = answered(answer)
        assert len(page["items"]) <= query["limit"]
        yield from page["items"]
        link = answer.headers.get("Link")
        assert (link is None) == (page["next_cursor"] is None)
        path = link.removeprefix("</api/v1").removesuffix('>; rel="next"') if link else ""


def expected(stored: list[dict[str, Any]], filters: dict[str, Any], sort: str) -> list[str]:
    def fits(order: dict[str, Any]) -> bool:
        return (
            filters.get("user_id") in (None, order["user_id"])
            and filters.get("status") in (None, order["status"])
            and ("created_from" not in filters or write_time(order["created_at"]) >= filters["created_from"])
            and ("created_to" not in filters or write_time(order["created_at"]) < filters["created_to"])
        )

    name = sort.removeprefix("-")
    found = sorted((order[name], order["id"]) for order in stored if fits(order))
    return [order_id for _, order_id in (found[::-1] if sort.startswith("-") else found)]


def every_filter() -> Iterator[dict[str, Any]]:
    """Each combination of the filters, present or not."""
    moment = {name: write_time(NOON + timedelta(minutes=n)) for name, n in (("created_from", 1), ("created_to", 4))}
    for user_id, status, since, until in product(
        (None, USERS[0], USERS[2]), (None, *STATUSES), (None, moment["created_from"]), (None, moment["created_to"])
    ):
        given = {"user_id": user_id, "status": status, "created_from": since, "created_to": until}
        yield {name: value for name, value in given.items() if value}


def test_every_filter_in_every_order_finds_what_it_should_page_by_page(
    shop: Shop, stored: list[dict[str, Any]]
) -> None:
    for filters, sort in product(every_filter(), SORTS):
        found = [order["id"] for order in walk(shop, {**filters, "sort": sort, "limit": 17})]

        assert found == expected(stored, filters, sort), (filters, sort)


def test_a_page_may_have_one_item(shop: Shop, stored: list[dict[str, Any]]) -> None:
    for sort in SORTS:
        found = [order["id"] for order in walk(shop, {"sort": sort, "limit": 1})]

        assert found == expected(stored, {}, sort)


def test_the_newest_come_first_and_fifty_make_a_page(shop: Shop, stored: list[dict[str, Any]]) -> None:
    page = answered(shop.api.get("/orders"))

    assert [order["id"] for order in page["items"]] == expected(stored, {}, "-created_at")[:50]
    assert page["next_cursor"]


def test_an_item_of_a_list_is_the_order_as_it_is_found_alone(shop: Shop, stored: list[dict[str, Any]]) -> None:
    for order in answered(shop.api.get("/orders?limit=200"))["items"]:
        assert order == shop.get(order["id"])


def test_no_orders_are_an_empty_page(shop: Shop) -> None:
    assert answered(shop.api.get("/orders")) == {"items": [], "next_cursor": None}


def test_an_order_that_is_placed_while_somebody_pages_moves_nothing(shop: Shop, stored: list[dict[str, Any]]) -> None:
    pages = walk(shop, {"sort": "-created_at", "limit": 20})
    first = [next(pages)["id"] for _ in range(20)]

    shop.order()

    assert first + [order["id"] for order in pages] == expected(stored, {}, "-created_at")


def test_a_time_may_have_any_offset(shop: Shop, stored: list[dict[str, Any]]) -> None:
    moment = (NOON + timedelta(minutes=3)).isoformat()

    for text in (moment, moment.replace("12:", "14:").replace("+00:00", "+02:00"), moment.replace("+00:00", "z")):
        found = answered(shop.api.get(f"/orders?{urlencode({'created_from': text, 'limit': 200})}"))["items"]

        assert len(found) == len(expected(stored, {"created_from": write_time(NOON + timedelta(minutes=3))}, "total"))


UNANSWERABLE = [
    ("status=lost", "/status"),
    ("status=", "/status"),
    ("user_id=42", "/user_id"),
    ("created_from=yesterday", "/created_from"),
    ("created_to=2026-01-31", "/created_to"),
    ("created_to=2026-01-31T12:00:00", "/created_to"),
    ("sort=status", "/sort"),
    ("sort=--total", "/sort"),
    ("limit=0", "/limit"),
    ("limit=201", "/limit"),
    ("limit=ten", "/limit"),
    ("page=2", "/page"),
    ("status=pending&status=shipped", "/status"),
]


def test_a_question_that_cannot_be_answered_is_refused_where_it_is_wrong(shop: Shop) -> None:
    for query, pointer in UNANSWERABLE:
        refused(shop.api.get(f"/orders?{query}"), 422, "validation-failed", pointer)


def test_a_cursor_fits_only_the_question_that_it_was_issued_for(shop: Shop, stored: list[dict[str, Any]]) -> None:
    cursor = answered(shop.api.get("/orders?limit=5&sort=total&status=pending"))["next_cursor"]

    answered(shop.api.get(f"/orders?limit=9&sort=total&status=pending&cursor={cursor}"))
    for other in ("sort=total", "sort=-total&status=pending", "sort=total&status=shipped", "status=pending"):
        refused(shop.api.get(f"/orders?{other}&cursor={cursor}"), 400, "malformed-request")
    refused(shop.api.get(f"/orders?sort=total&status=pending&cursor={cursor}x"), 400, "malformed-request")
    refused(shop.api.get("/orders?cursor=x"), 400, "malformed-request")


def test_each_filter_and_sort_has_its_index(shop: Shop) -> None:
    """SQLite tells how it would find a page: nothing is sorted, and no row is looked at in vain."""
    if not shop.db.is_sqlite:
        pytest.skip("PostgreSQL's plans depend on its statistics")
    seen: list[tuple[str, Any]] = []

    @sa.event.listens_for(shop.db.engine, "before_cursor_execute")
    def remember(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if "FROM orders" in statement and not statement.startswith("EXPLAIN"):
            seen.append((statement, parameters))

    for filters, sort in product(({}, {"user_id": USERS[0]}, {"status": "shipped"}), SORTS):
        answered(shop.api.get(f"/orders?{urlencode({**filters, 'sort': sort})}"))
        statement, parameters = seen.pop()
        with shop.db.read() as connection:
            (plan,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        assert "USING INDEX ix_orders_" in plan.detail, (filters, sort)
        assert all(f"{name}=?" in plan.detail for name in filters), (filters, sort)
