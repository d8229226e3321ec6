"""Crash points: named places in the services where a test kills a whole service with SIGKILL.

The product has no code for them. `install` runs inside a service that was started with tests/chaos/conf.py, and wraps
the functions named below; a point is reached before or after a call of its function. `Trap` is how a test arms one: all
processes share a page of memory with the name of the armed point, so that arming needs no restart, and the first
process that reaches the point removes the trap, a file of that name, and kills its service, master and workers.
"""

import mmap
import os
import pkgutil
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

PAGE = 128

Reached = Callable[[tuple[Any, ...], Any], bool]


class Point(NamedTuple):
    """`service.name` is reached `when` the function `target` is called or has returned, in a call of `inside`."""

    name: str
    target: str
    when: str = "after"
    inside: str = ""
    reached: Reached = lambda arguments, result: True
    transport: str = ""
    """Only with this transport of events."""
    first: str = ""
    """A point that must have killed the service before, so that this one is reached."""

    @property
    def service(self) -> str:
        return self.name.partition(".")[0]


def _something(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(result)


def _to_be_driven(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(result["status"] == "pending")


def _released(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(arguments[1])


def _sold(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(arguments[2])


def _handled(arguments: tuple[Any, ...], result: Any) -> bool:
    return any(one["outcome"] == "done" for one in result)


def _marked(arguments: tuple[Any, ...], result: Any) -> bool:
    return bool(arguments[1:] and arguments[1])


_ENDPOINT = "libs.common.web.endpoint:Endpoint.__call__"
_INBOX = "libs.common.events.inbox:Inbox.receive"
_COMMIT = "sqlalchemy.engine.base:Connection.commit"
_CHECKOUT = "order_service.checkout"
_CLOSE = "product_service.use_cases:close_reservations"
_RECOVERY = "order_service.app:reject_abandoned"
_RELAY = "libs.common.events.outbox:Relay.exchange"
_SEND = "libs.common.events.http:HttpSender.send"
_ANSWER = "libs.common.calls.connections:_read_response"

POINTS = {
    point.name: point
    for point in (
        # The saga: before and after each commit, and around the call.
        Point("order.before_t1_commits", f"{_CHECKOUT}:place_all"),
        Point("order.after_t1", f"{_CHECKOUT}:Checkout.place", reached=_to_be_driven),
        Point("order.reserve_unread", _ANSWER, "before", "order_service.clients:ProductClient.reserve"),
        Point("order.after_reserve", "order_service.clients:ProductClient.reserve"),
        Point("order.before_t2_commits", f"{_CHECKOUT}:settle_all", inside=f"{_CHECKOUT}:Checkout._write_all"),
        Point("order.after_t2", f"{_CHECKOUT}:Checkout.settle"),
        Point("order.before_step_commits", "order_service.use_cases:_step"),
        Point("order.after_step", _COMMIT, inside=_ENDPOINT),
        Point("order.before_users_commit", "order_service.repository:learn_users", inside=_INBOX),
        # Recovery.
        Point("order.abandoned_found", "order_service.repository:find_abandoned", reached=_something,
              first="order.after_t1"),
        Point("order.before_recovery_commits", f"{_CHECKOUT}:settle_all", inside=_RECOVERY, first="order.after_reserve"),
        Point("order.after_recovery", _COMMIT, inside=_RECOVERY, first="order.after_reserve"),
        # The relay.
        Point("order.relay_claimed", _RELAY, reached=_something),
        Point("order.relay_unread", _ANSWER, "before", _SEND, transport="http"),
        Point("order.relay_sent", _SEND, transport="http"),
        Point("order.relay_published", "libs.common.events.broker:Broker.send", transport="broker"),
        Point("order.relay_marked", _RELAY, reached=_marked),
        # The product service.
        Point("product.before_reserve_commits", "product_service.repository:write_units"),
        Point("product.after_reserve", "product_service.use_cases:reserve"),
        Point("product.before_release_commits", _CLOSE, reached=_released),
        Point("product.before_sale_commits", _CLOSE, reached=_sold),
        Point("product.before_stock_commits", "product_service.use_cases:adjust_stock"),
        Point("product.after_stock", _COMMIT, inside=_ENDPOINT),
        Point("product.before_ack", _INBOX, reached=_handled),
        # The notification service.
        Point("notification.before_queue_commits", "notification_service.use_cases:_queue"),
        Point("notification.before_ack", _INBOX, reached=_handled),
        Point("notification.claimed", "notification_service.repository:claim", reached=_something),
        Point("notification.sent", "notification_service.use_cases:Sender._send"),
        Point("notification.before_record_commits", "notification_service.use_cases:_write_outcomes"),
        Point("notification.after_record", _COMMIT, inside="notification_service.use_cases:Sender._record"),
        # The others.
        Point("analytics.before_learn_commits", "analytics_service.use_cases:learn"),
        Point("analytics.before_ack", _INBOX, reached=_handled),
        Point("user.before_create_commits", "user_service.use_cases:create_user"),
        Point("user.after_create", _COMMIT, inside=_ENDPOINT),
        Point("user.relay_claimed", _RELAY, reached=_something),
    )
}  # fmt: skip


class Trap:
    """The armed point, shared by all processes that are started with the same directory."""

    def __init__(self, directory: Path):
        path = directory / "trap"
        if not path.exists():
            path.write_bytes(bytes(PAGE))
        self._directory = directory
        with open(path, "r+b") as page:
            self._page = mmap.mmap(page.fileno(), PAGE)

    def arm(self, name: str) -> None:
        self.disarm()
        self._gate(name).touch()
        self._page[:] = name.encode().ljust(PAGE, b"\0")

    def disarm(self) -> None:
        self._gate(self.armed).unlink(missing_ok=True)
        self._page[:] = bytes(PAGE)

    @property
    def armed(self) -> str:
        name = self._page[:].rstrip(b"\0").decode()
        return name if self._gate(name).exists() else ""

    def spring(self, name: str) -> None:
        """Die here if this is the armed point."""
        if self._page[:].startswith(name.encode() + b"\0"):
            try:
                self._gate(name).unlink()
            except FileNotFoundError:
                return  # another process was first, and is about to kill this one
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def _gate(self, name: str) -> Path:
        """A file of the armed point: only the process that removes it kills the service."""
        return self._directory / f"armed {name}"


def install(trap: Trap, service: str, transport: str) -> None:
    """Install the crash points of this service."""
    mine = [point for point in POINTS.values() if point.service == service and point.transport in ("", transport)]
    for outer in {point.inside for point in mine if point.inside}:
        wrap(outer, lambda call, outer=outer: _marking(call, outer))  # type: ignore[misc]
    for point in mine:
        wrap(point.target, lambda call, point=point: _trapped(call, trap, point))  # type: ignore[misc]


def wrap(target: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace `module:name` or `module:Class.name` by `make(function)`."""
    module, _, path = target.partition(":")
    owner, _, name = path.rpartition(".")
    holder = pkgutil.resolve_name(f"{module}:{owner}" if owner else module)
    call = getattr(holder, name)
    setattr(holder, name, wraps(call)(make(call)))


_within: ContextVar[frozenset[str]] = ContextVar("within", default=frozenset())


def _marking(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    def marked(*arguments: Any, **named: Any) -> Any:
        with _being_in(name):
            return call(*arguments, **named)

    return marked


@contextmanager
def _being_in(name: str) -> Iterator[None]:
    token = _within.set(_within.get() | {name})
    try:
        yield
    finally:
        _within.reset(token)


def _trapped(call: Callable[..., Any], trap: Trap, point: Point) -> Callable[..., Any]:
    def trapped(*arguments: Any, **named: Any) -> Any:
        there = not point.inside or point.inside in _within.get()
        if there and point.when == "before":
            if point.target == _ANSWER and trap.armed == point.name:
                _await_answer(arguments[0])
            trap.spring(point.name)
        result = call(*arguments, **named)
        if there and point.when == "after" and point.reached(arguments, result):
            trap.spring(point.name)
        return result

    return trapped


def _await_answer(connection: Any) -> None:
    """Wait until an answer can be read: by then the callee has done its work."""
    select.select([connection._sock], [], [], 5.0)
