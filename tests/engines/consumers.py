"""A test event, and its consumers and relays in threads."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import amqp

from libs.common.background import Loop
from libs.common.data.database import Database
from libs.common.errors import DependencyUnavailable
from libs.common.events import outbox
from libs.common.events.broker import RETRY_SECONDS, Broker
from libs.common.events.courier import Courier
from libs.common.events.event import Event
from libs.common.events.inbox import Inbox
from libs.common.events.outbox import BROKER, Relay
from libs.topology import SERVICES

DELIVERY_LIMIT = 12
"""Lower than in production: fewer processes have to die."""


@dataclass(frozen=True, kw_only=True)
class Ping(Event):
    """Goes to the order service alone."""

    TYPE = "user.created.v1"
    SUBJECT = "subject_id"

    subject_id: str
    number: int = 0


def publish(db: Database, *events: Event, service: str = "user") -> None:
    db.owner.service, db.owner.has_broker = service, True
    with db.write() as session:
        outbox.add(session, *events)


def waiting(db: Database) -> int:
    """How many events the broker has not got yet."""
    with db.read() as session:
        return outbox.pending(session).get(BROKER, (0, 0.0))[0]


@contextmanager
def relay(db: Database, url: str) -> Iterator[Broker]:
    """Runs the relay, as a worker of a publisher does."""
    broker = Broker(url, "user", None)
    with running(broker, Courier(Relay(db, BROKER), broker.send)):
        yield broker


@contextmanager
def consumer(db: Database, url: str, handle: Callable[[list[Ping]], None]) -> Iterator[Broker]:
    """Runs the consumer, as a worker of the order service does."""
    broker = Broker(url, "order", Inbox(db, {Ping: lambda session, events: handle(events)}))
    with running(broker):
        yield broker


@contextmanager
def running(broker: Broker, *couriers: Courier) -> Iterator[None]:
    """The loops of one process."""
    loops = [Loop("broker", broker.step, interval_seconds=0.0)]
    loops += [Loop("relay", one.step, interval_seconds=0.05, finish=one.finish) for one in couriers]
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        for loop in loops:
            loop.stop()
        for loop in loops:
            loop.join(10)
        broker.close()


class Seen:
    """A handler that records the events of each batch, and calls the function of the test for each event."""

    def __init__(self, effect: Callable[[Ping], Any] = lambda event: None):
        self.batches: list[list[Ping]] = []
        self.effect = effect
        self._lock = threading.Lock()

    def __call__(self, events: list[Ping]) -> None:
        for event in events:
            self.effect(event)
        with self._lock:
            self.batches.append(events)

    @property
    def numbers(self) -> list[int]:
        return [event.number for batch in self.batches for event in batch]


@contextmanager
def channel(url: str) -> Iterator[Any]:
    host = url.rpartition("@")[2].strip("/")
    with amqp.Connection(host, connect_timeout=3, read_timeout=5) as connection:
        yield connection.channel()


def count(url: str, queue: str) -> int:
    """How many messages are in a queue."""
    with channel(url) as opened:
        return int(opened.queue_declare(queue, passive=True).message_count)


def all_queues() -> list[str]:
    kinds = ["", ".dead", *(f".retry.{seconds}" for seconds in RETRY_SECONDS)]
    return [service + kind for service in SERVICES for kind in kinds]


def all_delivered(url: str) -> bool:
    """Whether no event waits in a queue; one that a consumer has fetched waits in none."""
    with channel(url) as opened:
        waits = (opened.queue_declare(queue, passive=True).message_count for queue in all_queues())
        return not any(waits)


def wipe(url: str) -> None:
    """Delete all queues and exchanges, as on a new server."""
    with channel(url) as opened:
        for queue in all_queues():
            opened.queue_delete(queue)
        for exchange in ("quintet.events", "quintet.dead"):
            opened.exchange_delete(exchange)


def empty(url: str) -> None:
    """Empty all queues, and declare them."""
    broker = Broker(url, "user", None)
    with suppress(DependencyUnavailable):
        broker.send([])
    broker.close()
    with channel(url) as opened:
        for queue in all_queues():
            opened.queue_purge(queue)
