"""Orders and notifications as their services have them, their events, and the totals that analytics must have: computed
by brute force, without the code under test.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st

from analytics_service import models
from libs.common.data.database import Database
from libs.common.ids import new_id
from libs.common.times import write_time
from tests.factories import a_cloud_event

BEGIN = datetime(2026, 1, 30, 22, 40, tzinfo=UTC)
PRODUCTS = {new_id(): (f"Product {n}", Decimal(price)) for n, price in enumerate(("0.01", "19.99", "2499.90"))}

Expected = dict[str, dict[tuple[Any, ...], tuple[Any, ...]]]


class World:
    """A source of orders, notifications and events; `events` wait to be delivered."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.notifications: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self._minutes = count(0, 13)

    def order(self, *quantities: int, currency: str = "EUR", created_at: datetime | None = None) -> dict[str, Any]:
        """A pending order of so many units of each product."""
        wanted = zip(PRODUCTS.items(), quantities, strict=False)
        items = [
            {"product_id": i, "name": name, "quantity": n, "unit_price": str(price), "line_total": str(n * price)}
            for (i, (name, price)), n in wanted
            if n
        ]
        total = str(sum((Decimal(str(item["line_total"])) for item in items), Decimal(0)))
        moments = dict.fromkeys(("confirmed_at", "cancelled_at", "shipped_at", "delivered_at"))
        created = write_time(created_at) if created_at else self._now()
        shown = {"items": items, "total": total, "currency": currency, "created_at": created, "updated_at": created}
        self.orders.append({"id": new_id(), "status": "pending", **moments, **shown})
        return self.orders[-1]

    def confirmed(self, *quantities: int, **given: Any) -> dict[str, Any]:
        return self.step(self.order(*quantities, **given), "confirmed")

    def step(self, order: dict[str, Any], status: str) -> dict[str, Any]:
        """Put an order into a status, whether or not its service would allow it."""
        moment = self._now()
        order |= {"status": status, "updated_at": moment}
        if status != "rejected":
            order[f"{status}_at"] = moment
        told = {"order_id": order["id"], f"{status}_at": moment}
        if status == "confirmed":
            told |= {name: order[name] for name in ("items", "total", "currency")}
        self.events.append(a_cloud_event(f"order.{status}.v1", told))
        return order

    def notification(self, status: str, seconds: float = 1.5, channel: str = "email") -> dict[str, Any]:
        """One that is `queued`, `sent` so many seconds after its creation, or `dead`."""
        created = self._moment()
        made = {"id": new_id(), "status": "queued", "channel": channel, "created_at": write_time(created)}
        self.notifications.append({**made, "sent_at": None})
        if status != "queued":
            self.end(self.notifications[-1], status, seconds)
        return self.notifications[-1]

    def end(self, notification: dict[str, Any], status: str, seconds: float = 1.5) -> None:
        moment = write_time(datetime.fromisoformat(notification["created_at"]) + timedelta(seconds=seconds))
        notification["status"] = status
        if status == "sent":
            notification["sent_at"] = moment
        told = {name: notification[name] for name in ("channel", "created_at")}
        told |= {"notification_id": notification["id"], f"{status}_at": moment}
        self.events.append(a_cloud_event(f"notification.{status}.v1", told))

    def take_events(self) -> list[dict[str, Any]]:
        taken, self.events = self.events, []
        return taken

    def expected(self) -> Expected:
        """Every total, by its key."""
        buckets, products, deliveries = Counter[Any](), Counter[Any](), Counter[Any]()
        for order in self.orders:
            if order["confirmed_at"]:
                _count_order(order, buckets, products)
        for one in self.notifications:
            if one["status"] in ("sent", "dead"):
                _count_notification(one, deliveries)
        return {
            "order_buckets": _gathered(buckets, ("orders", "cancelled", "revenue")),
            "product_totals": _gathered(products, ("units", "revenue")),
            "delivery_totals": _gathered(deliveries, ("sent", "dead", "milliseconds")),
        }

    def _now(self) -> str:
        return write_time(self._moment())

    def _moment(self) -> datetime:
        return BEGIN + timedelta(minutes=next(self._minutes))


def _count_order(order: dict[str, Any], buckets: Any, products: Any) -> None:
    hour, currency = order["confirmed_at"][:13] + ":00", order["currency"]
    for key in (("hour", hour, currency), ("day", order["confirmed_at"][:10] + "T00:00", currency)):
        buckets[(*key, "orders")] += 1
        buckets[(*key, "cancelled")] += bool(order["cancelled_at"])
        buckets[(*key, "revenue")] += 0 if order["cancelled_at"] else Decimal(order["total"])
    for item in order["items"]:
        if not order["cancelled_at"]:
            products[item["product_id"], currency, "units"] += item["quantity"]
            products[item["product_id"], currency, "revenue"] += Decimal(item["line_total"])


def _count_notification(one: dict[str, Any], deliveries: Any) -> None:
    key = (one["created_at"][:10] + "T00:00", one["channel"])
    deliveries[(*key, one["status"])] += 1
    if one["status"] == "sent":
        taken = datetime.fromisoformat(one["sent_at"]) - datetime.fromisoformat(one["created_at"])
        deliveries[(*key, "milliseconds")] += round(taken.total_seconds() * 1000)


def _gathered(counted: Counter[Any], names: tuple[str, ...]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    keys = {key[:-1] for key in counted}
    found = {key: tuple(counted[(*key, name)] for name in names) for key in keys}
    return {key: values for key, values in found.items() if any(values)}


def live_totals(db: Database) -> Expected:
    """Every total of the live generation, without keys whose totals are all zero."""
    with db.read() as connection:
        live = connection.scalar(sa.select(models.generations.c.live))
        return {name: _read(connection, table, live) for name, table in models.TOTALS.items()}


def _read(connection: sa.Connection, table: Any, live: int | None) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    keys = len(table.primary_key.columns)
    query = sa.select(*(c for c in table.c if c.name != "revenue_carry")).where(table.c.generation == live)
    rows = [tuple(row) for row in connection.execute(query)]
    found = {tuple(map(_key, row[1:keys])): row[keys:] for row in rows}
    return {key: values for key, values in found.items() if any(values)}


def _key(value: Any) -> str:
    return f"{value:%Y-%m-%dT%H:%M}" if isinstance(value, datetime) else str(value)


# What may happen ---------------------------------------------------------------------------------------------------

LIVES: dict[str, tuple[str, ...]] = {
    "pending": (),
    "rejected": ("rejected",),
    "confirmed": ("confirmed",),
    "cancelled": ("confirmed", "cancelled"),
    "delivered": ("confirmed", "shipped", "delivered"),
}
order_strategy = st.tuples(
    st.sampled_from(sorted(LIVES)),
    st.tuples(*[st.integers(0, 3)] * 3).filter(any),
    st.sampled_from(("EUR", "USD", "JPY")),
)
notification_strategy = st.tuples(
    st.sampled_from(("queued", "sent", "dead", "dead, then sent")),
    st.integers(0, 5000),
    st.sampled_from(("email", "log")),
)


def empty(db: Database) -> None:
    with db.write() as session:
        for table in (*models.TOTALS.values(), models.orders, models.notifications, models.product_names):
            session.execute(sa.delete(table))


def live(world: World, orders: list[Any], notifications: list[Any]) -> None:
    """Generate random orders and notifications with all their events."""
    for life, quantities, currency in orders:
        order = world.order(*quantities, currency=currency)
        for status in LIVES[life]:
            world.step(order, status)
    for fate, milliseconds, channel in notifications:
        first, _, then = fate.partition(", then ")
        made = world.notification(first, milliseconds / 1000, channel)
        if then:
            world.end(made, then, milliseconds / 1000)
