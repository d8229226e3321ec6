"""GET /orders: every filter, sort and page against an oracle."""

import random
from datetime import timedelta
from decimal import Decimal
from itertools import product
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from libs.common.data import paging
from libs.common.ids import new_id
from libs.common.times import write_time
from order_service.models import STATUSES, orders
from tests.integration.lists import (
    LONG,
    Filter,
    Item,
    Sorts,
    compare,
    compare_short,
    compare_while_changing,
    most_steps,
)
from tests.integration.order_service.shop import Shop
from tests.integration.statements import recorded
from tests.unit.order_service.factories import NOON, an_order
from tests.web import answered, refused

USERS = [new_id() for _ in range(3)]
SORTS: Sorts = {"created_at": lambda order: order["created_at"], "total": lambda order: Decimal(order["total"] or 0)}


@pytest.fixture
def stored(shop: Shop) -> list[Item]:
    """Orders of two users and every status, with equal times and equal totals among them."""
    dice = random.Random(20260131)
    made = []
    for _ in range(60):
        moment = NOON + timedelta(minutes=dice.randrange(6))
        status = dice.choice(STATUSES)
        order = an_order(user_id=dice.choice(USERS[:2]), status=status, created_at=moment, updated_at=moment)
        if order["confirmed_at"]:
            order["total"], order["currency"] = Decimal(dice.randrange(5)), dice.choice(["EUR", "JPY"])
        made.append(order)
    dice.shuffle(made)
    with shop.db.write() as session:
        session.execute(sa.insert(orders), made)
    return [shop.get(order["id"]) for order in made]


def test_lists_are_what_a_plain_look_at_all_orders_says(shop: Shop, stored: list[Item]) -> None:
    since, until = (write_time(NOON + timedelta(minutes=minutes)) for minutes in (1, 4))
    filters: list[Filter] = [
        *(({"user_id": user}, lambda o, user=user: o["user_id"] == user) for user in (USERS[0], USERS[2])),
        *(({"status": status}, lambda o, status=status: o["status"] == status) for status in STATUSES),
        ({"created_from": since}, lambda o: o["created_at"] >= since),
        ({"created_to": until}, lambda o: o["created_at"] < until),
    ]
    assert compare(shop.api, "/orders", stored, filters, SORTS) > 300


SINCE, UNTIL = (write_time(NOON + timedelta(minutes=minutes)) for minutes in (1, 5))
FILTERS: list[Filter] = [
    ({"user_id": USERS[0]}, lambda o: o["user_id"] == USERS[0]),
    *(({"status": status}, lambda o, status=status: o["status"] == status) for status in ("pending", "shipped")),
    ({"created_from": SINCE}, lambda o: o["created_at"] >= SINCE),
    ({"created_to": UNTIL}, lambda o: o["created_at"] < UNTIL),
]


def test_a_list_is_complete_however_few_rows_a_page_looks_at(
    shop: Shop, stored: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "MAX_LOOKED_AT", 12)
    compare_short(shop.api, "/orders", stored, FILTERS, SORTS)


def test_no_combination_of_filters_looks_at_many_orders(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """All orders but a few are of one user and shipped, so that no filter narrows the list."""
    if not shop.db.is_sqlite:
        pytest.skip("only SQLite counts its steps")
    monkeypatch.setattr(paging, "MAX_LOOKED_AT", paging.MAX_LOOKED_AT if LONG else 50)
    count = 100_000 if LONG else 4000
    rows = [
        an_order(
            user_id=USERS[number % 50 == 0], status="pending" if number % 40 == 0 else "shipped",
            created_at=NOON + timedelta(seconds=number * 360 / count), total=Decimal(number * 7919 % count),
        )
        for number in range(count)
    ]  # fmt: skip
    with shop.db.write() as session:
        session.execute(sa.insert(orders), rows)

    steps, page = most_steps(shop.api, shop.db, "/orders", FILTERS, SORTS)
    assert steps < 15 * paging.MAX_LOOKED_AT, page


def test_the_newest_come_first_and_fifty_make_a_page(shop: Shop, stored: list[Item]) -> None:
    page = answered(shop.api.get("/orders"))

    assert page["items"] == sorted(stored, key=lambda order: (order["created_at"], order["id"]), reverse=True)[:50]
    assert page["next_cursor"]


def test_orders_that_come_and_go_on_while_somebody_pages_are_where_they_belong(shop: Shop, stored: list[Item]) -> None:
    known, dice = [order["id"] for order in stored[:15]], random.Random(20260131)
    shop.products.stock[shop.product_id] = 1000
    with shop.db.write() as session:
        session.execute(sa.delete(orders).where(orders.c.id.not_in(known)))

    def change() -> None:
        known.append(shop.order((shop.product_id, dice.randint(1, 3)))["id"])

    compare_while_changing(shop.api, "/orders", SORTS, lambda: [shop.get(order_id) for order_id in known], change)


def test_no_orders_are_an_empty_page(shop: Shop) -> None:
    assert answered(shop.api.get("/orders")) == {"items": [], "next_cursor": None}


def test_a_time_may_have_any_offset(shop: Shop, stored: list[Item]) -> None:
    moment = (NOON + timedelta(minutes=3)).isoformat()

    for text in (moment, moment.replace("12:", "14:").replace("+00:00", "+02:00"), moment.replace("+00:00", "z")):
        found = answered(shop.api.get(f"/orders?{urlencode({'created_from': text, 'limit': 200})}"))["items"]

        assert len(found) == len(
            [order for order in stored if order["created_at"] >= write_time(NOON + timedelta(minutes=3))]
        )


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


def test_a_cursor_fits_only_the_question_that_it_was_issued_for(shop: Shop, stored: list[Item]) -> None:
    cursor = answered(shop.api.get("/orders?limit=5&sort=total&status=pending"))["next_cursor"]

    answered(shop.api.get(f"/orders?limit=9&sort=total&status=pending&cursor={cursor}"))
    for other in ("sort=total", "sort=-total&status=pending", "sort=total&status=shipped", "status=pending"):
        refused(shop.api.get(f"/orders?{other}&cursor={cursor}"), 400, "malformed-request")
    refused(shop.api.get(f"/orders?sort=total&status=pending&cursor={cursor}x"), 400, "malformed-request")
    refused(shop.api.get("/orders?cursor=x"), 400, "malformed-request")


def test_each_filter_and_sort_has_its_index(shop: Shop) -> None:
    """By the query plan of SQLite nothing is sorted, and no row is read needlessly."""
    if not shop.db.is_sqlite:
        pytest.skip("PostgreSQL's plans depend on its statistics")
    sorts = [sign + sort for sort in SORTS for sign in ("", "-")]
    for filters, sort in product(({}, {"user_id": USERS[0]}, {"status": "shipped"}), sorts):
        with recorded(shop.db) as seen:
            answered(shop.api.get(f"/orders?{urlencode({**filters, 'sort': sort})}"))
        ((statement, parameters),) = [one for one in seen if "FROM orders" in one[0]]
        with shop.db.read() as connection:
            (plan,) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
        assert "USING INDEX ix_orders_" in plan.detail, (filters, sort)
        assert all(f"{name}=?" in plan.detail for name in filters), (filters, sort)
