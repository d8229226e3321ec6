"""Writes of many rows with one statement."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.data.database import Database
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert
from libs.common.data.updates import BulkUpdate
from libs.common.ids import new_id
from tests.integration.libs.tables import things

COLUMNS = ("id", "name", "moment", "json")
INSERT = Prepared(
    Upsert(
        things,
        lambda insert: insert.values(amount=sa.bindparam("half", type_=sa.BigInteger()) * 2).on_conflict_do_nothing(
            index_elements=["name"]
        ),
    ),
    COLUMNS,
)
RENAME = BulkUpdate(things, ("name", "moment", "json"), only=things.c.amount > Decimal(1))


def a_thing(**given: Any) -> dict[str, Any]:
    moment = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)
    return {"id": new_id(), "name": None, "moment": moment, "json": [{"a": 1}], "half": 5000, **given}


def stored(db: Database) -> list[dict[str, Any]]:
    with db.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(things).order_by(things.c.id)).mappings()]


@pytest.mark.parametrize("many", [0, 1, 2, 150])
def test_every_type_is_stored_for_any_number_of_rows(db: Database, many: int) -> None:
    rows = [a_thing() for _ in range(many)]
    for empty in rows[1:2]:
        empty |= {"moment": None, "json": None, "half": None}

    with db.write() as session:
        assert INSERT.write(session, rows) == many

    expected = [{**row, "amount": row["half"] and Decimal(1)} for row in rows]
    assert stored(db) == [{name: value for name, value in row.items() if name != "half"} for row in expected]


def test_a_row_whose_claim_is_taken_is_skipped(db: Database) -> None:
    with db.write() as session:
        INSERT.write(session, [a_thing(name="a")])
        assert INSERT.write(session, [a_thing(name="a"), a_thing(name="b"), a_thing(name="b"), a_thing()]) == 2

    assert sorted(row["name"] or "" for row in stored(db)) == ["", "a", "b"]


@pytest.mark.parametrize("wrong", [{"colour": "red"}, {"half": ...}], ids=["unknown", "missing"])
@pytest.mark.parametrize("others", [0, 2], ids=["alone", "among others"])
def test_a_row_with_other_values_than_the_statement_is_refused(
    db: Database, wrong: dict[str, Any], others: int
) -> None:
    row = {name: value for name, value in a_thing(**wrong).items() if value is not ...}

    with pytest.raises(TypeError, match=next(iter(wrong))), db.write() as session:
        INSERT.write(session, [*(a_thing() for _ in range(others)), row])

    assert stored(db) == []


@pytest.mark.parametrize("many", [0, 1, 150])
def test_rows_that_meet_the_condition_are_changed_and_named(db: Database, many: int) -> None:
    rows = [a_thing(half=5000 if n % 3 else 10_000) for n in range(many)]
    changes = [{"id": r["id"], "name": f"new {n}", "moment": r["moment"], "json": [n]} for n, r in enumerate(rows)]

    with db.write() as session:
        INSERT.write(session, rows)
        written = RENAME.write(session, changes[::-1])

    assert written == {row["id"] for row in rows[::3]}
    assert [(row["name"], row["json"]) for row in stored(db)] == [
        (None, [{"a": 1}]) if n % 3 else (f"new {n}", [n]) for n in range(many)
    ]
