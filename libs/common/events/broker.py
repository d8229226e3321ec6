"""The event transport over RabbitMQ, when BROKER_URL is set: CloudEvents in structured mode on a topic exchange.

    outbox ──publish, confirmed──▶ quintet.events ──routing key = event type──▶ order ──▶ inbox
                                                                                 │ retry: order.retry.N holds it for N
                                                                                 │        seconds, then returns it
                                                                                 └ given up: quintet.dead ──▶ order.dead

Queues are durable quorum queues. Publishers and consumers declare all of them from libs/topology.py, so that no event
is lost before a consumer's first start. Each process has one connection. Only one thread at a time reads from it: the
loop that consumes, or a relay that waits for confirms. Writers take the lock.
"""

import logging
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import kombu
import orjson
from amqp import Message
from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError

from libs.common.errors import DependencyUnavailable
from libs.common.events.event import MAX_EVENTS
from libs.common.events.inbox import TRANSIENT, Inbox
from libs.common.events.outbox import Claimed
from libs.topology import SERVICES, SUBSCRIPTIONS

EVENT_JSON = "application/cloudevents+json"
CONFIRM_SECONDS = 5.0
IO_SECONDS = 5
DRAIN_SECONDS = 0.25
LEAVE_SECONDS = 0.5
"""DRAIN_SECONDS and LEAVE_SECONDS must fit into the time that a worker has to stop."""
RETRY_SECONDS = (1, 4, 16, 60)
DELIVERY_LIMIT = 20
"""RabbitMQ dead-letters an event after this many unacknowledged deliveries, for example if it crashes its consumer."""
SUSPICIOUS = 2
"""An event with this many unacknowledged deliveries may be the one that crashes its consumer."""

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
    """The connection of one process. Connection errors are raised as DependencyUnavailable; the next use reconnects."""

    def __init__(self, url: str, service: str, inbox: Inbox | None):
        self._url, self._service, self._inbox = url, service, inbox
        self._lock = threading.RLock()
        self._link: _Link | None = None

    @property
    def connected(self) -> bool:
        return self._link is not None

    def send(self, batch: list[Claimed]) -> tuple[list[int], list[Claimed]]:
        """Publish rows of the outbox and wait for the confirms. Returns the `seq` of confirmed rows, and the rows to
        retry.
        """
        with self._translated():
            with self._lock:
                link = self._open()
                tags = [link.publish(events.name, orjson.loads(row.body)["type"], row.body) for row in batch]
            taken = link.confirmed(tags)
        sent = [row.seq for row, ok in zip(batch, taken, strict=True) if ok]
        return sent, [row for row, ok in zip(batch, taken, strict=True) if not ok]

    def step(self) -> bool:
        """Drain the connection for up to DRAIN_SECONDS and handle what arrived; the work of a background loop."""
        with self._translated():
            with self._lock:
                link = self._open()
            more = link.drain(DRAIN_SECONDS)
            while more and len(link.arrived) < MAX_EVENTS:
                more = link.drain(0.002)
            with self._lock:
                link.beat()
            if self._inbox:
                self._store_dead_letters(self._inbox, link)
                self._handle(self._inbox, link)
        return True

    def _store_dead_letters(self, inbox: Inbox, link: "_Link") -> None:
        while link.given_up:
            message = link.given_up[0]
            inbox.give_up(_read(message.body), "given up by the broker")
            self._acknowledge([message])
            link.given_up.popleft()

    def _handle(self, inbox: Inbox, link: "_Link") -> None:
        """Handle what arrived in one batch. Events that may crash their consumer are handled alone and in random order,
        so that only the faulty one reaches the delivery limit. After a transient error the remaining messages stay in
        memory, so that their delivery count does not grow.
        """
        arrived = [link.arrived.popleft() for _ in range(min(len(link.arrived), MAX_EVENTS))]
        suspects = [message for message in arrived if _deliveries(message) >= SUSPICIOUS]
        random.shuffle(suspects)
        calm = [message for message in arrived if _deliveries(message) < SUSPICIOUS]
        batches = [batch for batch in (calm, *([suspect] for suspect in suspects)) if batch]
        try:
            while batches:
                self._handle_batch(inbox, link, batches[0])
                batches.pop(0)
        except TRANSIENT:
            link.arrived.extendleft(message for batch in reversed(batches) for message in reversed(batch))
            raise

    def _handle_batch(self, inbox: Inbox, link: "_Link", batch: list[Any]) -> None:
        """Pass events to the inbox, and acknowledge them when they are handled, dead letters or in a retry queue."""
        results = inbox.receive([_read(message.body) for message in batch])
        again = [m for m, result in zip(batch, results, strict=True) if result["outcome"] == "retry"]
        with self._lock:
            tags = [self._delay(link, message) for message in again]
        if not all(link.confirmed(tags)):
            raise _Lost("an event was not requeued")
        self._acknowledge(batch)

    def _acknowledge(self, messages: list[Any]) -> None:
        with self._lock:
            for message in messages:
                message.channel.basic_ack(message.delivery_tag)

    def _delay(self, link: "_Link", message: Any) -> int:
        """Publish it to a retry queue, with a longer delay each time; returns the tag of the publish."""
        retries = int((message.headers or {}).get("x-retries", 0))
        seconds = RETRY_SECONDS[min(retries, len(RETRY_SECONDS) - 1)]
        return link.publish("", f"{self._service}.retry.{seconds}", message.body, {"x-retries": retries + 1})

    def _open(self) -> "_Link":
        if self._link is None:
            self._link = _Link(self._url, self._service if self._inbox else None)
        return self._link

    def close(self, *, graceful: bool = True) -> None:
        """Close the connection; unacknowledged messages are delivered again. `graceful` does the AMQP close handshake,
        which makes sure that the broker has received the last acknowledgements.
        """
        with self._lock:
            link, self._link = self._link, None
            if link is not None:
                if graceful:
                    link.close_gracefully()
                link.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (AMQPError, KombuError, OSError) as exc:
            self.close(graceful=False)
            log.warning("broker.failed", extra={"why": str(exc) if isinstance(exc, _Lost) else type(exc).__name__})
            raise DependencyUnavailable("The broker is unavailable.") from exc


class _Lost(OSError):
    """The connection can no longer be used."""


class _Link:
    """One open connection, with its unconfirmed publishes and the messages that have arrived."""

    def __init__(self, url: str, consumer: str | None):
        options = {"connect_timeout": 3, "read_timeout": IO_SECONDS, "write_timeout": IO_SECONDS}
        self._connection = kombu.Connection(url, heartbeat=10, transport_options=options)
        self._connection.ensure_connection(max_retries=1, timeout=3)
        # The methods of kombu would reconnect on their own; so would those of amqp after `collect`.
        self._amqp: Any = self._connection.connection
        # The timeout is never changed: it belongs to the socket, so a reader would also change it for writers.
        self._amqp.sock.settimeout(IO_SECONDS)
        # With this capability amqp reads before it publishes; two concurrent readers would each get parts of a frame.
        self._amqp.client_properties.get("capabilities", {}).pop("connection.blocked", None)
        self.arrived: deque[Any] = deque()
        self.given_up: deque[Any] = deque()
        self._reading = threading.Lock()
        self._confirms: dict[int, threading.Event] = {}
        self._refused: set[int] = set()
        self._last_tag = 0
        self._closed = False
        try:
            self._channel = self._connect(consumer)
        except BaseException:
            self.close()
            raise

    def _connect(self, consumer: str | None) -> Any:
        channel = self._amqp.channel()
        for exchange in (events, dead):
            exchange(channel).declare()
        for service in SERVICES:
            for queue in queues(service):
                queue(channel).declare()
        if consumer:
            channel.basic_qos(0, MAX_EVENTS, False)
            channel.basic_consume(consumer, callback=self.arrived.append)
            channel.basic_consume(f"{consumer}.dead", callback=self.given_up.append)
        sending = self._amqp.channel()
        sending.confirm_select()
        sending.events["basic_ack"].add(self._on_ack)
        sending.events["basic_nack"].add(self._on_nack)
        sending.events["basic_return"].add(self._on_return)
        return sending

    def publish(self, exchange: str, routing_key: str, body: str, headers: dict[str, Any] | None = None) -> int:
        """Send one message; returns the delivery tag of its confirm."""
        self._last_tag += 1
        message = Message(
            body, content_type=EVENT_JSON, content_encoding="utf-8", delivery_mode=2,
            message_id=str(self._last_tag), application_headers=headers or {},
        )  # fmt: skip
        self._confirms[self._last_tag] = threading.Event()
        # Mandatory if there must be a queue for it: the broker then returns a message that cannot be routed.
        mandatory = not exchange or bool(SUBSCRIPTIONS.get(routing_key))
        self._channel.basic_publish(message, exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        return self._last_tag

    def confirmed(self, tags: Sequence[int]) -> list[bool]:
        """Wait for the confirms of these tags; returns whether each was accepted. Raises _Lost on a timeout."""
        give_up = time.monotonic() + CONFIRM_SECONDS
        for tag in tags:
            while not self._confirms[tag].is_set() and time.monotonic() < give_up:
                if not self.drain(0.1, wait=False):
                    self._confirms[tag].wait(0.1)
            if self._closed or not self._confirms[tag].is_set():
                raise _Lost("no confirm")
        for tag in tags:
            del self._confirms[tag]
        taken = [tag not in self._refused for tag in tags]
        self._refused.difference_update(tags)
        return taken

    def drain(self, seconds: float, *, wait: bool = True) -> bool:
        """Read one frame; returns False if none came in that time, or if another thread reads and `wait` is false."""
        if not (self._reading.acquire(timeout=seconds) if wait else self._reading.acquire(blocking=False)):
            return False
        try:
            self._check()
            # While this thread waited for the lock, the other reader may have received what it wants.
            if not _is_readable(self._amqp.sock, 0.002 if wait and self.arrived else seconds):
                return False
            # Not `drain_events`, which waits for another frame after a heartbeat: that would delay a worker's stop.
            self._amqp.blocking_read(IO_SECONDS)
        finally:
            self._reading.release()
        return True

    def beat(self) -> None:
        """Send a heartbeat if one is due; raises AMQPError if the broker has missed too many."""
        self._check()
        self._amqp.heartbeat_tick()

    def _check(self) -> None:
        if self._closed or not self._amqp.connected:
            raise _Lost("closed")

    def close_gracefully(self) -> None:
        if self._reading.acquire(timeout=LEAVE_SECONDS):
            with suppress(OSError, AMQPError):
                self._check()
                self._amqp.sock.settimeout(LEAVE_SECONDS)
                self._amqp.close()
            self._reading.release()

    def close(self) -> None:
        self._closed = True
        for confirm in list(self._confirms.values()):
            confirm.set()
        # Wakes the reader, which must have left before the connection is collected.
        if self._amqp.connected:
            with suppress(OSError):
                self._amqp.sock.shutdown(socket.SHUT_RDWR)
        if self._reading.acquire(timeout=2.0):
            self._reading.release()
        self._connection.collect(socket_timeout=1)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for known in [t for t in list(self._confirms) if t <= tag] if multiple else [tag]:
            if known in self._confirms:
                self._confirms[known].set()

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused |= {t for t in list(self._confirms) if t <= tag} if multiple else {tag}
        self._on_ack(tag, multiple)

    def _on_return(self, exc: Exception, exchange: str, routing_key: str, message: Any) -> None:
        log.error("broker.returned", extra={"routing_key": routing_key})
        self._refused.add(int(message.properties["message_id"]))


def _is_readable(sock: Any, seconds: float) -> bool:
    """Whether data arrives within that time."""
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def _deliveries(message: Any) -> int:
    """How often it was delivered before without being acknowledged."""
    return int((message.headers or {}).get("x-delivery-count", 0))


def _read(body: str | bytes) -> Any:
    """The CloudEvent. A body that is not JSON is returned as `data`, which the inbox refuses."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"data": body if isinstance(body, str) else body.decode("utf-8", "replace")}
