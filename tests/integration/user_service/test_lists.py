"""GET /users with several filters at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.data import paging
from libs.common.data.database import Database
from libs.common.ids import new_id
from tests.integration.lists import LONG, Filter, Item, Sorts, compare_short, most_steps
from tests.web import Api, answered
from user_service.models import users

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
IDS = [new_id() for _ in range(100)]
SORTS: Sorts = {"created_at": lambda u: u["created_at"], "name": lambda u: u["name"], "email": lambda u: u["email"]}
FILTERS: list[Filter] = [
    *(({"role": role}, lambda u, role=role: u["role"] == role) for role in ("customer", "admin")),
    *(({"status": state}, lambda u, state=state: u["status"] == state) for state in ("active", "suspended")),
    ({"email": "7@example.com"}, lambda u: u["email"] == "7@example.com"),
    ({"ids": ",".join(IDS[:20])}, lambda u: u["id"] in IDS[:20]),
]


def store(db: Database, count: int) -> None:
    """So many users, most of whom are active customers."""
    rows: list[dict[str, Any]] = [
        {
            "id": IDS[number] if number < len(IDS) else new_id(),
            "email": f"{number}@example.com", "email_key": f"{number}@example.com", "name": str(number * 7919 % 1000),
            "role": "admin" if number % 20 == 0 else "customer",
            "status": "suspended" if number % 15 == 0 else "active",
            "created_at": NOON + timedelta(seconds=number // 3), "updated_at": NOON, "version": 1,
        }
        for number in range(count)
    ]  # fmt: skip
    with db.write() as session:
        session.execute(sa.insert(users), rows)


def test_a_list_is_complete_however_few_rows_a_page_looks_at(
    api: Api, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(db, 60)
    stored: list[Item] = answered(api.get("/users?limit=200"))["items"]
    monkeypatch.setattr(paging, "MAX_LOOKED_AT", 12)
    compare_short(api, "/users", stored, FILTERS, SORTS)


def test_no_combination_of_filters_looks_at_many_users(api: Api, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    if not db.is_sqlite:
        pytest.skip("only SQLite counts its steps")
    monkeypatch.setattr(paging, "MAX_LOOKED_AT", paging.MAX_LOOKED_AT if LONG else 50)
    store(db, 100_000 if LONG else 4000)
    steps, page = most_steps(api, db, "/users", FILTERS, SORTS)
    assert steps < 15 * paging.MAX_LOOKED_AT, page
