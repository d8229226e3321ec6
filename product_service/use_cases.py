"""The use cases of the product service, one function each."""

from collections.abc import Mapping, Sequence

from libs.common.data import counters
from libs.common.data.changes import Changes, VersionCheck
from libs.common.data.database import Database, Reader, Session
from libs.common.errors import InvalidTransition, Problem
from libs.common.events import outbox
from libs.common.events.inbox import Handlers
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
from product_service.models import (
    Adjustment,
    Demand,
    NewProduct,
    Product,
    ProductStats,
    ReservationRow,
    ReservedLine,
    StockAdjustment,
    Units,
)


def create_product(session: Session, new: NewProduct) -> Product:
    """Put a product on sale; raises SkuTaken."""
    product = Product.new(**new)
    repository.save(session, product)
    repository.write_words(session, product)
    outbox.add(session, _event(ProductCreated, product))
    counters.add(session, product.counts())
    return product


def change_product(session: Session, product_id: str, changes: Changes[Product], match: VersionCheck) -> Product:
    """Replace the members that a client may set; a change that leaves them as they are writes nothing. Raises NotFound,
    PreconditionFailed or SkuTaken.
    """
    product = repository.lock(session, product_id)
    match(product.version)
    if not product.change(**changes(product)):
        return product
    repository.save(session, product)
    repository.write_words(session, product)
    outbox.add(session, _event(ProductUpdated, product))
    return product


def adjust_stock(session: Session, product_id: str, adjustment: StockAdjustment, match: VersionCheck) -> Product:
    """Add or remove units; an adjustment by 0 is not recorded. Raises NotFound, PreconditionFailed or
    InsufficientStock.
    """
    delta, reason = adjustment["delta"], adjustment["reason"]
    product = repository.lock(session, product_id)
    match(product.version)
    if delta == 0:
        return product
    product.adjust_stock(delta)
    repository.save(session, product)
    repository.record(session, Adjustment.new(product, delta, reason))
    outbox.add(
        session,
        StockAdjusted(product_id=product.id, delta=delta, stock=product.stock, version=product.version),
    )
    counters.add(session, {"stock_units": delta})
    return product


def delete_product(session: Session, product_id: str, match: VersionCheck) -> None:
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


def product_stats(session: Reader) -> ProductStats:
    """How many products there are, and how many units."""
    found = counters.read(session)
    return {
        "total": found.get("total", 0), "stock_units": found.get("stock_units", 0),
        "reserved_units": found.get("reserved_units", 0), "sold_units": found.get("sold_units", 0),
    }  # fmt: skip


def reserve(db: Database, batch: Sequence[Demand]) -> list[list[ReservedLine] | Problem]:
    """Reserve all lines of each order or none, independently of the other orders, in one transaction. The outcome of an
    order is its lines with names and prices, or InsufficientStock, UnknownProduct or InvalidTransition. A repeated
    order gets the same outcome.
    """
    fresh: dict[str, list[ReservedLine]] = {}
    outcomes: list[list[ReservedLine] | Problem] = []
    with db.write() as session:
        known = repository.lock_reservations(session, {demand.order_id for demand in batch})
        units = repository.lock_units(session, {i for d in batch if d.order_id not in known for i in d.quantities})
        for demand in batch:
            try:
                outcomes.append(_judge(demand, known, fresh, units))
            except Problem as problem:
                outcomes.append(problem)
        repository.add_reservations(session, fresh)
        repository.write_units(session, units)
        counters.add(session, units.counts())
    return outcomes


def _judge(
    demand: Demand, known: Mapping[str, ReservationRow], fresh: dict[str, list[ReservedLine]], units: Units
) -> list[ReservedLine]:
    if reservation := known.get(demand.order_id):
        if reservation["status"] == "released":
            raise InvalidTransition("The reservation of this order was released.")
        return list(reservation["lines"])
    if demand.order_id not in fresh:
        fresh[demand.order_id] = units.reserve(demand)
    return fresh[demand.order_id]


def release(session: Session, order_id: str, match: VersionCheck) -> None:
    """Release the reservation of the order; raises PreconditionFailed. A release that arrives before its reserve leaves
    a tombstone. A second release changes nothing, and neither does the release of units that were sold.
    """
    held = repository.lock_reservations(session, {order_id})
    match(held[order_id]["version"] if order_id in held else None)
    close_reservations(session, {order_id}, set())


def close_reservations(session: Session, released: set[str], sold: set[str]) -> None:
    """Release the reservations of some orders and sell those of others; a second call changes nothing. All rows are
    locked at once, in one order.
    """
    held = repository.lock_reservations(session, released | sold)
    repository.add_tombstones(session, released - held.keys())
    reserved = {order_id: row["lines"] for order_id, row in held.items() if row["status"] == "reserved"}
    units = repository.lock_units(session, {line["product_id"] for lines in reserved.values() for line in lines})
    for order_ids, status, move in ((released, "released", Units.release), (sold, "sold", Units.sell)):
        moved = sorted(order_ids & reserved.keys())
        for order_id in moved:
            move(units, reserved.pop(order_id))
        if moved:
            repository.mark_reservations(session, moved, status)
    repository.write_units(session, units)
    counters.add(session, units.counts())


def _event(event: type[ProductCreated], product: Product) -> ProductCreated:
    price = format_amount(product.price, product.currency)
    return event(
        product_id=product.id, price=price, currency=product.currency, stock=product.stock, version=product.version
    )


# Events ------------------------------------------------------------------------------------------------------------


def follow_orders(session: Session, events: Sequence[OrderRejected]) -> None:
    """Release the reservations of rejected and cancelled orders, and sell those of shipped ones."""
    sold = {event.order_id for event in events if isinstance(event, OrderShipped)}
    close_reservations(session, {event.order_id for event in events} - sold, sold)


HANDLERS: Handlers = {
    OrderRejected: follow_orders,
    OrderCancelled: follow_orders,
    OrderShipped: follow_orders,
}
