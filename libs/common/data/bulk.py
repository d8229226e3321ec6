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
        self, table: sa.Table, columns: Sequence[str], *, claims: str, inputs: Types | None = None, computed: Computed
    ):
        types = {**{name: table.c[name].type for name in columns}, **(inputs or {})}
        one = sqlite.insert(table).values(computed(lambda name: sa.bindparam(name, type_=types[name])))
        self._one = Prepared(one.on_conflict_do_nothing(index_elements=[claims]), list(types))
        rows = _rows(types)
        values = {**{name: rows.c[name] for name in columns}, **computed(lambda name: rows.c[name])}
        # An INSERT writes in the order of a function that it reads from, and so in the order of the arrays.
        many = postgresql.insert(table).from_select(list(values), sa.select(*values.values()))
        self._many = _Arrays(Prepared(many.on_conflict_do_nothing(index_elements=[claims])), types)

    def write(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert the rows in their order; returns how many were not skipped."""
        if not rows:
            return 0
        return self._one.write(session, rows) if _is_sqlite(session) else self._many.write(session, rows)


class _Arrays:
    """A statement that reads its rows from one array for each name."""

    def __init__(self, statement: Prepared, types: Types):
        self._statement, self._names = statement, types.keys()

    def write(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> int:
        return self._statement.write(session, [self._turned(rows)])

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
