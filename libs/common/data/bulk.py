"""Writes of many rows with one statement, which is prepared once for any number of rows.

On PostgreSQL the rows are one array for each column, so that a batch takes one round trip. SQLite runs in the process:
there the statement is executed once for each row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from libs.common.data.database import Session
from libs.common.data.prepared import Prepared

Types = Mapping[str, Any]
"""The type of each value of a row, by name."""
Computed = Callable[[Callable[[str], Any]], Mapping[str, Any]]
"""Called with a function that gives the value of a name in the current row; returns SQL expressions by column."""


class BulkInsert:
    """`INSERT` of rows with these columns, which skips a row whose value of the unique column `claims` is taken.
    `computed` gives further columns from the `inputs` of a row, which are not columns themselves.
    """

    def __init__(
        self,
        table: sa.Table,
        columns: Sequence[str],
        *,
        claims: str | None = None,
        inputs: Types | None = None,
        computed: Computed = lambda given: {},
    ):
        types = {**{name: table.c[name].type for name in columns}, **(inputs or {})}
        one = sqlite.insert(table).values(computed(lambda name: sa.bindparam(name, type_=types[name])))
        rows = _rows(types)
        values = {**{name: rows.c[name] for name in columns}, **computed(lambda name: rows.c[name])}
        # An INSERT writes in the order of a function that it reads from, and so in the order of the arrays.
        many = postgresql.insert(table).from_select(list(values), sa.select(*values.values()))
        if claims:
            one = one.on_conflict_do_nothing(index_elements=[claims])
            many = many.on_conflict_do_nothing(index_elements=[claims])
        self._one, self._many = Prepared(one, list(types)), _Arrays(Prepared(many), types)

    def write(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert the rows in their order; returns how many were not skipped."""
        if not rows:
            return 0
        return self._one.write(session, rows) if _is_sqlite(session) else self._many.write(session, rows)


class BulkUpdate:
    """`UPDATE` of these columns of the rows that have the given ids and meet the condition `only`."""

    def __init__(self, table: sa.Table, columns: Sequence[str], *, only: sa.ColumnElement[bool] | None = None):
        types = {name: table.c[name].type for name in ("id", *columns)}
        condition = [] if only is None else [only]
        here = sa.and_(table.c.id == sa.bindparam("_id"), *condition)
        self._one = Prepared(sa.update(table).where(here).values({n: sa.bindparam(f"_{n}") for n in columns}))
        rows = _rows(types)
        # In the order of the ids, in which every transaction locks them: the UPDATE itself joins in any order.
        mine = sa.select(table.c.id).where(table.c.id == sa.any_(_array("id", types["id"])), *condition)
        locked = mine.order_by(table.c.id).with_for_update().cte("locked")
        many = (
            sa.update(table)
            .where(table.c.id == locked.c.id, table.c.id == rows.c.id)
            .values({name: rows.c[name] for name in columns})
            .returning(table.c.id)
        )
        self._many = _Arrays(Prepared(many), types)

    def write(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> set[str]:
        """Update the rows; returns the ids of those that met the condition."""
        if not rows:
            return set()
        if not _is_sqlite(session):
            return {changed for (changed,) in self._many.rows(session, rows)}
        named = ({f"_{name}": value for name, value in row.items()} for row in rows)
        return {row["_id"] for row in named if self._one.write(session, [row])}


class _Arrays:
    """A statement that reads its rows from one array for each name."""

    def __init__(self, statement: Prepared, types: Types):
        self._statement, self._names = statement, types.keys()

    def write(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> int:
        return self._statement.write(session, [self._turned(rows)])

    def rows(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        return self._statement.rows(session, **self._turned(rows))

    def _turned(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        for row in rows:
            if row.keys() != self._names:
                raise TypeError(f"Not the values of a row: {', '.join(sorted(row.keys() ^ self._names))}")
        return {name: [row[name] for row in rows] for name in self._names}


def _rows(types: Types) -> Any:
    columns = [sa.column(name, type_) for name, type_ in types.items()]
    arrays = [_array(name, type_) for name, type_ in types.items()]
    return sa.func.unnest(*arrays).table_valued(*columns, name="new").render_derived()


def _array(name: str, type_: Any) -> sa.BindParameter[Any]:
    # One dimension: a value may itself be a list.
    return sa.bindparam(name, type_=postgresql.ARRAY(type_, dimensions=1))


def _is_sqlite(session: Session) -> bool:
    return session.connection().dialect.name == "sqlite"
