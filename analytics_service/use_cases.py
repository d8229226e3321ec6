"""The use cases of the analytics service, one function each."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import ParamSpec, TypedDict, TypeVar

from analytics_service import repository
from analytics_service.clients import FIGURES, Figures, Health, Services, SideBySide
from analytics_service.events import (
    FactEvent,
    NotificationDead,
    NotificationSent,
    OrderCancelled,
    OrderConfirmed,
    OrderDelivered,
    OrderRejected,
    OrderShipped,
)
from analytics_service.models import (
    NOTIFICATIONS,
    ORDERS,
    AnyRow,
    Kind,
    Superseded,
    Tally,
    bucket_starts,
    default_start,
)
from libs.common.data.database import Database, Reader, Session
from libs.common.errors import Problem
from libs.common.events.inbox import Handlers
from libs.common.money import format_amount
from libs.common.times import now

Given = ParamSpec("Given")
Result = TypeVar("Result")

KEEP_EVERY = timedelta(seconds=1)
SWEEP_ROWS = 500
PATIENCE_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
SWEEP_PAUSE_SECONDS = 0.02


# The other services ------------------------------------------------------------------------------------------------


class Summary(TypedDict):
    """The figures of all services. Those of each are its `state`, `as_of` and the names in FIGURES, None where they are
    not known.
    """

    generated_at: datetime
    degraded: bool
    users: dict[str, object]
    products: dict[str, object]
    orders: dict[str, object]
    notifications: dict[str, object]


def summarise(db: Database, figures: SideBySide[Figures]) -> Summary:
    """The figures of every service: live, or the last known ones, or none. When a service is down, the summary still
    succeeds, and its figures are never shown as zero.
    """
    live = figures.ask()
    kept = _kept_figures(db) if len(live) < len(FIGURES) else {}
    parts = {name: _part(names, live.get(name), kept.get(name)) for name, names in FIGURES.items()}
    degraded = any(part["state"] != "live" for part in parts.values())
    return {
        "generated_at": now(), "degraded": degraded, "users": parts["user"], "products": parts["product"],
        "orders": parts["order"], "notifications": parts["notification"],
    }  # fmt: skip


def _part(names: Iterable[str], live: Figures | None, kept: Figures | None) -> dict[str, object]:
    state = "live" if live else "stale" if kept else "unavailable"
    known = live or kept
    values = known.values if known else {}
    return {"state": state, "as_of": known and known.as_of, **{name: values.get(name) for name in names}}


def _kept_figures(db: Database) -> dict[str, Figures]:
    try:
        with db.read() as session:
            found = repository.find_snapshots(session)
    except Problem:  # the last known figures are unavailable, too
        return {}
    return {service: Figures(row["figures"], row["as_of"]) for service, row in found.items()}


class Keeper:
    """Stores the figures of each service for all processes, at most once a second."""

    def __init__(self, db: Database):
        self._db = db
        self._kept: dict[str, datetime] = {}
        """Service → the time of the figures that this process has stored last, or has tried to."""

    def keep(self, service: str, figures: Figures) -> None:
        kept = self._kept.get(service)
        if kept is not None and figures.as_of - kept < KEEP_EVERY:
            return
        self._kept[service] = figures.as_of
        with self._db.write(durable=False) as session:
            repository.write_snapshot(session, service, figures.values, figures.as_of, KEEP_EVERY)


class ServiceHealth(TypedDict):
    """The health of a service; `latency_ms` is None where it did not answer."""

    service: str
    status: str
    latency_ms: float | None


class ServiceHealths(TypedDict):
    generated_at: datetime
    degraded: bool
    services: list[ServiceHealth]


def check_services(db: Database, healths: SideBySide[Health]) -> ServiceHealths:
    """The health and the latency of every service; of this service, those of its database."""
    found = healths.ask()
    services = [_health(name, found.get(name)) for name in FIGURES]
    services.append(_health("analytics", _own_health(db)))
    degraded = any(service["status"] != "healthy" for service in services)
    return {"generated_at": now(), "degraded": degraded, "services": services}


def _health(service: str, health: Health | None) -> ServiceHealth:
    if health is None:
        return {"service": service, "status": "unavailable", "latency_ms": None}
    return {"service": service, "status": health.status, "latency_ms": health.latency_ms}


def _own_health(db: Database) -> Health:
    started = time.perf_counter()
    try:
        with db.read() as session:
            repository.find_live(session)
        status = "healthy"
    except Problem:
        status = "unhealthy"
    return Health(status, round((time.perf_counter() - started) * 1000, 2))


# Projections -------------------------------------------------------------------------------------------------------


class Revenue(TypedDict):
    currency: str
    amount: str


class Bucket(TypedDict):
    """The orders of an hour or a day."""

    start: datetime
    orders: int
    cancelled: int
    revenue: list[Revenue]


class Series(TypedDict):
    from_: datetime
    to: datetime
    interval: str
    items: list[Bucket]


def order_series(session: Reader, interval: str, start: datetime | None, end: datetime | None) -> Series:
    """Orders and revenue by hour or day, empty buckets included; raises ValidationFailed."""
    end = end or now()
    starts = bucket_starts(interval, start or default_start(end), end)
    items: dict[datetime, Bucket] = {
        moment: {"start": moment, "orders": 0, "cancelled": 0, "revenue": []} for moment in starts
    }
    for row in repository.find_buckets(session, interval, starts[0], starts[-1]):
        item = items[row.start]
        item["orders"] += row.orders
        item["cancelled"] += row.cancelled
        item["revenue"].append({"currency": row.currency, "amount": format_amount(row.revenue, row.currency)})
    return {"from_": starts[0], "to": end, "interval": interval, "items": list(items.values())}


class TopProduct(TypedDict):
    """What was sold of a product in one currency."""

    product_id: str
    name: str
    units: int
    revenue: str
    currency: str


class TopProducts(TypedDict):
    items: list[TopProduct]


def top_products(session: Reader, by: str, limit: int, currency: str | None) -> TopProducts:
    """The products that sell best, each in one currency."""
    if by == "revenue":
        currency = currency or "EUR"
    rows = repository.find_top(session, by, currency, limit)
    return {"items": [
        {"product_id": row.product_id, "name": row.name, "units": row.units,
         "revenue": format_amount(row.revenue, row.currency), "currency": row.currency}
        for row in rows
    ]}  # fmt: skip


class ChannelDelivery(TypedDict):
    """How many notifications are delivered, and how fast; without any, rate and average are None."""

    sent: int
    dead: int
    delivery_rate: float | None
    average_seconds: float | None


class Delivery(ChannelDelivery):
    by_channel: dict[str, ChannelDelivery]


def delivery(session: Reader) -> Delivery:
    """How many notifications are delivered, and how fast, in total and by channel."""
    rows = repository.find_delivery(session)
    total = _rates(sum(row.sent for row in rows), sum(row.dead for row in rows), sum(row.milliseconds for row in rows))
    by_channel = {row.channel: _rates(row.sent, row.dead, row.milliseconds) for row in rows}
    return {**total, "by_channel": by_channel}


def _rates(sent: int, dead: int, milliseconds: int) -> ChannelDelivery:
    return {
        "sent": sent,
        "dead": dead,
        "delivery_rate": round(sent / (sent + dead), 4) if sent + dead else None,
        "average_seconds": round(milliseconds / sent / 1000, 3) if sent else None,
    }


def learn(session: Session, kind: Kind[AnyRow], events: Sequence[FactEvent], *, building: int | None = None) -> None:
    """Store and count the facts of the events, which may arrive in any order and repeatedly. A rebuild names the
    generation that it builds. Raises RefusedEvent, and Superseded when a newer rebuild has begun.
    """
    facts = [event.facts() for event in events]
    generations = repository.lock_generations(session)
    if building and generations[1:] != [building]:
        raise Superseded("Another rebuild has begun, and the newest one counts.")
    tally = Tally(kind, generations, repository.find_rows(session, kind, {str(one["id"]) for one in facts}))
    for one in facts:
        tally.learn(one)
    repository.write_rows(session, kind, tally.rows)
    repository.add_totals(session, tally.totals)
    repository.write_names(session, tally.names())


# A rebuild ---------------------------------------------------------------------------------------------------------


def _patiently(call: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
    """Call, and retry after each Problem: a long rebuild must survive a short outage of another service or of the
    database. Raises the last Problem after a minute.
    """
    give_up = time.monotonic() + PATIENCE_SECONDS
    longest = FIRST_PAUSE_SECONDS
    while True:
        try:
            return call(*args, **kwargs)
        except Problem:
            if time.monotonic() >= give_up:
                raise
        time.sleep(random.uniform(0, longest))
        longest = min(2 * longest, LONGEST_PAUSE_SECONDS)


def rebuild(db: Database, services: Services, report: Callable[[str], None]) -> None:
    """Compute every total again from the data of the services, while events keep arriving and readers keep reading;
    models.py explains why that is exact. Raises Superseded when a newer rebuild has begun, and a Problem when a service
    or the database is unavailable for a minute. The next rebuild then starts from the beginning.
    """
    with db.write() as session:
        building = repository.open_generation(session)
    _sweep(db)
    _rebuild_kind(db, services, "order", ORDERS, building, report)
    _rebuild_kind(db, services, "notification", NOTIFICATIONS, building, report)
    with db.write() as session:
        repository.switch(session, building)
    report(f"the new totals are live; {_sweep(db)} outdated rows deleted")


def _rebuild_kind(
    db: Database, services: Services, service: str, kind: Kind[AnyRow], building: int, report: Callable[[str], None]
) -> None:
    started, count, cursor = time.monotonic(), 0, None
    while True:
        events, cursor = _patiently(services.page, service, cursor)
        _patiently(_learn_page, db, kind, events, building)
        count += len({event.subject for event in events})
        seconds = max(time.monotonic() - started, 0.001)
        report(f"{service}s: {count} after {seconds:.1f} s, {count / seconds:.0f} a second")
        if cursor is None:
            return


def _learn_page(db: Database, kind: Kind[AnyRow], events: Sequence[FactEvent], building: int) -> None:
    with db.write() as session:
        learn(session, kind, events, building=building)


def _sweep(db: Database) -> int:
    """Delete outdated rows and totals, in small transactions with pauses, so that writers do not wait long."""
    deleted = 0
    while True:
        with db.write() as session:
            count = repository.sweep(session, SWEEP_ROWS)
        if not count:
            return deleted
        deleted += count
        time.sleep(SWEEP_PAUSE_SECONDS)


# Events ------------------------------------------------------------------------------------------------------------


def _learn_orders(session: Session, events: Sequence[FactEvent]) -> None:
    learn(session, ORDERS, events)


def _learn_notifications(session: Session, events: Sequence[FactEvent]) -> None:
    learn(session, NOTIFICATIONS, events)


HANDLERS: Handlers = {
    OrderConfirmed: _learn_orders,
    OrderRejected: _learn_orders,
    OrderCancelled: _learn_orders,
    OrderShipped: _learn_orders,
    OrderDelivered: _learn_orders,
    NotificationSent: _learn_notifications,
    NotificationDead: _learn_notifications,
}
