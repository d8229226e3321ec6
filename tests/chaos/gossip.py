"""Deliveries that no transport promises: events that come early, late, twice and out of order.

It reads the outboxes, delivers events to their subscribers before, after and concurrently with the relays, and repeats
old ones. The relays are not involved and send everything as usual.
"""

import random
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import orjson
import requests
import sqlalchemy as sa

from libs.common.events.event import BATCH_JSON
from libs.common.events.outbox import BROKER, outbox
from libs.topology import PORT_OFFSETS, SUBSCRIPTIONS
from tests.chaos.system import ChaosSystem

PUBLISHERS = ("user", "order", "notification")
OLD_NEWS = 500


class Gossip:
    def __init__(self, system: ChaosSystem, seed: int):
        self._system, self._random = system, random.Random(f"{seed}/gossip")
        self._databases = {service: system.database(service) for service in PUBLISHERS}
        self._old: deque[tuple[str, str]] = deque(maxlen=OLD_NEWS)
        self._silent = threading.Event()
        self.told = 0

    @contextmanager
    def abroad(self) -> Iterator[None]:
        thread = threading.Thread(target=self._talk)
        thread.start()
        try:
            yield
        finally:
            self._silent.set()
            thread.join(30)
            for database in self._databases.values():
                database.dispose()

    def _talk(self) -> None:
        while not self._silent.wait(0.05):
            with suppress(sa.exc.DBAPIError, requests.RequestException):
                self._tell(self._news() + self._random.sample(self._old, min(len(self._old), 2)))

    def _news(self) -> list[tuple[str, str]]:
        """Subscriber and event, for some events that wait in one outbox, newest first."""
        query = sa.select(outbox.c.subscriber, outbox.c.body).order_by(outbox.c.seq.desc()).limit(20)
        with self._databases[self._random.choice(PUBLISHERS)].connect() as connection:
            rows = [tuple(row) for row in connection.execute(query)]
        found: list[tuple[str, str]] = []
        for subscriber, body in self._random.sample(rows, min(len(rows), 4)):
            names = SUBSCRIPTIONS[orjson.loads(body)["type"]] if subscriber == BROKER else (subscriber,)
            found += [(name, body) for name in names]
        self._old.extend(found)
        return found

    def _tell(self, events: list[tuple[str, str]]) -> None:
        for subscriber, body in events:
            url = f"http://127.0.0.1:{self._system.base_port + PORT_OFFSETS[subscriber]}/api/v1/events"
            requests.post(url, f"[{body}]", headers={"Content-Type": BATCH_JSON}, timeout=2)
            self.told += 1
