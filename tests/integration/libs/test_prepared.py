"""Statements that are compiled once and run by the driver."""

import pytest
import sqlalchemy as sa

from libs.common.data.database import Database
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert
from tests.integration.libs.tables import accounts, balance

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
