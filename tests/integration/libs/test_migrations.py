import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.dialects import postgresql

from libs.common import migrate
from libs.common.data import counters
from libs.common.data.columns import shared
from libs.common.data.database import Database
from libs.topology import SERVICES
from tests.events import ROOT
from tests.processes import Workers

PACKAGES = [f"{name}_service" for name in SERVICES if importlib.util.find_spec(f"{name}_service")]


@pytest.fixture
def db(database_url: str, open_database: Callable[[str], Database]) -> Database:
    """An empty database."""
    return open_database(database_url)


def upgrade(url: str, package: str) -> str:
    db = Database(url)
    try:
        return migrate.upgrade(db, package)
    finally:
        db.dispose()


@pytest.mark.parametrize("package", PACKAGES)
def test_migrations_lead_to_what_the_models_say(db: Database, package: str) -> None:
    assert migrate.current(db, package) == []
    assert migrate.differences(db, package) != []
    reached = migrate.upgrade(db, package)
    assert reached
    assert ", ".join(migrate.current(db, package)) == reached
    assert migrate.differences(db, package) == []


def test_the_path_of_a_checkout_may_have_a_percent_sign(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "50%"
    checkout.mkdir()
    (checkout / "linked_service").symlink_to(ROOT / "user_service")
    monkeypatch.syspath_prepend(checkout)
    assert migrate.upgrade(db, "linked_service")


@pytest.mark.parametrize("package", PACKAGES)
def test_text_that_is_sorted_has_the_collation_that_the_models_say(
    databases: Any, new_database: Callable[[str], str], open_database: Callable[[str], Database], package: str
) -> None:
    """Alembic does not compare collations, and a server that sorts by code point by default would hide the mistake."""
    if databases.name == "sqlite":
        pytest.skip("SQLite sorts by code point anyway")
    said = {
        (table.name, column.name)
        for metadata in (importlib.import_module(f"{package}.models").metadata, shared)
        for table in metadata.tables.values()
        for column in table.columns
        if getattr(column.type.dialect_impl(postgresql.dialect()), "collation", None) == "C"
    }
    with open_database(new_database(package)).read() as connection:
        columns = "SELECT table_name, column_name FROM information_schema.columns WHERE collation_name = 'C'"
        found = {(row.table_name, row.column_name) for row in connection.execute(sa.text(columns))}
    assert said == {(table, column) for table, column in found if table in {name for name, _ in said}}


def test_a_second_upgrade_changes_nothing(db: Database) -> None:
    first = migrate.upgrade(db, "product_service")
    with db.write() as session:
        session.execute(sa.text("INSERT INTO counters (name, shard, value) VALUES ('kept', 0, 1)"))
    assert migrate.upgrade(db, "product_service") == first
    with db.read() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM counters")) == 1


def test_many_may_migrate_at_once(
    new_database: Callable[[], str], open_database: Callable[[str], Database], workers: Workers
) -> None:
    # Several times: in the first race the processes import alembic, which takes longer than the race.
    for _ in range(3):
        url = new_database()
        reached = workers.race(upgrade, *[(url, "product_service")] * 3)
        assert len(set(reached)) == 1
        assert migrate.differences(open_database(url), "product_service") == []


def test_a_difference_between_models_and_database_is_told(db: Database) -> None:
    migrate.upgrade(db, "user_service")
    with db.write() as session:
        session.execute(sa.text("ALTER TABLE users ADD COLUMN surprise INTEGER"))
        session.execute(sa.text("DROP INDEX ix_users_name_id"))
    output = " ".join(migrate.differences(db, "user_service"))
    assert "surprise" in output
    assert "ix_users_name_id" in output


def test_the_lock_is_free_again_after_a_migration_that_failed(db: Database, monkeypatch: Any) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(migrate, "_config", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            migrate.upgrade(db, "user_service")
    assert migrate.upgrade(db, "user_service")


def test_the_commands_upgrade_check_and_tell_where_it_is(
    database_url: str, make_service: Callable[..., Flask], command: Callable[..., tuple[int, str]]
) -> None:
    app = make_service("user", url=database_url)

    def run(name: str) -> tuple[int, str]:
        return command(app, "db", name)

    assert run("current") == (0, "none\n")
    assert run("check")[0] == 1
    status, output = run("upgrade")
    assert status == 0
    assert re.fullmatch(r"user: common_\d+, user_\d+\n", output)
    assert run("current") == (0, output.removeprefix("user: "))
    assert run("check") == (0, "user: models equal migrations\n")


def test_the_ids_of_the_inbox_outlive_a_new_way_of_storing_them(db: Database) -> None:
    at(db, "common_0002")
    with db.write() as session:
        session.execute(sa.text("INSERT INTO inbox (event_id, handled_at) VALUES ('kept', 1.5)"))
    migrate.upgrade(db, "user_service")
    with db.read() as connection:
        assert connection.execute(sa.text("SELECT event_id, handled_at FROM inbox")).all() == [("kept", 1.5)]


def test_counters_outlive_a_new_collation_and_their_carry(db: Database) -> None:
    at(db, "common_0001")
    with db.write() as session:
        session.execute(sa.text("INSERT INTO counters (name, shard, value) VALUES ('status:active', 0, 7)"))
    migrate.upgrade(db, "user_service")
    with db.read() as connection:
        assert counters.read(connection, "status:") == {"active": 7}


def at(db: Database, revision: str) -> None:
    """Migrate to the revision of an older release."""
    from alembic import command

    with migrate._locked(db) as connection:
        command.upgrade(migrate._config("user_service", connection), revision)
        connection.commit()
