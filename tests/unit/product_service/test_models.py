"""The rules of products and reservations, without a database."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import ValidationFailed
from product_service.models import (
    MAX_STOCK,
    Demand,
    InsufficientStock,
    Product,
    ProductInUse,
    Units,
    UnknownProduct,
)


def a_product(**given: Any) -> Product:
    values = {"stock": 10, "name": "Laptop", "price": Decimal("5"), "currency": "EUR", "sku": "A-1", **given}
    return Product.new(**values)


def a_row(stock: int = 10, reserved: int = 0, sold: int = 0, **given: Any) -> Any:
    return {
        "name": "Laptop", "price": Decimal("5.0000"), "currency": "EUR", "stock": stock, "reserved": reserved, "sold": sold,
        "version": 1, "deleted_at": None, **given,
    }  # fmt: skip


def demand(**quantities: int) -> Demand:
    return Demand("o-1", quantities, {product: place for place, product in enumerate(quantities)})


def test_a_new_product_has_what_is_put_in_and_nothing_else() -> None:
    product = a_product(stock=3)
    assert (product.stock, product.reserved, product.sold, product.version) == (3, 0, 0, 1)
    assert product.counts() == {"total": 1, "stock_units": 3, "reserved_units": 0, "sold_units": 0}
    assert (product.sold_out, a_product(stock=0).sold_out) == (False, True)


def test_an_adjustment_is_a_new_version() -> None:
    product = a_product(stock=3)
    product.adjust_stock(-3)
    assert (product.stock, product.sold_out, product.version) == (0, True, 2)
    product.adjust_stock(1)
    assert (product.stock, product.sold_out, product.version) == (1, False, 3)


@pytest.mark.parametrize(("delta", "fault"), [(-4, InsufficientStock), (MAX_STOCK, ValidationFailed)])
def test_an_adjustment_out_of_bounds_changes_nothing(delta: int, fault: type[Exception]) -> None:
    product = a_product(stock=3)
    with pytest.raises(fault):
        product.adjust_stock(delta)
    assert (product.stock, product.version) == (3, 1)


def test_a_product_that_is_withdrawn_frees_its_sku_and_counts_for_nothing() -> None:
    product = a_product()
    product.withdraw()
    assert product.sku is None
    assert product.deleted_at is not None
    assert product.counts() == {}


def test_a_product_in_use_is_not_withdrawn() -> None:
    product = a_product()
    product.reserved = 1
    with pytest.raises(ProductInUse):
        product.withdraw()
    assert product.deleted_at is None


def test_a_reserve_moves_every_line() -> None:
    units = Units({"a": a_row(5), "b": a_row(5)})
    lines = units.reserve(demand(a=2, b=5))
    assert [(line["product_id"], line["quantity"], line["unit_price"]) for line in lines] == [
        ("a", 2, "5.00"),
        ("b", 5, "5.00"),
    ]
    assert {c["id"]: (c["stock"], c["reserved"], c["sold"], c["sold_out"], c["version"]) for c in units.changes()} == {
        "a": (3, 2, 0, False, 2),
        "b": (0, 5, 0, True, 2),
    }
    assert units.counts() == {"stock_units": -7, "reserved_units": 7, "sold_units": 0}


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ({"a": 2, "b": 6}, InsufficientStock), ({"a": 6}, InsufficientStock), ({"a": 1, "c": 1}, UnknownProduct),
        ({"c": 1, "a": 6}, UnknownProduct), ({"gone": 1}, UnknownProduct),
    ],
)  # fmt: skip
def test_a_reserve_that_is_refused_moves_nothing(lines: dict[str, int], fault: type[Exception]) -> None:
    units = Units({"a": a_row(5), "b": a_row(5), "gone": a_row(5, deleted_at="then")})
    with pytest.raises(fault):
        units.reserve(demand(**lines))
    assert units.changes() == []


def test_what_nets_to_nothing_is_not_written() -> None:
    units = Units({"a": a_row(5)})
    units.release(units.reserve(demand(a=2)))
    assert units.changes() == []
    assert units.counts() == {"stock_units": 0, "reserved_units": 0, "sold_units": 0}


@given(st.lists(st.tuples(st.sampled_from(["reserve", "release", "sell"]), st.integers(1, 8)), max_size=30))
def test_no_unit_is_made_or_lost_whatever_happens(steps: list[tuple[str, int]]) -> None:
    units = Units({"a": a_row(20)})
    held: list[Any] = []
    for action, quantity in steps:
        if action == "reserve":
            try:
                held.append(units.reserve(demand(a=quantity)))
            except InsufficientStock:
                pass
        elif held:
            getattr(units, action)(held.pop())
    stock, reserved, sold = units._now["a"]
    assert stock + reserved + sold == 20
    assert min(stock, reserved, sold) >= 0
    assert reserved == sum(line["quantity"] for lines in held for line in lines)
