"""What a Prepared takes from a compiled statement; how it works on each engine, tests/integration/libs shows."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from libs.common.data.columns import Moment
from libs.common.data.prepared import Prepared

things = sa.Table(
    "things", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("made_at", Moment())
)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        things.create(connection)
        yield connection
    engine.dispose()


def test_parameters_come_in_the_order_and_columns_in_the_types_of_the_statement(connection: sa.Connection) -> None:
    Prepared(sa.insert(things), ["made_at", "id"]).write(connection, [{"id": 1, "made_at": NOON}])
    found = sa.select(things.c.made_at).where(things.c.made_at == sa.bindparam("at"), things.c.id == sa.bindparam("id"))

    assert Prepared(found).rows(connection, id=1, at=NOON) == [(NOON,)]


def test_what_a_statement_returns_has_its_types(connection: sa.Connection) -> None:
    add = Prepared(sa.insert(things).returning(things.c.made_at), ["id", "made_at"])

    assert add.mappings(connection, id=1, made_at=NOON) == [{"made_at": NOON}]


def test_a_failure_of_the_driver_is_raised_as_sqlalchemy_would(connection: sa.Connection) -> None:
    add = Prepared(sa.insert(things), ["id", "made_at"])

    with pytest.raises(sa.exc.IntegrityError, match="UNIQUE"):
        add.write(connection, [{"id": 1, "made_at": NOON}, {"id": 1, "made_at": NOON}])
