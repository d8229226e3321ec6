"""The clients of the four other services, whose calls are concurrent and shared, and their fake."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import (
    Any,  # noqa: TID251  # JSON of other services, which nobody has checked
    Generic,
    NoReturn,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
)
from urllib.parse import urlencode

from analytics_service.events import (
    ConfirmedLine,
    FactEvent,
    NotificationDead,
    NotificationSent,
    OrderCancelled,
    OrderConfirmed,
    OrderDelivered,
    OrderRejected,
    OrderShipped,
)
from libs.common import context
from libs.common.calls.client import ServiceClient
from libs.common.errors import DependencyUnavailable, Problem
from libs.common.times import now

log = logging.getLogger(__name__)

FIGURES: dict[str, tuple[str, ...]] = {
    "user": ("total",),
    "product": ("total", "stock_units"),
    "order": ("total", "by_status", "revenue"),
    "notification": ("total", "by_status"),
}
"""Service → what the summary takes from its `/stats`."""
PAGE = 200

Json: TypeAlias = dict[str, Any]
Result = TypeVar("Result")


class ShownOrder(TypedDict):
    """The members of an order, as its service shows it, that are read."""

    id: str
    status: str
    items: list[ConfirmedLine]
    total: str
    currency: str
    updated_at: str
    confirmed_at: str | None
    cancelled_at: str | None
    shipped_at: str | None
    delivered_at: str | None


class ShownNotification(TypedDict):
    """The members of a notification, as its service shows it, that are read."""

    id: str
    status: str
    channel: str
    created_at: str
    sent_at: str | None


@dataclass(frozen=True)
class Figures:
    """The figures of a service, and when it returned them."""

    values: dict[str, object]
    as_of: datetime


@dataclass(frozen=True)
class Health:
    """The status that a service answered on /health, and how long the answer took."""

    status: str
    latency_ms: float


class Services(Protocol):
    """Every method raises DependencyUnavailable or DeadlineExceeded."""

    def figures(self, service: str) -> Figures: ...

    def health(self, service: str) -> Health: ...

    def page(self, service: str, cursor: str | None) -> tuple[list[FactEvent], str | None]:
        """The events of a page of orders or notifications, oldest first, and the cursor of the next page."""


class ServiceClients:
    def __init__(self, clients: Mapping[str, ServiceClient]):
        self._clients = clients

    def figures(self, service: str) -> Figures:
        stats = self._get(service, f"/{service}s/stats")
        if not all(stats.get(name) is not None for name in FIGURES[service]):
            raise _useless(service)
        return Figures({name: stats[name] for name in FIGURES[service]}, now())

    def health(self, service: str) -> Health:
        started = time.perf_counter()
        found = self._get(service, "/health", statuses=(200, 503), attempts=1)
        elapsed = round((time.perf_counter() - started) * 1000, 2)
        # A problem document has a status too, which is a number: 503 may also come from a proxy.
        if not isinstance(found.get("status"), str):
            raise _useless(service)
        return Health(found["status"], elapsed)

    def page(self, service: str, cursor: str | None) -> tuple[list[FactEvent], str | None]:
        query = {"limit": PAGE, "sort": "created_at", **({"cursor": cursor} if cursor else {})}
        found = self._get(service, f"/{service}s?{urlencode(query)}")
        try:
            return [event for item in found["items"] for event in _HISTORIES[service](item)], found["next_cursor"]
        except (KeyError, TypeError) as exc:
            raise _useless(service) from exc

    def _get(self, service: str, path: str, statuses: tuple[int, ...] = (200,), attempts: int | None = None) -> Json:
        reply = self._clients[service].get(path, attempts=attempts)
        if reply.status not in statuses or not isinstance(reply.body, dict):
            raise _useless(service)
        return reply.body


def _useless(service: str) -> DependencyUnavailable:
    return DependencyUnavailable(f"The {service} service gave no useful answer.")


def _order_history(order: ShownOrder) -> Iterable[FactEvent]:
    """The events that an order has published."""
    order_id = order["id"]
    if moment := order["confirmed_at"]:
        yield OrderConfirmed(
            order_id=order_id, items=order["items"], total=order["total"], currency=order["currency"],
            confirmed_at=moment,
        )  # fmt: skip
    if order["status"] == "rejected":
        yield OrderRejected(order_id=order_id, rejected_at=order["updated_at"])
    if moment := order["cancelled_at"]:
        yield OrderCancelled(order_id=order_id, cancelled_at=moment)
    if moment := order["shipped_at"]:
        yield OrderShipped(order_id=order_id, shipped_at=moment)
    if moment := order["delivered_at"]:
        yield OrderDelivered(order_id=order_id, delivered_at=moment)


def _notification_history(notification: ShownNotification) -> Iterable[FactEvent]:
    """The event that a notification has published, if any."""
    notification_id, channel = notification["id"], notification["channel"]
    created_at, sent_at = notification["created_at"], notification["sent_at"]
    if sent_at:
        yield NotificationSent(notification_id=notification_id, channel=channel, created_at=created_at, sent_at=sent_at)
    elif notification["status"] == "dead":
        # The service does not show when the notification died; only the fact is counted.
        yield NotificationDead(
            notification_id=notification_id, channel=channel, created_at=created_at, dead_at=created_at
        )


_HISTORIES: dict[str, Callable[[Any], Iterable[FactEvent]]] = {
    "order": _order_history,
    "notification": _notification_history,
}
"""Service → the events of one of its items."""


class Asked(Generic[Result]):
    """The result of a call that somebody has asked for. A Future, which can do more, takes three times as long."""

    def __init__(self) -> None:
        self.work = context.current()
        """The work that asked for it first."""
        self._ended = threading.Event()
        self._outcome: Callable[[], Result] | None = None

    def end(self, outcome: Callable[[], Result]) -> None:
        """`outcome` returns the result, or raises why there is none; only the first one counts."""
        self._outcome = self._outcome or outcome
        self._ended.set()

    def result(self, seconds: float) -> Result:
        """Raises what the call raised, or TimeoutError if it has not ended after so many seconds."""
        self._ended.wait(seconds)
        if self._outcome is None:
            raise TimeoutError
        return self._outcome()


class SharedCall(Generic[Result]):
    """One call at a time for all callers of `ask` (single flight). A caller that finds no call under way begins one;
    callers that arrive meanwhile share the next call, so no result is older than the request for it.

    `after` is called with each result once the waiting callers have it. After `seconds` a call blocks nobody: the next
    caller starts another one.
    """

    def __init__(self, call: Callable[[], Result], seconds: float, after: Callable[[Result], None] | None = None):
        self._call, self._seconds, self._after = call, seconds, after
        self._lock = threading.Lock()
        self._current: Asked[Result] | None = None
        self._next: Asked[Result] | None = None
        self._busy_until = 0.0

    def ask(self) -> Asked[Result]:
        with self._lock:
            asked = self._next = self._next or Asked()
            if time.monotonic() >= self._busy_until:
                self._take_next()
                threading.Thread(target=self._run, args=(asked,), name="shared call", daemon=True).start()
            return asked

    def _take_next(self) -> Asked[Result] | None:
        """The call that callers wait for, if any, is now under way; the caller holds the lock."""
        self._current, self._next = self._next, None
        self._busy_until = time.monotonic() + self._seconds if self._current else 0.0
        return self._current

    def _run(self, asked: Asked[Result]) -> None:
        """Make this call and those that callers wait for at its end, unless another thread has overtaken it."""
        following: Asked[Result] | None = asked
        while following:
            asked = following
            self._make(asked)
            with self._lock:
                following = self._take_next() if self._current is asked else None

    def _make(self, asked: Asked[Result]) -> None:
        work = asked.work
        context.begin(self._seconds, *((work.request_id, work.traceparent) if work else ()))
        try:
            result = self._call()
            asked.end(lambda: result)
            if self._after:
                self._after(result)
        except Exception as exc:
            if not isinstance(exc, Problem):
                log.error("call.failed", exc_info=exc)
            asked.end(partial(_fail, exc))
        finally:
            context.end()


def _fail(exc: Exception) -> NoReturn:
    raise exc


class SideBySide(Generic[Result]):
    """Calls several services concurrently, and waits for `seconds` at most, or until the deadline of the request where
    that is earlier.
    """

    def __init__(
        self,
        services: Iterable[str],
        ask: Callable[[str], Result],
        seconds: float,
        after: Callable[[str, Result], None] | None = None,
    ):
        self._seconds = seconds
        self._calls = {name: _shared(name, ask, seconds, after) for name in services}

    def ask(self) -> dict[str, Result]:
        """The results of the services that answered in time."""
        work = context.current()
        seconds = min(self._seconds, work.seconds_left()) if work else self._seconds
        give_up = time.monotonic() + seconds
        found = {}
        for name, asked in [(name, call.ask()) for name, call in self._calls.items()]:
            # Whatever it was, it is logged where it was raised.
            with suppress(Exception):
                found[name] = asked.result(max(0.0, give_up - time.monotonic()))
        return found


def _shared(
    name: str, ask: Callable[[str], Result], seconds: float, after: Callable[[str, Result], None] | None
) -> SharedCall[Result]:
    then = (lambda result: after(name, result)) if after else None
    return SharedCall(lambda: ask(name), seconds, then)


class FakeServices:
    """Answers from memory. A service in `down` is unavailable; one in `slow` takes the given seconds. `items` are
    orders and notifications as their services show them, listed by id.
    """

    def __init__(self) -> None:
        self.stats: dict[str, Json] = {
            "user": {"total": 3},
            "product": {"total": 2, "stock_units": 40},
            "order": {"total": 1, "by_status": {"confirmed": 1}, "revenue": [{"currency": "EUR", "amount": "9.50"}]},
            "notification": {"total": 1, "by_status": {"sent": 1}},
        }
        self.items: dict[str, list[Json]] = {"order": [], "notification": []}
        self.down: set[str] = set()
        self.slow: dict[str, float] = {}
        self.asked: list[str] = []
        self.page_size = 2

    def figures(self, service: str) -> Figures:
        self._answer(service)
        return Figures(self.stats[service], now())

    def health(self, service: str) -> Health:
        self._answer(service)
        return Health("healthy", 1.5)

    def page(self, service: str, cursor: str | None) -> tuple[list[FactEvent], str | None]:
        self._answer(service)
        later = [item for item in self.items[service] if cursor is None or item["id"] > cursor]
        page = sorted(later, key=lambda item: str(item["id"]))[: self.page_size]
        events = [event for item in page for event in _HISTORIES[service](item)]
        return events, page[-1]["id"] if len(later) > len(page) else None

    def _answer(self, service: str) -> None:
        self.asked.append(service)
        time.sleep(self.slow.get(service, 0.0))
        if service in self.down:
            raise DependencyUnavailable(f"The {service} service is unavailable.")
