"""Every query of the analytics service.

Writers take turns: each locks the one row of `generations` first. The bucket of the current hour would make them wait
for each other anyway, and so no two writers can deadlock, whatever a batch changes. Readers never wait. They read the
live generation inside their one statement, so that no switch comes between.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, cast  # noqa: TID251 - the columns of a row of SQLAlchemy

import sqlalchemy as sa

from analytics_service.models import (
    TOTALS,
    AnyRow,
    BestSellerRow,
    BucketRow,
    DeliveryRow,
    Kind,
    ProductNameRow,
    Snapshot,
    SnapshotRow,
    Superseded,
    Totals,
    delivery_totals,
    generations,
    notifications,
    order_buckets,
    orders,
    product_names,
    product_totals,
    snapshots,
)
from libs.common.data import sums
from libs.common.data.database import Reader, Session
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert, any_of, delete_some, upsert
from libs.common.money import from_units, to_units


def _sums(insert: Any) -> dict[str, Any]:
    """The SET clause that adds to the columns of a total."""
    table = insert.table
    added = {c.name: c + insert.excluded[c.name] for c in table.c if not c.primary_key}
    return added | (sums.add_up(table, insert.excluded, "revenue") if "revenue" in table.c else {})


# Built once: building a statement costs more than executing it.
_lock = Prepared(sa.select(generations.c.live, generations.c.building).with_for_update())
_find = {table: Prepared(sa.select(table).where(any_of(table.c.id, "ids"))) for table in (orders, notifications)}
_replace = {table: Prepared(Upsert(table, lambda insert: insert.on_conflict_do_update(
    index_elements=["id"], set_={c.name: c for c in insert.excluded if c.name != "id"}
)), table.c.keys()) for table in (orders, notifications)}  # fmt: skip
_add = {table: Prepared(Upsert(table, lambda insert: insert.on_conflict_do_update(
    index_elements=insert.table.primary_key.columns.keys(),
    set_=_sums(insert),
)), table.c.keys()) for table in TOTALS.values()}  # fmt: skip
_rename = Prepared(Upsert(product_names, lambda insert: insert.on_conflict_do_update(
    index_elements=["product_id"], where=product_names.c.named_at < insert.excluded.named_at,
    set_={"named_at": insert.excluded.named_at, "name": insert.excluded.name},
)), product_names.c.keys())  # fmt: skip
_live = sa.select(generations.c.live).scalar_subquery()


def lock_generations(session: Session) -> list[int]:
    """The generations that a write counts in: the live one and, after it, the one that is being built."""
    row = _lock.rows(session)[0]
    return [generation for generation in row if generation is not None]


def find_rows(session: Session, kind: Kind[AnyRow], ids: Iterable[str]) -> dict[str, AnyRow]:
    """The rows of these orders or notifications, by id."""
    rows = cast(list[AnyRow], _find[kind.table].mappings(session, ids=sorted(ids)))
    return {row["id"]: row for row in rows}


def write_rows(session: Session, kind: Kind[AnyRow], rows: Mapping[str, AnyRow]) -> None:
    """Insert or replace the rows."""
    _replace[kind.table].write(session, rows.values())


def add_totals(session: Session, totals: Totals) -> None:
    """Add to the totals that are stored."""
    for name, table in TOTALS.items():
        names = [column.name for column in table.c if column.name != "revenue_carry"]
        changed = [(*key, *added) for (of, *key), added in totals.items() if of == name and any(added)]
        rows: list[dict[str, Any]] = [dict(zip(names, values, strict=True)) for values in changed]
        _add[table].write(
            session, [row | _revenue_columns(row["revenue"]) if "revenue" in row else row for row in rows]
        )


def _revenue_columns(amount: Decimal) -> dict[str, Any]:
    columns = sums.split("revenue", to_units(amount))
    return columns | {"revenue": from_units(columns["revenue"])}


def _revenue(row: Any) -> Decimal:
    """The revenue of a bucket or a product."""
    return from_units(sums.join(to_units(row.revenue), row.revenue_carry))


def write_names(session: Session, names: Iterable[ProductNameRow]) -> None:
    """Keep the latest name of each product."""
    _rename.write(session, names)


# A rebuild ---------------------------------------------------------------------------------------------------------


def open_generation(session: Session) -> int:
    """Begin a new generation, which replaces one that another rebuild may be building."""
    building = max(lock_generations(session)) + 1
    session.execute(sa.update(generations).values(building=building))
    return building


def switch(session: Session, generation: int) -> None:
    """Let readers see what was built; raises Superseded when another rebuild has begun meanwhile."""
    if lock_generations(session)[1:] != [generation]:
        raise Superseded("Another rebuild has begun, and the newest one counts.")
    session.execute(sa.update(generations).values(live=generation, building=None))


def sweep(session: Session, limit: int) -> int:
    """Delete rows and totals that are no longer read, up to `limit` of each table; returns how many."""
    live, *building = lock_generations(session)
    deleted = sum(delete_some(session, table, table.c.generation < live, limit) for table in (orders, notifications))
    for table in TOTALS.values():
        generation = table.c.generation
        given_up = sa.and_(generation > live, generation < building[0]) if building else sa.false()
        deleted += delete_some(session, table, sa.or_(generation < live, given_up), limit)
    return deleted


# Answers -----------------------------------------------------------------------------------------------------------


def find_live(session: Reader) -> int:
    """The generation that is read."""
    return session.scalar(sa.select(generations.c.live))  # type: ignore[return-value]


def find_buckets(session: Reader, interval: str, first: datetime, last: datetime) -> list[BucketRow]:
    """The buckets from `first` to `last` that any order is in."""
    c = order_buckets.c
    query = (
        sa.select(c.start, c.currency, c.orders, c.cancelled, c.revenue, c.revenue_carry)
        .where(c.generation == _live, c.interval == interval, c.start.between(first, last), c.orders > 0)
        .order_by(c.start, c.currency)
    )
    return [
        BucketRow(row.start, row.currency, row.orders, row.cancelled, _revenue(row)) for row in session.execute(query)
    ]


def find_top(session: Reader, by: str, currency: str | None, limit: int) -> list[BestSellerRow]:
    """The products with the most units or the most revenue, best first."""
    c = product_totals.c
    most = (c.revenue_carry, c.revenue) if by == "revenue" else (c.units,)
    query = (
        sa.select(c.product_id, product_names.c.name, c.units, c.revenue, c.revenue_carry, c.currency)
        .join(product_names, product_names.c.product_id == c.product_id)
        .where(c.generation == _live, sa.or_(*(column > sa.literal_column("0") for column in most)))
        .order_by(*(column.desc() for column in most), c.product_id.desc())
        .limit(limit)
    )
    rows = session.execute(query.where(c.currency == currency) if currency else query)
    return [BestSellerRow(row.product_id, row.name, row.units, _revenue(row), row.currency) for row in rows]


def find_delivery(session: Reader) -> list[DeliveryRow]:
    """How many notifications are sent and dead, by channel."""
    c = delivery_totals.c
    sums = [sa.cast(sa.func.sum(c[name]), sa.BigInteger).label(name) for name in ("sent", "dead", "milliseconds")]
    query = sa.select(c.channel, *sums).where(c.generation == _live).group_by(c.channel).order_by(c.channel)
    return [DeliveryRow(*row) for row in session.execute(query)]


def find_snapshots(session: Reader) -> dict[str, SnapshotRow]:
    """The last known figures, by service."""
    rows = session.execute(sa.select(snapshots)).mappings()
    return {row["service"]: cast(SnapshotRow, dict(row)) for row in rows}


def write_snapshot(
    session: Session, service: str, figures: dict[str, object], as_of: datetime, interval: timedelta
) -> None:
    """Keep the figures, unless the stored ones are newer, or older by less than `interval`."""
    insert = upsert(session, snapshots).values(Snapshot.new(service, figures, as_of))
    newer = {"figures": insert.excluded.figures, "as_of": insert.excluded.as_of}
    outdated = snapshots.c.as_of <= as_of - interval
    session.execute(insert.on_conflict_do_update(index_elements=["service"], set_=newer, where=outdated))
