"""The five services of a chaos run: started with tests/chaos/conf.py, and talking to each other, to the database and to
the broker through fault proxies.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from demo.api import Quintet, eventually
from libs.topology import PORT_OFFSETS, SERVICES
from tests.chaos import checker
from tests.chaos.clock import Clock
from tests.chaos.history import History
from tests.chaos.points import Trap
from tests.chaos.proxy import FaultProxy, Proxies
from tests.conftest import PostgresDatabases
from tests.e2e import system as e2e
from tests.engines import consumers
from tests.engines.servers import Postgres, RabbitMQ

QUIET_SECONDS = 90.0

FAST = {
    "REQUEST_DEADLINE_SECONDS": "3", "READ_TIMEOUT_SECONDS": "1", "RECOVERY_SECONDS": "0.5",
    "BREAKER_RESET_SECONDS": "0.5",
}  # fmt: skip
"""Short, so that waits for a deadline end soon."""


class Engines(NamedTuple):
    """The servers of production: an empty, migrated database for each service."""

    databases: dict[str, str]
    postgres: Postgres
    rabbitmq: RabbitMQ

    @classmethod
    def new(cls, postgres: Postgres, rabbitmq: RabbitMQ) -> "Engines":
        """New databases and empty queues on running servers."""
        databases = PostgresDatabases(postgres.url, lambda: None)
        urls = {service: databases.migrated(f"{service}_service") for service in SERVICES}
        databases.close()
        consumers.wipe(rabbitmq.url)
        return cls(urls, postgres, rabbitmq)


class ChaosSystem(e2e.System):
    """`with ChaosSystem(19000, directory) as system: ...` on SQLite; with `engines`, on those."""

    def __init__(self, base_port: int, data_dir: Path, engines: Engines | None = None, **variables: str):
        data_dir.mkdir(parents=True, exist_ok=True)
        self.engines, self.proxies = engines, Proxies()
        self.links: dict[str, FaultProxy] = {}
        """The proxies between the services, and between them and the engines, by the name of the target."""
        given = {"CHAOS_DIR": str(data_dir), **FAST, **variables}
        for service in SERVICES:
            link = self.links[service] = self.proxies.to_port(base_port + PORT_OFFSETS[service])
            given[f"{service.upper()}_SERVICE_URL"] = f"http://127.0.0.1:{link.port}"
        if engines:
            given |= self._through_proxies(engines)
        super().__init__(base_port, data_dir, **given)
        self.trap, self.clock = Trap(data_dir), Clock(data_dir)

    def _through_proxies(self, engines: Engines) -> dict[str, str]:
        first = sa.make_url(engines.databases["order"])
        database = self.links["database"] = self.proxies.to_socket(f"{first.query['host']}/.s.PGSQL.5432")
        broker = self.links["broker"] = self.proxies.to_port(engines.rabbitmq.port)
        given = {"BROKER_URL": engines.rabbitmq.url.replace(str(engines.rabbitmq.port), str(broker.port))}
        for service, url in engines.databases.items():
            moved = sa.make_url(url).set(host="127.0.0.1", port=database.port, query={})
            given[f"DATABASE_URL_{service.upper()}"] = moved.render_as_string(hide_password=False)
        return given

    def __exit__(self, *exc: object) -> None:
        self.heal()
        super().__exit__(*exc)
        self.proxies.close()

    def command(self, service: str) -> str:
        return super().command(service).replace("libs.common.server.gunicorn_conf", "tests.chaos.conf")

    # Faults ----------------------------------------------------------------------------------------------------

    def workers_of(self, service: str) -> list[int]:
        master = self.running[service].pid
        with suppress(OSError):
            return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]
        return []

    def kill_worker(self, service: str, choose: random.Random) -> bool:
        """SIGKILL for one worker; its master starts another."""
        if workers := self.workers_of(service):
            with suppress(ProcessLookupError):
                os.kill(choose.choice(workers), signal.SIGKILL)
                return True
        return False

    def freeze(self, service: str, seconds: float, choose: random.Random, *, all_of_it: bool) -> None:
        """SIGSTOP, and SIGCONT after `seconds`."""
        pids = [self.running[service].pid, *self.workers_of(service)]
        frozen = pids if all_of_it else [choose.choice(pids)]
        for number, pause in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
            for pid in frozen:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(pause)

    def died(self, service: str) -> bool:
        return self.running[service].poll() is not None

    def await_death(self, service: str, seconds: float) -> bool:
        """Whether the service dies within the time, master and workers."""
        return bool(eventually(lambda: self.died(service), seconds))

    def bury(self, service: str) -> None:
        """Restart a service that has died."""
        self._await_end(service)
        self.start(service)

    def heal(self) -> None:
        """End every fault, and restart the services that have died."""
        self.proxies.heal()
        self.trap.disarm()
        for service in list(self.running):
            with suppress(ProcessLookupError):
                os.killpg(self.running[service].pid, signal.SIGCONT)

    # The proof -------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        for service in [name for name in self.running if self.died(name)]:
            self._await_end(service)
        super().restore()

    def check(self, history: History) -> list[str]:
        """Heal, wait until all services are idle, and compare; returns the broken promises."""
        self.heal()
        self.restore()
        api = Quintet(self.base_port)
        if not eventually(lambda: _tried(lambda: self._is_quiet(api)), QUIET_SECONDS):
            return [f"promise 4: it is not quiet after {QUIET_SECONDS:.0f} seconds: {_state(api)}"]
        return checker.Check(api, history).violations

    def _is_quiet(self, api: Quintet) -> bool:
        if not self.engines:
            return checker.is_quiet(api)
        for _ in range(2):  # an event that a consumer has fetched is in no queue, and may not be handled yet
            if not (checker.is_quiet(api) and consumers.all_delivered(self.engines.rabbitmq.url)):
                return False
            time.sleep(1.0)
        return True

    def database(self, service: str) -> sa.Engine:
        """The database of the service, to read."""
        url = self.engines.databases[service] if self.engines else f"sqlite:///{self.data_dir / service}.db"
        return sa.create_engine(url)


def _tried(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except Exception:
        return False


def _state(api: Quintet) -> dict[str, object]:
    health = {service: api.get(service, "/health").json()["checks"] for service in SERVICES}
    return {**health, "orders": api.get("order", "/orders/stats").json()}
