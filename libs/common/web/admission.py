"""Load shedding: a worker process works on so many requests at a time, lets so many wait, and refuses the rest at once.

Without it every request of an overload is answered, and each of them too late. The queue is there for bursts, after the
controlled delay of Facebook (Ben Maurer, "Fail at Scale", ACM Queue 13(8), 2015): it may grow long, but not stay so.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from libs.common import context, metrics
from libs.common.errors import NO_STORE, PROBLEM_JSON, Overloaded, Problem

REFUSED = "quintet.refused"
"""In the environ of a request that the app is to refuse."""
WAITED = "quintet.waited"
"""In the environ of a request that had to wait: for how many seconds."""

CALM_SECONDS = 0.25
"""When nobody has had to wait for so long, an overload is over. That nobody waits at the moment says nothing: places
come free many at a time, with the commit that they shared.
"""

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def encode_problem(problem: Problem, path: str, request_id: str) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body of a refusal that is made without the app."""
    body = orjson.dumps(problem.document(path, request_id))
    headers = {
        "Content-Type": PROBLEM_JSON,
        "Content-Length": str(len(body)),
        context.REQUEST_ID: request_id,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": NO_STORE,
        "Vary": "Origin",
        **problem.headers,
    }
    return list(headers.items()), body


class Admission:
    """A WSGI middleware. Of the requests below /api `places` are under way at a time, and up to `queue` others wait, in
    order: for `patience` seconds at most, and not past their own time. Once requests have had to wait for as long as
    that without a break, only as many may wait as there are places, so that waiting at most doubles the time that an
    answer takes.
    """

    def __init__(self, app: App, places: int, queue: int, patience: float):
        self._app, self._free, self._patience = app, places, patience
        self._in_a_burst, self._in_an_overload = queue, min(places, queue)
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._busy_since = self._busy_until = 0.0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # A browser asks by OPTIONS whether it may read the answer to come, which may be a refusal.
        if not environ["PATH_INFO"].startswith("/api/") or environ["REQUEST_METHOD"] == "OPTIONS":
            return self._app(environ, start_response)
        if not self._enter(environ):
            return self._refuse(environ, start_response)
        metrics.IN_PROGRESS.inc()
        try:
            return self._app(environ, start_response)
        finally:
            metrics.IN_PROGRESS.dec()
            self._leave()

    def is_busy(self) -> bool:
        """Whether a request that comes now has to wait."""
        return not self._free

    def is_full(self) -> bool:
        """Whether a request that comes now is refused at once."""
        return not self._free and len(self._waiting) >= self._may_wait(time.monotonic())

    def refusal(self, path: str, request_id: str | None) -> tuple[list[tuple[str, str]], bytes]:
        """Headers and body of a 503, which is counted."""
        metrics.SHED.inc()
        return encode_problem(Overloaded(), path, context.request_id_of(request_id))

    def _enter(self, environ: dict[str, Any]) -> bool:
        """Whether there is a place, at once or in time."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            now = time.monotonic()
            if len(self._waiting) >= self._may_wait(now):
                return False
            turn = threading.Event()
            self._waiting.append(turn)
        metrics.QUEUED.inc()
        try:
            turn.wait(context.limited(self._patience, environ.get("HTTP_X_REQUEST_TIMEOUT_MS")))
        except BaseException:  # killed, and perhaps it has just been given a place
            if not self._withdraw(turn):
                self._leave()
            raise
        finally:
            metrics.QUEUED.dec()
        environ[WAITED] = time.monotonic() - now
        return not self._withdraw(turn)

    def _leave(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # the place changes hands
            else:
                self._free += 1

    def _may_wait(self, now: float) -> int:
        """How many, now that there is no place."""
        if now > self._busy_until + CALM_SECONDS:
            self._busy_since = now
        self._busy_until = now
        return self._in_a_burst if now < self._busy_since + self._patience else self._in_an_overload

    def _withdraw(self, turn: threading.Event) -> bool:
        """Whether it has waited in vain."""
        with self._lock:
            if turn.is_set():
                return False
            self._waiting.remove(turn)
            return True

    def _refuse(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if "HTTP_ORIGIN" in environ:
            # A browser hides the answer from the page unless it has the headers that the app adds.
            metrics.SHED.inc()
            environ[REFUSED] = True
            return self._app(environ, start_response)
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        headers, body = self.refusal(path, environ.get("HTTP_X_REQUEST_ID"))
        start_response("503 Service Unavailable", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
