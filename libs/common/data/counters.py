"""Counters: totals that are updated with every change, so that reading one never scans a table.

A counter has one row per shard, and each process writes to one shard, so that processes that change the same total
seldom wait for each other. A transaction writes all its changes as its last statement, sorted by name, so that two
transactions cannot deadlock.
"""

import os
import random
from collections.abc import Mapping
from decimal import Decimal
from functools import cache

import sqlalchemy as sa

from libs.common.data import sums
from libs.common.data.columns import Text, shared
from libs.common.data.database import Reader, Session
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert
from libs.common.money import from_units

SHARDS = 16

counters = sa.Table(
    "counters",
    shared,
    sa.Column("name", Text(100), primary_key=True),
    sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.Column("value_carry", sa.BigInteger, nullable=False, server_default="0"),
)


_add = Prepared(
    Upsert(
        counters,
        lambda insert: insert.on_conflict_do_update(
            index_elements=["name", "shard"], set_=sums.add_up(counters, insert.excluded, "value")
        ),
    ),
    counters.c.keys(),
)


def add(session: Session, changes: Mapping[str, int]) -> None:
    """Add each change to its counter just before the caller's transaction commits."""
    totals = session.deferred.totals
    for name, change in changes.items():
        totals[name] += change
    session.before_commit(_write)


def _write(session: Session) -> None:
    mine = shard(os.getpid())
    changes = sorted((name, change) for name, change in session.deferred.totals.items() if change)
    _add.write(session, [{"name": name, "shard": mine, **sums.split("value", change)} for name, change in changes])


@cache
def shard(process: int) -> int:
    """The shard of a process: random, since workers in different containers often have the same process ids."""
    return random.randrange(SHARDS)


_totals = sa.select(
    counters.c.name,
    sa.func.sum(counters.c.value).label("value"),
    sa.func.sum(counters.c.value_carry).label("value_carry"),
).group_by(counters.c.name)
_read_all = Prepared(_totals)
_read_some = Prepared(_totals.where(counters.c.name >= sa.bindparam("first"), counters.c.name < sa.bindparam("end")))


def read(session: Reader, prefix: str = "") -> dict[str, int]:
    """The totals other than 0 whose names begin with `prefix`, keyed by the rest of the name."""
    if prefix:
        rows = _read_some.rows(session, first=prefix, end=prefix[:-1] + chr(ord(prefix[-1]) + 1))
    else:
        rows = _read_all.rows(session)
    totals = ((name, sums.join(*total)) for name, *total in rows)
    return {name[len(prefix) :]: total for name, total in totals if total}


def read_amounts(session: Reader, prefix: str) -> dict[str, Decimal]:
    """Like `read`, for totals of money, which are stored in units (money.py)."""
    return {name: from_units(total) for name, total in read(session, prefix).items()}


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """The changes of the totals when the contribution of a resource goes from `before` to `after`."""
    return {name: after.get(name, 0) - before.get(name, 0) for name in before.keys() | after.keys()}
