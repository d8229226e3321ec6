"""Load shedding: a worker process limits its concurrent requests, queues some more, and refuses the rest at once.

Without it, every request of an overload would be answered too late. The queue absorbs bursts and is kept short in a
lasting overload, like the controlled delay of Facebook (Ben Maurer, "Fail at Scale", ACM Queue 13(8), 2015).
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from libs.common import context, metrics
from libs.common.errors import Overloaded, Problem
from libs.common.web.exchange import problem_answer, reason

REFUSED = "quintet.refused"
"""Environ key: true if the app is to refuse the request."""
WAITED = "quintet.waited"
"""Environ key: the seconds that the request has waited in the queue."""

CALM_SECONDS = 0.25
"""An overload is over when no request has had to wait for this time. An empty queue alone is no sign of that: places
become free many at a time, after a commit that several requests share.
"""

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def encode_problem(problem: Problem, path: str, request_id: str) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body of a problem that is answered without the app."""
    _, headers, body = problem_answer(problem, path, request_id)
    own = {context.REQUEST_ID: request_id, "X-Content-Type-Options": "nosniff", "Vary": "Origin"}
    return list({**headers, **own}.items()), body


class Admission:
    """A WSGI middleware that admits up to `places` concurrent requests below /api. Up to `queue` others wait in order,
    for at most `patience` seconds and not past their own timeout. When requests have had to wait for `patience` seconds
    without a break, the queue is limited to the number of places, so that waiting at most doubles the response time.
    """

    def __init__(self, app: App, places: int, queue: int, patience: float):
        self._app, self._free, self._patience = app, places, patience
        self._in_a_burst, self._in_an_overload = queue, min(places, queue)
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._busy_since = self._busy_until = 0.0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # A CORS preflight (OPTIONS) is always admitted: without it a browser could not read a refusal.
        if not environ["PATH_INFO"].startswith("/api/") or environ["REQUEST_METHOD"] == "OPTIONS":
            return self._app(environ, start_response)
        try:
            waited = self.enter(environ.get("HTTP_X_REQUEST_TIMEOUT_MS"))
        except Overloaded:
            return self._refuse(environ, start_response)
        if waited:
            environ[WAITED] = waited
        try:
            return self._app(environ, start_response)
        finally:
            self.leave()

    def enter(self, timeout_ms: str | None) -> float:
        """Take a place, if need be after a wait in the queue, but no longer than `timeout_ms`, the value of the header;
        returns the seconds that it has waited. `leave` gives the place back. Raises Overloaded.
        """
        with self._lock:
            now = 0.0 if self._free else time.monotonic()
            if self._free:
                self._free -= 1
                turn = None
            elif len(self._waiting) < self._may_wait(now):
                turn = threading.Event()
                self._waiting.append(turn)
            else:
                metrics.SHED.inc()
                raise Overloaded
        waited = self._wait(turn, now, timeout_ms) if turn else 0.0
        metrics.IN_PROGRESS.inc()
        return waited

    def leave(self) -> None:
        metrics.IN_PROGRESS.dec()
        self._pass_on()

    def is_busy(self) -> bool:
        """Whether a new request would have to wait."""
        return not self._free

    def is_full(self) -> bool:
        """Whether a new request would be refused at once."""
        return not self._free and len(self._waiting) >= self._may_wait(time.monotonic())

    def _wait(self, turn: threading.Event, since: float, timeout_ms: str | None) -> float:
        metrics.QUEUED.inc()
        try:
            turn.wait(context.limited(self._patience, timeout_ms))
        except BaseException:  # the greenlet was killed, perhaps just after it got a place
            if not self._withdraw(turn):
                self._pass_on()
            raise
        finally:
            metrics.QUEUED.dec()
        waited = time.monotonic() - since
        if self._withdraw(turn):
            metrics.SHED.inc()
            raise Overloaded
        return waited

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1

    def _may_wait(self, now: float) -> int:
        """The length that the queue may have now; to be called only when no place is free."""
        if now > self._busy_until + CALM_SECONDS:
            self._busy_since = now
        self._busy_until = now
        return self._in_a_burst if now < self._busy_since + self._patience else self._in_an_overload

    def _withdraw(self, turn: threading.Event) -> bool:
        """Leave the queue; returns False if the request has got a place in the meantime."""
        with self._lock:
            if turn.is_set():
                return False
            self._waiting.remove(turn)
            return True

    def _refuse(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if "HTTP_ORIGIN" in environ:
            # The app must answer: without its CORS headers a browser hides the answer from the page.
            environ[REFUSED] = True
            return self._app(environ, start_response)
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        headers, body = encode_problem(Overloaded(), path, context.request_id_of(environ.get("HTTP_X_REQUEST_ID")))
        start_response(reason(Overloaded.status), headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
