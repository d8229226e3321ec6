"""Rate limits per client address with a sliding window; off unless RATE_LIMIT is set.

With REDIS_URL all processes of all hosts share the counters. Without it, or while Redis is down, each process counts
for itself, so that a client gets at most the limit times the number of processes. A failure of Redis is logged and
counted, and Redis is tried again after RETRY_SECONDS.
"""

import ipaddress
import logging
import time

import limits
from limits.errors import StorageError
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from libs.common import metrics
from libs.common.errors import RateLimited

RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)


class RateLimiter:
    """`rate` is, for example, "600/minute"; clients in one of the `exempt` networks are not limited."""

    def __init__(self, rate: str, redis_url: str, service: str, exempt: tuple[str, ...]):
        self._limit = limits.parse(rate)
        self._service = service
        self._exempt = [ipaddress.ip_network(network) for network in exempt]
        self._redis_url = redis_url
        # Both are created at first use and so after the fork.
        self._own: SlidingWindowCounterRateLimiter | None = None
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._ask_again_at = 0.0

    def check(self, address: str) -> dict[str, str]:
        """Count a request; returns the `RateLimit` headers of its answer. Raises RateLimited above the limit."""
        address, is_exempt = self._client(address)
        if is_exempt:
            return {}
        limiter = self._shared_limiter()
        if limiter:
            try:
                return self._count(limiter, address)
            except StorageError as exc:
                self._redis_failed(exc)
        self._own = self._own or SlidingWindowCounterRateLimiter(MemoryStorage())
        return self._count(self._own, address)

    def _count(self, limiter: SlidingWindowCounterRateLimiter, address: str) -> dict[str, str]:
        allowed = limiter.hit(self._limit, self._service, address)
        window = limiter.get_window_stats(self._limit, self._service, address)
        reset = max(1, round(window.reset_time - time.time()))
        # https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
        fields = {
            "RateLimit-Policy": f'"default";q={self._limit.amount};w={self._limit.get_expiry()}',
            "RateLimit": f'"default";r={max(0, window.remaining)};t={reset}',
        }
        if not allowed:
            raise RateLimited(retry_after=reset, headers=fields)
        return fields

    def _client(self, address: str) -> tuple[str, bool]:
        """The key to count a request under, and whether the client is exempt. IPv6 clients are counted by their /64
        network, since a client usually has a whole one.
        """
        try:
            client = ipaddress.ip_address(address)
        except ValueError:
            return address, False
        if isinstance(client, ipaddress.IPv6Address):
            client = client.ipv4_mapped or client
        is_exempt = any(client in network for network in self._exempt)
        if isinstance(client, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((int(client) >> 64 << 64, 64))), is_exempt
        return str(client), is_exempt

    def _shared_limiter(self) -> SlidingWindowCounterRateLimiter | None:
        if not self._redis_url or time.monotonic() < self._ask_again_at:
            return None
        if self._shared is None:
            options = {"socket_connect_timeout": 0.2, "socket_timeout": 0.2}
            storage = storage_from_string(self._redis_url, wrap_exceptions=True, **options)
            self._shared = SlidingWindowCounterRateLimiter(storage)
        return self._shared

    def _redis_failed(self, exc: Exception) -> None:
        self._ask_again_at = time.monotonic() + RETRY_SECONDS
        metrics.LIMITS_ALONE.inc()
        log.warning("limits.alone", extra={"why": type(exc).__name__})
