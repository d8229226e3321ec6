"""The rules of an order, which need no database."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidTransition, ValidationFailed
from libs.common.money import CURRENCIES, fits
from libs.common.times import now
from order_service.models import (
    MAX_TOTAL,
    STATUSES,
    CurrencyMismatch,
    Order,
    as_confirmed,
    counts,
    history,
    merge_lines,
    price_lines,
)
from order_service.schemas import Order as OrderSchema
from tests.unit.order_service.factories import NOON, a_reserved_line, an_order

STEPS = {"cancel": "cancelled", "ship": "shipped", "deliver": "delivered"}
CHANGES = {("confirmed", "cancel"), ("confirmed", "ship"), ("shipped", "deliver")}
HAPPENED = {("cancelled", "cancel"), ("shipped", "ship"), ("delivered", "ship"), ("delivered", "deliver")}
"""A step that was taken before is taken again without effect."""
ALL = {(status, step) for status in STATUSES for step in STEPS}


def take(order: Order, step: str) -> bool:
    return order.cancel("Too late.") if step == "cancel" else bool(getattr(order, step)())


def members(order: Order) -> dict[str, Any]:
    return {name: value for name, value in vars(order).items() if not name.startswith("_")}


# The lifecycle -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "step"), sorted(CHANGES))
def test_a_step_that_the_lifecycle_allows_changes_the_status_the_time_and_the_version(status: str, step: str) -> None:
    order = an_order(status=status, version=7)
    before = now()

    assert take(order, step) is True

    assert (order.status, order.version) == (STEPS[step], 8)
    assert before <= getattr(order, f"{STEPS[step]}_at") <= now()
    assert order.updated_at == getattr(order, f"{STEPS[step]}_at")


@pytest.mark.parametrize(("status", "step"), sorted(HAPPENED))
def test_a_step_that_was_taken_before_changes_nothing(status: str, step: str) -> None:
    order = an_order(status=status)
    before = members(order)

    assert take(order, step) is False

    assert members(order) == before


@pytest.mark.parametrize(("status", "step"), sorted(ALL - CHANGES - HAPPENED))
def test_a_step_that_the_lifecycle_forbids_is_refused_and_changes_nothing(status: str, step: str) -> None:
    order = an_order(status=status)
    before = members(order)

    with pytest.raises(InvalidTransition, match=f"The order is {status}"):
        take(order, step)

    assert members(order) == before


def test_only_the_first_reason_of_a_cancellation_is_kept() -> None:
    order = an_order()

    order.cancel("Changed my mind.")
    order.cancel("Changed it again.")

    assert order.cancel_reason == "Changed my mind."


# Lines and prices --------------------------------------------------------------------------------------------------


def test_lines_of_one_product_become_one_line_in_the_place_of_the_first() -> None:
    items = [{"product_id": "a", "quantity": 1}, {"product_id": "b", "quantity": 2}, {"product_id": "a", "quantity": 3}]

    assert merge_lines(items) == [{"product_id": "a", "quantity": 4}, {"product_id": "b", "quantity": 2}]


def test_merging_leaves_the_items_of_the_request_as_they_are() -> None:
    items = [{"product_id": "a", "quantity": 1}, {"product_id": "a", "quantity": 3}]

    merge_lines(items)

    assert items == [{"product_id": "a", "quantity": 1}, {"product_id": "a", "quantity": 3}]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 10_000)), min_size=1, max_size=100))
def test_merging_keeps_every_unit_and_names_every_product_once(pairs: list[tuple[str, int]]) -> None:
    merged = merge_lines([{"product_id": product, "quantity": quantity} for product, quantity in pairs])

    assert len(merged) == len({product for product, _ in pairs})
    for line in merged:
        assert line["quantity"] == sum(quantity for product, quantity in pairs if product == line["product_id"])


@pytest.mark.parametrize(
    ("currency", "unit_price", "quantity", "line_total"),
    [
        ("EUR", "2499.99", 3, "7499.97"),
        ("EUR", "0.00", 10, "0.00"),
        ("JPY", "1999", 3, "5997"),
        ("KWD", "0.125", 3, "0.375"),
        ("CLF", "0.0001", 10_000, "1.0000"),
    ],
)
def test_amounts_have_the_digits_of_their_currency(
    currency: str, unit_price: str, quantity: int, line_total: str
) -> None:
    lines, total, found = price_lines([a_reserved_line(currency=currency, unit_price=unit_price, quantity=quantity)])

    assert (lines[0]["unit_price"], lines[0]["line_total"]) == (unit_price, line_total)
    assert (total, found) == (Decimal(line_total), currency)


def test_the_total_is_the_sum_of_the_lines() -> None:
    reserved = [a_reserved_line(unit_price="0.10", quantity=3), a_reserved_line(unit_price="19.99", quantity=2)]

    lines, total, _ = price_lines(reserved)

    assert [line["line_total"] for line in lines] == ["0.30", "39.98"]
    assert total == Decimal("40.28")


def test_a_priced_line_says_what_was_bought_and_nothing_else() -> None:
    reserved = a_reserved_line()

    lines, _, _ = price_lines([{**reserved, "more": "than we asked for"}])

    assert lines == [
        {
            "product_id": reserved["product_id"],
            "name": "Laptop",
            "quantity": 2,
            "unit_price": "10.00",
            "line_total": "20.00",
        }
    ]


def test_products_of_two_currencies_are_no_order() -> None:
    reserved = [a_reserved_line(currency="USD"), a_reserved_line(currency="EUR")]

    with pytest.raises(CurrencyMismatch, match="EUR, USD"):
        price_lines(reserved)


def test_the_largest_total_is_taken_and_one_cent_more_is_not() -> None:
    _, total, _ = price_lines([a_reserved_line(unit_price="10000000000.00", quantity=100)])
    assert total == MAX_TOTAL

    with pytest.raises(ValidationFailed) as refused:
        price_lines(
            [
                a_reserved_line(unit_price="10000000000.00", quantity=100),
                a_reserved_line(unit_price="0.01", quantity=1),
            ]
        )
    assert refused.value.errors == [{"pointer": "/items", "detail": "Order less."}]


@given(
    currency=st.sampled_from(sorted(CURRENCIES)),
    lines=st.lists(st.tuples(st.integers(0, 10**10), st.integers(1, 1_000_000)), min_size=1, max_size=5),
)
def test_no_digit_is_lost_between_the_lines_and_the_total(currency: str, lines: list[tuple[int, int]]) -> None:
    digits = CURRENCIES[currency]
    reserved = [
        a_reserved_line(unit_price=str(Decimal(price).scaleb(-digits)), quantity=quantity, currency=currency)
        for price, quantity in lines
    ]
    exact = sum(price * quantity for price, quantity in lines)
    if Decimal(exact).scaleb(-digits) > MAX_TOTAL:
        with pytest.raises(ValidationFailed):
            price_lines(reserved)
        return

    priced, total, _ = price_lines(reserved)

    assert total == Decimal(exact).scaleb(-digits) == sum(Decimal(line["line_total"]) for line in priced)
    assert fits(total, currency)


# What an order adds to the totals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("pending", {"status:pending": 1}),
        ("rejected", {"status:rejected": 1}),
        ("confirmed", {"status:confirmed": 1, "total": 1, "revenue:EUR": 200_000}),
        ("shipped", {"status:shipped": 1, "total": 1, "revenue:EUR": 200_000}),
        ("delivered", {"status:delivered": 1, "total": 1, "revenue:EUR": 200_000}),
        ("cancelled", {"status:cancelled": 1, "total": 1}),
    ],
)
def test_an_order_counts_by_status_and_once_confirmed_for_ever(status: str, expected: dict[str, int]) -> None:
    assert counts(vars(an_order(status=status))) == expected


def test_revenue_is_kept_apart_by_currency() -> None:
    order = an_order(total=Decimal("1999"), currency="JPY")

    assert counts(vars(order)) == {"status:confirmed": 1, "total": 1, "revenue:JPY": 19_990_000}


# History -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("pending", ["pending"]),
        ("rejected", ["pending", "rejected"]),
        ("confirmed", ["pending", "confirmed"]),
        ("cancelled", ["pending", "confirmed", "cancelled"]),
        ("shipped", ["pending", "confirmed", "shipped"]),
        ("delivered", ["pending", "confirmed", "shipped", "delivered"]),
    ],
)
def test_the_history_has_every_transition_oldest_first(status: str, expected: list[str]) -> None:
    assert [step["status"] for step in history(vars(an_order(status=status)))] == expected


def test_each_transition_of_the_history_has_its_own_time() -> None:
    order = an_order(status="delivered", delivered_at=NOON + timedelta(days=2), shipped_at=NOON + timedelta(days=1))

    assert [step["at"] - NOON for step in history(vars(order))] == [timedelta(days=n) for n in (0, 0, 1, 2)]


def test_the_history_tells_why_an_order_was_cancelled_or_rejected_and_only_that() -> None:
    cancelled = history(vars(an_order(status="cancelled", cancel_reason="Changed my mind.")))
    rejected = history(vars(an_order(status="rejected")))

    assert [step["reason"] for step in cancelled] == [None, None, "Changed my mind."]
    assert [step["reason"] for step in rejected] == [None, "There is too little stock"]


# The replay --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [("cancel",), ("ship",), ("ship", "deliver")])
def test_an_order_as_confirmed_is_the_first_answer_whatever_came_later(later: tuple[str, ...]) -> None:
    order = an_order(note="Ring twice.")
    first = OrderSchema().dumps(members(order))

    for step in later:
        take(order, step)

    assert OrderSchema().dumps(members(order)) != first
    assert OrderSchema().dumps(as_confirmed(members(order))) == first
