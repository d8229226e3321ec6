"""The composition root of the analytics service."""

from dataclasses import dataclass

import click
from flask import Flask

from analytics_service import use_cases
from analytics_service.clients import FIGURES, ServiceClients, Services, SideBySide
from analytics_service.models import Superseded
from analytics_service.routes import pages, routes
from libs.common.app import Service
from libs.common.config import Settings, setting
from libs.common.data.database import Database
from libs.common.errors import Problem
from libs.common.events.event import RefusedEvent


@dataclass(frozen=True, kw_only=True)
class AnalyticsSettings(Settings):
    summary_deadline_seconds: float = setting(
        1.5, "How long the analytics service waits for the others before it answers without them.", minimum=0.05
    )


def create_app(settings: AnalyticsSettings | None = None, *, services: Services | None = None) -> Flask:
    settings = settings or AnalyticsSettings.load("analytics")
    service = Service(settings, "analytics_service")
    services = services or ServiceClients({name: service.client(name) for name in FIGURES})
    seconds = settings.summary_deadline_seconds
    service.handle(use_cases.HANDLERS)
    service.app.cli.add_command(_rebuild(service.db, services))
    service.app.register_blueprint(pages)
    return service.serve(
        routes,
        description="What the system did and does: figures, time series, best sellers, delivery.",
        dependencies={
            "db": service.db,
            "figures": SideBySide(FIGURES, services.figures, seconds, use_cases.Keeper(service.db).keep),
            "healths": SideBySide(FIGURES, services.health, seconds),
        },
    )


def _rebuild(db: Database, services: Services) -> click.Command:
    @click.command("rebuild")
    def rebuild() -> None:
        """Make every total again from what the services know, while events keep arriving."""
        try:
            use_cases.rebuild(db, services, click.echo)
        except (Superseded, Problem, RefusedEvent) as exc:
            raise click.ClickException(str(exc)) from exc

    return rebuild
