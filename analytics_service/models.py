"""What is known of each order and notification, the totals that are made of it, and the rules of both.

A row holds facts, and facts only ever add up: they may come twice, in any order, from an event or from a page of a
service that is older than the event. What a row adds to the totals is a function of the row alone (`contributions`),
so whatever changes a row adds to the totals the difference between what the row added before and what it adds now.

Totals have generations, so that a rebuild needs no pause. Readers see the one that is `live`. A rebuild opens a newer
one, `building`, which begins empty; from then on every write, by an event or by the rebuild, counts in both:

    totals[G] += contributions(new) - (contributions(old) if old.generation >= G else nothing)    G: live, building
    row.generation = building, or live where none is being built

So a row counts in every generation up to its own, at every instant. When the rebuild has written all that the services
know, its generation is exact and becomes live. A row that was left behind is one that its service does not know any
more: it counts in nothing that is read, and is deleted. A rebuild that was killed leaves a generation that nobody will
read, and the next one opens a newer one. All this asks is that nobody writes with an outdated idea of what is live and
building: writers take turns (`repository.lock_generations`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

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
    lines: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
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
    """What the orders that were confirmed in one hour or on one day (UTC) add up to. Each order is in one of both, so
    that a year by days costs no more than a month by hours.
    """

    __tablename__ = "order_buckets"

    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    interval: Mapped[str] = mapped_column(sa.String(4), primary_key=True)
    start: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    currency: Mapped[str] = mapped_column(sa.String(3), primary_key=True)
    orders: Mapped[int] = mapped_column(sa.BigInteger)
    cancelled: Mapped[int] = mapped_column(sa.BigInteger)
    revenue: Mapped[Decimal] = mapped_column(Amount)


class ProductTotal(Base):
    __tablename__ = "product_totals"
    # Every documented order, alone and behind the documented filter; the id settles ties.
    __table_args__ = (
        sa.Index(None, "generation", "units", "product_id"),
        sa.Index(None, "generation", "currency", "units", "product_id"),
        sa.Index(None, "generation", "currency", "revenue", "product_id"),
    )

    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    product_id: Mapped[str] = mapped_column(Id, primary_key=True)
    currency: Mapped[str] = mapped_column(sa.String(3), primary_key=True)
    units: Mapped[int] = mapped_column(sa.BigInteger)
    revenue: Mapped[Decimal] = mapped_column(Amount)


class ProductName(Base):
    """A product's name as it was in the latest order; names do not add up, so they are no total."""

    __tablename__ = "product_names"

    product_id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(200))
    named_at: Mapped[datetime] = mapped_column(Moment)


class DeliveryTotal(Base):
    """By the day of their creation, so that a span of time can be asked for one day."""

    __tablename__ = "delivery_totals"

    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    day: Mapped[datetime] = mapped_column(Moment, primary_key=True)
    channel: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    sent: Mapped[int] = mapped_column(sa.BigInteger)
    dead: Mapped[int] = mapped_column(sa.BigInteger)
    milliseconds: Mapped[int] = mapped_column(sa.BigInteger)
    """From creation to sending, added up; whole numbers, so that the sum is exact whatever comes and goes."""


class Snapshot(Base):
    """The last known figures of another service, for the time when it cannot be asked."""

    __tablename__ = "snapshots"

    service: Mapped[str] = mapped_column(sa.String(20), primary_key=True)
    figures: Mapped[dict[str, Any]] = mapped_column(Json)
    as_of: Mapped[datetime] = mapped_column(Moment)


orders: Any = Order.__table__
notifications: Any = Notification.__table__
generations: Any = Generations.__table__
order_buckets: Any = OrderBucket.__table__
product_totals: Any = ProductTotal.__table__
product_names: Any = ProductName.__table__
delivery_totals: Any = DeliveryTotal.__table__
snapshots: Any = Snapshot.__table__

TOTALS = {table.name: table for table in (order_buckets, product_totals, delivery_totals)}
"""Key columns first, the generation the first of them; every other column adds up."""

Row = Mapping[str, Any]
Totals = dict[tuple[Any, ...], tuple[Any, ...]]
"""(name of the table, key columns) → what is added to its other columns."""


# Contributions -----------------------------------------------------------------------------------------------------


def order_contributions(order: Row) -> Totals:
    """What an order adds: it counts from its confirmation on, in the hour and on the day of it. A cancelled one counts
    as such, and no longer in units and revenue.
    """
    moment, currency = order["confirmed_at"], order["currency"]
    if moment is None:
        return {}
    if order["cancelled_at"]:
        return {bucket: (1, 1, Decimal(0)) for bucket in _buckets(moment, currency)}
    found: Totals = dict.fromkeys(_buckets(moment, currency), (1, 0, order["total"]))
    for line in order["lines"]:
        product = ("product_totals", line["product_id"], currency)
        units, revenue = found.get(product, (0, Decimal(0)))
        found[product] = (units + line["quantity"], revenue + Decimal(line["line_total"]))
    return found


def _buckets(moment: datetime, currency: str) -> list[tuple[Any, ...]]:
    return [("order_buckets", interval, bucket_start(interval, moment), currency) for interval in INTERVALS]


def notification_contributions(notification: Row) -> Totals:
    """What a notification adds: one that was dead, and then sent after all, counts as sent."""
    created, sent = notification["created_at"], notification["sent_at"]
    if not sent and not notification["dead_at"]:
        return {}
    day = ("delivery_totals", bucket_start("day", created), notification["channel"])
    if not sent:
        return {day: (0, 1, 0)}
    return {day: (1, 0, max(0, (sent - created) // timedelta(milliseconds=1)))}


@dataclass(frozen=True)
class Kind:
    """One of the two kinds of rows that are counted."""

    table: Any
    contributions: Callable[[Row], Totals]


ORDERS = Kind(orders, order_contributions)
NOTIFICATIONS = Kind(notifications, notification_contributions)


class Tally:
    """What a batch of facts changes, judged here and written together: rows, and what is added to the totals of each
    generation.
    """

    def __init__(self, kind: Kind, generations: Sequence[int], known: Mapping[str, Row]):
        self._kind, self._generations, self._known = kind, generations, known
        self._unknown = dict.fromkeys(kind.table.c.keys())
        self.rows: dict[str, Row] = {}
        self.totals: Totals = {}

    def learn(self, facts: Row) -> None:
        """Take facts in; what is known already stays as it is."""
        old = self.rows.get(facts["id"]) or self._known.get(facts["id"])
        new = dict(old or self._unknown)
        new |= {name: value for name, value in facts.items() if new[name] is None}
        new["generation"] = max(self._generations)
        if new != old:
            self.rows[facts["id"]] = new
            self._count(old, new)

    def _count(self, old: Row | None, new: Row) -> None:
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

    def names(self) -> dict[str, tuple[datetime, str]]:
        """The latest name of each product in the changed rows, and when it was that."""
        named = [
            (line["product_id"], (row["confirmed_at"], line["name"]))
            for row in self.rows.values()
            for line in row.get("lines") or ()
        ]
        return dict(sorted(named))


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
