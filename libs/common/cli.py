"""The commands of every service: `flask --app order_service.app db upgrade`, `... dlq list`, `... openapi`."""

import json
import sys
from typing import NoReturn

import click

from libs.common import logs, migrate
from libs.common.data.database import Database
from libs.common.events import dead_letters
from libs.common.events.inbox import Handlers, Inbox


def commands(service: str, package: str, db: Database, handlers: Handlers, document: bytes) -> list[click.Command]:
    return [_db(service, package, db), _dlq(db, handlers), _openapi(document)]


def _db(service: str, package: str, db: Database) -> click.Group:
    group = click.Group("db", callback=logs.to_stderr, help="The schema of this service's database.")

    @group.command("upgrade")
    def upgrade() -> None:
        """Apply all missing migrations; safe to run in several processes at once."""
        click.echo(f"{service}: {migrate.upgrade(db, package)}")

    @group.command("current")
    def current() -> None:
        """Print the revisions of the database."""
        click.echo(", ".join(migrate.current(db, package)) or "none")

    @group.command("check")
    def check() -> None:
        """Fail if the models and the migrated database differ."""
        if differences := migrate.differences(db, package):
            click.echo("\n".join(differences))
            sys.exit(1)
        click.echo(f"{service}: models equal migrations")

    return group


def _dlq(db: Database, handlers: Handlers) -> click.Group:
    group = click.Group("dlq", callback=logs.to_stderr, help="Events that could not be handled.")

    @group.command("list")
    def list_all() -> None:
        """Print one line for each dead letter."""
        with db.read() as session:
            for row in dead_letters.find_all(session):
                known = f"{row.event_id}  {row.type}  {row.attempts} attempts  {row.failed_at:%FT%TZ}  {row.error}"
                click.echo(_printable(known))

    @group.command("show")
    @click.argument("event_id")
    def show(event_id: str) -> None:
        """Print an event and its last error."""
        with db.read() as session:
            letter = dead_letters.find(session, event_id)
        if letter is None:
            _exit_not_found(event_id)
        shown = {"error": letter["error"], "event": dead_letters.read_body(letter["body"])}
        for line in json.dumps(shown, indent=2, default=float).splitlines():
            click.echo(_printable(line))

    @group.command("replay")
    @click.argument("event_id", required=False)
    @click.option("--all", "every", is_flag=True, help="Replay every dead letter.")
    def replay(event_id: str | None, every: bool) -> None:
        """Handle a dead letter again."""
        with db.read() as session:
            ids = [row.event_id for row in dead_letters.find_all(session)] if every else [event_id or ""]
        failed = False
        for one in ids:
            outcome = Inbox(db, handlers).replay(one)
            if outcome is None:
                _exit_not_found(one)
            click.echo(f"{one}  {outcome}")
            failed = failed or outcome not in ("done", "duplicate")
        if failed:
            sys.exit(1)

    @group.command("discard")
    @click.argument("event_id")
    def discard(event_id: str) -> None:
        """Delete a dead letter."""
        if not dead_letters.discard(db, event_id):
            _exit_not_found(event_id)
        click.echo(f"{event_id}  discarded")

    return group


def _openapi(document: bytes) -> click.Command:
    @click.command("openapi")
    def openapi() -> None:
        """Print the OpenAPI document, in the form of docs/openapi."""
        logs.to_stderr()
        click.echo(json.dumps(json.loads(document), indent=2, ensure_ascii=False))

    return openapi


def _printable(text: str) -> str:
    """Escape line breaks and control characters: the text comes from outside, and a terminal would interpret them."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _exit_not_found(event_id: str) -> NoReturn:
    click.echo(f"no dead letter with id {event_id!r}", err=True)
    sys.exit(1)
