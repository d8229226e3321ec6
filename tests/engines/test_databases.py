"""Operating with PostgreSQL: roles with few rights, concurrent migrations, and a relay after an outage."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from libs.common import migrate
from libs.common.data.database import Database
from libs.topology import SERVICES
from tests.conftest import SqliteDatabases
from tests.e2e.system import ROOT
from tests.engines.consumers import waiting
from tests.engines.servers import RabbitMQ
from tests.factories import a_product
from tests.processes import PROCESSES, Workers
from tests.web import Api, answered

pytestmark = pytest.mark.postgres

ROWS = 100_000
GROWTH = 30 * 1024 * 1024


# Roles -------------------------------------------------------------------------------------------------------------


def statement(url: str, sql: str) -> Any:
    """Run a statement outside any transaction."""
    driver = sa.make_url(url).set(drivername="postgresql+psycopg")
    with sa.create_engine(driver, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        result = connection.exec_driver_sql(sql)
        return result.scalar() if result.returns_rows else None


def test_a_service_works_as_the_role_that_may_only_read_and_write_rows(
    provisioned: Callable[[str, str], str], make_service: Callable[..., Flask]
) -> None:
    url = provisioned("product", "app").replace("postgresql://", "postgresql+psycopg://")
    app = Api(make_service("product", url=url))
    product = answered(app.post("/products", a_product()), 201)
    answered(app.post(f"/products/{product['id']}/stock", {"delta": 5, "reason": "delivery"}))
    assert answered(app.get(f"/products/{product['id']}"))["stock"] == 15
    assert app.delete(f"/products/{product['id']}").status_code == 204


@pytest.mark.parametrize(
    "sql",
    ["CREATE TABLE t (id int)", "DROP TABLE inbox", "TRUNCATE inbox", "ALTER TABLE inbox ADD COLUMN x int",
     "CREATE DATABASE d", "CREATE ROLE r", "CREATE SCHEMA s"],
)  # fmt: skip
def test_that_role_may_do_nothing_else(provisioned: Callable[[str, str], str], sql: str) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied|must be owner"):
        statement(provisioned("order", "app"), sql)


@pytest.mark.parametrize("role", ["app", "owner"])
def test_no_role_can_connect_to_the_database_of_another_service(
    provisioned: Callable[[str, str], str], role: str
) -> None:
    for service in SERVICES:
        own = sa.make_url(provisioned(service, role))
        for other in set(SERVICES) - {service}:
            url = own.set(database=f"quintet_{other}").render_as_string(hide_password=False)
            with pytest.raises(sa.exc.OperationalError, match="permission denied"):
                statement(url, "SELECT 1")


# Migrations --------------------------------------------------------------------------------------------------------


def upgraded(url: str, package: str) -> str:
    db = Database(url)
    reached = migrate.upgrade(db, package)
    db.dispose()
    return reached


def test_many_may_upgrade_one_database_at_once(new_database: Callable[..., str], workers: Workers) -> None:
    url = new_database()
    reached = workers.race(upgraded, *[(url, "order_service")] * PROCESSES)
    assert len(set(reached)) == 1
    assert "order_0001" in reached[0]


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
@pytest.mark.parametrize("service", SERVICES)
def test_models_equal_migrations(
    new_database: Callable[..., str], run_app: Callable[[Flask], Flask], command: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: str, engine: str,
) -> None:  # fmt: skip
    package = f"{service}_service"
    url = new_database(package) if engine == "postgresql" else SqliteDatabases(tmp_path).migrated(package)
    monkeypatch.setenv(f"DATABASE_URL_{service.upper()}", url)
    app = run_app(import_module(f"{package}.app").create_app())
    output = command(app, "db", "check")
    assert output == (0, f"{service}: models equal migrations\n")


# The relay ---------------------------------------------------------------------------------------------------------


@pytest.mark.rabbitmq
def test_a_relay_that_was_off_drains_100_000_events_at_bounded_memory_and_says_its_rate(
    db: Database, rabbitmq: RabbitMQ
) -> None:
    """The events are of a type without a subscriber, since the queue of the order service would keep them all."""
    with db.write() as session:
        session.connection().exec_driver_sql(
            "INSERT INTO outbox (subscriber, subject, body, attempts, created_at, due_at, lease_until) "
            """SELECT 'broker', 's-' || n, '{"specversion":"1.0","id":"' || n || '","source":"/user_service","""
            """"type":"product.created.v1","subject":"s-' || n || '","data":{"note":"' || repeat('x', 300) || '"}}', """
            f"0, 0, 0, 0 FROM generate_series(1, {ROWS}) AS n"
        )
    url = db.url.render_as_string(hide_password=False)
    words = [sys.executable, "-m", "tests.engines.drain", rabbitmq.url, url]
    drain = subprocess.run(words, capture_output=True, text=True, timeout=110, cwd=ROOT)
    assert drain.returncode == 0, drain.stderr
    output = json.loads(drain.stdout)
    assert waiting(db) == 0
    assert output["events"] == ROWS
    assert output["per_second"] > 500
    assert output["peak"] - output["warm"] < GROWTH
