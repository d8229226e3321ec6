from collections.abc import Callable
from typing import Any

import pytest

from libs.common.data.database import Database
from libs.common.ids import new_id
from tests.factories import a_cloud_event, a_reservation
from tests.integration.contents import contents
from tests.integration.product_service.shop import Shop
from tests.web import Api, answered, check_problem, refused

UNKNOWN = "01a20598-7494-7095-a5b5-38cc38be70f6"


def test_a_reservation_names_each_line_with_its_price(shop: Shop) -> None:
    laptop = shop.product(name="Laptop", price="2499.99", stock=25)
    tea = shop.product(name="Tea", price="500", currency="JPY", stock=3)
    order = new_id()
    answer = shop.reserve((laptop, 1), (tea, 3), order_id=order)
    assert answered(answer, 201) == {
        "order_id": order,
        "status": "reserved",
        "items": [
            {"product_id": laptop, "quantity": 1, "name": "Laptop", "unit_price": "2499.99", "currency": "EUR"},
            {"product_id": tea, "quantity": 3, "name": "Tea", "unit_price": "500", "currency": "JPY"},
        ],
        "version": 1,
    }
    assert answer.headers["Location"] == f"/api/v1/reservations/{order}"
    assert answered(shop.api.get(f"/reservations/{order}")) == answer.json
    assert shop.units(laptop) == (24, 1, 0)
    assert shop.units(tea) == (0, 3, 0)


def test_the_same_order_again_gets_the_same_answer_and_nothing_more(shop: Shop) -> None:
    product = shop.product(price="5", stock=10)
    first = shop.reserve((product, 4), order_id=(order := new_id()))
    # Prices and names as they were, although they have changed since.
    shop.api.patch(f"/products/{product}", {"price": "6", "name": "New"})
    again = shop.reserve((product, 4), order_id=order.upper())
    assert (again.status_code, again.json) == (201, first.json)
    assert shop.units(product) == (6, 4, 0)


def test_all_lines_are_reserved_or_none(shop: Shop) -> None:
    plenty, few, none = shop.product(stock=10), shop.product(stock=2), shop.product(stock=0)
    document = refused(shop.reserve((plenty, 1), (few, 3), (none, 1)), 409, "insufficient-stock")
    assert [(f["pointer"], f["product_id"], f["available"]) for f in document["errors"]] == [
        ("/items/1/quantity", few, 2),
        ("/items/2/quantity", none, 0),
    ]
    assert shop.units(plenty) == (10, 0, 0)
    assert shop.units(few) == (2, 0, 0)


def test_every_unknown_product_is_named(shop: Shop) -> None:
    known, deleted = shop.product(), shop.product()
    shop.api.delete(f"/products/{deleted}")
    document = refused(shop.reserve((UNKNOWN, 1), (known, 1), (deleted, 1)), 422, "unknown-product")
    assert [(f["pointer"], f["product_id"]) for f in document["errors"]] == [
        ("/items/0/product_id", UNKNOWN),
        ("/items/2/product_id", deleted),
    ]
    assert shop.units(known) == (10, 0, 0)


def test_the_same_product_twice_is_one_line(shop: Shop) -> None:
    product, other = shop.product(stock=5), shop.product(stock=5)
    answer = answered(shop.reserve((product, 2), (other, 1), (product.upper(), 3)), 201)
    assert [(line["product_id"], line["quantity"]) for line in answer["items"]] == [(product, 5), (other, 1)]
    assert shop.units(product) == (0, 5, 0)
    refused(shop.reserve((other, 2), (other, 3)), 409, "insufficient-stock")


def test_a_fault_behind_merged_lines_points_at_the_line_that_was_sent(shop: Shop) -> None:
    product, short = shop.product(stock=5), shop.product(stock=0)
    document = refused(shop.reserve((product, 1), (product, 1), (short, 1)), 409, "insufficient-stock")
    assert [fault["pointer"] for fault in document["errors"]] == ["/items/2/quantity"]
    document = refused(shop.reserve((product, 1), (product, 1), (UNKNOWN, 1)), 422, "unknown-product")
    assert [fault["pointer"] for fault in document["errors"]] == ["/items/2/product_id"]


def test_a_refused_reservation_may_be_tried_again(shop: Shop) -> None:
    product, order = shop.product(stock=0), new_id()
    refused(shop.reserve((product, 1), order_id=order), 409, "insufficient-stock")
    refused(shop.api.get(f"/reservations/{order}"), 404, "not-found")
    shop.api.post(f"/products/{product}/stock", {"delta": 1, "reason": "delivery"})
    shop.reserved((product, 1), order_id=order)


def test_the_last_unit_is_sold_and_found_no_more_in_stock(shop: Shop) -> None:
    product = shop.product(stock=1)
    order = shop.reserved((product, 1))
    assert answered(shop.api.get("/products?in_stock=true"))["items"] == []
    shop.release(order)
    assert len(answered(shop.api.get("/products?in_stock=true"))["items"]) == 1


# Release, ship -----------------------------------------------------------------------------------------------------

ENDS: dict[str, Callable[[Shop, str], Any]] = {
    "rejected": lambda shop, order: shop.tell("rejected", order),
    "cancelled": lambda shop, order: shop.tell("cancelled", order),
    "deleted": lambda shop, order: shop.release(order),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_release_gives_back_everything(shop: Shop, end: str) -> None:
    first, second = shop.product(stock=5), shop.product(stock=5)
    order = shop.reserved((first, 2), (second, 3))
    ENDS[end](shop, order)
    assert shop.units(first) == shop.units(second) == (5, 0, 0)
    released = answered(shop.api.get(f"/reservations/{order}"))
    assert (released["status"], len(released["items"]), released["version"]) == ("released", 2, 2)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("again", ENDS)
def test_a_second_release_changes_nothing(shop: Shop, end: str, again: str) -> None:
    product = shop.product(stock=5)
    order = shop.reserved((product, 2))
    ENDS[end](shop, order)
    ENDS[again](shop, order)
    assert shop.units(product) == (5, 0, 0)


@pytest.mark.parametrize("end", ENDS)
def test_a_release_that_comes_first_refuses_the_late_reserve(shop: Shop, end: str) -> None:
    product, order = shop.product(stock=5), new_id()
    ENDS[end](shop, order)
    for _ in range(2):
        refused(shop.reserve((product, 2), order_id=order), 409, "invalid-transition")
    assert shop.units(product) == (5, 0, 0)
    tombstone = answered(shop.api.get(f"/reservations/{order}"))
    assert tombstone == {"order_id": order, "status": "released", "items": [], "version": 1}


def test_after_a_release_the_order_can_never_reserve_again(shop: Shop) -> None:
    product = shop.product(stock=5)
    order = shop.reserved((product, 2))
    shop.release(order)
    refused(shop.reserve((product, 2), order_id=order), 409, "invalid-transition")
    assert shop.units(product) == (5, 0, 0)


def test_shipping_turns_reserved_into_sold(shop: Shop) -> None:
    first, second = shop.product(stock=5), shop.product(stock=5)
    order = shop.reserved((first, 2), (second, 3))
    assert shop.tell("shipped", order) == ["done"]
    assert shop.units(first) == (3, 0, 2)
    assert shop.units(second) == (2, 0, 3)
    assert answered(shop.api.get(f"/reservations/{order}"))["status"] == "sold"


@pytest.mark.parametrize("late", ["shipped", "rejected", "cancelled"])
def test_what_was_sold_stays_sold(shop: Shop, late: str) -> None:
    product = shop.product(stock=5)
    order = shop.reserved((product, 2))
    shop.tell("shipped", order)
    assert shop.tell(late, order) == ["done"]
    shop.release(order)
    assert shop.units(product) == (3, 0, 2)
    # A repeated reserve gets the same answer.
    assert answered(shop.reserve((product, 2), order_id=order), 201)["items"][0]["quantity"] == 2
    assert shop.units(product) == (3, 0, 2)


def test_shipping_what_was_released_or_never_reserved_changes_nothing(shop: Shop) -> None:
    product = shop.product(stock=5)
    order = shop.reserved((product, 2))
    shop.release(order)
    assert shop.tell("shipped", order, new_id()) == ["done", "done"]
    assert shop.units(product) == (5, 0, 0)


def test_events_of_one_batch_are_each_done(shop: Shop) -> None:
    product = shop.product(stock=10)
    orders = [shop.reserved((product, 1)) for _ in range(6)]
    events = [
        a_cloud_event(f"order.{name}.v1", {"order_id": order})
        for name, order in zip(["rejected", "cancelled", "shipped"] * 2, orders, strict=True)
    ]
    assert shop.deliver(*events, *events) == ["done"] * 6 + ["duplicate"] * 6
    assert shop.units(product) == (8, 0, 2)


def test_the_same_order_twice_in_one_batch_of_events_is_released_once(shop: Shop) -> None:
    product = shop.product(stock=5)
    order, never = shop.reserved((product, 2)), new_id()
    assert shop.tell("rejected", order, order, never, never) == ["done"] * 4
    assert shop.units(product) == (5, 0, 0)


def test_an_event_about_no_order_fails_no_neighbour(shop: Shop) -> None:
    product = shop.product(stock=5)
    for order_id in (5, None, [], "", "x", {"a": 1}, "x" * 100):
        order = shop.reserved((product, 2))
        bad = a_cloud_event("order.rejected.v1", {"order_id": order_id})
        outcomes = shop.deliver(bad, a_cloud_event("order.rejected.v1", {"order_id": order}))
        # The outcome depends on the engine: SQLite accepts any text as an id.
        assert outcomes[1] == "done"
        assert shop.units(product) == (5, 0, 0)


# Many at once ------------------------------------------------------------------------------------------------------


def test_a_batch_is_judged_one_by_one_and_answered_in_order(shop: Shop) -> None:
    product, other = shop.product(stock=5), shop.product(stock=1)
    known, dead = shop.reserved((product, 1)), new_id()
    shop.release(dead)
    outcomes = shop.batch(
        a_reservation((product, 2)),
        a_reservation((product, 3)),
        a_reservation((UNKNOWN, 1), (product, 1)),
        a_reservation((product, 1), order_id=known),
        a_reservation((product, 1), order_id=dead),
        a_reservation((other, 1), (product, 2)),
        a_reservation((other, 1)),
    )
    assert [outcome["status"] for outcome in outcomes] == [201, 409, 422, 201, 409, 201, 409]
    assert [outcome["body"].get("code") for outcome in outcomes] == [
        None, "insufficient-stock", "unknown-product", None, "invalid-transition", None, "insufficient-stock",
    ]  # fmt: skip
    assert shop.units(product) == (0, 5, 0)
    assert shop.units(other) == (0, 1, 0)


def test_an_outcome_is_what_a_single_call_would_have_answered(shop: Shop) -> None:
    product, order = shop.product(stock=5), new_id()
    made, short, unknown = shop.batch(
        a_reservation((product, 2), order_id=order),
        {**a_reservation((product, 9)), "request_id": "req-1"},
        a_reservation((UNKNOWN, 1)),
    )
    assert made["body"] == answered(shop.api.get(f"/reservations/{order}"))
    single = refused(shop.reserve((product, 9)), 409, "insufficient-stock")
    assert short["body"] == {**single, "request_id": "req-1"}
    single = refused(shop.reserve((UNKNOWN, 1)), 422, "unknown-product")
    same = ("type", "title", "status", "detail", "instance", "code", "errors")
    assert {name: unknown["body"][name] for name in same} == {name: single[name] for name in same}


def test_the_same_order_twice_in_a_batch_is_one_reservation(shop: Shop) -> None:
    product, order = shop.product(stock=5), new_id()
    wanted = a_reservation((product, 3), order_id=order)
    first, second = shop.batch(wanted, wanted)
    assert first == second
    assert first["status"] == 201
    assert shop.units(product) == (2, 3, 0)


def test_a_batch_that_is_sent_again_changes_nothing(shop: Shop) -> None:
    product = shop.product(stock=5)
    wanted = [a_reservation((product, 2)) for _ in range(3)]
    first = shop.batch(*wanted)
    again = shop.batch(*wanted)
    assert [outcome["status"] for outcome in first] == [201, 201, 409]
    assert again[:2] == first[:2]
    assert again[2]["status"] == 409
    assert shop.units(product) == (1, 4, 0)


@pytest.mark.parametrize("count", [0, 101])
def test_a_batch_has_one_to_a_hundred_reservations(shop: Shop, count: int) -> None:
    body = {"reservations": [a_reservation((UNKNOWN, 1)) for _ in range(count)]}
    refused(shop.api.post("/reservations/batch", body), 422, "validation-failed", "/reservations")


def test_a_hundred_orders_of_a_hundred_lines_are_taken(shop: Shop) -> None:
    products = [shop.product(stock=100) for _ in range(10)]
    lines = [(product, 1) for product in products] * 10
    outcomes = shop.batch(*[a_reservation(*lines) for _ in range(11)])
    assert [outcome["status"] for outcome in outcomes] == [201] * 10 + [409]
    assert {shop.units(product) for product in products} == {(0, 100, 0)}


# What is malformed -------------------------------------------------------------------------------------------------

QUANTITIES: list[Any] = [0, -1, 1.5, "2", True, None, 10**9, 10**30, 1e308, [], {}]


def test_what_is_no_quantity_is_pointed_at_and_changes_nothing(shop: Shop, db: Database) -> None:
    product = shop.product()
    before = contents(db)
    for quantity in QUANTITIES:
        wanted = a_reservation((product, 1), (product, quantity))
        refused(shop.api.post("/reservations", wanted), 422, "validation-failed", "/items/1/quantity")
        batch = {"reservations": [wanted]}
        pointer = "/reservations/0/items/1/quantity"
        refused(shop.api.post("/reservations/batch", batch), 422, "validation-failed", pointer)
    assert contents(db) == before


def test_what_is_no_reservation_is_pointed_at(shop: Shop) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"order_id": "x"}, "/order_id"), ({"order_id": None}, "/order_id"), ({"items": []}, "/items"),
        ({"items": None}, "/items"), ({"items": {}}, "/items"), ({"items": ["x"]}, "/items/0"),
        ({"items": [{"quantity": 1}]}, "/items/0/product_id"), ({"items": [{"product_id": UNKNOWN}]}, "/items/0/quantity"),
        ({"items": [{"product_id": "x", "quantity": 1}]}, "/items/0/product_id"),
        ({"items": [{"product_id": UNKNOWN, "quantity": 1, "price": "0.01"}]}, "/items/0/price"),
        ({"items": [{"product_id": UNKNOWN, "quantity": 1}] * 101}, "/items"), ({"surprise": 1}, "/surprise"),
    ]  # fmt: skip
    for change, pointer in changes:
        body = {**a_reservation((UNKNOWN, 1)), **change}
        refused(shop.api.post("/reservations", body), 422, "validation-failed", pointer)


def test_what_is_no_request_id_is_pointed_at(shop: Shop) -> None:
    for request_id in ("", "a b", "x" * 129, "a\n", 5, None):
        body = {"reservations": [{**a_reservation((UNKNOWN, 1)), "request_id": request_id}]}
        refused(shop.api.post("/reservations/batch", body), 422, "validation-failed", "/reservations/0/request_id")


def test_a_release_that_names_another_version_is_refused(shop: Shop) -> None:
    order = shop.reserved((shop.product(), 1))
    path = f"/reservations/{order}"
    for headers in ({"If-Match": '"2"'}, {"If-None-Match": '"1"'}, {"If-None-Match": "*"}):
        refused(shop.api.delete(path, headers=headers), 412, "precondition-failed")
    refused(shop.api.delete(f"/reservations/{new_id()}", headers={"If-Match": "*"}), 404, "not-found")
    assert answered(shop.api.get(path))["status"] == "reserved"
    assert shop.api.delete(path, headers={"If-Match": '"1"'}).status_code == 204
    assert answered(shop.api.get(path))["status"] == "released"


def test_an_unknown_reservation_is_not_found(api: Api) -> None:
    answer = api.get(f"/reservations/{UNKNOWN}")
    refused(answer, 404, "not-found")
    check_problem(answer)
