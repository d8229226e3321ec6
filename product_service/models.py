"""Products and reservations: their tables, and the rules as methods on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import ClassVar, TypedDict, Unpack, cast

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from libs.common.data.columns import NAMING, Amount, Id, Json, Moment, Text
from libs.common.errors import Problem, ValidationFailed
from libs.common.ids import example_id, new_id
from libs.common.money import format_amount
from libs.common.times import now

metadata = sa.MetaData(naming_convention=NAMING)

MANAGED_BY_MIGRATIONS = (
    "products_fts", "products_fts_data", "products_fts_idx", "products_fts_docsize", "products_fts_config",
    "ix_products_search", "product_words_fts", "product_words_fts_data", "product_words_fts_idx",
    "product_words_fts_docsize", "product_words_fts_config", "ix_product_words_search",
)  # fmt: skip
"""The tables of the full-text index differ between the engines; the migration creates them."""

MAX_STOCK = 10**12


class InsufficientStock(Problem):
    """There is less to sell than was asked for; `errors` names each short line with what is available."""

    status, code, title = 409, "insufficient-stock", "There is too little stock"
    example: ClassVar = {
        "errors": [{
            "pointer": "/items/0/quantity", "detail": "24 available.",
            "product_id": example_id("product_id"), "available": 24,
        }]
    }  # fmt: skip


class UnknownProduct(Problem):
    """A product of the order does not exist; `errors` names each."""

    status, code, title = 422, "unknown-product", "There is no such product"
    example: ClassVar = {
        "errors": [{
            "pointer": "/items/0/product_id", "detail": "There is no such product.",
            "product_id": example_id("product_id"),
        }]
    }  # fmt: skip


class UnknownUser(Problem):
    """The user that is named does not exist."""

    status, code, title = 422, "unknown-user", "There is no such user"
    example: ClassVar = {"errors": [{"pointer": "/seller_id", "detail": "There is no such user."}]}


class SkuTaken(Problem):
    """Another product has this SKU."""

    status, code, title = 409, "sku-taken", "The SKU is taken"


class ProductInUse(Problem):
    """Units of the product are reserved."""

    status, code, title = 409, "product-in-use", "The product has reservations"
    example: ClassVar = {"detail": "3 units are reserved."}


# Products: what clients send ------------------------------------------------------------------------------------------


class ProductChange(TypedDict):
    """All that a client may set of a product."""

    name: str
    price: Decimal
    currency: str
    sku: str | None
    description: str
    category: str | None
    seller_id: str | None


class NewProduct(ProductChange):
    """A product to put on sale."""

    stock: int


class StockAdjustment(TypedDict):
    """A number of units to add or to remove, and why."""

    delta: int
    reason: str


class ProductFilters(TypedDict, total=False):
    """What products are searched by."""

    q: str
    category: str
    seller_id: str
    min_price: Decimal
    max_price: Decimal
    in_stock: bool
    ids: list[str]


class ProductStats(TypedDict):
    """How many products and units there are."""

    total: int
    stock_units: int
    reserved_units: int
    sold_units: int


# Reservations: what is stored -------------------------------------------------------------------------------------


class ReservedLine(TypedDict):
    """Reserved units of a product, with its name and the price that they are sold at."""

    product_id: str
    quantity: int
    name: str
    unit_price: str
    currency: str


class ReservationRow(TypedDict):
    """The columns of a reservation."""

    order_id: str
    status: str
    lines: list[ReservedLine]
    created_at: datetime
    updated_at: datetime
    version: int


class UnitsRow(TypedDict):
    """The columns of a product that a reservation reads."""

    id: str
    name: str
    price: Decimal
    currency: str
    stock: int
    reserved: int
    sold: int
    version: int
    deleted_at: datetime | None


class UnitsChange(TypedDict):
    """The columns of a product that a reservation writes; `id` says of which."""

    id: str
    stock: int
    reserved: int
    sold: int
    sold_out: bool
    updated_at: datetime
    version: int


# Tables -------------------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    metadata = metadata


_alive = sa.text("deleted_at IS NULL")


class Product(Base):
    """`stock` is what can still be sold. `stock + reserved + sold` changes only by recorded adjustments."""

    __tablename__ = "products"
    # One for every documented sort, alone and after every documented filter; the id breaks ties. `sold_out` serves the
    # filter `in_stock`: it changes less often than the stock, and its index with it.
    __table_args__ = (
        *(
            sa.Index(None, *filters, sort, "id", sqlite_where=_alive, postgresql_where=_alive)
            for filters in ((), ("category",), ("seller_id",), ("sold_out",))
            for sort in ("created_at", "name", "price")
        ),
        sa.CheckConstraint("stock >= 0 AND reserved >= 0 AND sold >= 0", name="units_not_negative"),
    )

    seq: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)
    """The full-text index refers to it: SQLite may renumber rows that have no number of their own."""
    id: Mapped[str] = mapped_column(Id, unique=True)
    sku: Mapped[str | None] = mapped_column(Text(64), unique=True)
    name: Mapped[str] = mapped_column(Text(200))
    description: Mapped[str] = mapped_column(Text(5000))
    category: Mapped[str | None] = mapped_column(Text(100))
    price: Mapped[Decimal] = mapped_column(Amount)
    currency: Mapped[str] = mapped_column(sa.String(3))
    stock: Mapped[int] = mapped_column(sa.BigInteger)
    reserved: Mapped[int] = mapped_column(sa.BigInteger)
    sold: Mapped[int] = mapped_column(sa.BigInteger)
    sold_out: Mapped[bool] = mapped_column(sa.Boolean(name="sold_out_is_boolean"))
    seller_id: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime] = mapped_column(Moment)
    updated_at: Mapped[datetime] = mapped_column(Moment)
    deleted_at: Mapped[datetime | None] = mapped_column(Moment)
    version: Mapped[int] = mapped_column(sa.BigInteger)

    @classmethod
    def new(cls, *, stock: int, **described: Unpack[ProductChange]) -> "Product":
        """A new product with the units that it starts with."""
        moment = now()
        return cls(
            id=new_id(), stock=stock, reserved=0, sold=0, sold_out=stock == 0,
            created_at=moment, updated_at=moment, version=1, **described,
        )  # fmt: skip

    def change(self, **described: Unpack[ProductChange]) -> bool:
        """Replace the members that a client may set; returns whether anything changed."""
        if all(getattr(self, name) == value for name, value in described.items()):
            return False
        for name, value in described.items():
            setattr(self, name, value)
        self._changed()
        return True

    def adjust_stock(self, delta: int) -> None:
        """Add or remove units; raises InsufficientStock below zero, and ValidationFailed above MAX_STOCK."""
        if self.stock + delta > MAX_STOCK:
            raise ValidationFailed(errors=[{"pointer": "/delta", "detail": f"At most {MAX_STOCK} units are kept."}])
        if self.stock + delta < 0:
            raise InsufficientStock(f"There are {self.stock} units.", errors=[_short("/delta", self.id, self.stock)])
        self.stock += delta
        self.sold_out = self.stock == 0
        self._changed()

    def withdraw(self) -> None:
        """Take it off sale; the row stays, since other data refers to its id. Raises ProductInUse while units are
        reserved.
        """
        if self.reserved:
            raise ProductInUse(f"{self.reserved} units are reserved.")
        self.sku, self.deleted_at = None, now()
        self._changed()

    def counts(self) -> dict[str, int]:
        """What this product adds to the totals."""
        if self.deleted_at:
            return {}
        return {"total": 1, "stock_units": self.stock, "reserved_units": self.reserved, "sold_units": self.sold}

    def _changed(self) -> None:
        self.updated_at, self.version = now(), self.version + 1


class Reservation(Base):
    """The reservation of an order. A release that arrives before its reserve leaves a tombstone: a `released` row
    without lines, which refuses the late reserve.
    """

    __tablename__ = "reservations"

    order_id: Mapped[str] = mapped_column(Id, primary_key=True)
    status: Mapped[str] = mapped_column(sa.String(10))
    lines: Mapped[list[ReservedLine]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(Moment)
    updated_at: Mapped[datetime] = mapped_column(Moment)
    version: Mapped[int] = mapped_column(sa.SmallInteger)

    @classmethod
    def new(cls, order_id: str, status: str, lines: list[ReservedLine]) -> ReservationRow:
        """The row of a new reservation, or of a tombstone."""
        moment = now()
        return {
            "order_id": order_id, "status": status, "lines": lines,
            "created_at": moment, "updated_at": moment, "version": 1,
        }  # fmt: skip


class Adjustment(Base):
    """A manual change of the stock and its reason, to compare a stocktaking with."""

    __tablename__ = "adjustments"

    product_id: Mapped[str] = mapped_column(Id, primary_key=True)
    version: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    """The version of the product after the adjustment."""
    delta: Mapped[int] = mapped_column(sa.BigInteger)
    reason: Mapped[str] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(Moment)

    @classmethod
    def new(cls, product: Product, delta: int, reason: str) -> "Adjustment":
        """The adjustment that led to the current version of the product."""
        return cls(
            product_id=product.id, version=product.version, delta=delta, reason=reason, created_at=product.updated_at
        )


class ProductWords(Base):
    """What a product is found by: the words of its name and description, folded, with a blank between them."""

    __tablename__ = "product_words"

    seq: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False
    )
    words: Mapped[str] = mapped_column(sa.Text().with_variant(sa.Text(collation="C"), "postgresql"))


product_words = cast(sa.Table, ProductWords.__table__)
products = cast(sa.Table, Product.__table__)
reservations = cast(sa.Table, Reservation.__table__)
ProductRow = Mapping[str, object]
"""The columns of a product, as a query reads them."""


# The rules of a reservation -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demand:
    """A reservation to make: quantities by product, in the order of the lines, and the first line of each product."""

    order_id: str
    quantities: Mapping[str, int]
    places: Mapping[str, int]
    request_id: str | None = None


class Units:
    """The units of the products that a transaction has locked; moves are checked here and written together."""

    def __init__(self, rows: Mapping[str, UnitsRow]):
        self.rows = rows
        self._now = {i: _units(row) for i, row in rows.items()}

    def reserve(self, demand: Demand) -> list[ReservedLine]:
        """Move all lines from stock to reserved, or none; returns the lines with names and prices. Raises
        UnknownProduct or InsufficientStock.
        """
        sellable = {i for i, row in self.rows.items() if row["deleted_at"] is None}
        unknown = [
            {"pointer": f"/items/{demand.places[i]}/product_id", "detail": "There is no such product.", "product_id": i}
            for i in demand.quantities
            if i not in sellable
        ]
        if unknown:
            raise UnknownProduct(errors=unknown)
        short = [
            _short(f"/items/{demand.places[i]}/quantity", i, self._now[i][0])
            for i, quantity in demand.quantities.items()
            if self._now[i][0] < quantity
        ]
        if short:
            raise InsufficientStock(errors=short)
        for product_id, quantity in demand.quantities.items():
            self._move(product_id, -quantity, quantity, 0)
        return [self._line(product_id, quantity) for product_id, quantity in demand.quantities.items()]

    def release(self, lines: Sequence[ReservedLine]) -> None:
        for line in lines:
            self._move(line["product_id"], line["quantity"], -line["quantity"], 0)

    def sell(self, lines: Sequence[ReservedLine]) -> None:
        for line in lines:
            self._move(line["product_id"], 0, -line["quantity"], line["quantity"])

    def changes(self) -> list[UnitsChange]:
        """The new units of each product that changed."""
        moment = now()
        return [
            {
                "id": i, "stock": stock, "reserved": reserved, "sold": sold, "sold_out": stock == 0,
                "updated_at": moment, "version": row["version"] + 1,
            }
            for i, row in self.rows.items()
            for stock, reserved, sold in [self._now[i]]
            if _units(row) != self._now[i]
        ]  # fmt: skip

    def counts(self) -> dict[str, int]:
        """What the moves of units add to the totals."""
        alive = [(_units(row), self._now[i]) for i, row in self.rows.items() if row["deleted_at"] is None]
        names = ("stock_units", "reserved_units", "sold_units")
        return {name: sum(after[n] - before[n] for before, after in alive) for n, name in enumerate(names)}

    def _move(self, product_id: str, stock: int, reserved: int, sold: int) -> None:
        units = self._now[product_id]
        units[0] += stock
        units[1] += reserved
        units[2] += sold

    def _line(self, product_id: str, quantity: int) -> ReservedLine:
        row = self.rows[product_id]
        return {
            "product_id": product_id, "quantity": quantity, "name": row["name"],
            "unit_price": format_amount(row["price"], row["currency"]), "currency": row["currency"],
        }  # fmt: skip


def _units(row: UnitsRow) -> list[int]:
    """In stock, reserved, sold."""
    return [row["stock"], row["reserved"], row["sold"]]


def _short(pointer: str, product_id: str, available: int) -> dict[str, object]:
    return {"pointer": pointer, "detail": f"{available} available.", "product_id": product_id, "available": available}
