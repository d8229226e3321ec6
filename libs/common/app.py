"""What every service's `create_app` begins with: logs, database, routes, events, health, and the work beside them."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask, Response, g, request
from flask.json.provider import JSONProvider
from flask_cors import CORS
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter

from libs.common import VERSION, admission, api, cli, context, errors, health, logs, metrics
from libs.common.background import Loop
from libs.common.client import ServiceClient, user_agent
from libs.common.config import Settings
from libs.common.db import Database
from libs.common.events import BATCH_JSON, MAX_BYTES, MAX_EVENTS
from libs.common.idempotency import trim as trim_keys
from libs.common.inbox import Handlers, Inbox
from libs.common.inbox import trim as trim_inbox
from libs.common.openapi import document
from libs.common.outbox import BROKER, Relay, Route
from libs.common.transport import Courier, HttpSender
from libs.topology import SERVICES

if TYPE_CHECKING:
    from libs.common.broker import Broker
    from libs.common.limits import RateLimiter

log = logging.getLogger("quintet.request")
EXPOSED = ["ETag", "Location", "Link", "Retry-After", "X-Request-ID", "Idempotent-Replayed", "RateLimit"]

CALLERS = {user_agent(service): service for service in SERVICES}
"""Looked up, and not cut out: whatever else a client calls itself is kept out of the log."""
METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}

PATIENCE = 0.25
"""The share of its deadline that a request may wait for others to end."""
LINGER_SECONDS = 0.2
"""An event may wait this long for others to share its round."""
SWEEP_SECONDS = 1.0
"""How often a relay looks for what nobody has woken it for."""
SWEEP_ALONE_SECONDS = 0.25
"""The same where the requests are answered by other processes, which cannot wake it."""


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
        self.name = settings.service
        self.db = Database(settings.database, settings.database_pool_size)
        self.route = Route(self.name, broker=bool(settings.broker_url))
        self.db.session_info["outbox"] = self.route
        self.loops: list[Loop] = []
        self.ready = health.Readiness()
        self.handlers: Handlers = {}
        self.document = b""
        self.app = _flask(settings)
        self.app.extensions["quintet"] = self
        cli.register(self.app, self, package)
        self.broker: Broker | None = None
        self._inbox: Inbox | None = None
        self._clients: dict[str, ServiceClient] = {}
        self.every("trim", self._trim, interval_seconds=3600.0)

    def client(self, service: str) -> ServiceClient:
        """The one of this process: relays and requests share its connections and its breaker."""
        if service not in self._clients:
            self._clients[service] = ServiceClient(service, self.settings)
        return self._clients[service]

    def every(self, name: str, step: Callable[[], bool], **options: Any) -> Loop:
        """Do `step` beside the requests, in every worker process unless that is for requests alone (`ROLE=web`); the
        options are those of background.Loop.
        """
        loop = Loop(name, step, **options)
        self.loops.append(loop)
        return loop

    def handle(self, handlers: Handlers) -> None:
        """Take events: `POST /events` gives each to its handler, exactly once in effect."""
        self.handlers = handlers
        inbox = self._inbox = Inbox(self.db, handlers)

        def receive_events() -> Response:
            envelopes = api.read_json(BATCH_JSON, MAX_BYTES)
            if not isinstance(envelopes, list):
                raise errors.ValidationFailed(errors=[{"pointer": "", "detail": "Must be a list of events."}])
            if len(envelopes) > MAX_EVENTS:
                raise errors.PayloadTooLarge(f"At most {MAX_EVENTS} events are taken.")
            results = inbox.receive(envelopes) if envelopes else []
            return api.JsonResponse({"results": results})

        for prefix in (api.PREFIX, api.ALIAS):
            self.app.add_url_rule(f"{prefix}/events", f"{prefix}:events", receive_events, methods=["POST"])

    def serve(
        self,
        routes: api.Routes,
        *,
        description: str,
        dependencies: Mapping[str, Any] | None = None,
        checks: Mapping[str, health.Check] | None = None,
    ) -> Flask:
        """Add the service's routes, its document and its health; returns the finished app."""
        self._relay_events()
        api.install(self.app, routes, self.db, self.settings.secret_key, dependencies or {})
        broker: dict[str, health.Check] = {"broker": self._broker_health} if self.broker else {}
        # As text, which is small; it is asked for as it is.
        self.document = orjson.dumps(document(self.name, VERSION, description, routes))
        self.app.register_blueprint(
            health.blueprint(self.name, VERSION, self.db, {**broker, **(checks or {})}, self.document, self.ready)
        )
        self.app.register_blueprint(health.swagger_ui(self.name))
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
            from libs.common.broker import Broker

            self.broker = Broker(self.settings.broker_url, self.name, self._inbox)
            self.every("broker", self.broker.step, interval_seconds=0.0)
        for target in self.route.targets():
            relay = Relay(self.db, target)
            send = self.broker.send if self.broker and target == BROKER else HttpSender(self.client(target)).send
            courier = Courier(relay, send)
            sweep = SWEEP_ALONE_SECONDS if self.settings.role == "worker" else SWEEP_SECONDS
            rest = {"interval_seconds": sweep, "linger_seconds": LINGER_SECONDS, "finish": courier.finish}
            self.route.wakes[target] = self.every(f"relay to {target}", courier.step, **rest).wake

    def _broker_health(self) -> dict[str, Any]:
        """Orders do not wait for the broker; their effects elsewhere do."""
        return {"status": "healthy" if self.broker and self.broker.connected else "degraded"}

    def _trim(self) -> bool:
        return trim_inbox(self.db) + trim_keys(self.db) > 0


class _Uuid(BaseConverter):
    """`<id:user_id>`: a UUID in any case; anything else is not found."""

    regex = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

    def to_python(self, value: str) -> str:
        return value.lower()


class _App(Flask):
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """As it is: no view here is a coroutine, and Flask asks six times a request."""
        return func


class _OrjsonProvider(JSONProvider):
    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)


def _flask(settings: Settings) -> Flask:
    app = _App(f"{settings.service}_service", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = api.MAX_BODY
    app.json = _OrjsonProvider(app)
    app.url_map.converters["id"] = _Uuid
    app.url_map.merge_slashes = False  # no redirect to whatever host a client names: there is no such path
    CORS(app, origins=list(settings.cors_origins), expose_headers=EXPOSED, max_age=600, always_send=False)
    # Called where a browser asks. For the others, to find out that nobody does costs more than to say that it counts.
    add_cors = app.after_request_funcs[None].pop()

    limiter = _limiter(app, settings)

    @app.before_request
    def begin() -> None:
        given, environ = request.headers, request.environ
        waited = environ.get(admission.WAITED, 0.0)
        g.started = time.perf_counter() - waited
        g.work = context.begin(
            settings.request_deadline_seconds,
            given.get(context.REQUEST_ID),
            given.get(context.TRACEPARENT),
            given.get(context.TIMEOUT_MS),
            waited=waited,
        )
        if admission.REFUSED in environ:
            raise errors.Overloaded()
        if request.path.startswith(api.ALIAS) and g.work.seconds_left() <= 0:
            raise errors.DeadlineExceeded()  # whoever asked has given up
        if limiter and request.path.startswith(api.ALIAS):
            g.limits = limiter.check(request.remote_addr or "")

    @app.after_request
    def finish(response: Response) -> Response:
        elapsed = time.perf_counter() - g.started
        work: context.Context = g.work
        headers = response.headers
        headers[context.REQUEST_ID] = work.request_id
        headers[context.TRACEPARENT] = work.traceparent
        headers["X-Content-Type-Options"] = "nosniff"
        if "HTTP_ORIGIN" in request.environ:
            add_cors(response)
        else:
            headers.add("Vary", "Origin")
        if limiter:
            headers.update(g.get("limits", {}))
        rule = request.url_rule.rule if request.url_rule else "unknown"
        # A client may invent any number of methods, and each label costs memory.
        method = request.method if request.method in METHODS else "other"
        metrics.count_request(method, rule, response.status_code, elapsed)
        fields = {"route": rule, "status": response.status_code, "latency_ms": round(elapsed * 1000, 2)}
        if caller := CALLERS.get(request.environ.get("HTTP_USER_AGENT", "")):
            fields["caller"] = caller
        log.info("request", extra={"method": request.method, **fields})
        return response

    @app.teardown_request
    def forget(exc: BaseException | None) -> None:
        context.end()

    app.register_error_handler(errors.Problem, api.problem_response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    # The outermost, since a refusal must cost little.
    app.wsgi_app = admission.Admission(  # type: ignore[method-assign]
        app.wsgi_app,
        settings.max_concurrent_requests,
        settings.max_queued_requests,
        settings.request_deadline_seconds * PATIENCE,
    )
    return app


def _limiter(app: Flask, settings: Settings) -> "RateLimiter | None":
    if settings.trusted_proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.trusted_proxies)  # type: ignore[method-assign]
    if not settings.rate_limit:
        return None
    # Imported only here: few run with limits on their own machine.
    from libs.common.limits import RateLimiter

    return RateLimiter(settings.rate_limit, settings.redis_url, settings.service, settings.rate_limit_exempt)


_HTTP_ERRORS = {
    cls.status: cls
    for cls in (
        errors.MalformedRequest,
        errors.NotFound,
        errors.MethodNotAllowed,
        errors.PayloadTooLarge,
        errors.UnsupportedMediaType,
    )
}


def _http_error(exc: HTTPException) -> Response:
    """Werkzeug's own errors, as problem documents."""
    if exc.code is not None and 300 <= exc.code < 400:
        return exc.get_response()  # type: ignore[return-value]
    problem = _HTTP_ERRORS.get(exc.code or 500, errors.MalformedRequest)
    allowed = getattr(exc, "valid_methods", None)
    return api.problem_response(problem(headers={"Allow": ", ".join(sorted(allowed))} if allowed else None))


def _unexpected(exc: Exception) -> Response:
    log.error("request.failed", exc_info=exc)
    return api.problem_response(errors.InternalError())
