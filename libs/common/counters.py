"""Totals that are maintained with every change and never counted by a scan, so that they cost the same at any size.

A counter is spread over shards, one picked by each process: processes that change the same total do not wait for one
another. Rows are written in the order of their names, and last in a transaction, so that no two can deadlock.
"""

import os
from collections.abc import Mapping
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from libs.common.db import shared, upsert

SHARDS = 16

counters = sa.Table(
    "counters",
    shared,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("shard", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("value", sa.BigInteger, nullable=False),
)


def add(session: Session, changes: Mapping[str, int]) -> None:
    """Add each change to its total, in the caller's transaction."""
    shard = os.getpid() % SHARDS
    rows = [{"name": name, "shard": shard, "value": value} for name, value in sorted(changes.items()) if value]
    if rows:
        insert = upsert(session, counters)
        statement = insert.on_conflict_do_update(
            index_elements=["name", "shard"], set_={"value": counters.c.value + insert.excluded.value}
        )
        session.connection().execute(statement, rows)


def read(session: Session, prefix: str = "") -> dict[str, int]:
    """The totals whose names begin with `prefix`, keyed by the rest of the name; zeros are left out."""
    query = sa.select(counters.c.name, sa.cast(sa.func.sum(counters.c.value), sa.BigInteger)).group_by(counters.c.name)
    if prefix:
        query = query.where(counters.c.name >= prefix, counters.c.name < prefix[:-1] + chr(ord(prefix[-1]) + 1))
    return {name[len(prefix) :]: total for name, total in session.execute(query) if total}


def read_amounts(session: Session, prefix: str) -> dict[str, Decimal]:
    """The same for totals of money, which are kept in ten-thousandths."""
    return {name: Decimal(total).scaleb(-4) for name, total in read(session, prefix).items()}


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """The changes that lead from what a resource added to the totals to what it adds now."""
    return {name: after.get(name, 0) - before.get(name, 0) for name in before.keys() | after.keys()}
