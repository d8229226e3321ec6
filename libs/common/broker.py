"""The event transport over RabbitMQ, when BROKER_URL is set: CloudEvents in structured mode on a topic exchange.

    outbox ──publish, confirmed──▶ quintet.events ──routing key = event type──▶ order ──▶ inbox
                                                                                 │ retry: order.retry.N waits, and
                                                                                 │        comes back to the queue
                                                                                 └ given up: quintet.dead ──▶ order.dead

Queues are durable quorum queues. Publishers and consumers alike declare all of them from libs/topology.py, so nothing
is lost before a consumer's first start. There is one connection for each process. One loop drains it; whoever else
writes to it takes the lock.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import kombu
import orjson
from amqp import Message
from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError

from libs.common.errors import DependencyUnavailable
from libs.common.events import MAX_EVENTS
from libs.common.inbox import Inbox
from libs.common.outbox import Claimed
from libs.topology import SERVICES, SUBSCRIPTIONS

EVENT_JSON = "application/cloudevents+json"
CONFIRM_SECONDS = 5.0
RETRY_SECONDS = (1, 4, 16, 60)
DELIVERY_LIMIT = 20
"""After so many deliveries without an answer, as when an event kills its consumer, RabbitMQ gives an event up."""

log = logging.getLogger(__name__)

events = kombu.Exchange("quintet.events", "topic", durable=True)
dead = kombu.Exchange("quintet.dead", "direct", durable=True)


def queues(service: str) -> list[kombu.Queue]:
    """The queues of one service, its own first."""
    sure = {"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    given_up = {"x-dead-letter-exchange": dead.name, "x-dead-letter-routing-key": service}
    bindings = [kombu.binding(events, event) for event, names in SUBSCRIPTIONS.items() if service in names]
    own = kombu.Queue(
        service, bindings=bindings, queue_arguments=sure | given_up | {"x-delivery-limit": DELIVERY_LIMIT}
    )
    waiting = [
        kombu.Queue(
            f"{service}.retry.{seconds}",
            queue_arguments=sure
            | {"x-message-ttl": seconds * 1000, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": service},
        )
        for seconds in RETRY_SECONDS
    ]
    dead_letters = kombu.Queue(
        f"{service}.dead", bindings=[kombu.binding(dead, service)], queue_arguments={"x-queue-type": "quorum"}
    )
    return [own, *waiting, dead_letters]


class Broker:
    """The connection of one process. Every fault of it becomes DependencyUnavailable, and the next use reconnects."""

    def __init__(self, url: str, service: str, inbox: Inbox | None):
        self._url, self._service, self._inbox = url, service, inbox
        self._lock = threading.RLock()
        self._link: _Link | None = None

    @property
    def connected(self) -> bool:
        return self._link is not None

    def send(self, batch: list[Claimed]) -> tuple[list[int], list[Claimed]]:
        """Publish rows of the outbox and wait for the confirms: rows that the broker has, and rows to try again."""
        with self._translated():
            with self._lock:
                link = self._open()
                tags = [link.publish(events.name, orjson.loads(row.body)["type"], row.body) for row in batch]
            taken = link.confirmed(tags)
        sent = [row.seq for row, ok in zip(batch, taken, strict=True) if ok]
        return sent, [row for row, ok in zip(batch, taken, strict=True) if not ok]

    def step(self) -> bool:
        """Drain the connection for up to a second and handle what arrived; the work of a background loop."""
        with self._translated():
            with self._lock:
                link = self._open()
            link.drain(1.0)
            while link.arrived and len(link.arrived) < MAX_EVENTS and link.drain(0.002):
                pass
            with self._lock:
                link.connection.heartbeat_check()
            if link.arrived or link.given_up:
                self._handle(link)
        return True

    def _handle(self, link: "_Link") -> None:
        """Give what arrived to the inbox, and acknowledge it when it is in effect or safe elsewhere."""
        assert self._inbox is not None
        arrived, link.arrived = link.arrived, []
        given_up, link.given_up = link.given_up, []
        for message in given_up:
            self._inbox.bury(_read(message.body), "given up by the broker")
        results = self._inbox.receive([_read(message.body) for message in arrived]) if arrived else []
        again = [m for m, result in zip(arrived, results, strict=True) if result["outcome"] == "retry"]
        with self._lock:
            tags = [self._put_off(link, message) for message in again]
        if not all(link.confirmed(tags, drain=True)):
            raise DependencyUnavailable("The broker did not take an event back.")
        with self._lock:
            for message in (*arrived, *given_up):
                message.channel.basic_ack(message.delivery_tag)

    def _put_off(self, link: "_Link", message: Any) -> int:
        """Let it wait in a queue of its own, longer each time, so that it holds up nobody."""
        retries = int((message.headers or {}).get("x-retries", 0))
        seconds = RETRY_SECONDS[min(retries, len(RETRY_SECONDS) - 1)]
        return link.publish("", f"{self._service}.retry.{seconds}", message.body, {"x-retries": retries + 1})

    def _open(self) -> "_Link":
        if self._link is None:
            self._link = _Link(self._url, self._service if self._inbox else None)
        return self._link

    def close(self) -> None:
        """Drop the connection; what was not acknowledged is delivered again."""
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (AMQPError, KombuError, OSError) as exc:
            self.close()
            log.warning("broker.failed", extra={"why": type(exc).__name__})
            raise DependencyUnavailable("The broker is unavailable.") from exc
        except DependencyUnavailable:
            self.close()
            raise


class _Link:
    """One connection while it lasts: what was published on it and not yet confirmed, and what arrived."""

    def __init__(self, url: str, consumer: str | None):
        options = {"connect_timeout": 3, "read_timeout": 5, "write_timeout": 5}
        self.connection = kombu.Connection(url, heartbeat=10, transport_options=options)
        self.connection.ensure_connection(max_retries=1, timeout=3)
        self.arrived: list[Any] = []
        self.given_up: list[Any] = []
        self._confirms: dict[int, threading.Event] = {}
        self._refused: set[int] = set()
        self._last_tag = 0
        self._closed = False
        self._channel = self._connect(consumer)

    def _connect(self, consumer: str | None) -> Any:
        channel = self.connection.channel()
        for exchange in (events, dead):
            exchange(channel).declare()
        for service in SERVICES:
            for queue in queues(service):
                queue(channel).declare()
        if consumer:
            channel.basic_qos(0, MAX_EVENTS, False)
            # Looked up at each delivery: both lists are replaced when they are handled.
            channel.basic_consume(consumer, callback=lambda message: self.arrived.append(message))
            channel.basic_consume(f"{consumer}.dead", callback=lambda message: self.given_up.append(message))
        sending = self.connection.channel()
        sending.confirm_select()
        sending.events["basic_ack"].add(self._on_ack)
        sending.events["basic_nack"].add(self._on_nack)
        sending.events["basic_return"].add(self._on_return)
        return sending

    def publish(self, exchange: str, routing_key: str, body: str, headers: dict[str, Any] | None = None) -> int:
        """Send one message; returns the tag that its confirm will have."""
        self._last_tag += 1
        message = Message(
            body, content_type=EVENT_JSON, content_encoding="utf-8", delivery_mode=2,
            message_id=str(self._last_tag), application_headers=headers or {},
        )  # fmt: skip
        self._confirms[self._last_tag] = threading.Event()
        # Mandatory where a queue must get it: an event that reaches none comes back.
        mandatory = not exchange or bool(SUBSCRIPTIONS.get(routing_key))
        self._channel.basic_publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        return self._last_tag

    def confirmed(self, tags: Sequence[int], *, drain: bool = False) -> list[bool]:
        """Wait until the broker has answered for each; whether it took it. `drain` is for the loop that drains."""
        give_up = time.monotonic() + CONFIRM_SECONDS
        for tag in tags:
            while drain and not self._confirms[tag].is_set() and time.monotonic() < give_up:
                self.drain(0.1)
            if not self._confirms[tag].wait(max(0.0, give_up - time.monotonic())) or self._closed:
                raise DependencyUnavailable("The broker did not confirm in time.")
        for tag in tags:
            del self._confirms[tag]
        return [tag not in self._refused for tag in tags]

    def drain(self, seconds: float) -> bool:
        """Take in what the broker sent; False when nothing came in that time."""
        try:
            self.connection.drain_events(timeout=seconds)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        self._closed = True
        for confirm in list(self._confirms.values()):
            confirm.set()
        self.connection.collect(socket_timeout=1)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for known in [t for t in self._confirms if t <= tag] if multiple else [tag]:
            if known in self._confirms:
                self._confirms[known].set()

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused |= {t for t in self._confirms if t <= tag} if multiple else {tag}
        self._on_ack(tag, multiple)

    def _on_return(self, exc: Exception, exchange: str, routing_key: str, message: Any) -> None:
        log.error("broker.returned", extra={"routing_key": routing_key})
        self._refused.add(int(message.properties["message_id"]))


def _read(body: str | bytes) -> Any:
    """The CloudEvent, or the text itself where it is none: the inbox refuses that."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"data": body if isinstance(body, str) else body.decode("utf-8", "replace")}
