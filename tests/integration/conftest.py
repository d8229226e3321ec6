"""Fixtures of the integration tests: worker processes, and services on a new database."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.cli import ScriptInfo

from libs.common.config import Settings
from tests import locks
from tests.processes import Workers

locks.watch()


@pytest.fixture(autouse=True)
def _locks_are_taken_in_one_order(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check the lock order of every transaction of every test on PostgreSQL."""
    yield
    assert locks.faults(request.path.parent.name) == []


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """Worker processes for races."""
    made = Workers()
    yield made
    made.close()


@pytest.fixture
def make_service(
    new_database: Callable[..., str], make_settings: Callable[..., Settings], run_app: Callable[[Flask], Flask]
) -> Callable[..., Flask]:
    """`make_service("product", users=FakeUsers())`: the app of a service on a new database."""

    def make(name: str, **given: Any) -> Flask:
        package = __import__(f"{name}_service.app", fromlist=["create_app"])
        options = given.pop("settings", {})
        url = given.pop("url", None) or new_database(f"{name}_service")
        return run_app(package.create_app(make_settings(name, database_url=url, **options), **given))

    return make


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`command(app, "dlq", "list")`: the exit status of `flask --app ... dlq list`, and its output."""

    def run(app: Flask, *arguments: str) -> tuple[int, str]:
        capfd.readouterr()
        status = 0
        try:
            app.cli.main(arguments, "flask", standalone_mode=False, obj=ScriptInfo(create_app=lambda: app))
        except SystemExit as exc:
            status = int(exc.code or 0)
        out, err = capfd.readouterr()
        # Log lines are not part of the output of a command.
        printed = [line for line in err.splitlines(keepends=True) if not line.startswith("{")]
        return status, out + "".join(printed)

    return run
