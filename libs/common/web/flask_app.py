"""The Flask app of a service, with its hooks before and after each view and its error handlers."""

import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import orjson
from flask import Flask, Response, g, request
from flask.json.provider import JSONProvider
from flask_cors import CORS
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BaseConverter, RequestRedirect

from libs.common import context, errors, metrics
from libs.common.calls.client import user_agent
from libs.common.config import Settings
from libs.common.web import admission
from libs.common.web.messages import MAX_BODY, problem_response
from libs.common.web.routes import ALIAS
from libs.topology import SERVICES

if TYPE_CHECKING:
    from libs.common.web.limits import RateLimiter

log = logging.getLogger("quintet.request")
EXPOSED = ["ETag", "Location", "Link", "Retry-After", "X-Request-ID", "Idempotent-Replayed", "RateLimit"]

CALLERS = {user_agent(service): service for service in SERVICES}
"""User-Agent → service. Other values of User-Agent are not logged."""
METHODS = {"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"}

PATIENCE = 0.25
"""The share of its deadline that a request may wait in the queue."""


class _Uuid(BaseConverter):
    """`<id:user_id>`: a UUID in upper or lower case; for anything else there is no such path."""

    regex = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

    def to_python(self, value: str) -> str:
        return value.lower()


class _App(Flask):
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function unchanged: no view is a coroutine, and Flask calls this six times per request."""
        return func

    def handle_http_exception(self, e: HTTPException) -> Any:
        """Make redirects relative: Flask would take the host from the client, and a proxy may have another scheme."""
        if isinstance(e, RequestRedirect):
            place = urlsplit(e.new_url)
            e.new_url = urlunsplit(("", "", "/" + place.path.lstrip("/"), place.query, ""))
        return super().handle_http_exception(e)


class _OrjsonProvider(JSONProvider):
    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)


def make_flask(settings: Settings) -> Flask:
    """A Flask app with admission, request context, rate limits, CORS, metrics, log lines and problem documents."""
    app = _App(f"{settings.service}_service", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json = _OrjsonProvider(app)
    app.url_map.converters["id"] = _Uuid
    app.url_map.merge_slashes = False  # answer 404 to `//` instead of a redirect
    _add_hooks(app, settings, _limiter(app, settings))
    app.register_error_handler(errors.Problem, problem_response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    # The outermost middleware, since refusals must be cheap.
    app.wsgi_app = admission.Admission(  # type: ignore[method-assign]
        app.wsgi_app,
        settings.max_concurrent_requests,
        settings.max_queued_requests,
        settings.request_deadline_seconds * PATIENCE,
    )
    return app


def _add_hooks(app: Flask, settings: Settings, limiter: "RateLimiter | None") -> None:
    CORS(
        app,
        origins=[_exact_origin(origin) for origin in settings.cors_origins],
        expose_headers=EXPOSED,
        max_age=600,
        always_send=False,
    )
    # Called only for requests with an Origin; for the others `finish` adds the Vary header, which is cheaper.
    add_cors = app.after_request_funcs[None].pop()

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
        if request.path.startswith(ALIAS) and g.work.seconds_left() <= 0:
            raise errors.DeadlineExceeded()  # the caller has given up
        if limiter and request.path.startswith(ALIAS):
            g.limits = limiter.check(request.remote_addr or "")

    @app.after_request
    def finish(response: Response) -> Response:
        work: context.Context = g.work
        headers = response.headers
        headers[context.REQUEST_ID] = work.request_id
        headers[context.TRACEPARENT] = work.traceparent
        headers["X-Content-Type-Options"] = "nosniff"
        headers.setdefault("Cache-Control", errors.NO_STORE)
        if "HTTP_ORIGIN" in request.environ:
            add_cors(response)
        else:
            headers.add("Vary", "Origin")
        if limiter:
            headers.update(g.get("limits", {}))
        _record(response.status_code, time.perf_counter() - g.started)
        return response

    @app.teardown_request
    def forget(exc: BaseException | None) -> None:
        context.end()


def _exact_origin(origin: str) -> str | re.Pattern[str]:
    """A pattern for the origin. Flask-CORS would take an origin with brackets (IPv6) for a regular expression."""
    return origin if origin == "*" else re.compile(re.escape(origin) + r"\Z", re.IGNORECASE)


def _record(status: int, seconds: float) -> None:
    """Count the current request, and write its log line."""
    rule = request.url_rule.rule if request.url_rule else "unknown"
    # A client may send any number of methods, and each label value costs memory.
    method = request.method if request.method in METHODS else "other"
    metrics.count_request(method, rule, status, seconds)
    fields = {"route": rule, "status": status, "latency_ms": round(seconds * 1000, 2)}
    if caller := CALLERS.get(request.environ.get("HTTP_USER_AGENT", "")):
        fields["caller"] = caller
    log.info("request", extra={"method": request.method, **fields})


def _limiter(app: Flask, settings: Settings) -> "RateLimiter | None":
    if settings.trusted_proxies:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=settings.trusted_proxies, x_proto=0
        )
    if not settings.rate_limit:
        return None
    # Imported only here, since rate limits are off by default.
    from libs.common.web.limits import RateLimiter

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
    """Werkzeug's errors as problem documents."""
    problem = _HTTP_ERRORS.get(exc.code or 500, errors.MalformedRequest)
    allowed = getattr(exc, "valid_methods", None)
    return problem_response(problem(headers={"Allow": ", ".join(sorted(allowed))} if allowed else None))


def _unexpected(exc: Exception) -> Response:
    log.error("request.failed", exc_info=exc)
    return problem_response(errors.InternalError())
