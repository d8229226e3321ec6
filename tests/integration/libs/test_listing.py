"""Lists whose pages are prepared once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.data import paging
from libs.common.data.database import Database
from libs.common.data.paging import Filter, Listing, PageQuery
from libs.common.errors import MalformedRequest
from tests.integration.libs.tables import things

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SORTS = {"name": things.c.name, "amount": things.c.amount, "moment": things.c.moment}


@pytest.fixture
def rows(db: Database) -> list[dict[str, Any]]:
    """Of which several have the same amount and the same moment, so that the id decides."""
    made = [
        {
            "id": f"01a20598-7494-7095-a5b5-{number * 7 % 10:012}", "name": f"name {number}",
            "amount": Decimal(number // 3), "moment": NOON + timedelta(seconds=number // 4),
        }
        for number in range(10)
    ]  # fmt: skip
    with db.write() as session:
        session.execute(sa.insert(things), made)
    return made


def asked(sort: str, cursor: str | None = None, limit: int = 3) -> PageQuery:
    return PageQuery(limit, sort, cursor, "/things?", "secret")


def read(db: Database, listing: Listing, sort: str) -> list[dict[str, Any]]:
    """All rows, page by page."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        with db.read() as session:
            page = listing.page(session, asked(sort, cursor))
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("sort", [sign + name for name in SORTS for sign in ("", "-")])
def test_the_pages_of_a_list_have_every_row_once_and_in_order(
    db: Database, rows: list[dict[str, Any]], sort: str
) -> None:
    listing = Listing(sa.select(things), SORTS, things.c.id)
    by: Callable[[dict[str, Any]], Any] = lambda row: (row[sort.lstrip("-")], row["id"])  # noqa: E731

    found = read(db, listing, sort)

    assert found == [{**row, "json": None} for row in sorted(rows, key=by, reverse=sort.startswith("-"))]


def test_a_statement_is_made_once_for_each_order_and_for_the_pages_after_the_first(
    db: Database, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    prepare = paging.Prepared
    monkeypatch.setattr(paging, "Prepared", lambda query: made.append(query) or prepare(query))
    listing = Listing(sa.select(things), SORTS, things.c.id)

    for sort in ("name", "-name", "name"):
        read(db, listing, sort)

    assert len(made) == 4


def test_a_list_with_filters_has_the_rows_that_meet_them(db: Database, rows: list[dict[str, Any]]) -> None:
    listing = Listing(sa.select(things), SORTS, things.c.id)
    few = Filter(things.c.amount == Decimal(1), leads=True)
    with db.read() as session:
        page = listing.page(session, asked("name"), [few])
    assert [row["name"] for row in page.items] == ["name 3", "name 4", "name 5"]


def test_a_cursor_of_another_order_is_refused(db: Database, rows: list[dict[str, Any]]) -> None:
    listing = Listing(sa.select(things), SORTS, things.c.id)
    with db.read() as session:
        cursor = listing.page(session, asked("name")).next_cursor
        with pytest.raises(MalformedRequest):
            listing.page(session, asked("-name", cursor))
