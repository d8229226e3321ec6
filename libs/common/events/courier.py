"""The Courier sends events from the outbox over any transport: claim, send, mark, in batches of bounded size."""

import logging
import time
from collections.abc import Callable

from libs.common import metrics
from libs.common.events.event import MAX_BYTES, MAX_EVENTS
from libs.common.events.outbox import Claimed, Relay

LONG_RUN = 1000

log = logging.getLogger(__name__)


Send = Callable[[list[Claimed]], tuple[list[int], list[Claimed]]]
"""Sends rows; returns the `seq` of those that were accepted, and the rows to retry. Raises DependencyUnavailable."""


class Courier:
    """Sends the events in the outbox for one subscriber; `step` is the work of a background loop."""

    def __init__(self, relay: Relay, send: Send):
        self._relay, self._send = relay, send
        self._sent: list[int] = []
        self._again: list[Claimed] = []
        self._rest: list[Claimed] = []
        self._run, self._since = 0, 0.0

    def step(self) -> int:
        """Mark what the previous step sent, claim more rows and send them. Returns how many rows were due; raises
        DependencyUnavailable if the subscriber is down.
        """
        claimed = self._relay.exchange(self._sent, self._again, [row.seq for row in self._rest])
        self._sent, self._again, self._rest = [], [], claimed
        if not claimed:
            self._log_rate()
            return 0
        if not self._run:
            self._since = time.monotonic()
        batch, rest = _split_batch(claimed)
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
        """Mark what was sent and release the other leases, as before a worker stops."""
        if self._sent or self._again or self._rest:
            self._relay.exchange(self._sent, self._again, [row.seq for row in self._rest], limit=0)
            self._sent, self._again, self._rest = [], [], []

    def _log_rate(self) -> None:
        """Log the rate of a long run, for example after the subscriber was down."""
        if self._run >= LONG_RUN:
            seconds = time.monotonic() - self._since
            facts = {
                "subscriber": self._relay.subscriber,
                "events": self._run,
                "per_second": round(self._run / seconds),
            }
            log.info("relay.drained", extra=facts)
        self._run = 0


def _split_batch(rows: list[Claimed]) -> tuple[list[Claimed], list[Claimed]]:
    """The rows that fit into one request, at least one, and the rest."""
    size, taken = 2, 0
    for row in rows[:MAX_EVENTS]:
        size += len(row.body.encode()) + 1
        if size > MAX_BYTES and taken:
            break
        taken += 1
    return rows[:taken], rows[taken:]
