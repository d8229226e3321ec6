"""The Prometheus metrics. Under gunicorn, PROMETHEUS_MULTIPROC_DIR lets any worker report those of all workers."""

import fcntl
import os
from functools import cache
from typing import Any

from prometheus_client import REGISTRY as LOCAL
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from libs.common.files import open_private

REQUESTS = Counter("http_requests_total", "Requests answered.", ["method", "route", "status"])
LATENCY = Histogram(
    "http_request_duration_seconds",
    "Time to answer a request.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
SHED = Counter("requests_shed_total", "Requests refused because too many were under way, or their bodies too large.")
IN_PROGRESS = Gauge("requests_in_progress", "Requests below /api that are under way.", multiprocess_mode="livesum")
QUEUED = Gauge("requests_queued", "Requests below /api that wait for others to end.", multiprocess_mode="livesum")
CALLS = Counter("service_calls_total", "Calls of other services, retries included.", ["service", "outcome"])
RETRIES = Counter("service_retries_total", "Retries, and those that the budget forbade.", ["service", "outcome"])
BREAKERS_OPEN = Gauge(
    "breakers_open", "Worker processes whose breaker is not closed.", ["service"], multiprocess_mode="livesum"
)
EVENTS = Counter("events_handled_total", "Events received, by what became of them.", ["type", "outcome"])
LIMITS_ALONE = Counter("rate_limits_alone_total", "Times that Redis failed and a process counted for itself.")
SENT = Counter("outbox_sent_total", "Events that a subscriber took.", ["subscriber"])
OUTBOX_PENDING = Gauge(
    "outbox_pending", "Events not yet taken, counted up to 10000.", ["subscriber"], multiprocess_mode="mostrecent"
)
OUTBOX_AGE = Gauge(
    "outbox_oldest_seconds", "Age of the oldest event not yet taken.", ["subscriber"], multiprocess_mode="mostrecent"
)
STALLED = Counter(
    "background_stalled_total", "Rounds of a background loop in which nothing that was due could be done.", ["loop"]
)
DEAD_LETTERS = Gauge("dead_letters", "Events that could not be handled.", multiprocess_mode="mostrecent")


@cache
def _labelled(metric: Any, *labels: Any) -> Any:
    """`metric.labels(...)`, looked up once for each combination."""
    return metric.labels(*labels)


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count an answered request. The labels must have few values, since each combination costs memory."""
    _labelled(REQUESTS, method, route, status).inc()
    _labelled(LATENCY, route).observe(seconds)


def count_call(service: str, outcome: str) -> None:
    """Count a call of another service; `outcome` is answered, failed, short_circuited or bulkhead_full."""
    _labelled(CALLS, service, outcome).inc()


def count_retry(service: str, outcome: str) -> None:
    """Count a retry; `outcome` is made or over_budget."""
    _labelled(RETRIES, service, outcome).inc()


def count_open_breaker(service: str, change: int) -> None:
    """Add 1 when a breaker opens and -1 when it closes; 0 creates the series."""
    _labelled(BREAKERS_OPEN, service).inc(change)


def count_event(event_type: str, outcome: str) -> None:
    """Count a received event."""
    _labelled(EVENTS, event_type, outcome).inc()


def count_stalled(loop: str) -> None:
    """Count a round of a background loop in which no due work could be done."""
    _labelled(STALLED, loop).inc()


def exposition() -> bytes:
    """The metrics of all workers of the service in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(LOCAL)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    # Not while the master merges the files of dead workers, whose metrics would be counted twice or not at all.
    with open(os.path.join(os.environ["PROMETHEUS_MULTIPROC_DIR"], "lock"), "w", opener=open_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return generate_latest(registry)
