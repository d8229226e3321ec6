"""ServiceClient: HTTP calls to another service with timeouts, deadline, retries, circuit breaker and bulkhead.

The deadline is passed on in a header as the time left. A call that is safe to repeat (GET, HEAD, PUT, DELETE, or
declared idempotent) is tried up to CALL_ATTEMPTS times, with exponential backoff and full jitter, until the deadline
or until the retry budget is spent. While the dependency is down a circuit breaker refuses calls, and a bulkhead limits
the concurrent ones; each process has its own (resilience.py). Errors of `requests` are translated: a caller gets a
Reply, DependencyUnavailable or DeadlineExceeded.
"""

import logging
import math
import random
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import orjson
import requests
from requests.utils import check_header_validity

from libs.common import context, metrics
from libs.common.calls.connections import Adapter
from libs.common.calls.resilience import Breaker, Bulkhead, BulkheadFull, CircuitOpen, RetryBudget
from libs.common.config import Settings
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, Overloaded

HEALTH = ("/health", "/livez", "/readyz")
"""Paths for probes, which are outside of /api/v1."""

_plain_path = re.compile(r"(?:/[A-Za-z0-9_,=&-]+)+(?:\?[A-Za-z0-9_,=&-]+)?")
"""Paths that `requests` leaves as they are; those with a dot or a per cent sign, for example, it may change."""

log = logging.getLogger(__name__)


def user_agent(service: str) -> str:
    """The User-Agent of a service, by which the logs of other services name the caller."""
    return f"quintet-{service}"


class Reply(NamedTuple):
    """An answer of a service: any status below 500 except 429, and a 503 from a path in HEALTH."""

    status: int
    body: Any
    response: requests.Response

    @property
    def headers(self) -> Mapping[str, str]:
        return self.response.headers


class _Request(requests.PreparedRequest):
    """A request whose parts are set by the client, and which is sent as it is. `prepare` would take longer than the
    rest of the call.
    """

    path_url = ""  # in the base class a property that parses the URL


class _Unavailable(DependencyUnavailable):
    """No answer, or one that may be retried. `is_failure`: whether it counts as a failure for the breaker."""

    def __init__(self, service: str, is_failure: bool, retry_after: str | None = None):
        known = retry_after and retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 10
        seconds = int(retry_after) if retry_after and known else None
        super().__init__(f"The {service} service is unavailable.", retry_after=seconds)
        self.is_failure = is_failure
        self._seconds = seconds

    def pause(self, attempt: int) -> float:
        """Seconds before the next attempt: full jitter over 50, 100, 200 ms, or Retry-After."""
        return self._seconds if self._seconds is not None else random.uniform(0.0, 0.05 * 2 ** (attempt - 1))


class ServiceClient:
    """Calls one service; safe to share between threads or greenlets. A process should have one for each service
    (`Service.client`), so that all callers share its breaker.
    """

    def __init__(self, service: str, settings: Settings):
        self.service = service
        self._base = settings.url_of(service)
        root = requests.Request("GET", self._base + "/").prepare()
        self._url, self._target = (root.url or "").rstrip("/"), root.path_url.rstrip("/")
        self._headers = {"Accept": "application/json", "User-Agent": user_agent(settings.service)}
        self._connect, self._read = settings.connect_timeout_seconds, settings.read_timeout_seconds
        self._deadline = settings.request_deadline_seconds
        self._attempts = settings.call_attempts
        # Not a Session, which only adds redirects and cookies; there are none.
        self._adapter = Adapter(self._base)
        self._breaker = Breaker(
            settings.breaker_failures, settings.breaker_window_seconds, settings.breaker_reset_seconds,
            is_failure=_is_failure, on_change=partial(_breaker_changed, service),
        )  # fmt: skip
        self._bulkhead = Bulkhead(settings.bulkhead_calls)
        self._budget = RetryBudget(settings.retry_budget)
        metrics.count_open_breaker(service, 0)

    def get(self, path: str, **kwargs: Any) -> Reply:
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
        attempts: int | None = None,
    ) -> Reply:
        """Send a request to a path below /api/v1, or to one in HEALTH.

        `idempotent` says that a POST may be repeated; `deadline` is a time of `time.monotonic()`, by default that of
        the current request; `attempts` is CALL_ATTEMPTS by default. Raises DependencyUnavailable, or DeadlineExceeded
        if there is no time left for a call.

        Calls to HEALTH paths bypass the breaker, since the caller wants to know the state of the service itself. Their
        503 is an answer, not a failure.
        """
        work = context.current()
        if deadline is None:
            deadline = work.deadline if work else time.monotonic() + self._deadline
        if idempotent is None:
            idempotent = method in ("GET", "HEAD", "PUT", "DELETE")
        request = self._prepare(method, path, json, headers, work)
        send = partial(self._send, answers=(503,)) if path.startswith(HEALTH) else self._guarded
        attempt = 1
        while True:
            try:
                return send(request, deadline, idempotent, attempt)
            except _Unavailable as exc:
                pause = exc.pause(attempt)
                last = not idempotent or attempt >= (attempts or self._attempts)
                if last or time.monotonic() + pause >= deadline or not self._may_retry():
                    raise
            time.sleep(pause)
            attempt += 1

    def _prepare(
        self, method: str, path: str, json: Any, headers: dict[str, str] | None, work: context.Context | None
    ) -> requests.PreparedRequest:
        request = _Request()
        request.method = method
        request.url, request.path_url = self._locate(path)
        request.headers = sent = self._headers.copy()  # type: ignore[assignment]  # nobody looks for other spellings
        if headers:
            for header in headers.items():
                check_header_validity(header)
            sent.update(headers)
        if work:
            sent[context.REQUEST_ID] = work.request_id
            sent[context.TRACEPARENT] = work.traceparent
        if json is not None:
            sent.setdefault("Content-Type", "application/json")
            request.body = body = orjson.dumps(json)
            sent["Content-Length"] = str(len(body))
        elif method not in ("GET", "HEAD"):
            sent["Content-Length"] = "0"
        return request

    def _locate(self, path: str) -> tuple[str, str]:
        """The URL of a path, and the part of it that a request names."""
        below = path if path.startswith(HEALTH) else "/api/v1" + path
        if _plain_path.fullmatch(path):
            return self._url + below, self._target + below
        request = requests.PreparedRequest()
        request.prepare_url(self._base + below, None)
        return request.url or "", request.path_url

    def _guarded(self, request: requests.PreparedRequest, deadline: float, repeatable: bool, attempt: int) -> Reply:
        """Send through the breaker. Its refusals are not logged: there may be thousands, and its opening is logged."""
        try:
            return self._breaker.call(self._send, request, deadline, repeatable, attempt)
        except CircuitOpen as exc:
            metrics.count_call(self.service, "short_circuited")
            seconds = max(1, math.ceil(exc.seconds))
            raise DependencyUnavailable(f"The {self.service} service is unavailable.", retry_after=seconds) from None

    def _may_retry(self) -> bool:
        if not self._breaker.closed:  # it would refuse the retry
            return False
        allowed = self._budget.withdraw()
        metrics.count_retry(self.service, "made" if allowed else "over_budget")
        return allowed

    def _send(
        self,
        request: requests.PreparedRequest,
        deadline: float,
        repeatable: bool,
        attempt: int,
        answers: tuple[int, ...] = (),
    ) -> Reply:
        """`answers`: statuses from 500, or 429, that count as answers and not as failures."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded()
        request.headers[context.TIMEOUT_MS] = str(int(left * 1000))
        timeout = (min(self._connect, left), min(self._read, left))
        try:
            with self._bulkhead:
                if attempt == 1:
                    self._budget.deposit()
                response = self._adapter.send(request, timeout=timeout, repeatable=repeatable)
        except BulkheadFull:
            metrics.count_call(self.service, "bulkhead_full")
            raise DependencyUnavailable(f"Too many calls of the {self.service} service are under way.") from None
        except requests.RequestException as exc:
            raise self._failed(type(exc).__name__, self._blames(exc, left)) from exc
        status, content = response.status_code, response.content
        if (status >= 500 or status == 429) and status not in answers:
            retry_after = response.headers.get("Retry-After")
            raise self._failed(f"status {status}", self._blames(response, left), retry_after)
        empty = not content and (status not in (200, 201) or request.method == "HEAD")
        try:
            body = None if empty else orjson.loads(content)
        except orjson.JSONDecodeError as exc:
            raise self._failed("not JSON", self._blames(exc, left)) from exc
        metrics.count_call(self.service, "answered")
        return Reply(status, body, response)

    def _blames(self, found: requests.Response | requests.RequestException | ValueError, left: float) -> bool:
        """Whether this counts as a failure for the breaker: no connection, no complete answer in time, an answer that
        is not HTTP or not JSON, and status 500, 502 and 503.

        Not counted are a timeout that was shortened to the `left` seconds, since callers with short deadlines would
        otherwise open the breaker for all; 503 `overloaded` and 429, since the service is up and asks for a retry; and
        504, which may be due to the caller's deadline.
        """
        match found:
            case requests.ConnectTimeout():
                return left >= self._connect
            case requests.Timeout():
                return left >= self._read
            case requests.Response(status_code=503):
                return _code(found) != Overloaded.code
            case requests.Response(status_code=status):
                return status in (500, 502)
        return True

    def _failed(self, why: str, is_failure: bool, retry_after: str | None = None) -> _Unavailable:
        metrics.count_call(self.service, "failed")
        log.warning("call.failed", extra={"dependency": self.service, "why": why})
        return _Unavailable(self.service, is_failure, retry_after)


def _is_failure(exc: BaseException) -> bool:
    return isinstance(exc, _Unavailable) and exc.is_failure


def _breaker_changed(service: str, opened: bool) -> None:
    metrics.count_open_breaker(service, 1 if opened else -1)
    log.warning("breaker.opened" if opened else "breaker.closed", extra={"dependency": service})


def _code(response: requests.Response) -> object:
    """The code of a problem document, or None if the body is not one."""
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    return document.get("code") if isinstance(document, dict) else None
