"""What travels with one piece of work, over calls and events: request id, trace context, deadline.

It lives in a context variable, which every thread and every greenlet has of its own. The trace context is W3C's
`traceparent` (https://www.w3.org/TR/trace-context/). The deadline travels as the time that is left, so that the
clocks of two hosts need not agree.
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
"""Milliseconds that the caller will still wait."""

_request_id = re.compile(r"[A-Za-z0-9._-]{1,128}")
_traceparent = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(slots=True)
class Context:
    request_id: str
    trace_id: str
    span_id: str
    flags: str
    deadline: float
    """A time of `time.monotonic()`."""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


_current: ContextVar[Context | None] = ContextVar("quintet_context", default=None)


def limited(seconds: float, timeout_ms: str | None) -> float:
    """`seconds`, or less where the caller says so."""
    if timeout_ms and timeout_ms.isascii() and timeout_ms.isdecimal():
        return min(seconds, int(timeout_ms[:9]) / 1000)
    return seconds


def known_request_id(given: object) -> str | None:
    """What was given, if it is an id."""
    return given if isinstance(given, str) and _request_id.fullmatch(given) else None


def request_id_of(given: str | None) -> str:
    """What was given, if it is an id, or a fresh one."""
    return known_request_id(given) or os.urandom(16).hex()


def known_traceparent(given: object) -> str | None:
    """What was given, if it is a trace context."""
    return given if isinstance(given, str) and _traceparent.fullmatch(given) else None


def trace_id_of(traceparent: object) -> str | None:
    """The trace of a trace context, if it is one."""
    known = known_traceparent(traceparent)
    return known and known.split("-")[1]


def begin(
    seconds: float,
    request_id: str | None = None,
    traceparent: str | None = None,
    timeout_ms: str | None = None,
    waited: float = 0.0,
) -> Context:
    """Start a piece of work that has `seconds`, or less where the caller says so, less those that it has waited; bad
    headers count as absent.
    """
    parent = _traceparent.fullmatch(traceparent) if traceparent else None
    fresh = os.urandom(24).hex()
    work = Context(
        request_id=request_id_of(request_id),
        trace_id=parent[1] if parent else fresh[:32],
        span_id=fresh[32:],
        flags=parent[3] if parent else "01",
        deadline=time.monotonic() + limited(seconds, timeout_ms) - waited,
    )
    _current.set(work)
    return work


def current() -> Context | None:
    return _current.get()


@contextmanager
def within(work: Context | None) -> Iterator[None]:
    """Do a part in another context than that of the caller."""
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)


def end() -> None:
    _current.set(None)
