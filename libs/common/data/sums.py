"""Exact sums of more than 64 bits, the same on both engines: 900 orders of the highest total need that many.

A sum has two columns, `x` below `BASE` and `x_carry`; its value is `x_carry * BASE + x`.
"""

from typing import Any

import sqlalchemy as sa

BASE = 10**15
"""SUM() over 9000 values below this still fits into 64 bits."""


def split(name: str, number: int) -> dict[str, int]:
    """The values of both columns for a number, which may be negative."""
    carry, rest = divmod(number, BASE)
    return {name: rest, f"{name}_carry": carry}


def join(rest: int, carry: int) -> int:
    """The inverse of `split`."""
    return int(carry) * BASE + int(rest)


def add_up(table: Any, excluded: Any, name: str) -> dict[str, Any]:
    """The `set_` of `ON CONFLICT DO UPDATE` that adds the inserted number to the stored one."""
    base: sa.ColumnElement[int] = sa.literal_column(str(BASE), sa.BigInteger())
    carry = f"{name}_carry"
    rest = sa.type_coerce(table.c[name], sa.BigInteger) + sa.type_coerce(excluded[name], sa.BigInteger)
    return {name: rest % base, carry: table.c[carry] + excluded[carry] + rest // base}
