"""Migrations with Alembic: each database has two chains, for the library's tables and for the service's own.

They run under a lock, so that several processes may start them at once: an advisory lock on PostgreSQL, a lock file
next to the database on SQLite.
"""

import fcntl
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from libs.common.data import counters, erasures, idempotency, probe  # noqa: F401 - they add their tables to `shared`
from libs.common.data.columns import NAMING, shared
from libs.common.data.database import Database
from libs.common.events import dead_letters, inbox, outbox  # noqa: F401 - they add their tables to `shared`
from libs.common.files import make_private_folder, open_private

LOCK = 0x51_75_69_6E
"""The key of the advisory lock; one key suffices, since every service has its own database."""


def upgrade(db: Database, package: str) -> str:
    """Migrate the database to the newest revisions; returns them."""
    from alembic import command

    with _locked(db) as connection:
        command.upgrade(_config(package, connection), "heads")
        connection.commit()
        return ", ".join(_heads(connection))


def current(db: Database, package: str) -> list[str]:
    with db.engine.connect() as connection:
        return _heads(connection)


def differences(db: Database, package: str) -> list[str]:
    """The differences between the models and the migrated database."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        models = importlib.import_module(f"{package}.models")
        merged = sa.MetaData(naming_convention=NAMING)
        for metadata in (shared, models.metadata):
            for table in metadata.tables.values():
                table.to_metadata(merged)
        ignored = set(getattr(models, "MANAGED_BY_MIGRATIONS", ()))
        found = compare_metadata(context, merged)
        return [str(change) for change in found if not _names_any(change, ignored)]


def _names_any(change: Any, ignored: set[str]) -> bool:
    return bool(isinstance(change, tuple) and getattr(change[1], "name", None) in ignored)


def _heads(connection: sa.Connection) -> list[str]:
    from alembic.migration import MigrationContext

    return sorted(MigrationContext.configure(connection).get_current_heads())


def _config(package: str, connection: sa.Connection) -> Any:
    from alembic.config import Config

    own = Path(importlib.import_module(package).__path__[0]) / "migrations"
    common = Path(__file__).parent / "migrations"
    config = Config()
    # Alembic interpolates variables that begin with %.
    config.set_main_option("script_location", str(common).replace("%", "%%"))
    config.set_main_option("version_locations", f"{common / 'versions'}\n{own}".replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _locked(db: Database) -> Iterator[sa.Connection]:
    """A connection that holds the lock for migrations."""
    if db.is_sqlite:
        path = Path(db.url.database or "")
        make_private_folder(path.parent)
        with open(f"{path}.lock", "w", opener=open_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Connect under the lock: the first connection switches a new file to WAL, and SQLite does not wait for
            # the others that do so at the same time.
            with db.engine.connect() as connection:
                yield connection
    else:
        with db.engine.connect() as connection:
            connection.execute(sa.text("SET lock_timeout = '120s'; SET statement_timeout = '600s'"))
            connection.execute(sa.select(sa.func.pg_advisory_lock(LOCK)))
            connection.commit()
            try:
                yield connection
            finally:
                connection.rollback()
                connection.execute(sa.select(sa.func.pg_advisory_unlock(LOCK)))
                connection.commit()
                connection.invalidate()
