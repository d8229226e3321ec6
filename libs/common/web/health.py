"""Liveness, readiness, health and metrics of a running service.

`/livez` answers if the process runs. `/readyz` answers 503 if the database cannot be written, or as soon as the worker
drains. `/health` shows the state of each part.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST

from libs.common import errors, metrics
from libs.common.data.database import Database
from libs.common.data.probe import Probe
from libs.common.events import dead_letters, outbox
from libs.common.times import now, write_time
from libs.common.web.exchange import json_answer
from libs.common.web.responses import response_of

log = logging.getLogger(__name__)

STUCK_SECONDS = 60.0
"""An outbox whose oldest event is older than this makes the service degraded."""

Check = Callable[[], dict[str, Any]]
"""Returns the state of a part: {"status": "healthy" | "degraded" | "unhealthy", ...}."""


class Readiness:
    """Whether this process accepts requests. `drain` makes `/readyz` answer 503."""

    def __init__(self) -> None:
        self.draining = False

    def drain(self) -> None:
        self.draining = True


def blueprint(service: str, version: str, db: Database, checks: Mapping[str, Check], ready: Readiness) -> Blueprint:
    routes = Blueprint("health", __name__)
    probe = Probe(db)
    all_checks: dict[str, Check] = {"database": probe.state, "events": lambda: _event_state(db), **checks}

    @routes.get("/livez")
    def livez() -> Response:
        return response_of(json_answer({"status": "healthy"}))

    @routes.get("/readyz")
    def readyz() -> Response:
        if ready.draining:
            return response_of(json_answer({"status": "draining"}, 503))
        state = _run_check(probe.state)
        return response_of(json_answer({"status": state["status"]}, 503 if state["status"] == "unhealthy" else 200))

    @routes.get("/health")
    def health() -> Response:
        found = {name: _run_check(check) for name, check in all_checks.items()}
        states = {part["status"] for part in found.values()}
        overall = next((s for s in ("unhealthy", "degraded") if s in states), "healthy")
        body = {
            "status": overall,
            "service": service,
            "version": version,
            "timestamp": write_time(now()),
            "checks": found,
        }
        return response_of(json_answer(body, 503 if overall == "unhealthy" else 200))

    @routes.get("/metrics")
    def prometheus() -> Response:
        _run_check(lambda: _event_state(db))
        return Response(metrics.exposition(), content_type=CONTENT_TYPE_LATEST)

    return routes


def _run_check(check: Check) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        state = check()
    except errors.Problem as problem:
        state = {"status": "unhealthy", "detail": problem.detail}
    except Exception:
        log.exception("health.failed")
        state = {"status": "unhealthy", "detail": "The check failed."}
    return {**state, "latency_ms": round((time.perf_counter() - started) * 1000, 2)}


def _event_state(db: Database) -> dict[str, Any]:
    """The state of the outbox and the dead letters; also sets their gauges."""
    with db.read() as session:
        waiting, dead = outbox.pending(session), dead_letters.count(session)
    for subscriber in waiting.keys() | {name for (name,) in metrics.OUTBOX_PENDING._metrics}:
        count, age = waiting.get(subscriber, (0, 0.0))
        metrics.OUTBOX_PENDING.labels(subscriber).set(count)
        metrics.OUTBOX_AGE.labels(subscriber).set(age)
    metrics.DEAD_LETTERS.set(dead)
    late = any(age > STUCK_SECONDS for _, age in waiting.values())
    return {
        "status": "degraded" if late or dead else "healthy",
        "pending": {name: count for name, (count, _) in waiting.items()},
        "dead_letters": dead,
    }
