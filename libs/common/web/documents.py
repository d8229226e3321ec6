"""Pages about a service: its OpenAPI document, the JSON Schemas of its events, Swagger UI, and the error codes."""

import html
from importlib import import_module
from pathlib import Path

from flask import Blueprint, Response, abort, send_from_directory
from flask_swagger_ui import get_swaggerui_blueprint

from libs.common import errors
from libs.common.web.exchange import JSON

_POLICY = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_SWAGGER_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    f"font-src 'self' data:; connect-src 'self'; {_POLICY}"
)


def _page_headers(policy: str) -> dict[str, str]:
    """Security headers of an HTML page: a content policy, and no frames on other sites."""
    return {"Content-Security-Policy": policy, "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}


def blueprint(package: str, document: bytes) -> Blueprint:
    routes = Blueprint("documents", __name__)
    schemas = Path(import_module(package).__path__[0]) / "event_schemas"

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return Response(document, content_type=JSON)

    @routes.get("/schemas/<name>")
    def event_schema(name: str) -> Response:
        return send_from_directory(schemas, name, mimetype="application/schema+json")

    @routes.get("/errors/<code>")
    def error_page(code: str) -> Response:
        problem = errors.all_problems().get(code)
        if problem is None:
            abort(404)
        text = html.escape(" ".join((problem.__doc__ or "").split()))
        page = f"<!doctype html><meta charset=utf-8><title>{code}</title><h1>{html.escape(problem.title)}</h1>"
        page += f"<p>Status {problem.status}, code <code>{code}</code>.<p>{text}\n"
        return Response(page, headers=_page_headers(f"default-src 'none'; {_POLICY}"), mimetype="text/html")

    return routes


def swagger_ui(service: str) -> Blueprint:
    """Swagger UI at /docs, served from its package and without the online validator."""
    config = {"app_name": f"Quintet {service} service", "validatorUrl": None}
    made: Blueprint = get_swaggerui_blueprint("/docs", "/openapi.json", config)

    @made.after_request
    def protect(response: Response) -> Response:
        response.headers.update(_page_headers(_SWAGGER_POLICY))
        return response

    return made
