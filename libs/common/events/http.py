"""The event transport over HTTP, without a broker: batches of CloudEvents are posted to each subscriber."""

import logging
from typing import Any

import orjson

from libs.common.calls.client import ServiceClient
from libs.common.errors import DependencyUnavailable
from libs.common.events.event import BATCH_JSON
from libs.common.events.outbox import Claimed

log = logging.getLogger(__name__)


class HttpSender:
    """Posts batches to a subscriber's `/events`."""

    def __init__(self, client: ServiceClient):
        self._client = client

    def send(self, batch: list[Claimed]) -> tuple[list[int], list[Claimed]]:
        """Post the batch. A 413 splits it in halves, so that one large event does not block the others."""
        body = [orjson.Fragment(row.body) for row in batch]
        headers = {"Content-Type": BATCH_JSON}
        answer = self._client.call("POST", "/events", json=body, headers=headers, idempotent=True)
        if answer.status == 413 and len(batch) > 1:
            middle = len(batch) // 2
            (sent, again), (more_sent, more_again) = self.send(batch[:middle]), self.send(batch[middle:])
            return sent + more_sent, again + more_again
        if answer.status != 200:
            log.error("relay.refused", extra={"subscriber": self._client.service, "status": answer.status})
            return [], batch
        outcomes: list[dict[str, Any]] = answer.body["results"]
        if len(outcomes) != len(batch):
            raise DependencyUnavailable(f"The {self._client.service} service answered for other events.")
        again = [row for row, outcome in zip(batch, outcomes, strict=True) if outcome["outcome"] == "retry"]
        return [row.seq for row in batch if row not in again], again
