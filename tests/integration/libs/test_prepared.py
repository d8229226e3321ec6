"""Statements that are compiled once and run by the driver."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import psycopg
import pytest
import sqlalchemy as sa

from libs.common.data import bulk
from libs.common.data.database import Database
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert
from libs.common.ids import new_id
from tests.integration.libs.tables import accounts, balance, things

INSERT = Prepared(sa.insert(accounts), ["id", "balance"])
UPSERT = Prepared(Upsert(accounts, lambda insert: insert.on_conflict_do_nothing()), ["id", "balance"])
UPDATE = Prepared(sa.update(accounts).where(accounts.c.id == sa.bindparam("_id")).values(balance=sa.bindparam("to")))
FIND = Prepared(sa.select(accounts).where(accounts.c.id == sa.bindparam("id")))


@pytest.mark.parametrize("statement", [INSERT, UPSERT], ids=["insert", "upsert"])
@pytest.mark.parametrize("others", [0, 2], ids=["alone", "among others"])
def test_a_column_that_the_statement_does_not_know_is_refused_whoever_else_is_in_the_batch(
    db: Database, statement: Prepared, others: int
) -> None:
    rows = [{"id": 100 + n, "balance": 1} for n in range(others)] + [{"id": 99, "balance": 1, "colour": "red"}]

    with pytest.raises(TypeError, match="colour"), db.write() as session:
        statement.write(session, rows)

    with db.read() as connection:
        assert FIND.rows(connection, id=99) == FIND.rows(connection, id=100) == []


def test_a_column_that_is_missing_is_refused(db: Database) -> None:
    with pytest.raises(TypeError, match="balance"), db.write() as session:
        INSERT.write(session, [{"id": 99}])


def test_an_unknown_parameter_of_an_update_or_a_query_is_refused(db: Database) -> None:
    before = balance(db)

    with pytest.raises(TypeError, match="owner"), db.write() as session:
        UPDATE.write(session, [{"_id": 1, "to": 7, "owner": "ada"}])
    with pytest.raises(TypeError, match="owner"), db.read() as connection:
        FIND.rows(connection, id=1, owner="ada")

    assert balance(db) == before


# Several rows at once -----------------------------------------------------------------------------------------------

NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
ADD_THINGS = Prepared(sa.insert(things), things.c.keys())


def a_thing(name: str, **values: Any) -> dict[str, Any]:
    return {"id": new_id(), "name": name, "amount": None, "moment": None, "json": None} | values


def found(db: Database) -> dict[str, dict[str, Any]]:
    with db.read() as connection:
        return {row["name"]: dict(row) for row in connection.execute(sa.select(things)).mappings()}


@pytest.mark.parametrize("count", [1, 2, 250])
def test_rows_come_back_as_they_were_given_however_many_there_are(db: Database, count: int) -> None:
    given = [
        a_thing(
            f"{n}", amount=Decimal("19.9901") + n, moment=NOON, json={"z": [1, "é", None, 1.5, n], "a": {"b": True}}
        )
        for n in range(count)
    ]

    with db.write() as session:
        ADD_THINGS.write(session, given)

    assert found(db) == {thing["name"]: thing for thing in given}


def test_rows_that_are_too_large_for_one_statement_come_back_as_well(db: Database) -> None:
    given = [a_thing(f"{n}", json=f"{n}" * (bulk.MAX_LENGTH // 2)) for n in range(3)]

    with db.write() as session:
        ADD_THINGS.write(session, given)

    assert found(db) == {thing["name"]: thing for thing in given}


def test_text_of_every_kind_comes_back_from_among_several_rows(db: Database) -> None:
    texts = ["", "O'Hara", 'say "no"', "back\\slash", "a\nb\tc", "{1,2}", "%(id)s %s :id", "é😀\uffff", "NULL", "null"]

    with db.write() as session:
        ADD_THINGS.write(session, [a_thing(text, json=text) for text in texts])

    assert {name: row["json"] for name, row in found(db).items()} == {text: text for text in texts}


def test_the_members_of_a_stored_json_object_keep_their_order(db: Database) -> None:
    bodies: list[Any] = [{"z": 1, "a": [1.0, 2], "m": {}}, {"b": 1, "a": 2}]

    with db.write() as session:
        ADD_THINGS.write(session, [a_thing(str(n), json=body) for n, body in enumerate(bodies)])
        stored = session.execute(sa.select(sa.cast(things.c.json, sa.Text)).order_by(things.c.name)).scalars().all()

    assert stored == [orjson.dumps(body).decode() for body in bodies]


def test_several_rows_are_inserted_with_all_that_the_statement_adds(db: Database) -> None:
    """With constants, with expressions of parameters, and with a clause for conflicts."""
    values = {
        "balance": sa.bindparam("half", type_=sa.Integer()) * 2,
        "id": sa.bindparam("number", type_=sa.Integer()) + 0,
    }
    doubled = Prepared(sa.insert(accounts).values(values))
    added = Prepared(
        Upsert(
            accounts,
            lambda insert: insert.values(balance=5).on_conflict_do_update(
                index_elements=["id"], set_={"balance": accounts.c.balance + insert.excluded.balance}
            ),
        ),
        ["id"],
    )

    with db.write() as session:
        doubled.write(session, [{"number": 2, "half": 10}, {"number": 3, "half": 20}])
        added.write(session, [{"id": 2}, {"id": 3}, {"id": 4}])
        balances = [tuple(row) for row in session.execute(sa.select(accounts).order_by(accounts.c.id))]

    assert balances == [(1, 0), (2, 25), (3, 45), (4, 5)]


def test_a_row_that_is_refused_refuses_all(db: Database) -> None:
    with db.write() as session:
        ADD_THINGS.write(session, [a_thing("there")])

    with pytest.raises(sa.exc.IntegrityError), db.write() as session:
        ADD_THINGS.write(session, [a_thing("new"), a_thing("there")])

    assert found(db).keys() == {"there"}


def test_postgresql_inserts_several_rows_by_one_statement(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    if db.is_sqlite:
        pytest.skip("SQLite has no round trips")
    monkeypatch.delattr(psycopg.Cursor, "executemany")

    with db.write() as session:
        ADD_THINGS.write(session, [a_thing("a"), a_thing("b")])

    assert found(db).keys() == {"a", "b"}


# What a connection keeps --------------------------------------------------------------------------------------------


def test_a_statement_works_on_after_it_has_failed(db: Database) -> None:
    for _ in range(2):
        with pytest.raises(sa.exc.IntegrityError), db.write() as session:
            INSERT.write(session, [{"id": 1, "balance": 7}])
    with db.write() as session:
        INSERT.write(session, [{"id": 2, "balance": 7}])
    with db.read() as connection:
        assert FIND.rows(connection, id=2) == [(2, 7)]


def test_a_statement_takes_values_of_other_types_than_before(db: Database) -> None:
    big = 2**31 - 1
    with db.write() as session:
        INSERT.write(session, [{"id": 2, "balance": None}])
        INSERT.write(session, [{"id": big, "balance": 1}])
    with db.read() as connection:
        assert [FIND.rows(connection, id=number) for number in (2, big, 3)] == [[(2, None)], [(big, 1)], []]
