"""The URLs of the product service."""

from typing import Any

from flask import g, request

from libs.common.errors import InvalidTransition, Problem
from libs.common.web.routes import Routes
from product_service import repository, schemas, use_cases
from product_service.models import (
    InsufficientStock,
    ProductInUse,
    SkuTaken,
    UnknownProduct,
    UnknownUser,
    Wanted,
)

routes = Routes(
    products="What is for sale, with its price and its units.",
    reservations="What orders hold of the products. The order service asks for it; others may look.",
)


def _seller_exists(raw: Any, users: Any) -> None:
    seller_id = raw.get("seller_id")
    if seller_id and not users.exists(seller_id.lower()):
        raise UnknownUser(errors=[{"pointer": "/seller_id", "detail": "There is no such user."}])


@routes.post(
    "/products", body=schemas.NewProduct, returns=schemas.Product, status=201,
    refuses=[SkuTaken, UnknownUser], idempotent=True, before=_seller_exists,
)  # fmt: skip
def create_product(session: Any, body: Any) -> Any:
    """Put a product on sale.

    The SKU must be free and the seller must exist, where they are given. The price must have no more digits than its
    currency.
    """
    return use_cases.create_product(session, body)


@routes.list("/products", query=schemas.ProductFilters, sorts=("created_at", "name", "price"), returns=schemas.Product)
def list_products(session: Any, query: Any, page: Any) -> Any:
    """List products.

    The newest come first, unless `sort` says otherwise. Prices are compared as numbers, whatever their currency.
    """
    return repository.find_page(session, query, page)


@routes.get("/products/stats", returns=schemas.ProductStats)
def product_stats(session: Any) -> Any:
    """Count products and units.

    The figures are maintained with every change, so they cost the same however many products there are.
    """
    return use_cases.product_stats(session)


@routes.get("/products/<id:product_id>", returns=schemas.Product)
def get_product(session: Any, product_id: str) -> Any:
    """Get a product.

    One that was taken off sale is not found.
    """
    return repository.find(session, product_id)


@routes.put(
    "/products/<id:product_id>", body=schemas.ProductChange, returns=schemas.Product,
    refuses=[SkuTaken, UnknownUser], before=_seller_exists, shows={"version": 2},
)  # fmt: skip
def replace_product(session: Any, product_id: str, body: Any, match: Any) -> Any:
    """Replace a product.

    What is left out falls back to its default. The units stay: only a change of stock and orders move them.
    """
    return use_cases.change_product(session, product_id, body, match)


@routes.patch(
    "/products/<id:product_id>", body=schemas.ProductChange, returns=schemas.Product,
    refuses=[SkuTaken, UnknownUser], before=_seller_exists,
    example={"price": "2299.00", "category": None}, shows={"price": "2299.00", "category": None, "version": 2},
)  # fmt: skip
def update_product(session: Any, product_id: str, body: Any, match: Any) -> Any:
    """Change some members of a product.

    The body is a merge patch (RFC 7396): what is left out stays, and null removes. Orders keep the price that they
    were confirmed with.
    """
    return use_cases.change_product(session, product_id, body, match)


@routes.delete("/products/<id:product_id>", refuses=[ProductInUse])
def delete_product(session: Any, product_id: str, match: Any) -> None:
    """Take a product off sale.

    That is refused while orders hold units of it. Its SKU is free again.
    """
    use_cases.delete_product(session, product_id, match)


@routes.post(
    "/products/<id:product_id>/stock", body=schemas.StockAdjustment, returns=schemas.Product,
    refuses=[InsufficientStock], idempotent=True, shows={"stock": 35, "version": 2},
)  # fmt: skip
def adjust_stock(session: Any, product_id: str, body: Any) -> Any:
    """Put units of a product in or take them out.

    This is the only way to change `stock` after creation. It is atomic, and more than there is cannot be taken out.
    """
    return use_cases.adjust_stock(session, product_id, **body)


# Reservations, for the order service -------------------------------------------------------------------------------


@routes.post(
    "/reservations", body=schemas.NewReservation, returns=schemas.Reservation, status=201,
    refuses=[InsufficientStock, InvalidTransition, UnknownProduct],
)  # fmt: skip
def create_reservation(db: Any, body: Any) -> Any:
    """Reserve all lines of an order, or none.

    The same order again gets the same answer, so no key is needed. `errors` of a refusal names each line that is
    short, with the units that are available, or each product that is not known.
    """
    outcome = use_cases.reserve(db, [_wanted(body)])[0]
    if isinstance(outcome, Problem):
        raise outcome
    return _reservation(body["order_id"], outcome)


@routes.post("/reservations/batch", body=schemas.NewReservations, returns=schemas.Outcomes)
def create_reservations(db: Any, body: Any) -> Any:
    """Reserve for many orders at once.

    Each is judged on its own, in the order of the list, and gets what a single call would have answered.
    """
    batch = [_wanted(item) for item in body["reservations"]]
    return {"outcomes": [_outcome(w, outcome) for w, outcome in zip(batch, use_cases.reserve(db, batch), strict=True)]}


@routes.get("/reservations/<id:order_id>", returns=schemas.Reservation)
def get_reservation(session: Any, order_id: str) -> Any:
    """Get what an order holds.

    It is also found when it was released or sold.
    """
    return repository.find_reservation(session, order_id)


@routes.delete("/reservations/<id:order_id>")
def delete_reservation(session: Any, order_id: str) -> None:
    """Release what an order holds.

    A second time changes nothing. A release that comes before its reservation is kept, and refuses the late one.
    """
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
