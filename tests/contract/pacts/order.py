"""What the order service expects of the user service and of the product service."""

import time
from typing import Any

from flask import Flask
from pact import match

from libs.common.errors import DependencyUnavailable
from order_service.clients import Demand, FakeProducts, FakeUsers, ProductClient, UserClient
from order_service.models import InsufficientStock, UnknownProduct, price_lines
from tests.contract.pacts.drafts import Call, Published, a_time, an_amount, an_id, call, event, provided, text
from tests.web import Api, answered, refused

USER = "0198c0de-0000-7000-8000-000000000001"
LAPTOP = "0198c0de-0000-7000-8000-000000000002"
ORDER, OTHER_ORDER = "0198c0de-0000-7000-8000-000000000003", "0198c0de-0000-7000-8000-000000000004"

# Users ---------------------------------------------------------------------------------------------------------------

A_USER = f"/users/{{user_id={USER}}}"


def a_user(call: Call, status: str) -> None:
    call.given("a user", status=status).asks("GET", A_USER).answers(200, {"status": status, "version": match.int(1)})
    with call.client() as client:
        assert UserClient(client).find(USER) == {"status": status, "version": 1}


@call("order", "user")
def an_active_user(call: Call) -> None:
    a_user(call, "active")


@call("order", "user")
def a_suspended_user(call: Call) -> None:
    a_user(call, "suspended")


@call("order", "user")
def a_user_whom_nobody_knows(call: Call) -> None:
    call.asks("GET", f"/users/{USER}").answers(404)
    with call.client() as client:
        assert UserClient(client).find(USER) is None


@call("order", "user")
def a_user_who_was_deleted(call: Call) -> None:
    call.given("a deleted user").asks("GET", A_USER).answers(404)
    with call.client() as client:
        assert UserClient(client).find(USER) is None


@call("order", "user")
def a_user_service_with_too_much_to_do(call: Call) -> None:
    call.asks("GET", f"/users/{USER}").too_much_to_do(lambda client: UserClient(client).find(USER))


# Reservations --------------------------------------------------------------------------------------------------------

RESERVED = {
    "product_id": an_id(LAPTOP),
    "quantity": match.int(2),
    "name": match.str("Laptop"),
    "unit_price": an_amount("2499.99"),
    "currency": text("EUR", "[A-Z]{3}"),
}
TAKEN = {"status": 201, "body": {"items": match.each_like(RESERVED, min=1)}}


def refusal(code: str, **fault: Any) -> dict[str, Any]:
    errors = {"pointer": match.str("/items/0"), "detail": match.str("Why."), "product_id": an_id(LAPTOP), **fault}
    return {"status": match.int(409), "body": {"code": code, "errors": match.each_like(errors, min=1)}}


def expect_reserve(call: Call, *wanted: tuple[str, int], product_id: Any = None) -> Call:
    """`wanted` are pairs of an order's id and a quantity."""
    product_id = product_id or provided(LAPTOP, "${product_id}")
    reservations = [
        {"order_id": order_id, "items": [{"product_id": product_id, "quantity": n}], "request_id": "a-request"}
        for order_id, n in wanted
    ]
    return call.asks("POST", "/reservations/batch", {"reservations": reservations})


def reserve(call: Call, *wanted: tuple[str, int]) -> list[Any]:
    soon = time.monotonic() + 5.0
    with call.client() as client:
        demands = [Demand(i, [{"product_id": LAPTOP, "quantity": n}], "a-request", soon) for i, n in wanted]
        return ProductClient(client).reserve(demands, soon)


def check_taken(lines: Any) -> None:
    """Check that the saga can price the lines."""
    priced = {"product_id": LAPTOP, "name": "Laptop", "quantity": 2, "unit_price": "2499.99", "line_total": "4999.98"}
    assert price_lines(lines)[::2] == ([priced], "EUR")


@call("order", "product")
def as_much_as_there_is(call: Call) -> None:
    expect_reserve(call.given("a laptop", stock=5), (ORDER, 2)).answers(200, {"outcomes": [TAKEN]})
    (lines,) = reserve(call, (ORDER, 2))
    check_taken(lines)


@call("order", "product")
def more_than_there_is(call: Call) -> None:
    short = refusal("insufficient-stock", available=match.int(5))
    expect_reserve(call.given("a laptop", stock=5), (ORDER, 6)).answers(200, {"outcomes": [short]})
    (outcome,) = reserve(call, (ORDER, 6))
    assert isinstance(outcome, InsufficientStock)
    fault = {"pointer": "/items/0", "detail": "Why.", "product_id": LAPTOP, "available": 5}
    assert outcome.errors == [fault]


@call("order", "product")
def a_product_that_does_not_exist(call: Call) -> None:
    expect_reserve(call, (ORDER, 1), product_id=LAPTOP).answers(200, {"outcomes": [refusal("unknown-product")]})
    (outcome,) = reserve(call, (ORDER, 1))
    assert isinstance(outcome, UnknownProduct)
    assert outcome.errors == [{"pointer": "/items/0", "detail": "Why.", "product_id": LAPTOP}]


@call("order", "product")
def several_orders_each_judged_alone(call: Call) -> None:
    short = {"status": match.int(409), "body": {"code": "insufficient-stock"}}
    expect_reserve(call.given("a laptop", stock=5), (ORDER, 6), (OTHER_ORDER, 2)).answers(
        200, {"outcomes": [short, TAKEN]}
    )
    outcome, lines = reserve(call, (ORDER, 6), (OTHER_ORDER, 2))
    assert isinstance(outcome, InsufficientStock)
    check_taken(lines)


@call("order", "product")
def an_order_whose_release_was_quicker(call: Call) -> None:
    """Not a refusal on the merits: recovery has rejected the order."""
    expect_reserve(call.given("a laptop", stock=5).given("a release", order_id=ORDER), (ORDER, 2))
    call.answers(200, {"outcomes": [{"status": match.int(409), "body": match.like({})}]})
    (outcome,) = reserve(call, (ORDER, 2))
    assert type(outcome) is DependencyUnavailable


@call("order", "product")
def a_product_service_with_too_much_to_do(call: Call) -> None:
    demand = Demand(ORDER, [{"product_id": LAPTOP, "quantity": 2}], "a-request", time.monotonic() + 5.0)
    expect_reserve(call, (ORDER, 2), product_id=LAPTOP)
    call.too_much_to_do(lambda client: ProductClient(client).reserve([demand], demand.deadline))


# Events --------------------------------------------------------------------------------------------------------------


def a_shop(published: Published, *known: str) -> Flask:
    """The order service with a fake user service that knows `known`."""
    products = FakeProducts()
    products.add(LAPTOP)
    return published.services.start("order", users=FakeUsers(*known), products=products)


def placed(api: Api) -> Any:
    return api.post("/orders", {"user_id": USER, "items": [{"product_id": LAPTOP, "quantity": 1}]})


@event("order", "user.created.v1")
def a_new_user_may_order(published: Published) -> None:
    published.given("a user", status="active")
    published.says({"user_id": an_id(USER), "status": "active", "version": match.int(1)})
    answered(placed(published.to(a_shop(published))), 201)


@event("order", "user.updated.v1")
def a_suspended_user_may_order_no_more(published: Published) -> None:
    published.given("a user", status="suspended")
    published.says({"user_id": an_id(USER), "status": "suspended", "version": match.int(2)})
    refused(placed(published.to(a_shop(published, USER))), 422, "unknown-user")


@event("order", "user.deleted.v1")
def the_orders_of_a_deleted_user_are_cancelled(published: Published) -> None:
    published.given("a deleted user")
    published.says(
        {"user_id": an_id(USER), "deleted_at": a_time("2026-01-31T12:00:00.000000Z"), "version": match.int(2)}
    )
    shop = a_shop(published, USER)
    order = answered(placed(Api(shop)), 201)
    api = published.to(shop)
    refused(placed(api), 422, "unknown-user")
    assert answered(api.get(f"/orders/{order['id']}"))["status"] == "cancelled"
