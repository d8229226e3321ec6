"""The cost of queries does not depend on the number of orders."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from analytics_service import models, repository
from libs.common.data.database import Database
from libs.common.ids import new_id


class Explained:
    """Stands in for a connection, and records the query plan of each statement."""

    def __init__(self, connection: sa.Connection):
        self._connection, self.plan = connection, ""

    def execute(self, query: sa.Select[Any]) -> list[Any]:
        asked = query.compile(self._connection, compile_kwargs={"literal_binds": True})
        explain = "EXPLAIN QUERY PLAN" if self._connection.dialect.name == "sqlite" else "EXPLAIN"
        self.plan = "\n".join(str(row) for row in self._connection.exec_driver_sql(f"{explain} {asked}"))
        return []


@pytest.mark.parametrize(("by", "currency"), [("units", None), ("units", "EUR"), ("revenue", "EUR")])
def test_the_best_sellers_are_read_in_the_order_of_an_index(by: str, currency: str | None, db: Database) -> None:
    sold = [
        {"generation": 1, "product_id": new_id(), "currency": code, "units": n, "revenue": Decimal(n)}
        for n in range(1000)
        for code in ("EUR", "USD")
    ]
    names = [{"product_id": row["product_id"], "name": "x", "named_at": datetime.now(UTC)} for row in sold]
    with db.write() as session:
        session.execute(sa.insert(models.product_totals), sold)
        session.execute(sa.insert(models.product_names), names)
        session.execute(sa.text("ANALYZE"))
    with db.read() as connection:
        explained = Explained(connection)
        repository.find_top(explained, by, currency, 10)  # type: ignore[arg-type]
    assert "ix_product_totals_generation_" in explained.plan
    assert "Sort" not in explained.plan
    assert "TEMP B-TREE" not in explained.plan
