"""GET /orders/stats: totals that are maintained, never counted, and still correct."""

import random
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from libs.common.ids import new_id
from libs.common.money import format_amount
from libs.common.times import now, write_time
from tests.integration.order_service.shop import Shop, a_user_event
from tests.web import answered


def counted(shop: Shop) -> dict[str, Any]:
    """The same figures, counted row by row."""
    rows = shop.rows()
    revenue: Counter[str] = Counter()
    for row in rows:
        if row["status"] in ("confirmed", "shipped", "delivered"):
            revenue[row["currency"]] += row["total"]
    return {
        "total": sum(row["confirmed_at"] is not None for row in rows),
        "by_status": dict(Counter(row["status"] for row in rows)),
        "revenue": [
            {"currency": currency, "amount": format_amount(Decimal(amount), currency)}
            for currency, amount in sorted(revenue.items())
            if amount
        ],
    }


def stats(shop: Shop) -> Any:
    return answered(shop.api.get("/orders/stats"))


def test_without_orders_there_is_nothing_to_count(shop: Shop) -> None:
    assert stats(shop) == {"total": 0, "by_status": {}, "revenue": []}


def test_revenue_is_told_by_currency_with_its_digits(shop: Shop) -> None:
    for price, currency in (("1999", "JPY"), ("0.125", "KWD"), ("19.99", "EUR")):
        shop.order((shop.products.add(new_id(), price, currency=currency), 2))

    assert stats(shop)["revenue"] == [
        {"currency": "EUR", "amount": "39.98"},
        {"currency": "JPY", "amount": "3998"},
        {"currency": "KWD", "amount": "0.250"},
    ]


def test_a_cancelled_order_was_confirmed_once_and_brings_nothing(shop: Shop) -> None:
    shop.take(shop.order()["id"], "cancel")

    assert stats(shop) == {"total": 1, "by_status": {"cancelled": 1}, "revenue": []}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_figures_equal_a_count_of_the_rows_whatever_happened(shop: Shop, seed: int) -> None:
    dice = random.Random(seed)
    users = [shop.a_user() for _ in range(4)]
    products = [
        shop.products.add(new_id(), price, stock=60, currency=currency)
        for price, currency in (("19.99", "EUR"), ("0.01", "EUR"), ("1999", "JPY"), ("0.125", "KWD"))
    ]

    def place() -> None:
        """Place an order; it may be refused for too little stock, two currencies or a deleted user."""
        lines = [(product_id, dice.randint(1, 4)) for product_id in dice.sample(products, dice.choice([1, 1, 1, 2]))]
        shop.place(shop.body(*lines, user_id=dice.choice(users)))

    def place_in_vain() -> None:
        shop.products.down = True
        place()
        shop.products.down = False

    def step() -> None:
        """Send a transition; it may be refused."""
        if rows := shop.rows():
            shop.api.post(f"/orders/{dice.choice(rows)['id']}/{dice.choice(['cancel', 'ship', 'deliver'])}", None)

    def abandon() -> None:
        shop.abandon(shop.pend(shop.body(user_id=dice.choice(users[1:]))))
        if dice.random() < 0.7:
            shop.recover()

    def delete_user() -> None:
        if dice.random() < 0.2:
            shop.hear(a_user_event("deleted", users[0], 9, deleted_at=write_time(now())))

    for turn in range(120):
        dice.choices([place, place_in_vain, step, abandon, delete_user], [10, 1, 12, 2, 1])[0]()
        if turn % 10 == 9:
            assert stats(shop) == counted(shop), turn

    assert len(counted(shop)["by_status"]) >= 5
