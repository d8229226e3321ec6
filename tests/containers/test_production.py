"""The promises of compose.production.yaml, tested with its variables and secrets against real servers.

No images are needed: the servers and the services run as processes, each with the environment of its container. Only
the addresses differ.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import amqp
import pytest
import redis as redis_client
import requests
import sqlalchemy as sa

from compose.write_secrets import main as write_secrets
from demo.api import Quintet, eventually
from demo.walk import STEPS, Walk, take
from libs.topology import PORT_OFFSETS, SERVICES
from tests.containers.conftest import BASE_PORT
from tests.containers.files import rendered
from tests.e2e.shop import Shop, answered
from tests.e2e.system import ROOT
from tests.engines.servers import Postgres, RabbitMQ, Redis

pytestmark = [pytest.mark.postgres, pytest.mark.rabbitmq, pytest.mark.redis, pytest.mark.timeout(300)]

WEB, WORKER = BASE_PORT + 10, BASE_PORT + 20
IMAGE = (ROOT / "compose/Dockerfile").read_text()
COMMAND: list[str] = json.loads(re.findall(r"^CMD (\[.*\])$", IMAGE, re.MULTILINE)[-1])


class ProvisionedRabbitMQ(RabbitMQ):
    """Started with compose/rabbitmq/quintet.conf and the definitions among the secrets."""

    def __init__(self, secrets: Path):
        super().__init__()
        given = self.directory / "definitions.json"
        shutil.copy(secrets / "rabbitmq_definitions", given)
        given.chmod(0o444)
        lines = (ROOT / "compose/rabbitmq/quintet.conf").read_text()
        lines = lines.replace("/run/secrets/rabbitmq_definitions", str(given)).replace("= 1GB", "= 10MB")
        (self.directory / "rabbitmq.conf").write_text(f"{lines}log.console.level = error\n")
        self._password = re.findall(r":(\w+)@", (secrets / "broker_url").read_text())[0]

    def can_enter(self, user: str, password: str, vhost: str) -> bool:
        link = amqp.Connection(
            f"127.0.0.1:{self.port}", user, password, virtual_host=vhost, connect_timeout=2, read_timeout=2
        )
        try:
            link.connect()
            return True
        except (OSError, amqp.AMQPError):
            return False
        finally:
            link.collect()

    def is_up(self) -> bool:
        return self.can_enter("quintet", self._password, "quintet")


class ProvisionedRedis(Redis):
    def __init__(self, secrets: Path):
        super().__init__()
        self._secrets = secrets

    def command(self) -> list[str]:
        program, *own = super().command()
        return [program, str(self._secrets / "redis_conf"), *own]


class Process:
    """One container of the production file, as a process."""

    def __init__(self, name: str, words: list[str], environ: dict[str, str], directory: Path):
        self._out = directory / f"{name}.out"
        with open(self._out, "ab") as out:
            self.popen = subprocess.Popen(
                words, env=environ, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def printed(self) -> str:
        return self._out.read_text(errors="replace")

    def end(self) -> int:
        self.popen.terminate()
        return self.popen.wait(20)


class Production:
    """The provisioned servers, and the process of each container."""

    def __init__(self, directory: Path, postgres: Postgres, rabbitmq: ProvisionedRabbitMQ, redis: Redis, secrets: Path):
        self.directory, self.postgres, self.rabbitmq, self.redis = directory, postgres, rabbitmq, redis
        self._services = rendered("compose/compose.yaml", "compose/compose.production.yaml")["services"]
        self.secrets = directory / "secrets-here"
        self.secrets.mkdir()
        socket = sa.make_url(postgres.url).query["host"]
        for path in secrets.iterdir():
            text = re.sub(r"@postgres/(\w+)", rf"@/\1?host={socket}", path.read_text())
            text = text.replace("@rabbitmq/", f"@127.0.0.1:{rabbitmq.port}/")
            (self.secrets / path.name).write_text(text.replace("@redis/", f"@127.0.0.1:{redis.port}/"))

    def environment(self, name: str, base_port: int) -> dict[str, str]:
        """The variables of a container, with local addresses in place of the names of its network."""
        service = name.partition("-")[0]
        given: dict[str, str] = dict(self._services[name]["environment"])
        for variable, value in given.items():
            value = value.replace("/run/secrets", str(self.secrets))
            for other, offset in PORT_OFFSETS.items():
                value = value.replace(f"http://{other}:8000", f"http://127.0.0.1:{WEB + offset}")
            given[variable] = value
        given |= {"PORT": str(base_port + PORT_OFFSETS[service]), "HOST": "127.0.0.1"}
        given |= {"DATA_DIR": str(self.directory / name), "SERVICE": service, "FLASK_APP": f"{service}_service.app"}
        # Fewer processes than in production: two cores serve all of them.
        given |= {"WEB_CONCURRENCY": "1", "PYTHONPATH": str(ROOT), "HOME": str(self.directory)}
        return given | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(self, name: str, base_port: int = WEB) -> Process:
        words = self._services[name].get("command") or COMMAND
        return Process(name, words, self.environment(name, base_port), self.directory)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("production") / "secrets"
    write_secrets(directory)
    return directory


@pytest.fixture(scope="module")
def servers(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with ExitStack() as stack:
        rabbitmq, redis = ProvisionedRabbitMQ(secrets), ProvisionedRedis(secrets)
        for server in (rabbitmq, redis):
            stack.callback(server.stop)
            server.start()
        postgres = Postgres()
        stack.callback(postgres.stop)
        for _ in range(2):  # it may be run again
            postgres.psql(ROOT / "compose/postgres/init/services.sql", {"secrets": str(secrets)})
        yield Production(tmp_path_factory.mktemp("run"), postgres, rabbitmq, redis, secrets)


@pytest.fixture(scope="module")
def migrated(servers: Production) -> Production:
    """After the jobs."""
    jobs = [servers.run(f"{service}-migration") for service in SERVICES]
    for job in jobs:
        assert job.popen.wait(60) == 0, job.printed()
    return servers


@pytest.fixture(scope="module")
def processes(migrated: Production) -> Iterator[dict[str, Process]]:
    """Every container of the services, once."""
    made = {service: migrated.run(service) for service in SERVICES}
    made |= {f"{service}-worker": migrated.run(f"{service}-worker", WORKER) for service in SERVICES}
    try:
        for name, process in made.items():
            api = Quintet(WORKER if name.endswith("worker") else WEB)
            service = name.partition("-")[0]
            assert eventually(lambda: api.is_healthy(service) or process.popen.poll() is not None, 90)  # noqa: B023
            assert process.popen.poll() is None, process.printed()
        yield made
    finally:
        for process in made.values():
            process.popen.terminate()
        assert {process.popen.wait(20) for process in made.values()} == {0}


@pytest.fixture
def shop(processes: dict[str, Process]) -> Shop:
    return Shop(Quintet(WEB))


def test_the_role_of_a_service_cannot_do_what_its_job_does(servers: Production) -> None:
    """Before the migration jobs there are no tables, and the role cannot create any."""
    url = sa.make_url((servers.secrets / "order_app_url").read_text()).set(drivername="postgresql+psycopg")
    with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            connection.exec_driver_sql("CREATE TABLE t (id int)")
        connection.rollback()
        assert connection.exec_driver_sql("SELECT current_user").scalar() == "quintet_order_app"


def test_the_walk_goes_through(shop: Shop) -> None:
    walk = Walk(shop.api)
    for step in STEPS:
        take(step, walk)


def test_events_travel_through_the_broker_and_by_the_workers_alone(processes: dict[str, Process], shop: Shop) -> None:
    order = answered(shop.order(shop.new_user(), shop.new_product()), 201)
    assert eventually(lambda: [one["status"] for one in shop.notifications(order)] == ["sent"], 10)
    assert '"event":"events"' in eventually(processes["notification-worker"].printed)
    for service in SERVICES:
        assert '"event":"events"' not in processes[service].printed()
        assert Quintet(WORKER).get(service, "/health").json()["checks"]["broker"]["status"] == "healthy"
        assert "broker" not in shop.get(service, "/health")["checks"]


def test_orders_are_answered_while_the_workers_are_away(
    migrated: Production, processes: dict[str, Process], shop: Shop
) -> None:
    user, laptop = shop.known_user(), shop.new_product()
    gone = ("order-worker", "notification-worker")
    for name in gone:
        assert processes[name].end() == 0
    order = answered(shop.order(user, laptop), 201)
    assert shop.notifications(order) == []
    for name in gone:
        processes[name] = migrated.run(name, WORKER)
    assert eventually(lambda: [one["status"] for one in shop.notifications(order)] == ["sent"], 60)


def test_limits_are_counted_in_redis_for_clients_and_not_for_the_services(servers: Production, shop: Shop) -> None:
    url = shop.api.url("product", "/api/v1/products")
    client = requests.get(url, headers={"X-Forwarded-For": "198.51.100.7"}, timeout=10)
    assert client.headers["RateLimit"]
    assert "RateLimit" not in requests.get(url, timeout=10).headers
    counts = redis_client.Redis.from_url((servers.secrets / "redis_url").read_text())
    assert [key for key in counts.scan_iter() if b"198.51.100.7" in key]
    assert "rate_limits_alone_total 0.0" in shop.api.get("product", "/metrics").text


def test_no_server_is_open_to_those_without_its_secret(servers: Production) -> None:
    assert not servers.rabbitmq.can_enter("guest", "guest", "/")
    assert not servers.rabbitmq.can_enter("quintet", "wrong", "quintet")
    with pytest.raises(redis_client.AuthenticationError):
        redis_client.Redis(port=servers.redis.port).ping()


def test_the_passwords_of_the_roles_are_those_of_the_secrets(servers: Production, secrets: Path) -> None:
    admin = sa.make_url(servers.postgres.url).set(drivername="postgresql+psycopg")
    with sa.create_engine(admin, poolclass=sa.NullPool).connect() as connection:
        rows = connection.exec_driver_sql("SELECT rolname, rolpassword FROM pg_authid").mappings().all()
    stored = {row["rolname"]: row["rolpassword"] for row in rows}
    for service in SERVICES:
        for role in ("owner", "app"):
            password = re.findall(r":(\w+)@", (secrets / f"{service}_{role}_url").read_text())[0]
            assert is_of(password, stored[f"quintet_{service}_{role}"])


def is_of(password: str, stored: str) -> bool:
    """Whether PostgreSQL keeps this password as this (RFC 5802)."""
    iterations, salt, key = re.findall(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):", stored)[0]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return base64.b64decode(key) == hashlib.sha256(client_key).digest()
