"""Column types for both engines, and the naming convention for constraints and indexes."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from libs.common.money import from_units, to_units

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
shared = sa.MetaData(naming_convention=NAMING)
"""The tables that every service has: outbox, inbox, failures, idempotency keys, counters, erasures, probes."""

Id = sa.String(36).with_variant(postgresql.UUID(as_uuid=False), "postgresql")
"""A UUID in its text form; native on PostgreSQL."""

Json = sa.JSON(none_as_null=True)
"""JSON, not JSONB: a stored response must be replayed byte for byte, and JSONB does not keep the order of members."""


def Text(length: int) -> sa.types.TypeEngine[str]:
    """Text that both engines sort by code point."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


class Moment(sa.types.TypeDecorator[datetime]):
    """A timezone-aware datetime in UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def bind_processor(self, dialect: sa.Dialect) -> Any:
        """On SQLite the same text as SQLAlchemy writes, in a fraction of the time."""
        return _to_text if dialect.name == "sqlite" else super().bind_processor(dialect)

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        return _from_text if dialect.name == "sqlite" else super().result_processor(dialect, coltype)


def _to_text(value: datetime | None) -> str | None:
    if value is None:
        return None
    in_utc = value if value.tzinfo is UTC else value.astimezone(UTC)
    return in_utc.isoformat(" ", "microseconds")[:26]  # without the offset


def _from_text(value: str | None) -> datetime | None:
    # Five times as fast as replacing the time zone of what is read.
    return None if value is None else datetime.fromisoformat(value + "Z")


class Amount(sa.types.TypeDecorator[Decimal]):
    """An exact amount, stored as an integer of ten-thousandths (money.py), since SQLite has no decimal type."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else to_units(value)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> Decimal | None:
        return None if value is None else from_units(value)
