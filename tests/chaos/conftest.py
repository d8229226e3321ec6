"""Systems to break: `embedded` on SQLite with events over HTTP, `production` on PostgreSQL and RabbitMQ."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.chaos.system import ChaosSystem, Engines
from tests.engines.conftest import postgres, rabbitmq  # noqa: F401 - fixtures
from tests.engines.servers import Postgres, RabbitMQ
from tests.integration.conftest import workers  # noqa: F401 - a fixture

# Each process of pytest-xdist has its own system.
BASE_PORT = int(os.environ.get("TEST_CHAOS_BASE_PORT") or 19000) + 500 * int(
    os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]
)
LONG = bool(os.environ.get("LONG"))

Start = Callable[..., AbstractContextManager[ChaosSystem]]


@pytest.fixture(scope="session")
def production(request: pytest.FixtureRequest) -> Callable[[], Engines]:
    """New databases on a running PostgreSQL, and the queues of a running RabbitMQ, emptied."""
    server: Postgres = request.getfixturevalue("postgres")
    broker: RabbitMQ = request.getfixturevalue("rabbitmq")
    return lambda: Engines.new(server, broker)


@pytest.fixture(
    scope="session",
    params=["embedded", pytest.param("production", marks=[pytest.mark.postgres, pytest.mark.rabbitmq])],
)
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """`with start(CHAOS_BUG="...") as system: ...`"""
    engines = request.getfixturevalue("production") if request.param == "production" else None

    @contextmanager
    def run(**variables: str) -> Iterator[ChaosSystem]:
        made = engines() if engines else None
        with ChaosSystem(BASE_PORT, tmp_path_factory.mktemp("chaos"), made, **variables) as system:
            yield system

    return run
