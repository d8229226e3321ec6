"""The Prometheus metrics. Under gunicorn, PROMETHEUS_MULTIPROC_DIR lets any worker report those of all workers.

There, prometheus_client writes each change to a file that the workers share, which costs more than everything else that
is done for every request. So changes wait in the process, and are added up and written together: after 0.2 seconds, at
a scrape of this worker and when it stops. A scrape may miss the last 0.2 seconds of the other workers, and a worker
that is killed loses no more than that.
"""

import fcntl
import os
from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict, deque
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from prometheus_client import REGISTRY as LOCAL
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from libs.common.files import open_private
from libs.common.flushing import Flusher

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
"""The upper bounds of the buckets of LATENCY; the last bucket has none."""

Item = TypeVar("Item")

# Changes that wait for `flush`. Both ends of a deque are thread-safe by themselves.
_changes: deque[tuple[Any, tuple[object, ...], float]] = deque()
"""A metric, its labels and the amount to add."""
_answers: deque[tuple[str, str, int, float]] = deque()
"""Answered requests: method, route, status and seconds."""


class _Buffered:
    """A counter or a gauge without labels whose changes are put off."""

    def __init__(self, metric: Counter | Gauge):
        self.metric = metric
        self._up, self._down = (metric, (), 1.0), (metric, (), -1.0)

    def inc(self) -> None:
        _changes.append(self._up)
        if not _flusher.is_due:
            _flusher.changed()

    def dec(self) -> None:
        _changes.append(self._down)
        if not _flusher.is_due:
            _flusher.changed()


REQUESTS = Counter("http_requests_total", "Requests answered.", ["method", "route", "status"])
LATENCY = Histogram("http_request_duration_seconds", "Time to answer a request.", ["route"], buckets=BOUNDS)
SHED = _Buffered(
    Counter("requests_shed_total", "Requests refused because too many were under way, or their bodies too large.")
)
IN_PROGRESS = _Buffered(
    Gauge("requests_in_progress", "Requests below /api that are under way.", multiprocess_mode="livesum")
)
QUEUED = _Buffered(
    Gauge("requests_queued", "Requests below /api that wait for others to end.", multiprocess_mode="livesum")
)
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
    _answers.append((method, route, status, seconds))
    if not _flusher.is_due:
        _flusher.changed()


def count_call(service: str, outcome: str) -> None:
    """Count a call of another service; `outcome` is answered, failed, short_circuited or bulkhead_full."""
    _add(CALLS, service, outcome)


def count_retry(service: str, outcome: str) -> None:
    """Count a retry; `outcome` is made or over_budget."""
    _add(RETRIES, service, outcome)


def count_open_breaker(service: str, change: int) -> None:
    """Add 1 when a breaker opens and -1 when it closes; 0 creates the series."""
    _add(BREAKERS_OPEN, service, amount=change)


def count_event(event_type: str, outcome: str) -> None:
    """Count a received event."""
    _add(EVENTS, event_type, outcome)


def count_stalled(loop: str) -> None:
    """Count a round of a background loop in which no due work could be done."""
    _add(STALLED, loop)


def _add(metric: Counter | Gauge, *labels: str, amount: float = 1.0) -> None:
    _changes.append((metric, labels, amount))
    if not _flusher.is_due:
        _flusher.changed()


def start_batching() -> None:
    """From now on, in this process, write changes 0.2 seconds later and at exit."""
    _flusher.start()


def flush() -> None:
    """Write what has changed."""
    answers = _taken(_answers)
    times: defaultdict[str, list[float]] = defaultdict(list)
    for _, route, _, seconds in answers:
        times[route].append(seconds)
    # Of many changes, most are alike.
    changes = Tally(_taken(_changes))
    changes.update([(REQUESTS, answer[:3], 1.0) for answer in answers])
    totals: defaultdict[tuple[Any, tuple[object, ...]], float] = defaultdict(float)
    for (metric, labels, amount), count in changes.items():
        totals[metric, labels] += amount * count
    for (metric, labels), total in totals.items():
        child = _labelled(metric, *labels) if labels else metric
        if total:
            child.inc(total)
    for route, each in times.items():
        _observe_all(_labelled(LATENCY, route), each)


def _taken(waiting: deque[Item]) -> list[Item]:
    """Take what waits now; two flushes at the same time share it."""
    taken: list[Item] = []
    with suppress(IndexError):
        for _ in range(len(waiting)):
            taken.append(waiting.popleft())
    return taken


def _observe_all(histogram: Any, values: list[float]) -> None:
    """As `observe` does with each value, but each figure is written only once."""
    counts = [0] * (len(BOUNDS) + 1)
    for value in values:
        counts[bisect_left(BOUNDS, value)] += 1
    histogram._sum.inc(sum(values))
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)


_flusher = Flusher(flush)


def exposition() -> bytes:
    """The metrics of all workers of the service in Prometheus' text format."""
    flush()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(LOCAL)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    # Not while the master merges the files of dead workers, whose metrics would be counted twice or not at all.
    with open(os.path.join(os.environ["PROMETHEUS_MULTIPROC_DIR"], "lock"), "w", opener=open_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return generate_latest(registry)
