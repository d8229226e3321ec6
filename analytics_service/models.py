"""The facts about each order and notification, the totals that are computed from them, and the rules of both.

A row holds facts, and a known fact never changes: it may arrive twice, in any order, from an event or from a page of a
service that is older than the event. What a row adds to the totals is a function of the row alone (`contributions`), so
a change of a row adds to the totals the difference between what the row adds before and after it.

Totals have generations, so that a rebuild needs no pause. Readers see the generation that is `live`. A rebuild opens a
newer one, `building`, which begins empty; from then on every write, by an event or by the rebuild, counts in both:

    totals[G] += contributions(new) - (contributions(old) if old.generation >= G else nothing)    G: live, building
    row.generation = building, or live where none is being built

So a row counts in every generation up to its own, at every instant. When the rebuild has written all that the services
return, its generation is exact and becomes live. A row of an older generation is one that its service no longer has: it
counts in no generation that is read, and is deleted. A rebuild that was killed leaves a generation that is never read,
and the next rebuild opens a newer one. The only condition is that no writer uses an outdated `live` or `building`:
writers take turns (`repository.lock_generations`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Generic, NamedTuple, TypeAlias, TypedDict, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from libs.common.data.columns import NAMING, Amount, Id, Json, Moment
from libs.common.errors import ValidationFailed

metadata = sa.MetaData(naming_convention=NAMING)

INTERVALS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
MAX_BUCKETS = 1000
DEFAULT_DAYS = 7


class Superseded(Exception):
    """Another rebuild has begun, and the newest one counts."""


# Rows ---------------------------------------------------------------------------------------------------------------


class Row(TypedDict):
    """The columns of an order or of a notification."""

    id: str
    generation: int


class OrderLine(TypedDict):
    """What an order line adds to the totals of its product."""

    product_id: str
    name: str
    quantity: int
    line_total: str


class OrderRow(Row):
    """A column is None while its fact is unknown."""

    confirmed_at: datetime | None
    rejected_at: datetime | None
    cancelled_at: datetime | None
    shipped_at: datetime | None
    delivered_at: datetime | None
    total: Decimal | None
    currency: str | None
    lines: list[OrderLine] | None


class NotificationRow(Row):
    channel: str
    created_at: datetime
    sent_at: datetime | None
    dead_at: datetime | None


class ProductNameRow(TypedDict):
    product_id: str
    name: str
    named_at: datetime


class SnapshotRow(TypedDict):
    service: str
    figures: dict[str, object]
    as_of: datetime


class BucketRow(NamedTuple):
    start: datetime
    currency: str
    orders: int
    cancelled: int
    revenue: Decimal


class BestSellerRow(NamedTuple):
    product_id: str
    name: str
    units: int
    revenue: Decimal
    currency: str


class DeliveryRow(NamedTuple):
    channel: str
    sent: int
    dead: int
    milliseconds: int


# Tables -------------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    metadata = metadata


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    confirmed_at: Mapped[datetime | None] = mapped_column(Moment)
    rejected_at: Mapped[datetime | None] = mapped_column(Moment)
    cancelled_at: Mapped[datetime | None] = mapped_column(Moment)
    shipped_at: Mapped[datetime | None] = mapped_column(Moment)
    delivered_at: Mapped[datetime | None] = mapped_column(Moment)
    total: Mapped[Decimal | None] = mapped_column(Amount)
    currency: Mapped[str | None] = mapped_column(sa.String(3))
    lines: Mapped[list[OrderLine] | None] = mapped_column(Json)
    generation: Mapped[int] = mapped_column(index=True)


class Notification(Base):
    __tablename__ = "notifications"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    channel: Mapped[str] = mapped_column(sa.String(40))
    created_at: Mapped[datetime] = mapped_column(Moment)
    sent_at: Mapped[datetime | None] = mapped_column(Moment)
    dead_at: Mapped[datetime | None] = mapped_column(Moment)
    generation: Mapped[int] = mapped_column(index=True)


class Generations(Base):
    """One row: which generation of the totals is read, and which one is being built."""

    __tablename__ = "generations"

    id: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True, autoincrement=False)
    live: Mapped[int]
    building: Mapped[int | None]


class OrderBucket(Base):
    """The totals of the orders that were confirmed in one hour or on one day (UTC). Each order counts in a bucket of
    either kind, so that a year by days costs no more than a month by hours.
    """

    __tablename__ = "order_buckets"

    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    interval: Mapped[str] = mapped_column(sa.String(4), primary_key=True)
    start: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    currency: Mapped[str] = mapped_column(sa.String(3), primary_key=True)
    orders: Mapped[int] = mapped_column(sa.BigInteger)
    cancelled: Mapped[int] = mapped_column(sa.BigInteger)
    revenue: Mapped[Decimal] = mapped_column(Amount)
    revenue_carry: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")


class ProductTotal(Base):
    __tablename__ = "product_totals"
    # One for every documented order, alone and after the documented filter; the id breaks ties.
    __table_args__ = (
        sa.Index(None, "generation", "units", "product_id"),
        sa.Index(None, "generation", "currency", "units", "product_id"),
        sa.Index(None, "generation", "currency", "revenue_carry", "revenue", "product_id"),
    )

    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    product_id: Mapped[str] = mapped_column(Id, primary_key=True)
    currency: Mapped[str] = mapped_column(sa.String(3), primary_key=True)
    units: Mapped[int] = mapped_column(sa.BigInteger)
    revenue: Mapped[Decimal] = mapped_column(Amount)
    revenue_carry: Mapped[int] = mapped_column(sa.BigInteger, server_default="0")


class ProductName(Base):
    """A product's name in the latest order. Names do not add up, so they have a table beside the totals."""

    __tablename__ = "product_names"

    product_id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(200))
    named_at: Mapped[datetime] = mapped_column(Moment)

    @classmethod
    def new(cls, product_id: str, name: str, named_at: datetime) -> ProductNameRow:
        return {"product_id": product_id, "name": name, "named_at": named_at}


class DeliveryTotal(Base):
    """The totals of the notifications of one channel that were created on one day (UTC), so that a period can be
    queried if that is ever needed.
    """

    __tablename__ = "delivery_totals"

    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    day: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    channel: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    sent: Mapped[int] = mapped_column(sa.BigInteger)
    dead: Mapped[int] = mapped_column(sa.BigInteger)
    milliseconds: Mapped[int] = mapped_column(sa.BigInteger)
    """The sum of the times from creation to sending; whole numbers, so that it stays exact."""


class Snapshot(Base):
    """The last known figures of another service, which are shown while it is unavailable."""

    __tablename__ = "snapshots"

    service: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    figures: Mapped[dict[str, object]] = mapped_column(Json)
    as_of: Mapped[datetime] = mapped_column(Moment)

    @classmethod
    def new(cls, service: str, figures: dict[str, object], as_of: datetime) -> SnapshotRow:
        return {"service": service, "figures": figures, "as_of": as_of}


orders = cast(sa.Table, Order.__table__)
notifications = cast(sa.Table, Notification.__table__)
generations = cast(sa.Table, Generations.__table__)
order_buckets = cast(sa.Table, OrderBucket.__table__)
product_totals = cast(sa.Table, ProductTotal.__table__)
product_names = cast(sa.Table, ProductName.__table__)
delivery_totals = cast(sa.Table, DeliveryTotal.__table__)
snapshots = cast(sa.Table, Snapshot.__table__)

TOTALS = {table.name: table for table in (order_buckets, product_totals, delivery_totals)}
"""Key columns first, the generation the first of them; every other column adds up, `revenue` as sums.py says."""

Key: TypeAlias = tuple[str | int | datetime, ...]
Totals: TypeAlias = dict[Key, tuple[int | Decimal, ...]]
"""(name of the table, key columns) → what is added to its other columns."""


# Contributions -----------------------------------------------------------------------------------------------------


def order_contributions(order: OrderRow) -> Totals:
    """What an order adds to the totals: it counts once it is confirmed, in the hour and on the day of its confirmation.
    A cancelled order counts as cancelled, and no longer in units and revenue.
    """
    moment, currency, total, lines = order["confirmed_at"], order["currency"], order["total"], order["lines"]
    if moment is None:
        return {}
    assert currency is not None  # these come with the confirmation
    assert total is not None
    assert lines is not None
    if order["cancelled_at"]:
        return {bucket: (1, 1, Decimal(0)) for bucket in _buckets(moment, currency)}
    found: Totals = dict.fromkeys(_buckets(moment, currency), (1, 0, total))
    for line in lines:
        product = ("product_totals", line["product_id"], currency)
        units, revenue = found.get(product, (0, Decimal(0)))
        found[product] = (units + line["quantity"], revenue + Decimal(line["line_total"]))
    return found


def _buckets(moment: datetime, currency: str) -> list[Key]:
    return [("order_buckets", interval, bucket_start(interval, moment), currency) for interval in INTERVALS]


def notification_contributions(notification: NotificationRow) -> Totals:
    """What a notification adds to the totals: a dead notification that was later sent counts as sent."""
    created, sent = notification["created_at"], notification["sent_at"]
    if not sent and not notification["dead_at"]:
        return {}
    day = ("delivery_totals", bucket_start("day", created), notification["channel"])
    if not sent:
        return {day: (0, 1, 0)}
    return {day: (1, 0, max(0, (sent - created) // timedelta(milliseconds=1)))}


def order_names(order: OrderRow) -> list[ProductNameRow]:
    """The names of the products in an order, and when they had these names."""
    if order["confirmed_at"] is None:
        return []
    return [ProductName.new(line["product_id"], line["name"], order["confirmed_at"]) for line in order["lines"] or ()]


def notification_names(notification: NotificationRow) -> list[ProductNameRow]:
    """A notification names no products."""
    return []


AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class Kind(Generic[AnyRow]):
    """One of the two kinds of rows that are counted."""

    table: sa.Table
    contributions: Callable[[AnyRow], Totals]
    names: Callable[[AnyRow], list[ProductNameRow]]

    def new(self) -> AnyRow:
        """A row without facts."""
        return cast(AnyRow, dict.fromkeys(self.table.c.keys()))


ORDERS = Kind(orders, order_contributions, order_names)
NOTIFICATIONS = Kind(notifications, notification_contributions, notification_names)


class Tally(Generic[AnyRow]):
    """The changes that a batch of facts makes to rows, and to the totals of each generation; computed here and written
    together.
    """

    def __init__(self, kind: Kind[AnyRow], generations: Sequence[int], known: Mapping[str, AnyRow]):
        self._kind, self._generations, self._known = kind, generations, known
        self._unknown = kind.new()
        self.rows: dict[str, AnyRow] = {}
        self.totals: Totals = {}

    def learn(self, facts: Mapping[str, object]) -> None:
        """Add facts, an `id` and columns, to their row; columns that are known already stay as they are."""
        row_id = str(facts["id"])
        old = self.rows.get(row_id) or self._known.get(row_id)
        columns: dict[str, object] = dict(old or self._unknown)
        columns |= {name: value for name, value in facts.items() if columns[name] is None}
        columns["generation"] = max(self._generations)
        if columns != old:
            self.rows[row_id] = new = cast(AnyRow, columns)
            self._count(old, new)

    def _count(self, old: AnyRow | None, new: AnyRow) -> None:
        before = self._kind.contributions(old) if old else {}
        after = self._kind.contributions(new)
        for generation in self._generations:
            self._add(generation, after, 1)
            if old and old["generation"] >= generation:
                self._add(generation, before, -1)

    def _add(self, generation: int, contributions: Totals, sign: int) -> None:
        for (table, *key), added in contributions.items():
            total = (table, generation, *key)
            sums = self.totals.get(total) or (0,) * len(added)
            self.totals[total] = tuple(a + sign * b for a, b in zip(sums, added, strict=True))

    def names(self) -> list[ProductNameRow]:
        """The latest name of each product in the changed rows."""
        named = [name for row in self.rows.values() for name in self._kind.names(row)]
        named.sort(key=lambda name: (name["named_at"], name["name"]))
        return list({name["product_id"]: name for name in named}.values())


# Buckets -----------------------------------------------------------------------------------------------------------


def bucket_start(interval: str, moment: datetime) -> datetime:
    """The beginning of the hour or the day (UTC) that holds the moment."""
    hour = moment.replace(minute=0, second=0, microsecond=0)
    return hour if interval == "hour" else hour.replace(hour=0)


def default_start(end: datetime) -> datetime:
    """The beginning of the last seven days up to `end`, the day that holds it included."""
    return bucket_start("day", end - timedelta(microseconds=1)) - timedelta(days=DEFAULT_DAYS - 1)


def bucket_starts(interval: str, start: datetime, end: datetime) -> list[datetime]:
    """From the bucket that holds `start` to the last one that begins before `end`; raises ValidationFailed."""
    if end <= start:
        raise ValidationFailed(errors=[{"pointer": "/to", "detail": "Must be later than `from`."}])
    first, step = bucket_start(interval, start), INTERVALS[interval]
    count = -((first - end) // step)
    if count > MAX_BUCKETS:
        detail = f"At most {MAX_BUCKETS} buckets can be asked for; these are {count}."
        raise ValidationFailed(errors=[{"pointer": "/from", "detail": detail}])
    return [first + number * step for number in range(count)]
