"""One flow with a number of clients for some seconds: its rate, its response times, and the CPU time of a request."""

from collections import Counter
from typing import NamedTuple

from tests.load.deployment import Deployment, failures
from tests.load.flows import FLOWS, Catalogue
from tests.load.generator import Answer, Crowd, quantile, saturate
from tests.load.processes import ProcessTree


class Result(NamedTuple):
    flow: str
    clients: int
    seconds: float
    answers: list[Answer]
    tail_seconds: float
    """From the last answer until the last event has been taken and the last notification sent."""
    cpu_seconds: float
    """Of the services, the tail included; 0 if their processes are not known."""

    @property
    def good(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status in FLOWS[self.flow].statuses]

    @property
    def rate(self) -> float:
        """Good answers per second, without those that came after the end."""
        return sum(answer.at + answer.seconds <= self.seconds for answer in self.good) / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Of one request with a good answer."""
        return self.cpu_seconds * 1000 / max(1, len(self.good))

    @property
    def by_client(self) -> list[int]:
        """How many answers each client got."""
        counts = Counter(answer.client for answer in self.answers)
        return [counts[client] for client in range(self.clients)]

    @property
    def failures(self) -> str:
        return failures(self.answers, FLOWS[self.flow].statuses)

    def quantile_ms(self, share: float) -> float:
        """Of the response times of good answers."""
        return quantile([answer.seconds for answer in self.good], share) * 1000


def measure(
    deployment: Deployment,
    catalogue: Catalogue,
    name: str,
    clients: int,
    seconds: float,
    processes: ProcessTree | None = None,
) -> Result:
    """Drive one flow. The acknowledged orders are added to the catalogue."""
    flow = FLOWS[name]
    before = processes.cpu_seconds() if processes else 0.0
    crowd = Crowd(deployment.address(flow.service), flow.requests(catalogue), clients, keep_bodies=flow.creates_orders)
    saturate(crowd, seconds)
    answers = crowd.finish()
    tail = deployment.drain() if flow.creates_orders else 0.0
    cpu = processes.cpu_seconds() - before if processes else 0.0
    if flow.creates_orders:
        catalogue.acknowledged.extend(answer.body for answer in answers if answer.status == 201)
    return Result(name, clients, seconds, answers, tail, cpu)
