"""Calls of other services: thin, on `requests`, safe without thinking.

Every call has timeouts and a deadline. The deadline shrinks at each hop and travels in a header. A call that is safe
to repeat (GET, PUT, DELETE, or declared idempotent) is tried up to three times, with exponential backoff and full
jitter, as long as the deadline lasts. Foreign errors end here: a caller sees an Answer, DependencyUnavailable or
DeadlineExceeded.
"""

import logging
import random
import time
from typing import Any, NamedTuple

import orjson
import requests

from libs.common import context, metrics
from libs.common.adapter import Adapter
from libs.common.config import Settings
from libs.common.errors import DeadlineExceeded, DependencyUnavailable

ATTEMPTS = 3

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a service said: any status below 500 except 429."""

    status: int
    body: Any
    headers: Any


class _Unavailable(DependencyUnavailable):
    """No answer, or one that says to try again."""

    def __init__(self, service: str, retry_after: str | None = None):
        known = retry_after and retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 10
        seconds = int(retry_after) if retry_after and known else None
        super().__init__(f"The {service} service is unavailable.", retry_after=seconds)
        self._seconds = seconds

    def pause(self, attempt: int) -> float:
        """Before the next attempt: full jitter over 50, 100, 200 ms, or what the service asked for."""
        return self._seconds if self._seconds is not None else random.uniform(0.0, 0.05 * 2 ** (attempt - 1))


class ServiceClient:
    """Calls one service; safe to share between the threads or greenlets of a process."""

    def __init__(self, service: str, settings: Settings):
        self.service = service
        self._base = settings.url_of(service)
        self._connect, self._read = settings.connect_timeout_seconds, settings.read_timeout_seconds
        self._deadline = settings.request_deadline_seconds
        # Not a Session: what that adds is redirects and cookies, and there are none.
        self._adapter = Adapter(self._base)

    def get(self, path: str, **kwargs: Any) -> Answer:
        return self.call("GET", path, **kwargs)

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: dict[str, str] | None = None,
        idempotent: bool | None = None,
        deadline: float | None = None,
        attempts: int = ATTEMPTS,
    ) -> Answer:
        """Send a request to /api/v1 or, where `path` begins with another root such as /health, to that.

        `idempotent` says that a POST may be repeated; `deadline` is a time of `time.monotonic()`, by default that of
        the current request. Raises DependencyUnavailable, or DeadlineExceeded when there was no time to call at all.
        """
        work = context.current()
        if deadline is None:
            deadline = work.deadline if work else time.monotonic() + self._deadline
        if idempotent is None:
            idempotent = method in ("GET", "HEAD", "PUT", "DELETE")
        request = self._prepare(method, path, json, headers, work)
        attempt = 1
        while True:
            try:
                return self._send(request, deadline)
            except _Unavailable as exc:
                pause = exc.pause(attempt)
                if not idempotent or attempt >= attempts or time.monotonic() + pause >= deadline:
                    raise
            time.sleep(pause)
            attempt += 1

    def _prepare(
        self, method: str, path: str, json: Any, headers: dict[str, str] | None, work: context.Context | None
    ) -> requests.PreparedRequest:
        root = "" if path.startswith(("/health", "/livez", "/readyz")) else "/api/v1"
        sent = {"Accept": "application/json", "User-Agent": "quintet", **(headers or {})}
        if work:
            sent[context.REQUEST_ID] = work.request_id
            sent[context.TRACEPARENT] = work.traceparent
        body = None
        if json is not None:
            sent.setdefault("Content-Type", "application/json")
            body = orjson.dumps(json)
        # Step by step: of cookies, authentication and hooks there are none.
        request = requests.PreparedRequest()
        request.prepare_method(method)
        request.prepare_url(self._base + root + path, None)
        request.prepare_headers(sent)
        request.prepare_body(body, None)
        return request

    def _send(self, request: requests.PreparedRequest, deadline: float) -> Answer:
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded()
        request.headers[context.TIMEOUT_MS] = str(int(left * 1000))
        try:
            timeout = (min(self._connect, left), min(self._read, left))
            response = self._adapter.send(request, timeout=timeout)
        except requests.RequestException as exc:
            raise self._failed(type(exc).__name__) from exc
        status, content = response.status_code, response.content
        if status >= 500 or status == 429:
            raise self._failed(f"status {status}", response.headers.get("Retry-After"))
        empty = not content and (status not in (200, 201) or request.method == "HEAD")
        try:
            body = None if empty else orjson.loads(content)
        except orjson.JSONDecodeError as exc:
            raise self._failed("not JSON") from exc
        metrics.CALLS.labels(self.service, "answered").inc()
        return Answer(status, body, response.headers)

    def _failed(self, why: str, retry_after: str | None = None) -> _Unavailable:
        metrics.CALLS.labels(self.service, "failed").inc()
        log.warning("call.failed", extra={"dependency": self.service, "why": why})
        return _Unavailable(self.service, retry_after)
