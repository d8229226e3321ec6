"""One function for each thing that the product service does."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from libs.common.data import counters
from libs.common.data.database import Database, Reader, Session
from libs.common.errors import InvalidTransition, Problem
from libs.common.events import outbox
from libs.common.events.event import Event
from libs.common.money import format_amount
from libs.common.times import write_time
from product_service import repository
from product_service.events import (
    OrderCancelled,
    OrderRejected,
    OrderShipped,
    ProductCreated,
    ProductDeleted,
    ProductUpdated,
    StockAdjusted,
)
from product_service.models import Product, Units, Wanted

Line = dict[str, Any]


def create_product(session: Session, new: dict[str, Any]) -> Product:
    """Put a product on sale; raises SkuTaken."""
    product = Product.launch(**new)
    repository.save(session, product)
    outbox.add(session, ProductCreated(**_facts(product)))
    counters.add(session, product.counts())
    return product


def change_product(
    session: Session, product_id: str, changes: Callable[[Product], dict[str, Any]], match: Callable[[int], None]
) -> Product:
    """Replace the members that a client may set; raises NotFound, PreconditionFailed or SkuTaken."""
    product = repository.lock(session, product_id)
    match(product.version)
    product.change(**changes(product))
    repository.save(session, product)
    outbox.add(session, ProductUpdated(**_facts(product)))
    return product


def adjust_stock(session: Session, product_id: str, delta: int, reason: str) -> Product:
    """Put units in or take them out; raises NotFound or InsufficientStock."""
    product = repository.lock(session, product_id)
    product.adjust_stock(delta)
    repository.save(session, product)
    repository.record(session, product, delta, reason)
    outbox.add(
        session,
        StockAdjusted(product_id=product.id, delta=delta, stock=product.stock, version=product.version),
    )
    counters.add(session, {"stock_units": delta})
    return product


def delete_product(session: Session, product_id: str, match: Callable[[int], None]) -> None:
    """Take a product off sale; raises NotFound, PreconditionFailed or ProductInUse."""
    product = repository.lock(session, product_id)
    match(product.version)
    before = product.counts()
    product.withdraw()
    repository.save(session, product)
    assert product.deleted_at is not None
    gone = ProductDeleted(product_id=product.id, deleted_at=write_time(product.deleted_at), version=product.version)
    outbox.add(session, gone)
    counters.add(session, counters.difference(before, product.counts()))


def product_stats(session: Reader) -> dict[str, int]:
    """How many products there are, and how many units."""
    found = counters.read(session)
    return {name: found.get(name, 0) for name in ("total", "stock_units", "reserved_units", "sold_units")}


def reserve(db: Database, batch: Sequence[Wanted]) -> list[list[Line] | Problem]:
    """Reserve for each order all of its lines or none, each judged on its own, in one transaction. The outcome of an
    order is its lines with names and prices, or InsufficientStock, UnknownProduct or InvalidTransition. The same order
    again gets the same answer.
    """
    fresh: dict[str, list[Line]] = {}
    outcomes: list[list[Line] | Problem] = []
    with db.write() as session:
        known = repository.lock_reservations(session, {wanted.order_id for wanted in batch})
        units = repository.lock_units(session, {i for w in batch if w.order_id not in known for i in w.quantities})
        for wanted in batch:
            try:
                outcomes.append(_judge(wanted, known, fresh, units))
            except Problem as problem:
                outcomes.append(problem)
        repository.add_reservations(session, fresh)
        repository.write_units(session, units)
        counters.add(session, units.counts())
    return outcomes


def _judge(wanted: Wanted, known: dict[str, Any], fresh: dict[str, list[Line]], units: Units) -> list[Line]:
    if reservation := known.get(wanted.order_id):
        if reservation["status"] == "released":
            raise InvalidTransition("The reservation of this order was released.")
        return list(reservation["lines"])
    if wanted.order_id not in fresh:
        fresh[wanted.order_id] = units.reserve(wanted)
    return fresh[wanted.order_id]


def release(session: Session, order_ids: Iterable[str]) -> None:
    """Give back what the orders hold. A release that comes before its reserve leaves a tombstone; a second one
    changes nothing, and neither does one of units that were sold.
    """
    wanted = set(order_ids)
    held = repository.lock_reservations(session, wanted)
    repository.add_tombstones(session, wanted - held.keys())
    _move(session, held, "released", Units.release)


def sell(session: Session, order_ids: Iterable[str]) -> None:
    """Turn what the orders hold into sold units; a second time changes nothing."""
    _move(session, repository.lock_reservations(session, order_ids), "sold", Units.sell)


def _move(session: Session, held: dict[str, Any], status: str, move: Callable[[Units, list[Line]], None]) -> None:
    moving = {order_id: row["lines"] for order_id, row in held.items() if row["status"] == "reserved"}
    if not moving:
        return
    units = repository.lock_units(session, {line["product_id"] for lines in moving.values() for line in lines})
    for lines in moving.values():
        move(units, lines)
    repository.mark_reservations(session, moving, status)
    repository.write_units(session, units)
    counters.add(session, units.counts())


def _facts(product: Product) -> dict[str, Any]:
    return {
        "product_id": product.id, "price": format_amount(product.price, product.currency), "currency": product.currency,
        "stock": product.stock, "version": product.version,
    }  # fmt: skip


def _release_orders(session: Session, events: Sequence[OrderRejected]) -> None:
    release(session, [event.order_id for event in events])


def _sell_orders(session: Session, events: Sequence[OrderShipped]) -> None:
    sell(session, [event.order_id for event in events])


HANDLERS: dict[type[Event], Callable[..., None]] = {
    OrderRejected: _release_orders,
    OrderCancelled: _release_orders,
    OrderShipped: _sell_orders,
}
