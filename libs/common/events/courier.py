"""How events leave the outbox, whatever the transport: claim, send, mark, in batches that the transport takes."""

import logging
import time
from collections.abc import Callable

from libs.common import metrics
from libs.common.events.event import MAX_BYTES, MAX_EVENTS
from libs.common.events.outbox import Claimed, Relay

LONG_RUN = 1000

log = logging.getLogger(__name__)


Send = Callable[[list[Claimed]], tuple[list[int], list[Claimed]]]
"""Sends rows; returns those that the subscriber has, and those that it wants again. Raises DependencyUnavailable."""


class Courier:
    """Sends what waits in the outbox for one subscriber; `step` is the work of a background loop."""

    def __init__(self, relay: Relay, send: Send):
        self._relay, self._send = relay, send
        self._sent: list[int] = []
        self._again: list[Claimed] = []
        self._rest: list[Claimed] = []
        self._run, self._since = 0, 0.0

    def step(self) -> int:
        """Mark what the step before has sent, claim more and send it; returns how many rows were due. Raises
        DependencyUnavailable when the subscriber is down.
        """
        claimed = self._relay.exchange(self._sent, self._again, [row.seq for row in self._rest])
        self._sent, self._again, self._rest = [], [], claimed
        if not claimed:
            self._log_rate()
            return 0
        if not self._run:
            self._since = time.monotonic()
        batch, rest = _bounded(claimed)
        try:
            self._sent, self._again = self._send(batch)
        except BaseException:
            self.finish()
            raise
        self._rest = rest
        metrics.SENT.labels(self._relay.subscriber).inc(len(self._sent))
        self._run += len(self._sent)
        return len(claimed)

    def finish(self) -> None:
        """Mark what was sent and give back the rest: a worker that ends must not keep leases."""
        if self._sent or self._again or self._rest:
            self._relay.exchange(self._sent, self._again, [row.seq for row in self._rest], limit=0)
            self._sent, self._again, self._rest = [], [], []

    def _log_rate(self) -> None:
        """How fast the relay was in a long run, as when the subscriber was away."""
        if self._run >= LONG_RUN:
            seconds = time.monotonic() - self._since
            facts = {
                "subscriber": self._relay.subscriber,
                "events": self._run,
                "per_second": round(self._run / seconds),
            }
            log.info("relay.drained", extra=facts)
        self._run = 0


def _bounded(rows: list[Claimed]) -> tuple[list[Claimed], list[Claimed]]:
    """As many as one request takes, at least one, and the rest."""
    size, taken = 2, 0
    for row in rows[:MAX_EVENTS]:
        size += len(row.body.encode()) + 1
        if size > MAX_BYTES and taken:
            break
        taken += 1
    return rows[:taken], rows[taken:]
