"""The order in which transactions lock rows on PostgreSQL, observed below SQLAlchemy, at the driver.

Two transactions that wait for each other's rows deadlock. They cannot when all lock in one order: the rows of a table
by their key, and the tables in an order without cycles. `watch` records each lock of each transaction of a process that
may wait for another one; `faults` says what breaks the order.

A statement that locks several rows in no defined order, such as an UPDATE with a condition, may only touch rows that
its transaction has locked before. `SKIP LOCKED` never waits, a new row is invisible to others, and rows under a lease
are changed only by its holder.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import psycopg

from libs.common.data.bulk import ROWS

ROOT = Path(__file__).resolve().parents[1]
KEYS = ("id", "order_id", "key", "event_id", "seq", "name", "product_id", "service")
"""Columns that identify a row; the first one in a statement counts."""

UNIQUE = ("order_id", *KEYS)
"""Columns that a new row may share with another one, where the statement does not say which."""

FIRST = ("generations",)
"""Tables of one row that every transaction of their service locks before it writes, so that writers take turns."""

_table = r'"?(?P<table>\w+)"?'
_select = re.compile(rf"FROM {_table}\b.*\bFOR (?:NO KEY )?(?:UPDATE|SHARE)(?P<skips> SKIP LOCKED)?\s*$", re.DOTALL)
_change = re.compile(rf"^\s*(?:UPDATE|DELETE FROM) {_table}\b(?P<rest>.*)$", re.DOTALL)
_one = re.compile(r"\bWHERE (?:\w+\.)?(?P<column>\w+) = %\((?P<parameter>\w+)\)s")
_many = re.compile(r"\bWHERE (?:\w+\.)?(?P<column>\w+) (?:= ANY\(|IN \()%\((?P<parameter>\w+)\)s")
_upsert = re.compile(rf"^\s*INSERT INTO {_table} .*ON CONFLICT(?: \((?P<column>\w+))?", re.DOTALL)

_cte = re.compile(
    rf"^\s*WITH locked AS\s*\(SELECT .*?FROM {_table}\s.*?\.(?P<column>\w+) = ANY ?\(%\((?P<parameter>\w+)\)s"
    r".*? ORDER BY \w+\.(?P=column) FOR UPDATE\)",
    re.DOTALL,
)
"""A statement that first locks the rows which it changes, in their order."""

Lock = tuple[str, Any]
"""A table and the key of a row."""


class _Transaction:
    def __init__(self) -> None:
        self.held: dict[str, list[Any]] = {}
        """Table → keys, in the order in which they were locked; the tables, too."""
        self.unwaited: dict[str, set[Any]] = defaultdict(set)
        """Table → keys that were locked by SKIP LOCKED, which waits for nobody; others may wait for them."""


_open: "WeakKeyDictionary[psycopg.Connection[Any], _Transaction]" = WeakKeyDictionary()
_edges: dict[str, set[str]] = defaultdict(set)
"""Table → tables that were locked after it, since the last call of `faults`."""
_known: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
"""The same by service, of all tests."""
_faults: list[str] = []


def watch() -> None:
    """Record the locks of this process from now on."""
    if psycopg.Cursor.execute.__module__ == __name__:
        return
    execute, executemany = psycopg.Cursor.execute, psycopg.Cursor.executemany
    commit, rollback = psycopg.Connection.commit, psycopg.Connection.rollback

    def watched(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        _before(self.connection, query, [params or {}])
        result = execute(self, query, params, **options)
        _after(self, query)
        return result

    def watched_many(self: Any, query: Any, params_seq: Sequence[Any], **options: Any) -> None:
        _before(self.connection, query, params_seq)
        executemany(self, query, params_seq, **options)

    def ended(self: Any) -> None:
        _end(self)
        commit(self)

    def undone(self: Any) -> None:
        _end(self)
        rollback(self)

    watched.__module__ = __name__
    psycopg.Cursor.execute, psycopg.Cursor.executemany = watched, watched_many  # type: ignore[method-assign,assignment]
    psycopg.Connection.commit, psycopg.Connection.rollback = ended, undone  # type: ignore[method-assign]


def faults(service: str) -> list[str]:
    """The faults since the last call, in a test of this service."""
    edges = _known[service]
    for table, later in _edges.items():
        edges[table] |= later
    found = [*_faults, *_circles(edges)]
    _edges.clear()
    _faults.clear()
    return found


def _is_ours() -> bool:
    """Whether the product runs the statement, and not the set-up of a test."""
    frame = sys._getframe(2)
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and "site-packages" not in path.parts and path != Path(__file__):
            parts = path.relative_to(ROOT).parts
            return parts[0] != "tests" and "migrations" not in parts  # which run under a lock of their own
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _before(connection: Any, query: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Locks that a statement names in its parameters."""
    sql = str(query)
    if "SKIP LOCKED" in sql or "lease_token = " in sql or _is_alone(connection) or not _is_ours():
        return
    if cte := _cte.match(sql):
        _lock(connection, cte["table"], sorted(key for row in rows for key in row[cte["parameter"]]), sql)
    elif change := _change.match(sql):
        if one := _one.search(change["rest"]):
            _lock(connection, change["table"], [row[one["parameter"]] for row in rows], sql)
        elif many := _many.search(change["rest"]):
            keys = [key for row in rows for key in _several(row, many["parameter"])]
            _lock_unordered(connection, change["table"], keys, sql)
        else:
            _faults.append(f"locks rows of {change['table']} that it does not name: {_short(sql)}")
    elif upsert := _upsert.match(sql):
        # It waits for a transaction that has inserted the same key and has not committed; DO UPDATE also locks an
        # existing row.
        column = upsert["column"]
        keys = [key for row in rows for key in _inserted(row, [column] if column else UNIQUE)]
        _lock(connection, f"{upsert['table']} by {column or 'its key'}", keys, sql)
        if "DO UPDATE" in sql:
            _lock(connection, upsert["table"], keys, sql)


def _after(cursor: Any, query: Any) -> None:
    """Locks that a query has found."""
    sql = str(query)
    found = _select.search(sql)
    if not found or not cursor.description or not _is_ours():
        return
    names = [column.name for column in cursor.description]
    if found["table"] in FIRST:
        _lock(cursor.connection, found["table"], ["the row"], sql)
        return
    key = next((names.index(name) for name in KEYS if name in names), None)
    if key is None:
        return
    result = cursor.pgresult
    keys = [result.get_value(row, key).decode("utf-8", "replace") for row in range(result.ntuples)]
    if found["skips"]:  # it has not waited, and later statements will not wait for these rows
        _transaction(cursor.connection).unwaited[found["table"]].update(map(_comparable, keys))
    else:
        _lock(cursor.connection, found["table"], keys, sql)


def _is_alone(connection: Any) -> bool:
    """Whether its transaction holds a row that every writer locks first."""
    return any(_transaction(connection).held.get(table) for table in FIRST)


def _inserted(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The keys of the rows of an INSERT, whose rows are one parameter where it has many (libs/common/data/bulk.py)."""
    if isinstance(row.get(ROWS), str):
        return [key for one in json.loads(row[ROWS]) for key in _inserted(one, names)]
    for name in names:
        if f"{name}s" in row:  # one parameter for all rows, which the statement sorts
            return sorted(row[f"{name}s"])
        numbered = {int(n[len(name) + 2 :]): v for n, v in row.items() if re.fullmatch(rf"{name}__\d+", n)}
        if found := [numbered[number] for number in sorted(numbered)] or ([row[name]] if name in row else []):
            return [key for key in found if key is not None]
    return []


def _several(row: Mapping[str, Any], parameter: str) -> list[Any]:
    given = row[parameter]
    if isinstance(given, list | tuple):
        return list(given)
    stem = re.sub(r"_\d+$", "", parameter)
    return [value for name, value in row.items() if re.fullmatch(rf"{re.escape(stem)}_\d+", name)]


def _lock(connection: Any, table: str, keys: Sequence[Any], sql: str) -> None:
    fresh = _fresh(connection, table, keys)
    if not fresh:
        return
    held = _rows(connection, table)
    for key in fresh:
        if held and type(held[-1]) is type(key) and key < max(held):
            _faults.append(f"locks {table} {key} after {max(held)}: {_short(sql)}")
        held.append(key)


def _lock_unordered(connection: Any, table: str, keys: Sequence[Any], sql: str) -> None:
    fresh = sorted(_fresh(connection, table, keys))
    if len(fresh) > 1:
        _faults.append(f"locks {len(fresh)} rows of {table} in no order: {_short(sql)}")
    if fresh:
        _rows(connection, table).extend(fresh)


def _fresh(connection: Any, table: str, keys: Sequence[Any]) -> list[Any]:
    """The keys that the transaction has not locked before."""
    mine = _transaction(connection)
    return [
        k
        for k in dict.fromkeys(map(_comparable, keys))
        if k not in mine.held.get(table, []) and k not in mine.unwaited.get(table, ())
    ]


def _rows(connection: Any, table: str) -> list[Any]:
    """The keys of the table that the transaction has waited for, to which one is added."""
    mine = _transaction(connection)
    if table not in mine.held:
        for earlier in {*mine.held, *mine.unwaited} - {table}:
            _edges[earlier].add(table)
        mine.held[table] = []
    return mine.held[table]


def _transaction(connection: Any) -> _Transaction:
    return _open.setdefault(connection, _Transaction())


def _end(connection: Any) -> None:
    _open.pop(connection, None)


def _comparable(key: Any) -> Any:
    return key if isinstance(key, int | float) else str(key)


def _circles(edges: Mapping[str, set[str]]) -> list[str]:
    """Tables that are locked in one order here and in the other there."""
    return [
        f"locks {first} before {second}, and {second} before {first}"
        for first, later in edges.items()
        for second in later
        if first in _reachable(edges, second)
    ]


def _reachable(edges: Mapping[str, set[str]], table: str) -> set[str]:
    reached: set[str] = set()
    queue = [table]
    while queue:
        following = edges.get(queue.pop(), set()) - reached
        reached |= following
        queue += following
    return reached


def _short(sql: str) -> str:
    return " ".join(sql.split())[:160]
