"""Sums that may outgrow the integers of a database, exact and alike on both engines: 900 orders of the highest total
need more than 64 bits. A sum has two columns: `x` holds what is below `BASE`, and `x_carry` how many times `BASE` is to
be added to it.
"""

from typing import Any

import sqlalchemy as sa

BASE = 10**15
"""SQL can still add up 9000 columns that are below it."""


def split(name: str, number: int) -> dict[str, int]:
    """The values of both columns for this number, which may be negative."""
    carry, rest = divmod(number, BASE)
    return {name: rest, f"{name}_carry": carry}


def join(rest: int, carry: int) -> int:
    """The number that both columns hold."""
    return int(carry) * BASE + int(rest)


def add_up(table: Any, excluded: Any, name: str) -> dict[str, Any]:
    """What `ON CONFLICT DO UPDATE` sets to add the number that was to be inserted."""
    base: sa.ColumnElement[int] = sa.literal_column(str(BASE), sa.BigInteger())
    carry = f"{name}_carry"
    rest = sa.type_coerce(table.c[name], sa.BigInteger) + sa.type_coerce(excluded[name], sa.BigInteger)
    return {name: rest % base, carry: table.c[carry] + excluded[carry] + rest // base}
