"""The servers of production, started once for all tests of this folder; each test leaves them running."""

import os
from collections.abc import Callable, Iterator

import pytest

from libs.common.db import Database
from tests.conftest import PostgresDatabases
from tests.engines.servers import Postgres, RabbitMQ, Redis
from tests.integration.conftest import command, make_service  # noqa: F401 - fixtures
from tests.integration.libs import tables


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    made = Postgres()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Iterator[PostgresDatabases]:
    """PostgreSQL alone: tests/integration runs over both engines."""
    server = os.environ.get("TEST_DATABASE_URL") or request.getfixturevalue("postgres").url
    made = PostgresDatabases(server, lambda: None)
    yield made
    made.close()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    made = RabbitMQ()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    made = Redis()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def db(database_url: str, open_database: Callable[[str], Database]) -> Database:
    """A database with the library's tables."""
    made = open_database(database_url)
    tables.create(made)
    return made
