"""Updates of many rows, each with its own values."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from libs.common.data.bulk import ROWS, Rows
from libs.common.data.database import Session
from libs.common.data.prepared import Prepared
from libs.common.data.statements import any_of


class BulkUpdate:
    """`UPDATE` of these columns of the rows that have the given ids and meet the condition `only`: one statement on
    PostgreSQL, one for each row on SQLite, which runs in the process.
    """

    def __init__(self, table: sa.Table, columns: Sequence[str], *, only: sa.ColumnElement[bool] | None = None):
        self._table, self._columns = table, tuple(columns)
        self._condition = [] if only is None else [only]
        here = sa.and_(table.c.id == sa.bindparam("_id"), *self._condition)
        self._one = Prepared(sa.update(table).where(here).values({n: sa.bindparam(f"_{n}") for n in columns}))

    def write(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> set[str]:
        """Update the rows; returns the ids of those that met the condition."""
        if not rows:
            return set()
        if session.connection().dialect.name == "postgresql":
            statement, given = self._many
            ids = sorted(row["id"] for row in rows)
            return {changed for (changed,) in statement.rows(session, ids=ids, **{ROWS: given.to_json(rows)})}
        named = ({f"_{name}": value for name, value in row.items()} for row in rows)
        return {row["_id"] for row in named if self._one.write(session, [row])}

    @cached_property
    def _many(self) -> tuple[Prepared, Rows]:
        table = self._table
        given = Rows({name: table.c[name].type for name in ("id", *self._columns)}, postgresql.psycopg.dialect())
        # In the order of the ids, in which every transaction locks them: the UPDATE itself joins in any order.
        mine = sa.select(table.c.id).where(any_of(table.c.id, "ids"), *self._condition)
        locked = mine.order_by(table.c.id).with_for_update().cte("locked")
        update = (
            sa.update(table)
            .where(table.c.id == locked.c.id, table.c.id == given.table.c.id)
            .values({name: given.table.c[name] for name in self._columns})
            .returning(table.c.id)
        )
        return Prepared(update), given
