"""One function for each thing that the analytics service does."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from analytics_service import repository
from analytics_service.clients import FIGURES, Figures, Health, Services, SideBySide
from analytics_service.events import (
    NotificationDead,
    NotificationSent,
    OrderCancelled,
    OrderConfirmed,
    OrderDelivered,
    OrderRejected,
    OrderShipped,
    Told,
)
from analytics_service.models import NOTIFICATIONS, ORDERS, Kind, Superseded, Tally, bucket_starts, default_start
from libs.common.data.database import Database, Reader, Session
from libs.common.errors import Problem
from libs.common.events.event import Event
from libs.common.money import format_amount
from libs.common.times import now

Given = ParamSpec("Given")
Result = TypeVar("Result")

KEEP_EVERY = timedelta(seconds=1)
SWEEP_ROWS = 500
PATIENCE_SECONDS = 60.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0


# The other services ------------------------------------------------------------------------------------------------


def summarise(db: Database, figures: SideBySide[Figures]) -> dict[str, Any]:
    """The figures of every service: live, or the last known ones, or none; never a failure, and never a zero that
    stands for one.
    """
    live = figures.ask()
    kept = _kept_figures(db) if len(live) < len(FIGURES) else {}
    parts = {f"{name}s": _part(names, live.get(name), kept.get(name)) for name, names in FIGURES.items()}
    degraded = any(part["state"] != "live" for part in parts.values())
    return {"generated_at": now(), "degraded": degraded, **parts}


def _part(names: Iterable[str], live: Figures | None, kept: Figures | None) -> dict[str, Any]:
    state = "live" if live else "stale" if kept else "unavailable"
    known = live or kept
    values = known.values if known else {}
    return {"state": state, "as_of": known and known.as_of, **{name: values.get(name) for name in names}}


def _kept_figures(db: Database) -> dict[str, Figures]:
    try:
        with db.read() as session:
            found = repository.find_snapshots(session)
    except Problem:  # Then even the last known figures are not known.
        return {}
    return {service: Figures(row.figures, row.as_of) for service, row in found.items()}


def keep_figures(db: Database, service: str, figures: Figures) -> None:
    """Remember a service's figures, for every process and at most once a second."""
    with db.read() as session:
        known = repository.find_snapshots(session).get(service)
    if known is None or figures.as_of - known.as_of >= KEEP_EVERY:
        with db.write(durable=False) as session:
            repository.write_snapshot(session, service, figures.values, figures.as_of, KEEP_EVERY)


def check_services(db: Database, healths: SideBySide[Health]) -> dict[str, Any]:
    """The health and the latency of every service; this one's is that of its database."""
    found = healths.ask()
    services = [{"service": name, **_health(found.get(name))} for name in FIGURES]
    services.append({"service": "analytics", **_health(_own_health(db))})
    degraded = any(service["status"] != "healthy" for service in services)
    return {"generated_at": now(), "degraded": degraded, "services": services}


def _health(health: Health | None) -> dict[str, Any]:
    return vars(health) if health else {"status": "unavailable", "latency_ms": None}


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


def order_series(session: Reader, interval: str, start: datetime | None, end: datetime | None) -> dict[str, Any]:
    """Orders and revenue by hour or day, empty buckets included; raises ValidationFailed."""
    end = end or now()
    starts = bucket_starts(interval, start or default_start(end), end)
    items = {moment: {"start": moment, "orders": 0, "cancelled": 0, "revenue": []} for moment in starts}
    for row in repository.find_buckets(session, interval, starts[0], starts[-1]):
        item: dict[str, Any] = items[row.start]
        item["orders"] += row.orders
        item["cancelled"] += row.cancelled
        item["revenue"].append({"currency": row.currency, "amount": format_amount(row.revenue, row.currency)})
    return {"from_": starts[0], "to": end, "interval": interval, "items": list(items.values())}


def top_products(session: Reader, by: str, limit: int, currency: str | None) -> list[dict[str, Any]]:
    """The products that sell best, each in one currency."""
    if by == "revenue":
        currency = currency or "EUR"
    rows = repository.find_top(session, by, currency, limit)
    return [{**row._mapping, "revenue": format_amount(row.revenue, row.currency)} for row in rows]


def delivery(session: Reader) -> dict[str, Any]:
    """How many notifications arrive, and how fast, all in all and by channel."""
    rows = repository.find_delivery(session)
    sums = [sum(getattr(row, name) for row in rows) for name in ("sent", "dead", "milliseconds")]
    by_channel = {row.channel: _rates(row.sent, row.dead, row.milliseconds) for row in rows}
    return {**_rates(*sums), "by_channel": by_channel}


def _rates(sent: int, dead: int, milliseconds: int) -> dict[str, Any]:
    return {
        "sent": sent,
        "dead": dead,
        "delivery_rate": round(sent / (sent + dead), 4) if sent + dead else None,
        "average_seconds": round(milliseconds / sent / 1000, 3) if sent else None,
    }


def learn(session: Session, kind: Kind, told: Sequence[Told], *, building: int | None = None) -> None:
    """Take in what is told, in any order and however often, and count it. A rebuild names the generation that it
    builds, and gets Superseded when a newer one has begun. Raises RefusedEvent.
    """
    facts = [one.facts() for one in told]
    generations = repository.lock_generations(session)
    if building and generations[1:] != [building]:
        raise Superseded("Another rebuild has begun, and the newest one counts.")
    tally = Tally(kind, generations, repository.find_rows(session, kind.table, {one["id"] for one in facts}))
    for one in facts:
        tally.learn(one)
    repository.write_rows(session, kind.table, tally.rows)
    repository.add_totals(session, tally.totals)
    repository.write_names(session, tally.names())


# A rebuild ---------------------------------------------------------------------------------------------------------


def _patiently(call: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
    """Call again after each Problem: another service or the database may be away for a while, and a long rebuild does
    not end for that. Raises the last Problem when a minute is over.
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
    """Make every total again from what the services know, while events keep arriving and readers keep reading; why
    that is exact, models.py says. Raises Superseded when a newer rebuild has begun, and a Problem when something that
    it needs is away for a minute; what it began is then left behind, and the next one begins anew.
    """
    with db.write() as session:
        building = repository.open_generation(session)
    _sweep(db)
    for service, kind in ("order", ORDERS), ("notification", NOTIFICATIONS):
        _rebuild_kind(db, services, service, kind, building, report)
    with db.write() as session:
        repository.switch(session, building)
    report(f"the new totals are live; {_sweep(db)} outdated rows deleted")


def _rebuild_kind(
    db: Database, services: Services, service: str, kind: Kind, building: int, report: Callable[[str], None]
) -> None:
    started, count, cursor = time.monotonic(), 0, None
    while True:
        told, cursor = _patiently(services.page, service, cursor)
        _patiently(_learn_page, db, kind, told, building)
        count += len({one.subject for one in told})
        seconds = max(time.monotonic() - started, 0.001)
        report(f"{service}s: {count} after {seconds:.1f} s, {count / seconds:.0f} a second")
        if cursor is None:
            return


def _learn_page(db: Database, kind: Kind, told: Sequence[Told], building: int) -> None:
    with db.write() as session:
        learn(session, kind, told, building=building)


def _sweep(db: Database) -> int:
    """Delete what nobody will read in small transactions, so that none waits long for them."""
    deleted = 0
    while True:
        with db.write() as session:
            some = repository.sweep(session, SWEEP_ROWS)
        if not some:
            return deleted
        deleted += some


# Events ------------------------------------------------------------------------------------------------------------


def _learn_orders(session: Session, events: Sequence[Told]) -> None:
    learn(session, ORDERS, events)


def _learn_notifications(session: Session, events: Sequence[Told]) -> None:
    learn(session, NOTIFICATIONS, events)


HANDLERS: dict[type[Event], Callable[..., None]] = {
    OrderConfirmed: _learn_orders,
    OrderRejected: _learn_orders,
    OrderCancelled: _learn_orders,
    OrderShipped: _learn_orders,
    OrderDelivered: _learn_orders,
    NotificationSent: _learn_notifications,
    NotificationDead: _learn_notifications,
}
