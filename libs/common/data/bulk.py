"""Any number of rows in one statement of PostgreSQL.

`executemany` binds, sends and executes once for each row. Here the rows are one parameter, a JSON array, which the
server reads as a table: that costs both sides a fraction, and the SQL is the same for any number of rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import visitors

ROWS = "rows"
"""The name of the parameter."""
MAX_LENGTH = 256 * 1024
"""Of the parameter in characters. For long texts the server's JSON parser takes longer than single statements do."""

Types = Mapping[str, sa.types.TypeEngine[Any]]
"""The type of each value of a row, by name."""


class Rows:
    """The rows of a statement: `table` is what it selects from, and `to_json` makes its parameter ROWS."""

    def __init__(self, types: Types, dialect: sa.Dialect):
        self.table: Any = (
            sa.func.json_to_recordset(sa.cast(sa.bindparam(ROWS, type_=sa.Text), sa.JSON))
            .table_valued(*(sa.column(name, type_) for name, type_ in types.items()), name="given")
            .render_derived(with_types=True)
        )
        # `str`, since SQLAlchemy names a column by a class of its own, which orjson does not take as a key.
        self._columns = {str(name): _to_json(type_, dialect) for name, type_ in types.items()}

    def to_json(self, rows: Iterable[Mapping[str, Any]]) -> str:
        """Raises TypeError for a row that lacks a value or has another one."""
        return orjson.dumps([self._row(row) for row in rows]).decode()

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        if row.keys() != self._columns.keys():
            wrong = sorted(row.keys() ^ self._columns.keys())
            raise TypeError(f"Not the values of a row, {', '.join(wrong)}: {', '.join(self._columns)}")
        return {name: convert(row[name]) if convert else row[name] for name, convert in self._columns.items()}


def insert_many(insert: Any, names: Sequence[str], dialect: sa.Dialect) -> tuple[Any, Rows]:
    """`INSERT ... SELECT` from Rows, made of an INSERT into the columns `names`, whose other values may contain
    `bindparam`s of a given type.
    """
    values = {getattr(column, "key", column): value for column, value in (insert._values or {}).items()}
    binds: list[Any] = [bind for value in values.values() for bind in visitors.iterate(value)]
    types = {name: insert.table.c[name].type for name in names} | {
        bind.key: bind.type for bind in binds if _is_parameter(bind)
    }
    rows = Rows(types, dialect)

    def replaced(element: Any, **kwargs: Any) -> Any:
        return rows.table.c[element.key] if _is_parameter(element) else None

    others = [visitors.replacement_traverse(value, {}, replaced) for value in values.values()]
    query = sa.select(*(rows.table.c[name] for name in names), *others)
    statement: Any = postgresql.insert(insert.table).from_select([*names, *values], query)
    statement._post_values_clause = insert._post_values_clause  # ON CONFLICT
    return statement, rows


def _is_parameter(element: Any) -> bool:
    return isinstance(element, sa.BindParameter) and element.required


def _to_json(type_: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Callable[[Any], Any] | None:
    """The conversion to a value of JSON. A column of JSON takes its value as it is."""
    stored = type_.dialect_impl(dialect)
    return None if isinstance(stored, sa.JSON) else stored.bind_processor(dialect)
