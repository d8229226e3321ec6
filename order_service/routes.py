"""The routes of the order service."""

from typing import TypedDict

from libs.common.context import Context
from libs.common.data.changes import VersionCheck
from libs.common.data.database import Reader, Session
from libs.common.data.idempotency import Key, Replayed
from libs.common.data.paging import Page, PageQuery
from libs.common.errors import InvalidTransition, RequestInFlight
from libs.common.web.routes import Routes
from order_service import checkout as saga
from order_service import repository, schemas, use_cases
from order_service.checkout import Checkout
from order_service.models import (
    CurrencyMismatch,
    InsufficientStock,
    NewOrder,
    OrderFilters,
    OrderRow,
    OrderStats,
    Step,
    UnknownProduct,
    UnknownUser,
    WantedLine,
    history,
)

routes = Routes(orders="What users order: `pending → confirmed → shipped → delivered`, or `rejected`, or `cancelled`.")

_LATER, _LATER_STILL = "2026-02-01T08:30:00.000000Z", "2026-02-03T16:45:00.000000Z"
"""Times of the examples."""


class NewOrderBody(TypedDict):
    """As `schemas.NewOrder` loads it."""

    user_id: str
    items: list[WantedLine]
    note: str | None


class Cancellation(TypedDict):
    """As `schemas.Cancellation` loads it."""

    reason: str | None


@routes.post(
    "/orders", body=schemas.NewOrder, returns=schemas.Order, status=201, idempotent=True,
    refuses=[InsufficientStock, RequestInFlight, UnknownUser, UnknownProduct, CurrencyMismatch],
)  # fmt: skip
def create_order(checkout: Checkout, body: NewOrderBody, key: Key | None, work: Context) -> OrderRow | Replayed:
    """Place an order.

    201 says that it is confirmed: its units are reserved at the prices of the product service. Send an
    `Idempotency-Key`: then a request whose answer was lost can be sent again, and there is one order.
    """
    return saga.create_order(checkout, NewOrder.of(**body, key=key, deadline=work.deadline))


@routes.list("/orders", query=schemas.OrderFilters, sorts=("created_at", "total"), returns=schemas.Order)
def list_orders(session: Reader, query: OrderFilters, page: PageQuery) -> Page:
    """List orders.

    The newest come first, unless `sort` says otherwise. Those that were rejected are among them.
    """
    return repository.find_page(session, query, page)


@routes.get("/orders/stats", returns=schemas.OrderStats)
def order_stats(session: Reader) -> OrderStats:
    """Count orders and add up what they bring.

    The figures are maintained with every change, so they cost the same however many orders there are.
    """
    return use_cases.order_stats(session)


@routes.get("/orders/<id:order_id>", returns=schemas.Order)
def get_order(session: Reader, order_id: str) -> OrderRow:
    """Get an order.

    An order that was refused for want of stock can be read, too: it is `rejected` and holds nothing.
    """
    return repository.find(session, order_id)


@routes.get("/orders/<id:order_id>/history", returns=schemas.OrderHistory)
def order_history(session: Reader, order_id: str) -> dict[str, list[Step]]:
    """Get each transition of an order with its time and reason.

    The oldest comes first.
    """
    return {"items": history(repository.find(session, order_id))}


@routes.post(
    "/orders/<id:order_id>/cancel", body=schemas.Cancellation, body_optional=True, returns=schemas.Order,
    refuses=[InvalidTransition],
    shows={"status": "cancelled", "cancelled_at": _LATER, "updated_at": _LATER, "version": 3},
)  # fmt: skip
def cancel_order(session: Session, order_id: str, body: Cancellation, match: VersionCheck) -> OrderRow:
    """Cancel a confirmed order.

    Its units can soon be sold again. A second time changes nothing; an order that was shipped cannot be cancelled.
    """
    return use_cases.cancel_order(session, order_id, body["reason"], match)


@routes.post(
    "/orders/<id:order_id>/ship", returns=schemas.Order, refuses=[InvalidTransition],
    shows={"status": "shipped", "shipped_at": _LATER, "updated_at": _LATER, "version": 3},
)  # fmt: skip
def ship_order(session: Session, order_id: str, match: VersionCheck) -> OrderRow:
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
def deliver_order(session: Session, order_id: str, match: VersionCheck) -> OrderRow:
    """Deliver a shipped order.

    A second time changes nothing.
    """
    return use_cases.deliver_order(session, order_id, match)
