"""Common mistakes, injected into a running service by CHAOS_BUG: the suite must detect each of them.

    no-outbox           an event is sent after the commit, by whoever is still alive then
    no-inbox            every delivery is handled, and the handler relies on being called once
    check-then-take     the stock is looked at first, and taken later
    check-then-insert   the key is looked up first, and inserted later

    only-no-inbox       every delivery is handled: harmless, since each effect has a business key of its own

One more, a POST that is sent again without a key, is a mistake of clients: `Crowd(keys=False)`.
"""

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

import orjson
import requests
import sqlalchemy as sa

from libs.common.data.database import Database
from libs.common.data.idempotency import Key
from libs.common.errors import Problem
from libs.common.events import inbox, outbox
from libs.common.events.event import BATCH_JSON, Event, envelope
from libs.common.ids import new_id
from libs.topology import PORT_OFFSETS, SERVICES, SUBSCRIPTIONS
from tests.chaos.points import wrap


def install(bug: str, service: str) -> None:
    """Inject the mistake into this process, if it belongs to this service."""
    for name, (where, make) in BUGS.items():
        if name == bug and service in where:
            make()


def _send_after_commit() -> None:
    def add(session: Any, *events: Event) -> None:
        service = session.owner.service
        told = [
            (name, orjson.dumps(envelope(event, service))) for event in events for name in SUBSCRIPTIONS[event.TYPE]
        ]
        session.after_commit(lambda: threading.Thread(target=_tell, args=(told,)).start())

    outbox.add = add


def _tell(told: Sequence[tuple[str, bytes]]) -> None:
    for subscriber, body in told:
        port = int(os.environ["BASE_PORT"]) + PORT_OFFSETS[subscriber]
        with suppress(requests.RequestException):
            url = f"http://127.0.0.1:{port}/api/v1/events"
            requests.post(url, b"[" + body + b"]", headers={"Content-Type": BATCH_JSON}, timeout=2)


def _handle_every_delivery() -> None:
    inbox._claim = lambda session, event_ids: set(event_ids)


def _trust_every_delivery() -> None:
    def trusting(lock: Any) -> Any:
        """The handler does not check the status of a reservation."""

        def locked(session: Any, order_ids: Any) -> dict[str, Any]:
            return {order_id: {**row, "status": "reserved"} for order_id, row in lock(session, order_ids).items()}

        return locked

    _handle_every_delivery()
    wrap("product_service.repository:lock_reservations", trusting)


def _look_then_take() -> None:
    repository: Any = import_module("product_service.repository")
    use_cases: Any = import_module("product_service.use_cases")
    models: Any = import_module("product_service.models")

    def reserve(db: Database, batch: Sequence[Any]) -> list[Any]:
        wanted_ids = sorted({product_id for wanted in batch for product_id in wanted.quantities})
        with db.read() as connection:
            columns = (repository.products.c[name] for name in repository._units)
            query = sa.select(*columns).where(repository.products.c.id.in_(wanted_ids))
            units = models.Units({row["id"]: dict(row) for row in connection.execute(query).mappings()})
        time.sleep(0.01)
        fresh: dict[str, Any] = {}
        outcomes: list[Any] = []
        with db.write() as session:
            known = repository.lock_reservations(session, {wanted.order_id for wanted in batch})
            for wanted in batch:
                try:
                    outcomes.append(use_cases._judge(wanted, known, fresh, units))
                except Problem as problem:
                    outcomes.append(problem)
            repository.add_reservations(session, fresh)
            repository.write_units(session, units)
        return outcomes

    use_cases.reserve = reserve


def _look_then_insert() -> None:
    orders: Any = import_module("order_service.models").orders

    def looking(place: Any) -> Any:
        def placed(self: Any, new: Any) -> Any:
            if not new.key:
                return place(self, new)
            mine = sa.func.substr(orders.c.idempotency_key, 1, 40) == new.key.name[:40]
            with self._db.read() as connection:
                found = connection.execute(sa.select(orders).where(mine)).mappings().first()
            if found:
                return dict(found)
            time.sleep(0.01)
            # No constraint of the database prevents a second one.
            key = Key(new.key.name[:40] + new_id()[-24:], new.key.fingerprint)
            return place(self, replace(new, key=key))

        return placed

    wrap("order_service.checkout:Checkout.place", looking)


BUGS: dict[str, tuple[tuple[str, ...], Any]] = {
    "no-outbox": (("order",), _send_after_commit),
    "no-inbox": (("product",), _trust_every_delivery),
    "check-then-take": (("product",), _look_then_take),
    "check-then-insert": (("order",), _look_then_insert),
    "only-no-inbox": (SERVICES, _handle_every_delivery),
}
