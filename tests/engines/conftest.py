"""The servers of production, started once for all tests of this folder and left running by each test.

TEST_DATABASE_URL, where it is given, is the PostgreSQL of those tests that neither restart it nor make roles.
"""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from libs.common import logs, migrate
from libs.common.data.database import Database
from libs.topology import SERVICES
from tests.conftest import PostgresDatabases
from tests.e2e.system import ROOT, UNHURRIED
from tests.engines import consumers
from tests.engines.servers import Postgres, RabbitMQ, Redis
from tests.integration.conftest import command, make_service, workers  # noqa: F401 - fixtures
from tests.integration.libs import tables


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    made = Postgres()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Iterator[PostgresDatabases]:
    """Only PostgreSQL: tests/integration runs on both engines."""
    server = os.environ.get("TEST_DATABASE_URL") or request.getfixturevalue("postgres").url
    made = PostgresDatabases(server, lambda: None)
    # One connection for each statement: a test may have restarted the server.
    made._admin = sa.create_engine(made._server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    yield made
    made.close()


@pytest.fixture(scope="session")
def provisioned(postgres: Postgres) -> Callable[[str, str], str]:
    """`provisioned("order", "app")`: the URL of a service's database for the role that it runs as; `"owner"` for the
    one that migrates. The roles are those of compose/postgres/provision.sql, the schemas are there.
    """

    def url(service: str, role: str) -> str:
        made = sa.make_url(postgres.url).set(
            username=f"quintet_{service}_{role}", password=f"{role}-of-{service}", database=f"quintet_{service}"
        )
        return made.render_as_string(hide_password=False)

    for service in SERVICES:
        given = {"service": service, "owner_password": f"owner-of-{service}", "app_password": f"app-of-{service}"}
        for _ in range(2):  # it may be run again
            postgres.psql(ROOT / "compose/postgres/provision.sql", given)
        db = Database(url(service, "owner"))
        migrate.upgrade(db, f"{service}_service")
        db.dispose()
    return url


@pytest.fixture(scope="session")
def engines(
    provisioned: Callable[[str, str], str], rabbitmq: RabbitMQ, redis: Redis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A file of variables that moves the e2e tests' System to PostgreSQL, RabbitMQ and Redis, with four workers."""
    lines = [f"DATABASE_URL_{service.upper()}={provisioned(service, 'app')}" for service in SERVICES]
    lines += [f"BROKER_URL={rabbitmq.url}", f"REDIS_URL={redis.url}", "RATE_LIMIT=100000/minute"]
    lines += ["RATE_LIMIT_EXEMPT=192.0.2.0/24", "WEB_CONCURRENCY=4"]
    lines += [f"{name}={value}" for name, value in UNHURRIED.items()]
    path = tmp_path_factory.mktemp("engines") / "env"
    path.write_text("\n".join(lines))
    os.environ["TEST_E2E_ENV_FILE"] = str(path)
    yield path
    del os.environ["TEST_E2E_ENV_FILE"]


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    made = RabbitMQ()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def fresh_broker(rabbitmq: RabbitMQ) -> None:
    """Empty the queues, in which other tests may have left messages."""
    consumers.wipe(rabbitmq.url)


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    made = Redis()
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _logs_end_with_the_test() -> Iterator[None]:
    """Close the log handlers of an app: they hold a file descriptor that pytest closes, and whose number a database
    connection may get next.
    """
    yield
    for handler in logs._handlers:
        logging.getLogger().removeHandler(handler)
    logs._handlers.clear()


@pytest.fixture
def db(database_url: str, open_database: Callable[[str], Database]) -> Database:
    """A database with the tables of libs/common."""
    made = open_database(database_url)
    tables.create(made)
    return made
