"""Service: the frame of every service's `create_app` with its database, routes, events, health and background loops."""

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
from libs.common.data.sweep import Sweep
from libs.common.events import inbox
from libs.common.events.courier import Courier
from libs.common.events.http import HttpSender
from libs.common.events.inbox import Handlers, Inbox
from libs.common.events.outbox import BROKER, CLAIM, Relay, find_relays, relay_to, targets
from libs.common.web import documents, events, health, openapi
from libs.common.web.endpoint import install
from libs.common.web.flask_app import make_flask
from libs.common.web.routes import Routes

if TYPE_CHECKING:
    from libs.common.events.broker import Broker

LINGER_SECONDS = 0.2
"""How long a relay waits for further events before it sends a batch."""
SWEEP_SECONDS = 1.0
"""How often a process looks for work that nobody has woken its loops for."""
SWEEP_ALONE_SECONDS = 0.25
"""The same with ROLE=worker, where other processes answer the requests and cannot wake the loops."""
TRIM_SECONDS = 3600.0
PAUSE_SECONDS = 0.05
"""The pause between two steps of a loop that works in small steps, for requests and other writers."""


class Service:
    """One service in one process: the Flask app, the database, the clients of other services and the background loops.

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
        self.sweep = Sweep(self.db)
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
        """The process's only client of that service: relays and requests share its connections and its breaker."""
        if service not in self._clients:
            self._clients[service] = ServiceClient(service, self.settings)
        return self._clients[service]

    def every(self, name: str, step: Callable[[], int], **options: Any) -> None:
        """Add a background loop, which runs in every worker process unless ROLE=web; the options are those of
        background.Loop.
        """
        loop = Loop(name, step, **options)
        self.loops.append(loop)
        self.owner.loops[name] = loop.wake

    def handle(self, handlers: Handlers) -> None:
        """Receive events at `POST /events` or from the broker, and pass each to its handler, exactly once in effect."""
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
        """Add the service's routes, OpenAPI document, health checks and commands; returns the finished app. Raises
        TypeError if a view has a parameter that its route does not provide.
        """
        self._relay_events()
        install(self.app, routes, self.db, self.settings.secret_key, dependencies or {})
        broker: dict[str, health.Check] = {"broker": self._broker_health} if self.broker else {}
        checks = {**broker, **(checks or {})}
        # Kept as text, which takes less memory than the objects; it is served unchanged.
        document = orjson.dumps(openapi.document(self.name, VERSION, description, routes))
        self.app.register_blueprint(health.blueprint(self.name, VERSION, self.db, checks, self.ready))
        self.app.register_blueprint(documents.blueprint(self._package, document))
        self.app.register_blueprint(documents.swagger_ui(self.name))
        for command in cli.commands(self.name, self._package, self.db, self.handlers, document):
            self.app.cli.add_command(command)
        return self.app

    def start(self) -> None:
        """Start the background loops; called once in each worker process."""
        if self.settings.role != "web":
            for loop in self.loops:
                loop.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Stop the loops after their current steps, so that they release their leases, and close the broker."""
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
            # Imported only here, since most installations have no broker.
            from libs.common.events.broker import Broker

            self.broker = Broker(self.settings.broker_url, self.name, self._inbox)
            self.every("broker", self.broker.step, interval_seconds=0.0)
        subscribers = targets(self.name, has_broker=self.owner.has_broker)
        if subscribers:
            self.sweep.add(find_relays(subscribers))
        if self.sweep.is_needed:
            seconds = SWEEP_ALONE_SECONDS if self.settings.role == "worker" else SWEEP_SECONDS
            self.every("sweep", self.sweep.step, interval_seconds=seconds)
        for target in subscribers:
            relay = Relay(self.db, target)
            send = self.broker.send if self.broker and target == BROKER else HttpSender(self.client(target)).send
            courier = Courier(relay, send)
            self.every(
                relay_to(target), courier.step,
                interval_seconds=None, linger_seconds=LINGER_SECONDS, full=CLAIM, finish=courier.finish,
            )  # fmt: skip

    def _broker_health(self) -> dict[str, Any]:
        """Never `unhealthy`: without the broker events are late, but requests are answered."""
        return {"status": "healthy" if self.broker and self.broker.connected else "degraded"}

    def _trim(self) -> bool:
        return inbox.trim(self.db) + idempotency.trim(self.db) > 0
