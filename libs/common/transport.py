"""The embedded event transport: CloudEvents over HTTP, in batches, straight to each subscriber, with no broker."""

import logging
from typing import Any

import orjson

from libs.common import metrics
from libs.common.client import ServiceClient
from libs.common.errors import DependencyUnavailable
from libs.common.events import BATCH_JSON, MAX_BYTES, MAX_EVENTS
from libs.common.outbox import Claimed, Relay

log = logging.getLogger(__name__)


class HttpRelay:
    """Sends what waits in the outbox for one subscriber; `step` is the work of a background loop."""

    def __init__(self, relay: Relay, client: ServiceClient):
        self._relay, self._client = relay, client
        self._claimed: list[Claimed] = []

    def step(self) -> bool:
        """Claim, send and mark until nothing is due. Raises DependencyUnavailable when the subscriber is down."""
        self._claimed = self._relay.exchange()
        while self._claimed:
            batch = _bounded(self._claimed)
            try:
                sent, again = self._send(batch)
            except BaseException:
                self._relay.exchange(back=[row.seq for row in self._claimed], limit=0)
                raise
            rest = [row.seq for row in self._claimed[len(batch) :]]
            metrics.SENT.labels(self._relay.subscriber).inc(len(sent))
            self._claimed = self._relay.exchange(sent, again, rest)
        return False

    def _send(self, batch: list[Claimed]) -> tuple[list[int], list[Claimed]]:
        """Rows that the subscriber has, and rows that it wants again."""
        body = [orjson.Fragment(row.body) for row in batch]
        headers = {"Content-Type": BATCH_JSON}
        answer = self._client.call("POST", "/events", json=body, headers=headers, idempotent=True)
        if answer.status == 413 and len(batch) > 1:
            middle = len(batch) // 2
            (sent, again), (more_sent, more_again) = self._send(batch[:middle]), self._send(batch[middle:])
            return sent + more_sent, again + more_again
        if answer.status != 200:
            log.error("relay.refused", extra={"subscriber": self._relay.subscriber, "status": answer.status})
            return [], batch
        outcomes: list[dict[str, Any]] = answer.body["results"]
        if len(outcomes) != len(batch):
            raise DependencyUnavailable(f"The {self._relay.subscriber} service answered for other events.")
        wanted = [row for row, outcome in zip(batch, outcomes, strict=True) if outcome["outcome"] == "retry"]
        return [row.seq for row in batch if row not in wanted], wanted


def _bounded(rows: list[Claimed]) -> list[Claimed]:
    """As many as one request takes, at least one."""
    size, taken = 2, 0
    for row in rows[:MAX_EVENTS]:
        size += len(row.body.encode()) + 1
        if size > MAX_BYTES and taken:
            break
        taken += 1
    return rows[:taken]
