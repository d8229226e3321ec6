"""What the analytics service asks of the four others, side by side and shared, and the fake of them."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlencode

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

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Figures:
    """What a service said of itself, and when."""

    values: dict[str, Any]
    as_of: datetime


@dataclass(frozen=True)
class Health:
    """What a service answered on /health, and how long that took."""

    status: str
    latency_ms: float


class Services(Protocol):
    """Every method raises DependencyUnavailable or DeadlineExceeded."""

    def figures(self, service: str) -> Figures: ...

    def health(self, service: str) -> Health: ...

    def page(self, service: str, cursor: str | None) -> tuple[list[Told], str | None]:
        """What happened to some orders or notifications, oldest first, and where the next page begins."""


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
        # A problem document has a status too, which is a number: 503 may also mean that somebody else answers.
        if not isinstance(found.get("status"), str):
            raise _useless(service)
        return Health(found["status"], elapsed)

    def page(self, service: str, cursor: str | None) -> tuple[list[Told], str | None]:
        asked = {"limit": PAGE, "sort": "created_at", **({"cursor": cursor} if cursor else {})}
        found = self._get(service, f"/{service}s?{urlencode(asked)}")
        try:
            return [told for item in found["items"] for told in _HISTORIES[service](item)], found["next_cursor"]
        except (KeyError, TypeError) as exc:
            raise _useless(service) from exc

    def _get(self, service: str, path: str, statuses: tuple[int, ...] = (200,), **options: Any) -> dict[str, Any]:
        answer = self._clients[service].get(path, **options)
        if answer.status not in statuses or not isinstance(answer.body, dict):
            raise _useless(service)
        return answer.body


def _useless(service: str) -> DependencyUnavailable:
    return DependencyUnavailable(f"The {service} service gave no useful answer.")


def _order_history(order: dict[str, Any]) -> Iterable[Told]:
    """An order as its service shows it, in the words of the events that it had."""
    order_id = order["id"]
    if order["confirmed_at"]:
        told = {name: order[name] for name in ("items", "total", "currency", "confirmed_at")}
        yield OrderConfirmed(order_id=order_id, **told)
    if order["status"] == "rejected":
        yield OrderRejected(order_id=order_id, rejected_at=order["updated_at"])
    for event, moment in (
        (OrderCancelled, "cancelled_at"),
        (OrderShipped, "shipped_at"),
        (OrderDelivered, "delivered_at"),
    ):
        if order[moment]:
            yield event(order_id=order_id, **{moment: order[moment]})


def _notification_history(notification: dict[str, Any]) -> Iterable[Told]:
    same = {"notification_id": notification["id"], **{name: notification[name] for name in ("channel", "created_at")}}
    if notification["sent_at"]:
        yield NotificationSent(sent_at=notification["sent_at"], **same)
    elif notification["status"] == "dead":
        # The service does not show when it gave up; what counts is that it did.
        yield NotificationDead(dead_at=notification["created_at"], **same)


_HISTORIES = {"order": _order_history, "notification": _notification_history}


class SharedCall(Generic[Answer]):
    """One call at a time for all who want its answer (single flight). Whoever finds none under way begins one; those
    who come meanwhile share the next, so nobody gets an answer that is older than the question.

    `after` gets each answer once those who wait have it. A call that takes longer than `seconds` blocks nobody: the
    next who asks begins another.
    """

    def __init__(self, call: Callable[[], Answer], seconds: float, after: Callable[[Answer], None] | None = None):
        self._call, self._seconds, self._after = call, seconds, after
        self._lock = threading.Lock()
        self._current: Future[Answer] | None = None
        self._next: Future[Answer] | None = None
        self._busy_until = 0.0

    def ask(self) -> "Future[Answer]":
        with self._lock:
            asked = self._next = self._next or Future()
            if time.monotonic() >= self._busy_until:
                self._begin()
            return asked

    def _begin(self) -> None:
        """Send who waits on its way; the lock is held."""
        current = self._current = self._next
        self._next = None
        self._busy_until = time.monotonic() + self._seconds if current else 0.0
        if current:
            work = context.current()
            threading.Thread(target=self._run, args=(current, work), name="shared call", daemon=True).start()

    def _run(self, asked: "Future[Answer]", work: context.Context | None) -> None:
        context.begin(self._seconds, *((work.request_id, work.traceparent) if work else ()))
        try:
            answer = self._call()
            asked.set_result(answer)
            if self._after:
                self._after(answer)
        except Exception as exc:
            if not isinstance(exc, Problem):
                log.error("call.failed", exc_info=exc)
            if not asked.done():
                asked.set_exception(exc)
        finally:
            context.end()
            with self._lock:
                if self._current is asked:
                    self._begin()


class SideBySide(Generic[Answer]):
    """Asks several services the same question at the same time, and waits no longer than `seconds`, or than the
    request may take where that is less.
    """

    def __init__(
        self,
        services: Iterable[str],
        ask: Callable[[str], Answer],
        seconds: float,
        after: Callable[[str, Answer], None] | None = None,
    ):
        self._seconds = seconds
        self._calls = {name: _shared(name, ask, seconds, after) for name in services}

    def ask(self) -> dict[str, Answer]:
        """The answers of those that answered in time."""
        work = context.current()
        seconds = min(self._seconds, work.seconds_left()) if work else self._seconds
        asked = {name: call.ask() for name, call in self._calls.items()}
        done, _ = wait(asked.values(), timeout=max(0.0, seconds))
        return {name: one.result() for name, one in asked.items() if one in done and not one.exception()}


def _shared(
    name: str, ask: Callable[[str], Answer], seconds: float, after: Callable[[str, Answer], None] | None
) -> SharedCall[Answer]:
    then = (lambda answer: after(name, answer)) if after else None
    return SharedCall(lambda: ask(name), seconds, then)


class FakeServices:
    """Answers from memory. A service in `down` cannot be asked; one in `slow` takes so many seconds. `items` are orders
    and notifications as their services show them, listed by id.
    """

    def __init__(self) -> None:
        self.stats: dict[str, dict[str, Any]] = {
            "user": {"total": 3},
            "product": {"total": 2, "stock_units": 40},
            "order": {"total": 1, "by_status": {"confirmed": 1}, "revenue": [{"currency": "EUR", "amount": "9.50"}]},
            "notification": {"total": 1, "by_status": {"sent": 1}},
        }
        self.items: dict[str, list[dict[str, Any]]] = {"order": [], "notification": []}
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

    def page(self, service: str, cursor: str | None) -> tuple[list[Told], str | None]:
        self._answer(service)
        later = [item for item in self.items[service] if cursor is None or item["id"] > cursor]
        page = sorted(later, key=lambda item: str(item["id"]))[: self.page_size]
        told = [one for item in page for one in _HISTORIES[service](item)]
        return told, page[-1]["id"] if len(later) > len(page) else None

    def _answer(self, service: str) -> None:
        self.asked.append(service)
        time.sleep(self.slow.get(service, 0.0))
        if service in self.down:
            raise DependencyUnavailable(f"The {service} service is unavailable.")
