"""The common operations of the tests of the order service, and access to its tables."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import sqlalchemy as sa
from flask import Flask
from werkzeug.test import TestResponse

from libs.common.data import counters
from libs.common.data.database import Database
from libs.common.data.erasures import Erasure
from libs.common.data.idempotency import Key
from libs.common.data.statements import epoch
from libs.common.errors import DependencyUnavailable
from libs.common.events import outbox
from libs.common.events.event import BATCH_JSON
from libs.common.ids import new_id
from order_service import checkout, repository, use_cases
from order_service.clients import Demand, FakeProducts, FakeUsers, Reserved, UserState
from order_service.models import NewOrder, OrderRow, orders, users
from tests.conftest import SECRET
from tests.factories import a_cloud_event
from tests.web import Api, answered


def elsewhere(work: Callable[[], Any]) -> Any:
    """Call a function in another thread, as another process would, and wait for it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


class WatchedUsers(FakeUsers):
    """Counts its calls, and calls a function of the test meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.meanwhile: Callable[[], Any] | None = None

    def find(self, user_id: str) -> UserState | None:
        self.asked.append(user_id)
        found = super().find(user_id)
        if self.meanwhile:
            elsewhere(self.meanwhile)
        return found


class InterruptedProducts(FakeProducts):
    """Calls a function of the test once, after the reservation and before its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], Any] | None = None

    def reserve(self, batch: Sequence[Demand], deadline: float) -> list[Reserved]:
        outcomes = super().reserve(batch, deadline)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            elsewhere(meanwhile)
        return outcomes

    def release(self, order_id: str) -> None:
        """Release units, as the product service does on a rejection or a cancellation."""
        held = self.reserved.get(order_id)
        if isinstance(held, list):
            for line in held:
                self.stock[line["product_id"]] += line["quantity"]
        self.reserved[order_id] = DependencyUnavailable("The reservation could not be made.")


class Shop:
    def __init__(self, open_shop: Callable[[], Flask], users: WatchedUsers, products: InterruptedProducts):
        self._open_shop, self.users, self.products = open_shop, users, products
        self.app = open_shop()
        self.db: Database = self.app.extensions["quintet"].db
        self.api = Api(self.app)
        self.user_id = self.a_user()
        self.product_id = products.add(new_id())

    def a_user(self, **given: Any) -> str:
        """A user who is not yet in the replica."""
        user_id = new_id()
        self.users.known[user_id] = {"status": "active", "version": 1, **given}
        return user_id

    def body(self, *lines: tuple[str, int], **given: Any) -> dict[str, Any]:
        """An order as a client sends it; `lines` are pairs of a product's id and a quantity."""
        wanted = lines or [(self.product_id, 2)]
        items = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in wanted]
        return {"user_id": self.user_id, "items": items, **given}

    def place(
        self, body: dict[str, Any] | None = None, key: str | None = None, headers: dict[str, str] | None = None
    ) -> TestResponse:
        return self.api.post("/orders", body or self.body(), headers=with_key(key, headers))

    def place_again(self, body: dict[str, Any], key: str, headers: dict[str, str] | None = None) -> TestResponse:
        """Place an order without the checks of a first answer: a replayed one names the first request."""
        data = orjson.dumps(body)
        client = self.app.test_client()
        return client.post("/api/v1/orders", data=data, headers=with_key(key, headers), content_type="application/json")

    def order(self, *lines: tuple[str, int], **given: Any) -> dict[str, Any]:
        """A confirmed order."""
        order: dict[str, Any] = answered(self.place(self.body(*lines, **given)), 201)
        return order

    def take(self, order_id: str, *steps: str) -> dict[str, Any]:
        """Lead an order through `cancel`, `ship` or `deliver`; the order as it is then."""
        for step in steps:
            answered(self.api.post(f"/orders/{order_id}/{step}", None))
        return self.get(order_id)

    def get(self, order_id: str) -> dict[str, Any]:
        order: dict[str, Any] = answered(self.api.get(f"/orders/{order_id}"))
        return order

    def twin(self) -> "Shop":
        """The same shop as another process sees it: only the database and the fakes are shared."""
        other = Shop(self._open_shop, self.users, self.products)
        other.user_id, other.product_id = self.user_id, self.product_id
        return other

    # Other processes -----------------------------------------------------------------------------------------------

    def know(self, *user_ids: str, **given: Any) -> None:
        """Put users into the replica."""
        facts = [{"id": user_id, "status": "active", "version": 1, **given} for user_id in user_ids or [self.user_id]]
        with self.db.write() as session:
            repository.learn_users(session, facts)

    def new(self, body: dict[str, Any] | None = None, key: str | None = None, seconds: float = 60.0) -> NewOrder:
        """A new order as the routes create it."""
        body = body or self.body()
        made = Key.of(SECRET, "anonymous", "/orders", key, body) if key else None
        return NewOrder.of(body["user_id"], body["items"], body.get("note"), made, time.monotonic() + seconds)

    def pend(self, body: dict[str, Any] | None = None, key: str | None = None, seconds: float = 60.0) -> str:
        """A pending order that another process has stored and may drive for `seconds` from now."""
        new = self.new(body, key, seconds)
        self.know(new.user_id)
        with self.db.write() as session:
            (placed,) = checkout.place_all(session, [new])
        assert summary(placed) == (new.order_id, "pending")
        return new.order_id

    def write(self, order_id: str, **values: Any) -> None:
        """Write into an order's row: to make it old, for instance."""
        with self.db.write() as session:
            session.execute(sa.update(orders).where(orders.c.id == order_id).values(**values))

    def abandon(self, order_id: str, seconds: float = 60.0) -> None:
        """Let the deadline of a pending order have passed `seconds` ago."""
        self.write(order_id, drive_until=epoch() - seconds)

    def recover(self) -> bool:
        return checkout.reject_abandoned(self.db)

    def erase(self) -> None:
        """Erase what deleted users wrote, as the background loop does."""
        erasure = Erasure(self.db, repository.walk_user, repository.erase)
        while erasure.step():
            pass

    def hear(self, *events: dict[str, Any]) -> list[str]:
        """Deliver events in one batch; returns their outcomes."""
        answer = self.api.post("/events", list(events), content_type=BATCH_JSON)
        return [result["outcome"] for result in answered(answer)["results"]]

    # Behind the answers --------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Every order, oldest first."""
        with self.db.read() as session:
            return [dict(row) for row in session.execute(sa.select(orders).order_by(orders.c.id)).mappings()]

    def row(self, order_id: str) -> OrderRow:
        with self.db.read() as session:
            return repository.find(session, order_id)

    def replica(self) -> dict[str, tuple[str, int]]:
        """Status and version of each user in the replica."""
        with self.db.read() as session:
            return {row.id: (row.status, row.version) for row in session.execute(sa.select(users))}

    def events(self, event_type: str | None = None) -> list[dict[str, Any]]:
        """The CloudEvents that wait for a subscriber, oldest first."""
        with self.db.read() as session:
            bodies = session.scalars(sa.select(outbox.outbox.c.body).order_by(outbox.outbox.c.seq))
            found = [orjson.loads(body) for body in dict.fromkeys(bodies)]
        return [event for event in found if event_type in (None, event["type"])]

    def subscribers(self, event_id: str) -> set[str]:
        with self.db.read() as session:
            rows = session.execute(sa.select(outbox.outbox.c.subscriber, outbox.outbox.c.body))
            return {row.subscriber for row in rows if orjson.loads(row.body)["id"] == event_id}

    def totals(self) -> dict[str, int]:
        with self.db.read() as session:
            return counters.read(session)

    def by_status(self) -> dict[str, int]:
        with self.db.read() as session:
            found: dict[str, int] = use_cases.order_stats(session)["by_status"]
            return found

    def nothing_happened(self) -> bool:
        return not (self.rows() or self.events() or self.totals() or self.products.reserved)


def summary(placed: OrderRow | Exception | None) -> tuple[str, str] | str | None:
    """The outcome of T1 for an order: its id and status, or the name of the problem, or None for an unknown user."""
    return type(placed).__name__ if isinstance(placed, Exception) else placed and (placed["id"], placed["status"])


def with_key(key: str | None, headers: dict[str, str] | None = None) -> dict[str, str]:
    return {**({"Idempotency-Key": key} if key else {}), **(headers or {})}


def a_user_event(what: str, user_id: str, version: int, **given: Any) -> dict[str, Any]:
    """`what` is created, updated or deleted."""
    facts = {"deleted_at": "2026-01-31T12:00:00.000000Z"} if what == "deleted" else {"role": "customer"}
    status = {} if what == "deleted" else {"status": "active"}
    data = {"user_id": user_id, "version": version, **facts, **status, **given}
    return a_cloud_event(f"user.{what}.v1", data, subject=user_id)
