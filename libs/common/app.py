"""What every service's `create_app` begins with: database, routes, events, health, and the work beside the requests."""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask

from libs.common import VERSION, cli, logs
from libs.common.background import Loop
from libs.common.calls.client import ServiceClient
from libs.common.config import Settings
from libs.common.data import idempotency
from libs.common.data.database import Database, Owner
from libs.common.events import inbox
from libs.common.events.courier import Courier
from libs.common.events.http import HttpSender
from libs.common.events.inbox import Handlers, Inbox
from libs.common.events.outbox import BROKER, CLAIM, Relay, relay_to, targets
from libs.common.web import documents, events, health, openapi
from libs.common.web.endpoint import install
from libs.common.web.flask_app import make_flask
from libs.common.web.routes import Routes

if TYPE_CHECKING:
    from libs.common.events.broker import Broker

LINGER_SECONDS = 0.2
"""An event may wait this long for others to share its round."""
SWEEP_SECONDS = 1.0
"""How often a relay looks for what nobody has woken it for."""
SWEEP_ALONE_SECONDS = 0.25
"""The same where the requests are answered by other processes, which cannot wake it."""
TRIM_SECONDS = 3600.0
PAUSE_SECONDS = 0.05
"""Between two steps of trimming: the requests of the process, and other writers, go on meanwhile."""


class Service:
    """One service as it runs in one process: the Flask app and what stands around it.

    service = Service(settings, "user_service")
    service.handle(HANDLERS)
    service.serve(routes, description="...")
    return service.app
    """

    def __init__(self, settings: Settings, package: str):
        logs.configure(settings)
        self.settings = settings
        self._package = package
        self.name = settings.service
        self.owner = Owner(self.name, has_broker=bool(settings.broker_url))
        self.db = Database(settings.database, settings.database_pool_size, self.owner)
        self.loops: list[Loop] = []
        self.ready = health.Readiness()
        self.handlers: Handlers = {}
        self.app = make_flask(settings)
        self.app.extensions["quintet"] = self
        self.broker: Broker | None = None
        self._inbox: Inbox | None = None
        self._clients: dict[str, ServiceClient] = {}
        self.every("trim", self._trim, interval_seconds=TRIM_SECONDS, linger_seconds=PAUSE_SECONDS)

    def client(self, service: str) -> ServiceClient:
        """The one of this process: relays and requests share its connections and its breaker."""
        if service not in self._clients:
            self._clients[service] = ServiceClient(service, self.settings)
        return self._clients[service]

    def every(self, name: str, step: Callable[[], int], **options: Any) -> None:
        """Do `step` beside the requests, in every worker process unless that is for requests alone (`ROLE=web`); the
        options are those of background.Loop.
        """
        loop = Loop(name, step, **options)
        self.loops.append(loop)
        self.owner.loops[name] = loop.wake

    def handle(self, handlers: Handlers) -> None:
        """Take events: `POST /events` gives each to its handler, exactly once in effect."""
        self.handlers = handlers
        self._inbox = Inbox(self.db, handlers)
        self.app.register_blueprint(events.blueprint(self._inbox))

    def serve(
        self,
        routes: Routes,
        *,
        description: str,
        dependencies: Mapping[str, object] | None = None,
        checks: Mapping[str, health.Check] | None = None,
    ) -> Flask:
        """Add the service's routes, its document and its health; returns the finished app. Raises TypeError when a view
        names what its route does not give.
        """
        self._relay_events()
        install(self.app, routes, self.db, self.settings.secret_key, dependencies or {})
        broker: dict[str, health.Check] = {"broker": self._broker_health} if self.broker else {}
        checks = {**broker, **(checks or {})}
        # As text, which is small; it is asked for as it is.
        document = orjson.dumps(openapi.document(self.name, VERSION, description, routes))
        self.app.register_blueprint(health.blueprint(self.name, VERSION, self.db, checks, self.ready))
        self.app.register_blueprint(documents.blueprint(self._package, document))
        self.app.register_blueprint(documents.swagger_ui(self.name))
        for command in cli.commands(self.name, self._package, self.db, self.handlers, document):
            self.app.cli.add_command(command)
        return self.app

    def start(self) -> None:
        """Begin the work beside the requests; called once in each worker process."""
        if self.settings.role != "web":
            for loop in self.loops:
                loop.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Let each loop finish its step, so that it gives back what it holds."""
        for loop in self.loops:
            loop.stop()
        give_up = time.monotonic() + seconds
        for loop in self.loops:
            loop.join(max(0.0, give_up - time.monotonic()))
        if self.broker:
            self.broker.close()

    def _relay_events(self) -> None:
        if self.settings.role == "web":
            return
        if self.settings.broker_url:
            # Imported only here: the embedded system needs none of it.
            from libs.common.events.broker import Broker

            self.broker = Broker(self.settings.broker_url, self.name, self._inbox)
            self.every("broker", self.broker.step, interval_seconds=0.0)
        for target in targets(self.name, has_broker=self.owner.has_broker):
            relay = Relay(self.db, target)
            send = self.broker.send if self.broker and target == BROKER else HttpSender(self.client(target)).send
            courier = Courier(relay, send)
            sweep = SWEEP_ALONE_SECONDS if self.settings.role == "worker" else SWEEP_SECONDS
            self.every(
                relay_to(target), courier.step,
                interval_seconds=sweep, linger_seconds=LINGER_SECONDS, full=CLAIM, finish=courier.finish,
            )  # fmt: skip

    def _broker_health(self) -> dict[str, Any]:
        """Orders do not wait for the broker; their effects elsewhere do."""
        return {"status": "healthy" if self.broker and self.broker.connected else "degraded"}

    def _trim(self) -> bool:
        return inbox.trim(self.db) + idempotency.trim(self.db) > 0
