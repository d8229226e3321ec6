"""GET /products with several filters at once."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from libs.common.data import paging
from libs.common.data.database import Database
from libs.common.ids import new_id
from product_service.models import product_words, products
from product_service.words import words_of
from tests.integration.lists import LONG, Filter, Item, Sorts, compare_short, most_steps
from tests.web import Api, answered

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
IDS = [new_id() for _ in range(100)]
SELLER = new_id()
SORTS: Sorts = {
    "created_at": lambda p: p["created_at"], "name": lambda p: p["name"], "price": lambda p: Decimal(p["price"]),
}  # fmt: skip
FILTERS: list[Filter] = [
    ({"q": "Blue"}, lambda p: "blue" in p["description"]),
    ({"category": "tools"}, lambda p: p["category"] == "tools"),
    ({"seller_id": SELLER}, lambda p: p["seller_id"] == SELLER),
    ({"in_stock": "false"}, lambda p: p["stock"] == 0),
    ({"min_price": "100"}, lambda p: Decimal(p["price"]) >= 100),
    ({"max_price": "900"}, lambda p: Decimal(p["price"]) <= 900),
    ({"ids": ",".join(IDS[:20])}, lambda p: p["id"] in IDS[:20]),
]


def store(db: Database, count: int) -> None:
    """So many products, of which each filter lets many pass."""
    rows = [
        {
            "id": IDS[number] if number < len(IDS) else new_id(), "name": str(number * 7919 % 1000), "currency": "EUR",
            "description": "a blue one" if number % 5 else "a red one", "category": "tools" if number % 3 else "toys",
            "price": Decimal(number * 7907 % 1000), "stock": number % 2, "sold_out": number % 2 == 0,
            "seller_id": SELLER if number % 7 else None, "reserved": 0, "sold": 0, "version": 1,
            "created_at": NOON + timedelta(seconds=number // 3), "updated_at": NOON,
        }
        for number in range(count)
    ]  # fmt: skip
    with db.write() as session:
        session.execute(sa.insert(products), rows)
        texts = session.execute(sa.select(products.c.seq, products.c.name, products.c.description)).all()
        words = [{"seq": row.seq, "words": " ".join(words_of(f"{row.name} {row.description}"))} for row in texts]
        session.execute(sa.insert(product_words), words)


def test_a_list_is_complete_however_few_rows_a_page_looks_at(
    api: Api, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(db, 40)
    stored: list[Item] = answered(api.get("/products?limit=200"))["items"]
    monkeypatch.setattr(paging, "MAX_LOOKED_AT", 12)
    compare_short(api, "/products", stored, FILTERS, SORTS)


def test_no_combination_of_filters_looks_at_many_products(
    api: Api, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not db.is_sqlite:
        pytest.skip("only SQLite counts its steps")
    monkeypatch.setattr(paging, "MAX_LOOKED_AT", paging.MAX_LOOKED_AT if LONG else 50)
    store(db, 100_000 if LONG else 4000)
    steps, page = most_steps(api, db, "/products", FILTERS, SORTS)
    assert steps < 15 * paging.MAX_LOOKED_AT, page
