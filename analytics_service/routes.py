"""The routes of the analytics service, and the dashboard."""

from datetime import datetime
from pathlib import Path
from typing import NotRequired, TypedDict

from flask import Blueprint, Response

from analytics_service import schemas, use_cases
from analytics_service.clients import Figures, Health, SideBySide
from libs.common.data.database import Database, Reader
from libs.common.web.routes import Routes

routes = Routes(analytics="What the system did and does: figures, time series, best sellers, delivery.")
pages = Blueprint("pages", __name__)

_dashboard = (Path(__file__).parent / "templates" / "dashboard.html").read_text(encoding="utf-8")
_policy = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@pages.get("/")
def dashboard() -> Response:
    """The dashboard, a page that needs only the routes below."""
    headers = {"Content-Security-Policy": _policy, "Cache-Control": "no-cache"}
    return Response(_dashboard, headers=headers, mimetype="text/html")


@routes.get("/analytics/summary", returns=schemas.Summary, degrades=True)
def summary(db: Database, figures: SideBySide[Figures]) -> use_cases.Summary:
    """Get the figures of all services.

    They are asked side by side. The figures of each are live, stale or unavailable, and say so: a service that is down
    neither fails the answer nor becomes a zero.
    """
    return use_cases.summarise(db, figures)


@routes.get("/analytics/services", returns=schemas.ServiceHealths, degrades=True)
def service_healths(db: Database, healths: SideBySide[Health]) -> use_cases.ServiceHealths:
    """Get the health and the latency of each service.

    They are asked side by side, and not waited for without end.
    """
    return use_cases.check_services(db, healths)


class SeriesQuery(TypedDict):
    """The query of a time series."""

    interval: str
    from_: NotRequired[datetime]
    to: NotRequired[datetime]


@routes.get("/analytics/orders/timeseries", query=schemas.SeriesQuery, returns=schemas.Series)
def order_series(session: Reader, query: SeriesQuery) -> use_cases.Series:
    """Get orders and revenue by hour or day.

    Hour and day are those of the confirmation, in UTC. There are at most 1000 buckets, empty ones included.
    """
    return use_cases.order_series(session, query["interval"], query.get("from_"), query.get("to"))


class TopQuery(TypedDict):
    """The query of best sellers."""

    by: str
    limit: int
    currency: NotRequired[str]


@routes.get("/analytics/products/top", query=schemas.TopQuery, returns=schemas.TopProducts)
def top_products(session: Reader, query: TopQuery) -> use_cases.TopProducts:
    """Get the products that sell best.

    A product that was sold in two currencies is there twice. Cancelled orders do not count.
    """
    return use_cases.top_products(session, query["by"], query["limit"], query.get("currency"))


@routes.get("/analytics/notifications/delivery", returns=schemas.Delivery)
def delivery(session: Reader) -> use_cases.Delivery:
    """Get how many notifications arrive, and how fast.

    All in all, and by channel. Those that still wait do not count.
    """
    return use_cases.delivery(session)
