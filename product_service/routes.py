"""The routes of the product service."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from libs.common.context import Context
from libs.common.data.changes import Changes, VersionCheck
from libs.common.data.database import Database, Reader, Session
from libs.common.data.paging import Page, PageQuery
from libs.common.errors import InvalidTransition, Problem
from libs.common.ids import example_id
from libs.common.web.routes import PREFIX, SHORTLY, Routes
from product_service import repository, schemas, use_cases
from product_service.clients import Users
from product_service.models import (
    Demand,
    InsufficientStock,
    NewProduct,
    Product,
    ProductFilters,
    ProductInUse,
    ProductRow,
    ProductStats,
    ReservationRow,
    ReservedLine,
    SkuTaken,
    StockAdjustment,
    UnknownProduct,
    UnknownUser,
)

routes = Routes(
    products="What is for sale, with its price and its units.",
    reservations="What orders hold of the products. The order service asks for it; others may look.",
)


def _seller_exists(raw: Mapping[str, object], users: Users) -> None:
    seller_id = raw.get("seller_id")
    if isinstance(seller_id, str) and not users.exists(seller_id.lower()):
        raise UnknownUser(errors=[{"pointer": "/seller_id", "detail": "There is no such user."}])


@routes.post(
    "/products", body=schemas.NewProduct, returns=schemas.Product, status=201,
    refuses=[SkuTaken, UnknownUser], idempotent=True, before=_seller_exists,
)  # fmt: skip
def create_product(session: Session, body: NewProduct) -> Product:
    """Put a product on sale.

    The SKU must be free and the seller must exist, where they are given. The price must have no more digits than its
    currency.
    """
    return use_cases.create_product(session, body)


@routes.list(
    "/products",
    query=schemas.ProductFilters,
    sorts=("created_at", "name", "price"),
    returns=schemas.Product,
    cache=SHORTLY,
)
def list_products(session: Reader, query: ProductFilters, page: PageQuery) -> Page:
    """List products.

    The newest come first, unless `sort` says otherwise. Prices are compared as numbers, whatever their currency.
    """
    return repository.find_page(session, query, page)


@routes.get("/products/stats", returns=schemas.ProductStats)
def product_stats(session: Reader) -> ProductStats:
    """Count products and units.

    The figures are maintained with every change, so they cost the same however many products there are.
    """
    return use_cases.product_stats(session)


@routes.get("/products/<id:product_id>", returns=schemas.Product, cache=SHORTLY)
def get_product(session: Reader, product_id: str) -> ProductRow:
    """Get a product.

    One that was taken off sale is not found.
    """
    return repository.find(session, product_id)


@routes.put(
    "/products/<id:product_id>", body=schemas.ProductChange, returns=schemas.Product,
    refuses=[SkuTaken, UnknownUser], before=_seller_exists,
    example={"name": "Laptop", "price": "2299.00", "sku": "LAP-14-1", "seller_id": example_id("seller_id")},
    shows={"price": "2299.00", "description": "", "category": None, "version": 2},
)  # fmt: skip
def replace_product(session: Session, product_id: str, body: Changes[Product], match: VersionCheck) -> Product:
    """Replace a product.

    What is left out falls back to its default. The units stay: only a change of stock and orders move them.
    """
    return use_cases.change_product(session, product_id, body, match)


@routes.patch(
    "/products/<id:product_id>", body=schemas.ProductChange, returns=schemas.Product,
    refuses=[SkuTaken, UnknownUser], before=_seller_exists,
    example={"price": "2299.00", "category": None}, shows={"price": "2299.00", "category": None, "version": 2},
)  # fmt: skip
def update_product(session: Session, product_id: str, body: Changes[Product], match: VersionCheck) -> Product:
    """Change some members of a product.

    The body is a merge patch (RFC 7396): what is left out stays, and null removes. Orders keep the price that they
    were confirmed with.
    """
    return use_cases.change_product(session, product_id, body, match)


@routes.delete("/products/<id:product_id>", refuses=[ProductInUse])
def delete_product(session: Session, product_id: str, match: VersionCheck) -> None:
    """Take a product off sale.

    That is refused while orders hold units of it. Its SKU is free again.
    """
    use_cases.delete_product(session, product_id, match)


@routes.post(
    "/products/<id:product_id>/stock", body=schemas.StockAdjustment, returns=schemas.Product,
    refuses=[InsufficientStock], idempotent=True, shows={"stock": 35, "version": 2},
)  # fmt: skip
def adjust_stock(session: Session, product_id: str, body: StockAdjustment, match: VersionCheck) -> Product:
    """Put units of a product in or take them out.

    This is the only way to change `stock` after creation. It is atomic, and more than there is cannot be taken out. A
    `delta` of 0 changes nothing, and is not recorded.
    """
    return use_cases.adjust_stock(session, product_id, body, match)


# Reservations, for the order service -------------------------------------------------------------------------------


class WantedLine(TypedDict):
    """A number of units of a product."""

    product_id: str
    quantity: int


class NewReservation(TypedDict):
    """A reservation to make for an order."""

    order_id: str
    items: list[WantedLine]
    request_id: NotRequired[str]
    """Only in a batch: the request that this reservation belongs to."""


class NewReservations(TypedDict):
    """A batch of reservations to make."""

    reservations: list[NewReservation]


class Reserved(TypedDict):
    """The answer to a new reservation; `id` is for the Location header."""

    id: str
    order_id: str
    status: str
    lines: list[ReservedLine]
    version: int


class Outcome(TypedDict):
    """The outcome of one reservation of a batch."""

    status: int
    body: Mapping[str, object]


class Outcomes(TypedDict):
    """The outcomes of a batch, in the order of the request."""

    outcomes: list[Outcome]


@routes.post(
    "/reservations", body=schemas.NewReservation, returns=schemas.Reservation, status=201,
    refuses=[InsufficientStock, InvalidTransition, UnknownProduct],
)  # fmt: skip
def create_reservation(db: Database, body: NewReservation) -> Reserved:
    """Reserve all lines of an order, or none.

    The same order again gets the same answer, so no key is needed. `errors` of a refusal names each line that is
    short, with the units that are available, or each product that is not known.
    """
    outcome = use_cases.reserve(db, [_demand(body)])[0]
    if isinstance(outcome, Problem):
        raise outcome
    return _reserved(body["order_id"], outcome)


@routes.post("/reservations/batch", body=schemas.NewReservations, returns=schemas.Outcomes)
def create_reservations(db: Database, body: NewReservations, work: Context) -> Outcomes:
    """Reserve for many orders at once.

    Each is judged on its own, in the order of the list, and gets what a single call would have answered.
    """
    batch = [_demand(new) for new in body["reservations"]]
    outcomes = zip(batch, use_cases.reserve(db, batch), strict=True)
    return {"outcomes": [_outcome(demand, outcome, work.request_id) for demand, outcome in outcomes]}


@routes.get("/reservations/<id:order_id>", returns=schemas.Reservation)
def get_reservation(session: Reader, order_id: str) -> ReservationRow:
    """Get what an order holds.

    It is also found when it was released or sold.
    """
    return repository.find_reservation(session, order_id)


@routes.delete("/reservations/<id:order_id>")
def delete_reservation(session: Session, order_id: str, match: VersionCheck) -> None:
    """Release what an order holds.

    A second time changes nothing. A release that comes before its reservation is kept, and refuses the late one.
    """
    use_cases.release(session, order_id, match)


def _demand(new: NewReservation) -> Demand:
    quantities: dict[str, int] = {}
    places: dict[str, int] = {}
    for place, line in enumerate(new["items"]):
        places.setdefault(line["product_id"], place)
        quantities[line["product_id"]] = quantities.get(line["product_id"], 0) + line["quantity"]
    return Demand(new["order_id"], quantities, places, new.get("request_id"))


_dump_reservation = schemas.Reservation().dump


def _reserved(order_id: str, lines: list[ReservedLine]) -> Reserved:
    return {"id": order_id, "order_id": order_id, "status": "reserved", "lines": lines, "version": 1}


def _outcome(demand: Demand, outcome: list[ReservedLine] | Problem, request_id: str) -> Outcome:
    """The status and the body that a single call would have answered with."""
    if isinstance(outcome, Problem):
        document = outcome.document(PREFIX + "/reservations", demand.request_id or request_id)
        return {"status": outcome.status, "body": document}
    return {"status": 201, "body": _dump_reservation(_reserved(demand.order_id, outcome))}
