"""Totals that are maintained with every change and never counted by a scan, so that they cost the same at any size.

A counter is spread over shards, one drawn by each process: processes that change the same total seldom wait for one
another. All changes of a transaction are written together as its last statement, in the order of their names, so that
no two transactions can deadlock.
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
    """Add each change to its total when the caller's transaction ends."""
    session.deferred.totals.update(changes)
    session.before_commit(_write)


def _write(session: Session) -> None:
    mine = shard(os.getpid())
    changes = sorted((name, change) for name, change in session.deferred.totals.items() if change)
    _add.write(session, [{"name": name, "shard": mine, **sums.split("value", change)} for name, change in changes])


@cache
def shard(process: int) -> int:
    """The shard of a process, drawn after the fork. The workers of all containers may have the same few ids."""
    return random.randrange(SHARDS)


def read(session: Reader, prefix: str = "") -> dict[str, int]:
    """The totals whose names begin with `prefix`, keyed by the rest of the name; zeros are left out."""
    query = sa.select(counters.c.name, sa.func.sum(counters.c.value), sa.func.sum(counters.c.value_carry))
    if prefix:
        query = query.where(counters.c.name >= prefix, counters.c.name < prefix[:-1] + chr(ord(prefix[-1]) + 1))
    totals = ((name, sums.join(*total)) for name, *total in session.execute(query.group_by(counters.c.name)))
    return {name[len(prefix) :]: total for name, total in totals if total}


def read_amounts(session: Reader, prefix: str) -> dict[str, Decimal]:
    """The same for totals of money, which are kept in units (money.py)."""
    return {name: from_units(total) for name, total in read(session, prefix).items()}


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """The changes that lead from what a resource added to the totals to what it adds now."""
    return {name: after.get(name, 0) - before.get(name, 0) for name in before.keys() | after.keys()}
