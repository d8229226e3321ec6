"""The services in this process, on SQLite, each with a database of its own."""

from importlib import import_module
from typing import Any, Self

from flask import Flask

from tests.conftest import SECRET, SqliteDatabases
from tests.contract.conftest import settings_of


class Services:
    """`with Services(databases) as services: app = services.start("order", users=FakeUsers())`. Their background work
    does not begin, so that what they publish stays in their outbox.
    """

    def __init__(self, databases: SqliteDatabases):
        self._databases = databases
        self._started: list[tuple[Flask, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for app, url in self._started:
            app.extensions["quintet"].stop()
            app.extensions["quintet"].db.dispose()
            self._databases.drop(url)

    def start(self, service: str, settings: dict[str, Any] | None = None, **given: Any) -> Flask:
        """`given` takes the place of calls to others."""
        url = self._databases.migrated(f"{service}_service")
        values = {"service": service, "database_url": url, "secret_key": SECRET, "log_level": "CRITICAL"}
        made: Flask = import_module(f"{service}_service.app").create_app(
            settings_of(service)(**values, **(settings or {})), **given
        )
        self._started.append((made, url))
        return made
