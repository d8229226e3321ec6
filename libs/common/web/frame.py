"""What surrounds every request, whichever adapter reads it: its context and deadline, the rate limit, the headers that
all answers have, metrics and the log line.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from libs.common import context, errors, logs, metrics
from libs.common.calls.client import user_agent
from libs.common.config import Settings
from libs.common.context import Context
from libs.common.web.exchange import Headers
from libs.topology import SERVICES

if TYPE_CHECKING:
    from libs.common.web.limits import RateLimiter

CALLERS = {user_agent(service): service for service in SERVICES}
"""User-Agent → service. Other values of User-Agent are not logged."""
METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}


class Frame:
    """The frame of the requests of one process. Headers of requests are given by name in lower case."""

    def __init__(self, settings: Settings):
        self._seconds = settings.request_deadline_seconds
        self._proxies = settings.trusted_proxies
        self._limiter = _limiter(settings)

    def begin(self, headers: Mapping[str, str], waited: float) -> Context:
        """Begin the work of a request that has `waited` some seconds for a place; `context.end()` ends it."""
        given = headers.get
        return context.begin(
            self._seconds, given("x-request-id"), given("traceparent"), given("x-request-timeout-ms"), waited=waited
        )

    def admit(self, work: Context, headers: Mapping[str, str], peer: str) -> Headers:
        """Judge a request below /api before its endpoint is called; returns the `RateLimit` headers of the answer.
        Raises DeadlineExceeded or RateLimited.
        """
        if work.seconds_left() <= 0:
            raise errors.DeadlineExceeded()  # the caller has given up
        return self._limiter.check(self._client(headers, peer)) if self._limiter else {}

    def _client(self, headers: Mapping[str, str], peer: str) -> str:
        """The address of the client. Of X-Forwarded-For only what the trusted proxies have added counts."""
        if self._proxies and (forwarded := headers.get("x-forwarded-for")):
            addresses = [address.strip() for address in forwarded.split(",")]
            if len(addresses) >= self._proxies:
                return addresses[-self._proxies]
        return peer

    def record(self, method: str, rule: str, status: int, seconds: float, agent: str | None, work: Context) -> None:
        """Count the request, and write its log line."""
        # A client may send any number of methods, and each label value costs memory.
        metrics.count_request(method if method in METHODS else "other", rule, status, seconds)
        logs.request_line(method, rule, status, round(seconds * 1000, 2), CALLERS.get(agent) if agent else None, work)


def common_headers(work: Context) -> Headers:
    """The headers that every answer has. `Vary` is missing, since Flask-CORS adds it where a request has an Origin."""
    return {
        context.REQUEST_ID: work.request_id,
        context.TRACEPARENT: work.traceparent,
        "X-Content-Type-Options": "nosniff",
    }


def _limiter(settings: Settings) -> "RateLimiter | None":
    if not settings.rate_limit:
        return None
    # Imported only here, since rate limits are off by default.
    from libs.common.web.limits import RateLimiter

    return RateLimiter(settings.rate_limit, settings.redis_url, settings.service, settings.rate_limit_exempt)
