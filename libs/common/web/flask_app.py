"""The Flask app of a service, with its hooks before and after each view and its error handlers."""

import logging
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import orjson
from flask import Flask, Response, g, request
from flask.json.provider import JSONProvider
from flask_cors import CORS
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter, RequestRedirect

from libs.common import context, errors
from libs.common.config import Settings
from libs.common.web import admission
from libs.common.web.exchange import Exchange, Operation, answer, problem_answer
from libs.common.web.frame import Frame, common_headers
from libs.common.web.messages import MAX_BODY
from libs.common.web.responses import response_of
from libs.common.web.routes import ALIAS, PREFIX

log = logging.getLogger("quintet.request")
EXPOSED = ["ETag", "Location", "Link", "Retry-After", "X-Request-ID", "Idempotent-Replayed", "RateLimit"]

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


def make_flask(settings: Settings, frame: Frame) -> Flask:
    """A Flask app with admission, request context, rate limits, CORS, metrics, log lines and problem documents."""
    app = _App(f"{settings.service}_service", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json = _OrjsonProvider(app)
    app.url_map.converters["id"] = _Uuid
    app.url_map.merge_slashes = False  # answer 404 to `//` instead of a redirect
    _add_hooks(app, settings, frame)
    app.register_error_handler(errors.Problem, _problem)
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


def install(app: Flask, operation: Operation) -> None:
    """Serve an operation under its canonical path and under the alias without a version."""

    def view(**path: str) -> Response:
        exchange = Exchange(
            request.method, request.path, _query(request.query_string), g.headers,
            request.environ["wsgi.input"], g.work,
        )  # fmt: skip
        return response_of(answer(lambda: operation.handle(exchange, path), exchange.path, exchange.work))

    for prefix in (PREFIX, ALIAS):
        name = f"{prefix}:{operation.method}:{operation.rule}"
        app.add_url_rule(prefix + operation.rule, name, view, methods=[operation.method])


def _query(text: bytes) -> list[tuple[str, str]]:
    """Names and values in their order, which `request.args` does not keep. What is not UTF-8 stays encoded."""
    return parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True, errors="werkzeug.url_quote")


def _add_hooks(app: Flask, settings: Settings, frame: Frame) -> None:
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
        environ = request.environ
        waited = environ.get(admission.WAITED, 0.0)
        g.started = time.perf_counter() - waited
        g.headers = {name.lower(): value for name, value in request.headers.items()}
        g.work = frame.begin(g.headers, waited)
        if admission.REFUSED in environ:
            raise errors.Overloaded()
        if request.path.startswith(ALIAS):
            g.limits = frame.admit(g.work, g.headers, request.remote_addr or "")

    @app.after_request
    def finish(response: Response) -> Response:
        headers = response.headers
        for name, value in common_headers(g.work).items():
            headers[name] = value
        headers.setdefault("Cache-Control", errors.NO_STORE)
        if "HTTP_ORIGIN" in request.environ:
            add_cors(response)
        else:
            headers.add("Vary", "Origin")
        headers.update(g.get("limits", {}))
        rule = request.url_rule.rule if request.url_rule else "unknown"
        seconds = time.perf_counter() - g.started
        frame.record(request.method, rule, response.status_code, seconds, g.headers.get("user-agent"), g.work)
        return response

    @app.teardown_request
    def forget(exc: BaseException | None) -> None:
        context.end()


def _exact_origin(origin: str) -> str | re.Pattern[str]:
    """A pattern for the origin. Flask-CORS would take an origin with brackets (IPv6) for a regular expression."""
    return origin if origin == "*" else re.compile(re.escape(origin) + r"\Z", re.IGNORECASE)


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
    return _problem(problem(headers={"Allow": ", ".join(sorted(allowed))} if allowed else None))


def _unexpected(exc: Exception) -> Response:
    log.error("request.failed", exc_info=exc)
    return _problem(errors.InternalError())


def _problem(problem: errors.Problem) -> Response:
    """The problem document, as the answer to the current request."""
    return response_of(problem_answer(problem, request.path, g.work.request_id))
