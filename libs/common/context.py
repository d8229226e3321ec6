"""The context of a piece of work, passed on with calls and events: request id, trace context, deadline.

It is kept in a context variable, so every thread and every greenlet has its own. The trace context is W3C's
`traceparent` (https://www.w3.org/TR/trace-context/). The deadline is passed on as the time left, so that it does not
depend on the clocks of two hosts.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

REQUEST_ID = "X-Request-ID"
TRACEPARENT = "traceparent"
TIMEOUT_MS = "X-Request-Timeout-Ms"
"""The header with the milliseconds that the caller will still wait."""

_request_id = re.compile(r"[A-Za-z0-9._-]{1,128}")
_traceparent = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(slots=True)
class Context:
    request_id: str
    trace_id: str
    traceparent: str
    """The trace context of what this work calls and causes: the trace id with a span id of its own."""
    deadline: float
    """A time of `time.monotonic()`."""

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


_current: ContextVar[Context | None] = ContextVar("quintet_context", default=None)


def limited(seconds: float, timeout_ms: str | None) -> float:
    """The smaller of `seconds` and `timeout_ms`, the value of the header TIMEOUT_MS."""
    if timeout_ms and timeout_ms.isascii() and timeout_ms.isdecimal():
        return min(seconds, int(timeout_ms[:9]) / 1000)
    return seconds


def known_request_id(given: object) -> str | None:
    """The value if it is a valid request id, else None."""
    return given if isinstance(given, str) and _request_id.fullmatch(given) else None


def request_id_of(given: str | None) -> str:
    """The value if it is a valid request id, else a new one."""
    return known_request_id(given) or os.urandom(16).hex()


def known_traceparent(given: object) -> str | None:
    """The value if it is a valid `traceparent`, else None."""
    return given if isinstance(given, str) and _traceparent.fullmatch(given) else None


def trace_id_of(traceparent: object) -> str | None:
    """The trace id in a `traceparent`, or None if that is not valid."""
    known = known_traceparent(traceparent)
    return known and known.split("-")[1]


def begin(
    seconds: float,
    request_id: str | None = None,
    traceparent: str | None = None,
    timeout_ms: str | None = None,
    waited: float = 0.0,
) -> Context:
    """Start a piece of work and make its context current. Its deadline is in `seconds`, or in `timeout_ms` if that is
    less, minus the seconds that it has `waited` already. Invalid headers are ignored.
    """
    fresh = os.urandom(40).hex()  # in one call, since each is a system call
    parent = _traceparent.fullmatch(traceparent) if traceparent else None
    trace_id, flags = (parent[1], parent[3]) if parent else (fresh[:32], "01")
    work = Context(
        known_request_id(request_id) or fresh[48:],
        trace_id,
        f"00-{trace_id}-{fresh[32:48]}-{flags}",
        time.monotonic() + limited(seconds, timeout_ms) - waited,
    )
    _current.set(work)
    return work


def current() -> Context | None:
    return _current.get()


@contextmanager
def within(work: Context | None) -> Iterator[None]:
    """Make `work` the current context for a block."""
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)


def end() -> None:
    _current.set(None)
