"""A database that does not work is detected: by the probe within seconds, and by each transaction at once."""

import resource
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from flask import Flask

from demo.api import eventually
from libs.common.data import probe
from libs.common.data.database import Database
from libs.common.data.probe import Probe, probes
from libs.common.errors import DependencyUnavailable
from tests.factories import a_user
from tests.integration.libs.tables import accounts, balance
from tests.processes import beside, in_threads
from tests.servers import Running
from tests.web import Api, answered, refused

OF_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")

UNHEALTHY = {"status": "unhealthy", "detail": "The database cannot be written."}


def deposit(db: Database) -> None:
    with db.write() as session:
        session.execute(sa.update(accounts).values(balance=accounts.c.balance + 1))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No result of the probe is cached."""
    monkeypatch.setattr(probe, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(probe, "STALE_SECONDS", 0.0)


def test_a_database_that_works_is_healthy_by_a_row_that_is_written(db: Database) -> None:
    assert Probe(db).state() == {"status": "healthy"}
    with db.read() as connection:
        assert abs(connection.scalars(sa.select(probes.c.written_at)).one() - time.time()) < 10


def test_however_many_ask_one_row_a_second_is_written(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FRESH_SECONDS", 60.0)
    begun: list[Any] = []
    Probe(db).state()
    sa.event.listen(db.engine, "begin", begun.append)
    asked = Probe(db)
    states = in_threads(20, lambda number: asked.state())
    assert states == [{"status": "healthy"}] * 20
    assert asked.state() == {"status": "healthy"}
    assert len(begun) == 1


@pytest.mark.usefixtures("at_once")
def test_a_database_without_its_tables_is_unhealthy(db: Database) -> None:
    asked = Probe(db)
    assert asked.state() == {"status": "healthy"}
    with db.write() as session:
        session.execute(sa.text("DROP TABLE probes"))
    assert asked.state()["status"] == "unhealthy"


@contextmanager
def a_writer(db: Database) -> Iterator[None]:
    """Inside the block, another thread has a transaction that has written the row of the probe."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with db.write() as session:
            session.execute(sa.update(probes).values(written_at=0.0))
            held.set()
            assert release.wait(20)

    with beside(hold):
        assert held.wait(10)
        try:
            yield
        finally:
            release.set()


def test_while_a_row_is_written_the_last_result_serves(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FRESH_SECONDS", 0.0)
    asked = Probe(db)
    assert asked.state() == {"status": "healthy"}
    with a_writer(db):
        started = time.monotonic()
        assert asked.state() == {"status": "healthy"}
        elapsed = time.monotonic() - started
    assert elapsed < 1


@pytest.mark.usefixtures("at_once")
def test_a_database_that_does_not_answer_holds_up_no_probe(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 0.1)
    hangs, work = threading.Event(), db.write

    @contextmanager
    def hang(**options: Any) -> Iterator[Any]:
        assert hangs.wait(10)
        with work(**options) as session:
            yield session

    monkeypatch.setattr(db, "write", hang)
    asked = Probe(db)
    started = time.monotonic()
    for _ in range(3):
        assert asked.state() == {"status": "unhealthy", "detail": "The database does not answer."}
    assert time.monotonic() - started < 5
    hangs.set()
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 10)
    assert asked.state() == {"status": "healthy"}


def test_a_database_whose_writers_wait_is_degraded_and_not_unhealthy(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an overload would remove the service from its balancer, and move its load to the others."""
    monkeypatch.setattr(probe, "BUSY_SECONDS", 0.1)
    monkeypatch.setattr(probe, "PATIENCE_SECONDS", 10)
    assert Probe(db).state() == {"status": "healthy"}
    with a_writer(db):
        state = Probe(db).state()
    assert state == {"status": "degraded", "detail": "The database is busy."}


@pytest.mark.usefixtures("at_once")
def test_a_database_that_takes_no_writes_makes_its_service_not_ready(
    make_service: Callable[..., Flask], databases: Any
) -> None:
    app = make_service("user")
    api, db = Api(app), app.extensions["quintet"].db
    if databases.name == "sqlite":
        pytest.skip("a setting of PostgreSQL; files that cannot be written are below")
    assert app.test_client().get("/readyz").status_code == 200
    databases._run(f"ALTER DATABASE {db.url.database} SET default_transaction_read_only = on")
    db.dispose()
    assert app.test_client().get("/readyz").status_code == 503
    health = app.test_client().get("/health")
    assert health.status_code == 503
    assert health.json["checks"]["database"].items() >= UNHEALTHY.items()
    refused(api.post("/users", a_user()), 503, "dependency-unavailable")
    answered(api.get("/users"))
    databases._run(f"ALTER DATABASE {db.url.database} RESET default_transaction_read_only")
    # Broken connections are detected, and replaced.
    assert eventually(lambda: app.test_client().get("/readyz").status_code == 200)
    answered(api.post("/users", a_user()), 201)


# The file of SQLite -------------------------------------------------------------------------------------------------


def parts(path: Path) -> list[Path]:
    return [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]


@OF_SQLITE
@pytest.mark.usefixtures("at_once")
def test_a_file_that_is_removed_takes_nothing_more_until_it_is_back(db: Database, tmp_path: Path) -> None:
    """Open connections would continue to write into a deleted file."""
    deposit(db)
    file, asked = Path(db.url.database or ""), Probe(db)
    assert asked.state() == {"status": "healthy"}
    for part in parts(file):
        shutil.move(part, tmp_path)
    assert asked.state() == UNHEALTHY

    def use(number: int) -> None:
        with pytest.raises(DependencyUnavailable):
            (deposit, balance)[number % 2](db)

    in_threads(8, use)  # more than have connections
    assert not file.exists()  # an empty one would look like a database that is there
    for part in parts(tmp_path / file.name):
        shutil.move(part, file.parent)
    assert asked.state() == {"status": "healthy"}
    deposit(db)
    assert balance(db) == 2


@OF_SQLITE
@pytest.mark.usefixtures("at_once")
def test_a_file_that_is_replaced_is_used_by_the_next_transaction(
    db: Database, tmp_path: Path, open_database: Callable[[str], Database]
) -> None:
    deposit(db)
    with closing(sqlite3.connect(db.url.database or "")) as connection:
        connection.execute("VACUUM INTO ?", [f"{tmp_path}/backup.db"])
    for _ in range(3):
        deposit(db)
    in_threads(4, lambda number: balance(db))
    for part in parts(Path(db.url.database or "")):
        part.unlink()
    shutil.copy(tmp_path / "backup.db", db.url.database or "")
    assert balance(db) == 1
    in_threads(4, lambda number: deposit(db))
    assert Probe(db).state() == {"status": "healthy"}
    other = open_database(f"sqlite:///{db.url.database}")
    assert balance(other) == balance(db) == 5


@OF_SQLITE
@pytest.mark.usefixtures("at_once")
def test_an_empty_file_in_the_place_of_the_database_is_unhealthy(db: Database) -> None:
    asked = Probe(db)
    assert asked.state() == {"status": "healthy"}
    for part in parts(Path(db.url.database or "")):
        part.unlink()
    Path(db.url.database or "").touch()
    assert asked.state() == UNHEALTHY
    with pytest.raises(DependencyUnavailable):
        deposit(db)


@OF_SQLITE
@pytest.mark.usefixtures("at_once")
def test_a_file_that_is_no_database_is_unhealthy(db: Database) -> None:
    asked = Probe(db)
    for part in parts(Path(db.url.database or "")):
        part.unlink(missing_ok=True)
    Path(db.url.database or "").write_bytes(b"something else " * 1000)
    assert asked.state() == UNHEALTHY
    with pytest.raises(DependencyUnavailable):
        balance(db)


@OF_SQLITE
def test_a_full_disk_makes_a_service_not_ready_and_room_makes_it_ready_again(databases: Any, tmp_path: Path) -> None:
    """A limit keeps the files of its process from growing, as on a full disk."""
    url = databases.migrated("user_service")
    with Running("user", url, tmp_path, WEB_CONCURRENCY="1", LOG_DIR="") as user:
        user_url = f"{user.url}/users"

        def ready() -> int:
            return requests.get(f"{user.root}/readyz", timeout=5).status_code

        assert requests.post(user_url, json=a_user(), timeout=10).status_code == 201
        assert ready() == 200
        (worker,) = children(user.process.pid)
        unlimited = resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        assert eventually(lambda: ready() == 503, seconds=5)
        health = requests.get(f"{user.root}/health", timeout=5)
        assert (health.status_code, health.json()["checks"]["database"]["status"]) == (503, "unhealthy")
        assert requests.post(user_url, json=a_user(), timeout=10).status_code == 503
        assert requests.get(user_url, timeout=10).status_code == 200
        resource.prlimit(worker, resource.RLIMIT_FSIZE, unlimited)
        assert eventually(lambda: ready() == 200, seconds=5)
        assert requests.post(user_url, json=a_user(), timeout=10).status_code == 201


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
