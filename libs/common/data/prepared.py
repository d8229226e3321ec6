"""Statements of the hot paths, compiled once by SQLAlchemy and executed on the driver's cursor.

Executing a statement through SQLAlchemy Core costs ten times what SQLite needs to run it. A Prepared statement is
compiled once for each engine; an execution only converts the parameters and the columns, by the SQLAlchemy types.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from libs.common.data.bulk import MAX_LENGTH, ROWS, Rows, insert_many
from libs.common.data.database import Reader, Session
from libs.common.data.statements import Upsert

Convert = Callable[[Any], Any] | None


@dataclass
class _Compiled:
    sql: str
    parameters: list[tuple[str, Convert]]
    constants: dict[str, Any]
    given: frozenset[str]
    """The names of the parameters that each execution must pass."""
    positional: bool
    columns: list[tuple[str, Convert]] | None = None
    """Name and conversion of each column; None until the driver has returned the column types of the first result."""


class Prepared:
    """A statement whose values are `bindparam`s; for an INSERT or an Upsert, `names` are the columns that are passed at
    execution. It runs on what `Database.read` or `Database.write` yields. Raises the same errors as SQLAlchemy, and
    TypeError for a missing or unknown parameter.
    """

    def __init__(self, statement: sa.Executable | Upsert, names: Sequence[str] = ()):
        self._statement, self._names = statement, list(names)
        self._is_insert = isinstance(statement, (sa.Insert, Upsert))
        self._compiled: dict[str, _Compiled] = {}
        self._many: tuple[_Compiled, Rows] | None = None

    def rows(self, session: Reader, **parameters: Any) -> list[tuple[Any, ...]]:
        """Execute it once; returns the rows as tuples."""
        return self._fetch(session, parameters)[0]

    def mappings(self, session: Reader, **parameters: Any) -> list[dict[str, Any]]:
        """Execute it once; returns the rows as dictionaries by column name."""
        rows, columns = self._fetch(session, parameters)
        names = [name for name, _ in columns]
        return [dict(zip(names, row)) for row in rows]  # noqa: B905  # a third faster, and the lengths agree

    def one(self, session: Reader, **parameters: Any) -> dict[str, Any] | None:
        """Execute it once; returns the first row as a dictionary, or None."""
        return next(iter(self.mappings(session, **parameters)), None)

    def write(self, session: Reader, rows: Iterable[Mapping[str, Any]]) -> int:
        """Execute it once for each row of parameters, if there are any; returns how many rows of the table changed."""
        connection = _connection(session)
        compiled = self._for(connection.dialect)
        rows = list(rows)
        if len(rows) > 1 and self._is_insert and connection.dialect.name == "postgresql":
            together, many = self._for_many(connection.dialect)
            text = many.to_json(rows)
            if len(text) <= MAX_LENGTH:
                return int(_run(connection, together.sql, _given(together, {ROWS: text})))
        given = [_given(compiled, row) for row in rows]
        if not given:
            return 0
        if len(given) == 1:
            return int(_run(connection, compiled.sql, given[0]))
        return int(_run(connection, compiled.sql, given, many=True))

    def _fetch(self, session: Reader, parameters: dict[str, Any]) -> tuple[list[Any], list[tuple[str, Convert]]]:
        connection = _connection(session)
        compiled = self._for(connection.dialect)
        cursor, found = _run(connection, compiled.sql, _given(compiled, parameters), fetch=True)
        if compiled.columns is None:
            compiled.columns = _columns(self._on(connection.dialect), connection.dialect, cursor.description)
        columns = compiled.columns
        converts = [(place, convert) for place, (_, convert) in enumerate(columns) if convert]
        return [_converted(row, converts) for row in found] if converts else found, columns

    def _for(self, dialect: sa.Dialect) -> _Compiled:
        if dialect.name not in self._compiled:
            self._compiled[dialect.name] = _compile(self._on(dialect), self._names, dialect)
        return self._compiled[dialect.name]

    def _for_many(self, dialect: sa.Dialect) -> tuple[_Compiled, Rows]:
        """The statement that inserts several rows at once, and their table."""
        if self._many is None:
            statement, rows = insert_many(self._on(dialect), self._names, dialect)
            self._many = _compile(statement, [], dialect), rows
        return self._many

    def _on(self, dialect: sa.Dialect) -> Any:
        return self._statement.built[dialect.name] if isinstance(self._statement, Upsert) else self._statement


def _compile(statement: Any, names: list[str], dialect: sa.Dialect) -> _Compiled:
    compiled: Any = statement.compile(dialect=dialect, column_keys=names or None)
    parameters, constants, given = [], {}, set()
    binds = {name: bind for bind, name in compiled.bind_names.items()}
    for name in compiled.positiontup if compiled.positional else binds:
        convert = binds[name].type.dialect_impl(dialect).bind_processor(dialect)
        if binds[name].required or name in names:
            parameters.append((name, convert))
            given.add(name)
        else:
            constants[name] = convert(binds[name].value) if convert else binds[name].value
            parameters.append((name, None))
    return _Compiled(str(compiled), parameters, constants, frozenset(given), compiled.positional)


def _columns(statement: Any, dialect: sa.Dialect, description: Sequence[Any]) -> list[tuple[str, Convert]]:
    shown = statement.exported_columns if isinstance(statement, sa.Select) else statement._returning
    types = [column.type.dialect_impl(dialect) for column in shown]
    return [(c.key, t.result_processor(dialect, d[1])) for c, t, d in zip(shown, types, description, strict=True)]


def _given(compiled: _Compiled, parameters: Mapping[str, Any]) -> Any:
    if parameters.keys() != compiled.given:
        wrong = sorted(parameters.keys() ^ compiled.given)
        raise TypeError(f"Not the parameters of this statement, {', '.join(wrong)}: {compiled.sql}")
    values = {**compiled.constants, **parameters} if compiled.constants else parameters
    if compiled.positional:
        return [convert(values[name]) if convert else values[name] for name, convert in compiled.parameters]
    return {name: convert(values[name]) if convert else values[name] for name, convert in compiled.parameters}


def _converted(row: Sequence[Any], converts: list[tuple[int, Callable[[Any], Any]]]) -> tuple[Any, ...]:
    values = list(row)
    for place, convert in converts:
        values[place] = convert(values[place])
    return tuple(values)


def _connection(session: Reader) -> sa.Connection:
    return session.connection() if isinstance(session, Session) else session


def _run(connection: sa.Connection, sql: str, parameters: Any, *, many: bool = False, fetch: bool = False) -> Any:
    """Execute the SQL; returns how many rows changed, or with `fetch` the cursor and the rows of the result."""
    cursor = None
    try:
        cursor = _cursor(connection, sql)
        if many:
            cursor.executemany(sql, parameters)
        else:
            cursor.execute(sql, parameters)
        return (cursor, cursor.fetchall()) if fetch else cursor.rowcount
    except connection.dialect.loaded_dbapi.Error as exc:
        connection._handle_dbapi_exception(exc, sql, parameters, cursor, None)


def _cursor(connection: sa.Connection, sql: str) -> Any:
    """A cursor for this statement. psycopg's is kept with its connection: how to convert the parameters and the columns
    is a third of the cost of a statement, and it is found out once.
    """
    pooled = connection.connection
    if connection.dialect.name == "sqlite":
        return pooled.cursor()
    cursors = pooled.info.setdefault("cursors", {})
    cursor = cursors.get(sql)
    if cursor is None or cursor.closed:  # SQLAlchemy closes the cursor of a statement that failed
        cursor = cursors[sql] = pooled.cursor()
    return cursor
