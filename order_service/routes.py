"""The URLs of the order service."""

from typing import Any

from flask import g

from libs.common.api import Routes
from libs.common.db import new_id
from libs.common.errors import InvalidTransition, RequestInFlight
from libs.common.events import Origin
from order_service import repository, schemas, use_cases
from order_service.models import (
    CurrencyMismatch,
    InsufficientStock,
    NewOrder,
    UnknownProduct,
    UnknownUser,
    history,
    merge_lines,
)

routes = Routes()


@routes.post(
    "/orders", body=schemas.NewOrder, returns=schemas.Order, status=201, idempotent=True,
    refuses=[InsufficientStock, RequestInFlight, UnknownUser, UnknownProduct, CurrencyMismatch],
)  # fmt: skip
def create_order(checkout: Any, body: Any, key: Any) -> Any:
    """Place an order; 201 says that it is confirmed."""
    work = g.work
    new = NewOrder(
        new_id(), body["user_id"], merge_lines(body["items"]), body["note"], key, max(0.0, work.seconds_left())
    )
    origin = Origin(event_id="", correlation_id=work.request_id, traceparent=work.traceparent)
    return use_cases.create_order(checkout, new, origin, work.deadline)


@routes.list("/orders", query=schemas.OrderFilters, sorts=("created_at", "total"), returns=schemas.Order)
def list_orders(session: Any, query: Any, page: Any) -> Any:
    """List orders."""
    return repository.find_page(session, query, page)


@routes.get("/orders/stats", returns=schemas.OrderStats)
def order_stats(session: Any) -> Any:
    """Count orders and add up what they bring."""
    return use_cases.order_stats(session)


@routes.get("/orders/<id:order_id>", returns=schemas.Order)
def get_order(session: Any, order_id: str) -> Any:
    """Get an order."""
    return repository.find(session, order_id)


@routes.get("/orders/<id:order_id>/history", returns=schemas.OrderHistory)
def order_history(session: Any, order_id: str) -> Any:
    """Get each transition of an order with its time and reason."""
    return {"items": history(repository.find(session, order_id))}


@routes.post(
    "/orders/<id:order_id>/cancel", body=schemas.Cancellation, body_optional=True, returns=schemas.Order,
    refuses=[InvalidTransition],
)  # fmt: skip
def cancel_order(session: Any, order_id: str, body: Any, match: Any) -> Any:
    """Cancel a confirmed order; its units can be sold again."""
    return use_cases.cancel_order(session, order_id, body["reason"], match)


@routes.post("/orders/<id:order_id>/ship", returns=schemas.Order, refuses=[InvalidTransition])
def ship_order(session: Any, order_id: str, match: Any) -> Any:
    """Ship a confirmed order; its units are sold."""
    return use_cases.ship_order(session, order_id, match)


@routes.post("/orders/<id:order_id>/deliver", returns=schemas.Order, refuses=[InvalidTransition])
def deliver_order(session: Any, order_id: str, match: Any) -> Any:
    """Deliver a shipped order."""
    return use_cases.deliver_order(session, order_id, match)
