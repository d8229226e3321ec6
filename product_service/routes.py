"""The URLs of the product service."""

from typing import Any

from flask import g, request

from libs.common.api import Routes
from libs.common.errors import InvalidTransition, Problem
from product_service import repository, schemas, use_cases
from product_service.models import (
    InsufficientStock,
    ProductInUse,
    SkuTaken,
    UnknownProduct,
    UnknownUser,
    Wanted,
)

routes = Routes()


def _seller_exists(raw: Any, users: Any) -> None:
    seller_id = raw.get("seller_id")
    if seller_id and not users.exists(seller_id.lower()):
        raise UnknownUser(errors=[{"pointer": "/seller_id", "detail": "There is no such user."}])


@routes.post(
    "/products", body=schemas.NewProduct, returns=schemas.Product, status=201,
    refuses=[SkuTaken, UnknownUser], idempotent=True, before=_seller_exists,
)  # fmt: skip
def create_product(session: Any, body: Any) -> Any:
    """Put a product on sale."""
    return use_cases.create_product(session, body)


@routes.list("/products", query=schemas.ProductFilters, sorts=("created_at", "name", "price"), returns=schemas.Product)
def list_products(session: Any, query: Any, page: Any) -> Any:
    """List products."""
    return repository.find_page(session, query, page)


@routes.get("/products/stats", returns=schemas.ProductStats)
def product_stats(session: Any) -> Any:
    """Count products and units."""
    return use_cases.product_stats(session)


@routes.get("/products/<id:product_id>", returns=schemas.Product)
def get_product(session: Any, product_id: str) -> Any:
    """Get a product."""
    return repository.find(session, product_id)


@routes.put(
    "/products/<id:product_id>", body=schemas.ProductChange, returns=schemas.Product,
    refuses=[SkuTaken, UnknownUser], before=_seller_exists,
)  # fmt: skip
def replace_product(session: Any, product_id: str, body: Any, match: Any) -> Any:
    """Replace a product."""
    return use_cases.change_product(session, product_id, body, match)


@routes.patch(
    "/products/<id:product_id>", body=schemas.ProductChange, returns=schemas.Product,
    refuses=[SkuTaken, UnknownUser], before=_seller_exists,
)  # fmt: skip
def update_product(session: Any, product_id: str, body: Any, match: Any) -> Any:
    """Change some members of a product."""
    return use_cases.change_product(session, product_id, body, match)


@routes.delete("/products/<id:product_id>", refuses=[ProductInUse])
def delete_product(session: Any, product_id: str, match: Any) -> None:
    """Take a product off sale."""
    use_cases.delete_product(session, product_id, match)


@routes.post(
    "/products/<id:product_id>/stock", body=schemas.StockAdjustment, returns=schemas.Product,
    refuses=[InsufficientStock], idempotent=True,
)  # fmt: skip
def adjust_stock(session: Any, product_id: str, body: Any) -> Any:
    """Put units of a product in or take them out."""
    return use_cases.adjust_stock(session, product_id, **body)


# Reservations, for the order service -------------------------------------------------------------------------------


@routes.post(
    "/reservations", body=schemas.NewReservation, returns=schemas.Reservation, status=201,
    refuses=[InsufficientStock, InvalidTransition, UnknownProduct],
)  # fmt: skip
def create_reservation(db: Any, body: Any) -> Any:
    """Reserve all lines of an order, or none; the same order again gets the same answer."""
    outcome = use_cases.reserve(db, [_wanted(body)])[0]
    if isinstance(outcome, Problem):
        raise outcome
    return _reservation(body["order_id"], outcome)


@routes.post("/reservations/batch", body=schemas.NewReservations, returns=schemas.Outcomes)
def create_reservations(db: Any, body: Any) -> Any:
    """Reserve for many orders at once, each judged on its own."""
    batch = [_wanted(item) for item in body["reservations"]]
    return {"outcomes": [_outcome(w, outcome) for w, outcome in zip(batch, use_cases.reserve(db, batch), strict=True)]}


@routes.get("/reservations/<id:order_id>", returns=schemas.Reservation)
def get_reservation(session: Any, order_id: str) -> Any:
    """Get what an order holds."""
    return repository.find_reservation(session, order_id)


@routes.delete("/reservations/<id:order_id>")
def delete_reservation(session: Any, order_id: str) -> None:
    """Release what an order holds; before its reserve, it refuses the late reserve."""
    use_cases.release(session, [order_id])


def _wanted(body: dict[str, Any]) -> Wanted:
    quantities: dict[str, int] = {}
    places: dict[str, int] = {}
    for place, item in enumerate(body["items"]):
        places.setdefault(item["product_id"], place)
        quantities[item["product_id"]] = quantities.get(item["product_id"], 0) + item["quantity"]
    return Wanted(body["order_id"], quantities, places, body.get("request_id"))


_dump_reservation = schemas.Reservation().dump


def _reservation(order_id: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": order_id, "order_id": order_id, "status": "reserved", "lines": lines, "version": 1}


def _outcome(wanted: Wanted, outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, Problem):
        document = outcome.document(request.path, wanted.request_id or g.work.request_id)
        return {"status": outcome.status, "body": document}
    return {"status": 201, "body": _dump_reservation(_reservation(wanted.order_id, outcome))}
