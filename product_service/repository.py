"""Every query of the product service. Rows are locked in one order: reservations before products, each by id."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast, get_type_hints
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from libs.common.data import paging
from libs.common.data.database import Reader, Session
from libs.common.data.paging import Filter, Listing, Page, PageQuery
from libs.common.data.prepared import Prepared
from libs.common.data.statements import Upsert, any_of
from libs.common.data.updates import BulkUpdate
from libs.common.errors import NotFound
from libs.common.times import now
from product_service.models import (
    Adjustment,
    Product,
    ProductFilters,
    ProductRow,
    Reservation,
    ReservationRow,
    ReservedLine,
    SkuTaken,
    Units,
    UnitsChange,
    UnitsRow,
    product_words,
    products,
    reservations,
)
from product_service.words import words_of

SORTS = {name: products.c[name] for name in ("created_at", "name", "price")}
_alive = products.c.deleted_at.is_(None)
_shown = [column for column in products.c if column.key not in ("seq", "sold_out", "deleted_at")]
_products = Listing(sa.select(*_shown).where(_alive), SORTS, products.c.id)


_find = Prepared(sa.select(products).where(products.c.id == sa.bindparam("id"), _alive))


def find(session: Reader, product_id: str) -> ProductRow:
    """The product's row; raises NotFound, also for a deleted product."""
    row = _find.one(session, id=product_id)
    if row is None:
        raise NotFound("There is no such product.")
    return row


def lock(session: Session, product_id: str) -> Product:
    """The product, locked until the transaction ends; raises NotFound."""
    query = sa.select(Product).where(products.c.id == product_id, _alive).with_for_update()
    product = session.scalar(query)
    if product is None:
        raise NotFound("There is no such product.")
    return product


def save(session: Session, product: Product) -> None:
    """Write a new or changed product; raises SkuTaken."""
    session.add(product)
    try:
        session.flush()
    except sa.exc.IntegrityError as exc:
        raise SkuTaken() from exc


_write_words = Upsert(
    product_words,
    lambda insert: insert.on_conflict_do_update(
        index_elements=["seq"],
        set_={"words": insert.excluded.words},
        where=insert.excluded.words != product_words.c.words,
    ),
)


def write_words(session: Session, product: Product) -> None:
    """Let the product that was saved be found by its name and its description."""
    words = " ".join(words_of(f"{product.name} {product.description}"))
    session.connection().execute(_write_words(session), {"seq": product.seq, "words": words})


def record(session: Session, adjustment: Adjustment) -> None:
    """Store an adjustment of the stock, in the transaction that changes the product."""
    session.add(adjustment)


def find_page(session: Reader, filters: ProductFilters, asked: PageQuery) -> Page:
    """A page of the products that match every filter, deleted ones excluded; raises MalformedRequest for a bad
    cursor.
    """
    return _products.page(session, asked, _conditions(session, filters))


def _conditions(session: Reader, filters: ProductFilters) -> list[Filter]:
    found: list[Filter] = []
    if "seller_id" in filters:
        found.append(Filter(products.c.seller_id == filters["seller_id"], leads=True))
    if "category" in filters:
        found.append(Filter(products.c.category == filters["category"], leads=True))
    if "in_stock" in filters:
        found.append(Filter(products.c.sold_out == sa.literal(not filters["in_stock"]), leads=True))
    if "min_price" in filters:
        found.append(Filter(products.c.price >= filters["min_price"], range_of="price"))
    if "max_price" in filters:
        found.append(Filter(products.c.price <= filters["max_price"], range_of="price"))
    if "ids" in filters:
        found.append(Filter(products.c.id.in_(filters["ids"])))
    if "q" in filters:
        found.append(_search(session, filters["q"]))
    return found


def _search(session: Reader, text: str) -> Filter:
    """Products whose name or description has every word."""
    words = words_of(text)
    if not words:
        return Filter(sa.false())
    known = sa.select(product_words.c.seq).where(product_words.c.seq == products.c.seq, *map(_has, words))
    return Filter(products.c.seq.in_(_matching(session, words)), check=known.exists())


def _matching(session: Reader, words: Sequence[str]) -> sa.ScalarSelect[int]:
    """Those that have the words; no more than show that they are too many. None of them is deleted: a trigger of the
    migration removes the words.
    """
    most = paging.MAX_LOOKED_AT + 1
    connection = session.connection() if isinstance(session, Session) else session
    if connection.dialect.name == "postgresql":
        listed = sa.func.string_to_array(product_words.c.words, sa.literal_column("' '"))
        wanted = sa.cast(list(words), postgresql.ARRAY(sa.Text))
        return sa.select(product_words.c.seq).where(listed.op("@>")(wanted)).limit(most).scalar_subquery()
    found = sa.text("SELECT rowid FROM product_words_fts WHERE product_words_fts MATCH :words LIMIT :most")
    quoted = " ".join(f'"{word}"' for word in words)
    return found.bindparams(words=quoted, most=most).columns(rowid=sa.Integer).scalar_subquery()


def _has(word: str) -> sa.ColumnElement[bool]:
    blank = sa.literal(" ")
    return (blank + product_words.c.words + blank).contains(f" {word} ")


# Reservations ------------------------------------------------------------------------------------------------------


_find_reservation = Prepared(sa.select(reservations).where(reservations.c.order_id == sa.bindparam("id")))


def find_reservation(session: Reader, order_id: str) -> ReservationRow:
    """The reservation of the order; raises NotFound."""
    row = _find_reservation.one(session, id=order_id)
    if row is None:
        raise NotFound("There is no reservation for this order.")
    return cast(ReservationRow, row)


_lock_reservations = Prepared(
    sa.select(reservations)
    .where(any_of(reservations.c.order_id, "ids"))
    .order_by(reservations.c.order_id)
    .with_for_update()
)
_lock_orders = sa.text("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key")
_units = ("id", "name", "price", "currency", "stock", "reserved", "sold", "version", "deleted_at")
_lock_units = Prepared(
    sa.select(*(products.c[name] for name in _units))
    .where(any_of(products.c.id, "ids"))
    .order_by(products.c.id)
    .with_for_update()
)
_insert_reservations = Prepared(sa.insert(reservations), reservations.c.keys())


def lock_reservations(session: Session, order_ids: Iterable[str]) -> dict[str, ReservationRow]:
    """The reservations of these orders; until the transaction ends nobody else adds or changes one."""
    ids = sorted(order_ids)
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        # A row that does not exist cannot be locked: two transactions for the same order would meet only at the INSERT,
        # while each may hold products that the other needs. SQLite has only one writer.
        keys = sorted(UUID(order_id).int & (2**63 - 1) for order_id in ids)
        connection.execute(_lock_orders, {"keys": keys})
    rows = cast(list[ReservationRow], _lock_reservations.mappings(session, ids=ids))
    return {row["order_id"]: row for row in rows}


def lock_units(session: Session, product_ids: Iterable[str]) -> Units:
    """The units of these products, locked until the transaction ends; products that do not exist are left out."""
    rows = cast(list[UnitsRow], _lock_units.mappings(session, ids=sorted(product_ids)))
    return Units({row["id"]: row for row in rows})


_moved = tuple(sorted(get_type_hints(UnitsChange).keys() - {"id", "sold_out"}))
_write_units, _write_units_and_sold_out = BulkUpdate(products, _moved), BulkUpdate(products, (*_moved, "sold_out"))


def write_units(session: Session, units: Units) -> None:
    """Store the units of the products that changed. Three indexes begin with `sold_out`, and SQLite writes to an index
    even if a column stays as it was, so that column is written only where it changes.
    """
    changes = units.changes()
    turned = [row for row in changes if row["sold_out"] != (units.rows[row["id"]]["stock"] == 0)]
    _write_units_and_sold_out.write(session, turned)
    _write_units.write(session, [_without_sold_out(row) for row in changes if row not in turned])


def _without_sold_out(row: UnitsChange) -> dict[str, object]:
    return {name: value for name, value in row.items() if name != "sold_out"}


def add_reservations(session: Session, lines: Mapping[str, list[ReservedLine]]) -> None:
    """Store new reservations of orders that are locked."""
    rows = [Reservation.new(order_id, "reserved", lines[order_id]) for order_id in sorted(lines)]
    _insert_reservations.write(session, rows)


def add_tombstones(session: Session, order_ids: Iterable[str]) -> None:
    """Store tombstones for releases that arrived before their reserve, of orders that are locked."""
    rows = [Reservation.new(order_id, "released", []) for order_id in sorted(order_ids)]
    _insert_reservations.write(session, rows)


def mark_reservations(session: Session, order_ids: Iterable[str], status: str) -> None:
    """Set the status of these reservations to `released` or `sold`."""
    change = sa.update(reservations).where(reservations.c.order_id.in_(sorted(order_ids)))
    session.execute(change.values(status=status, updated_at=now(), version=2))
