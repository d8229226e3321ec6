"""The URLs of the order service."""

from typing import Any

from flask import g

from libs.common.errors import InvalidTransition, RequestInFlight
from libs.common.events.event import Origin
from libs.common.ids import new_id
from libs.common.web.routes import Routes
from order_service import repository, schemas, use_cases
from order_service.models import (
    CurrencyMismatch,
    InsufficientStock,
    NewOrder,
    UnknownProduct,
    UnknownUser,
    first_places,
    history,
    merge_lines,
)

routes = Routes(orders="What users order: `pending → confirmed → shipped → delivered`, or `rejected`, or `cancelled`.")

_LATER, _LATER_STILL = "2026-02-01T08:30:00.000000Z", "2026-02-03T16:45:00.000000Z"
"""Times of the examples."""


@routes.post(
    "/orders", body=schemas.NewOrder, returns=schemas.Order, status=201, idempotent=True,
    refuses=[InsufficientStock, RequestInFlight, UnknownUser, UnknownProduct, CurrencyMismatch],
)  # fmt: skip
def create_order(checkout: Any, body: Any, key: Any) -> Any:
    """Place an order.

    201 says that it is confirmed: its units are reserved at the prices of the product service. Send an
    `Idempotency-Key`: then a request whose answer was lost can be sent again, and there is one order.
    """
    work = g.work
    items, seconds = body["items"], max(0.0, work.seconds_left())
    new = NewOrder(new_id(), body["user_id"], merge_lines(items), body["note"], key, seconds, first_places(items))
    origin = Origin(event_id="", correlation_id=work.request_id, traceparent=work.traceparent)
    return use_cases.create_order(checkout, new, origin, work.deadline)


@routes.list("/orders", query=schemas.OrderFilters, sorts=("created_at", "total"), returns=schemas.Order)
def list_orders(session: Any, query: Any, page: Any) -> Any:
    """List orders.

    The newest come first, unless `sort` says otherwise. Those that were rejected are among them.
    """
    return repository.find_page(session, query, page)


@routes.get("/orders/stats", returns=schemas.OrderStats)
def order_stats(session: Any) -> Any:
    """Count orders and add up what they bring.

    The figures are maintained with every change, so they cost the same however many orders there are.
    """
    return use_cases.order_stats(session)


@routes.get("/orders/<id:order_id>", returns=schemas.Order)
def get_order(session: Any, order_id: str) -> Any:
    """Get an order.

    An order that was refused for want of stock can be read, too: it is `rejected` and holds nothing.
    """
    return repository.find(session, order_id)


@routes.get("/orders/<id:order_id>/history", returns=schemas.OrderHistory)
def order_history(session: Any, order_id: str) -> Any:
    """Get each transition of an order with its time and reason.

    The oldest comes first.
    """
    return {"items": history(repository.find(session, order_id))}


@routes.post(
    "/orders/<id:order_id>/cancel", body=schemas.Cancellation, body_optional=True, returns=schemas.Order,
    refuses=[InvalidTransition],
    shows={"status": "cancelled", "cancelled_at": _LATER, "updated_at": _LATER, "version": 3},
)  # fmt: skip
def cancel_order(session: Any, order_id: str, body: Any, match: Any) -> Any:
    """Cancel a confirmed order.

    Its units can soon be sold again. A second time changes nothing; an order that was shipped cannot be cancelled.
    """
    return use_cases.cancel_order(session, order_id, body["reason"], match)


@routes.post(
    "/orders/<id:order_id>/ship", returns=schemas.Order, refuses=[InvalidTransition],
    shows={"status": "shipped", "shipped_at": _LATER, "updated_at": _LATER, "version": 3},
)  # fmt: skip
def ship_order(session: Any, order_id: str, match: Any) -> Any:
    """Ship a confirmed order.

    Its units are soon sold. A second time changes nothing.
    """
    return use_cases.ship_order(session, order_id, match)


@routes.post(
    "/orders/<id:order_id>/deliver", returns=schemas.Order, refuses=[InvalidTransition],
    shows={
        "status": "delivered", "shipped_at": _LATER, "delivered_at": _LATER_STILL, "updated_at": _LATER_STILL,
        "version": 4,
    },
)  # fmt: skip
def deliver_order(session: Any, order_id: str, match: Any) -> Any:
    """Deliver a shipped order.

    A second time changes nothing.
    """
    return use_cases.deliver_order(session, order_id, match)
