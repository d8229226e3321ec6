"""SQL constructs for both engines: a list of values as one parameter, upserts, the clock of the database."""

from collections.abc import Callable
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles

from libs.common.data.database import Session

_inserts: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class _Array(sa.types.TypeDecorator[Any]):
    """A list of values as one parameter: a JSON array on SQLite, an array on PostgreSQL."""

    impl = sa.String
    cache_ok = True

    def __init__(self, of: Any):
        super().__init__()
        self.of = of

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.String() if dialect.name == "sqlite" else postgresql.ARRAY(self.of))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return orjson.dumps(list(value)).decode() if dialect.name == "sqlite" else list(value)


class any_of(sa.sql.functions.FunctionElement[bool]):
    """`any_of(column, "ids")`: the column equals one of the values that are passed at execution as `ids`. Unlike `IN`,
    the SQL is the same for any number of values and is prepared once.
    """

    type = sa.Boolean()
    inherit_cache = True

    def __init__(self, column: sa.ColumnElement[Any], name: str):
        super().__init__(column, sa.bindparam(name, type_=_Array(column.type)))

    def self_group(self, against: Any = None) -> "any_of":
        """Keep SQLAlchemy from adding `= 1` to the expression, with which SQLite would not use an index."""
        return self


@compiles(any_of, "sqlite")
def _any_of_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    column, values = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608  # nosec


@compiles(any_of, "postgresql")
def _any_of_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    column, values = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"{column} = ANY({values})"


class each_of(sa.sql.functions.FunctionElement[str]):
    """`select(VALUE).select_from(each_of("ids").rows())`: one row for each of the strings that are passed at execution
    as `ids`.
    """

    type = sa.String()
    inherit_cache = True

    def __init__(self, name: str):
        super().__init__(sa.bindparam(name, type_=_Array(sa.String())))

    def rows(self) -> Any:
        """The rows, for a FROM clause; their only column is VALUE."""
        return self.alias("value")


VALUE: sa.ColumnElement[str] = sa.column("value", sa.String)


@compiles(each_of, "sqlite")
def _each_of_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kwargs)})"


@compiles(each_of, "postgresql")
def _each_of_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    # PostgreSQL names the column of a function in FROM after the alias.
    return f"unnest({compiler.process(element.clauses, **kwargs)})"


def upsert(session: Session, table: sa.Table) -> Any:
    """The `INSERT` of this engine's dialect, with `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return _inserts[session.get_bind().dialect.name](table)


class Upsert:
    """An upsert, built once for each dialect: `_add = Upsert(table, lambda insert: insert.on_conflict_...)`, then
    `session.execute(_add(session), rows)`.
    """

    def __init__(self, table: sa.Table, build: Callable[[Any], Any]):
        self.built = {name: build(insert(table)) for name, insert in _inserts.items()}

    def __call__(self, session: Session) -> Any:
        return self.built[session.get_bind().dialect.name]


def delete_some(session: Session, table: sa.Table, which: sa.ColumnElement[bool], limit: int) -> int:
    """Delete up to `limit` rows, skipping locked ones; returns how many were deleted."""
    key = table.primary_key.columns.values()
    chosen = sa.select(*key).where(which).limit(limit).with_for_update(skip_locked=True)
    deleted: Any = session.execute(sa.delete(table).where(sa.tuple_(*key).in_(chosen)))
    return int(deleted.rowcount)


class epoch(sa.sql.functions.FunctionElement[float]):
    """Seconds since 1970 by the clock of the database, so that leases do not depend on the clocks of the hosts."""

    type = sa.Double()
    inherit_cache = True


@compiles(epoch, "sqlite")
def _epoch_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch, "postgresql")
def _epoch_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())::float8"
