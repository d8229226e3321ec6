"""The rules of an order, which need no database."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import DependencyUnavailable, InvalidTransition, ValidationFailed
from libs.common.money import CURRENCIES, fits
from libs.common.times import now
from order_service.models import (
    MAX_TOTAL,
    STATUSES,
    TRANSITIONS,
    CurrencyMismatch,
    InsufficientStock,
    OrderRow,
    Transition,
    after,
    as_confirmed,
    cancel,
    confirm,
    counts,
    deliver,
    history,
    merge_lines,
    orders,
    price_lines,
    reject,
    ship,
)
from order_service.schemas import Order as OrderSchema
from tests.unit.order_service.factories import NOON, a_reserved_line, an_order

STEPS = {"cancel": "cancelled", "ship": "shipped", "deliver": "delivered"}
CHANGES = {("confirmed", "cancel"), ("confirmed", "ship"), ("shipped", "deliver")}
HAPPENED = {("cancelled", "cancel"), ("shipped", "ship"), ("delivered", "ship"), ("delivered", "deliver")}
"""Repeated transitions, which have no effect."""
ALL = {(status, step) for status in STATUSES for step in STEPS}
DECIDED = sorted(set(STATUSES) - {"pending"})
SHORT = InsufficientStock().document("/orders", "a-request")
DOWN = DependencyUnavailable().document("/orders", "a-request")


def take(order: OrderRow, step: str) -> Transition | None:
    return cancel(order, "Too late.") if step == "cancel" else {"ship": ship, "deliver": deliver}[step](order)


# The lifecycle -----------------------------------------------------------------------------------------------------


def test_confirming_a_pending_order_gives_it_prices_a_total_and_the_next_version() -> None:
    order = an_order(status="pending", idempotency_key="k")
    before = now()

    confirmed = after(order, confirm(order, [a_reserved_line(quantity=2, unit_price="10.00", currency="EUR")]))

    assert (confirmed["status"], confirmed["total"], confirmed["currency"]) == ("confirmed", Decimal("20.00"), "EUR")
    assert [line["line_total"] for line in confirmed["lines"]] == ["20.00"]
    assert before <= confirmed["confirmed_at"] == confirmed["updated_at"] <= now()
    assert (confirmed["version"], confirmed["idempotency_key"]) == (order["version"] + 1, "k")


def test_an_order_of_two_currencies_is_not_confirmed() -> None:
    with pytest.raises(CurrencyMismatch):
        confirm(an_order(status="pending"), [a_reserved_line(currency="EUR"), a_reserved_line(currency="USD")])


def test_a_refusal_on_the_merits_rejects_a_pending_order_and_keeps_its_key() -> None:
    order = an_order(status="pending", idempotency_key="k")

    rejected = after(order, reject(order, SHORT))

    assert (rejected["status"], rejected["rejection"], rejected["idempotency_key"]) == ("rejected", SHORT, "k")
    assert rejected["rejected_at"] == rejected["updated_at"]
    assert rejected["version"] == order["version"] + 1


def test_a_failure_of_ours_rejects_a_pending_order_and_gives_its_key_back() -> None:
    order = an_order(status="pending", idempotency_key="k")

    assert reject(order, DOWN)["idempotency_key"] is None


@pytest.mark.parametrize("status", DECIDED)
def test_what_is_decided_is_neither_confirmed_nor_rejected(status: str) -> None:
    order = an_order(status=status)

    with pytest.raises(InvalidTransition):
        confirm(order, [a_reserved_line()])
    with pytest.raises(InvalidTransition):
        reject(order, SHORT)


@pytest.mark.parametrize(("status", "step"), sorted(CHANGES))
def test_a_step_that_the_lifecycle_allows_changes_the_status_the_time_and_the_version(status: str, step: str) -> None:
    order = an_order(status=status, version=7)
    before = now()

    change = take(order, step)

    assert change is not None
    moment = dict(change)[f"{STEPS[step]}_at"]
    assert (change["status"], change["version"]) == (STEPS[step], 8)
    assert before <= moment == change["updated_at"] <= now()


@pytest.mark.parametrize(("status", "step"), sorted(HAPPENED))
def test_a_step_that_was_taken_before_changes_nothing(status: str, step: str) -> None:
    assert take(an_order(status=status), step) is None


@pytest.mark.parametrize(("status", "step"), sorted(ALL - CHANGES - HAPPENED))
def test_a_step_that_the_lifecycle_forbids_is_refused(status: str, step: str) -> None:
    with pytest.raises(InvalidTransition, match=f"The order is {status}"):
        take(an_order(status=status), step)


@pytest.mark.parametrize("status", TRANSITIONS)
def test_a_transition_changes_what_it_declares_and_nothing_else(status: str) -> None:
    """Its UPDATE statement is derived from the declaration: an unknown column would be refused, a missing one lost."""
    only_from, declared = TRANSITIONS[status]
    order = an_order(status=only_from)
    made: dict[str, Callable[[], Transition | None]] = {
        "confirmed": lambda: confirm(order, [a_reserved_line()]), "rejected": lambda: reject(order, SHORT),
        "cancelled": lambda: cancel(order, None), "shipped": lambda: ship(order), "delivered": lambda: deliver(order),
    }  # fmt: skip

    change = made[status]()

    assert change is not None
    assert change.keys() == get_type_hints(declared).keys() <= set(orders.c.keys())


def test_the_row_of_an_order_has_every_column() -> None:
    assert get_type_hints(OrderRow).keys() == set(orders.c.keys())


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
    assert counts(an_order(status=status)) == expected


def test_revenue_is_kept_apart_by_currency() -> None:
    order = an_order(total=Decimal("1999"), currency="JPY")

    assert counts(order) == {"status:confirmed": 1, "total": 1, "revenue:JPY": 19_990_000}


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
    assert [step["status"] for step in history(an_order(status=status))] == expected


def test_each_transition_of_the_history_has_its_own_time() -> None:
    order = an_order(status="delivered", delivered_at=NOON + timedelta(days=2), shipped_at=NOON + timedelta(days=1))

    assert [step["at"] - NOON for step in history(order)] == [timedelta(days=n) for n in (0, 0, 1, 2)]


def test_the_history_tells_why_an_order_was_cancelled_or_rejected_and_only_that() -> None:
    cancelled = history(an_order(status="cancelled", cancel_reason="Changed my mind."))
    rejected = history(an_order(status="rejected"))

    assert [step["reason"] for step in cancelled] == [None, None, "Changed my mind."]
    assert [step["reason"] for step in rejected] == [None, "There is too little stock"]


# The replay --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [("cancel",), ("ship",), ("ship", "deliver")])
def test_an_order_as_confirmed_is_the_first_answer_whatever_came_later(later: tuple[str, ...]) -> None:
    order = an_order(note="Ring twice.")
    first = OrderSchema().dumps(order)

    for step in later:
        change = take(order, step)
        assert change is not None
        order = after(order, change)

    assert OrderSchema().dumps(order) != first
    assert OrderSchema().dumps(as_confirmed(order)) == first
