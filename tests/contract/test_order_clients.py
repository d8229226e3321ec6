"""The fakes of the order service answer as the real services do: both get the same requests. The pacts say what exactly
a service answers.
"""

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses
from flask import Flask
from requests import PreparedRequest

from libs.common.calls.client import ServiceClient
from libs.common.config import Settings
from libs.common.errors import Problem
from libs.common.ids import new_id
from order_service.clients import Demand, FakeProducts, FakeUsers, ProductClient, Products, UserClient, Users
from order_service.models import InsufficientStock, UnknownProduct
from product_service.app import create_app as create_product_app
from tests.factories import a_product, a_user
from tests.network import network
from tests.web import Api, answered
from user_service.app import create_app as create_user_app

Serve = Callable[[str, Callable[[Settings], Flask]], tuple[ServiceClient, Api]]


@pytest.fixture
def serve(
    new_database: Callable[[str], str], make_settings: Callable[..., Settings], run_app: Callable[[Flask], Flask]
) -> Iterator[Serve]:
    """A service in this process, called through the client of the order service."""
    with network(assert_all_requests_are_fired=False) as mock:

        def start(service: str, create_app: Callable[[Settings], Flask]) -> tuple[ServiceClient, Api]:
            app = run_app(create_app(make_settings(service, database_url=new_database(f"{service}_service"))))

            def answer(request: PreparedRequest) -> tuple[int, dict[str, str], bytes]:
                found = app.test_client().open(
                    request.path_url, method=request.method, data=request.body, headers=dict(request.headers)
                )
                return found.status_code, {"Content-Type": found.content_type}, found.data

            settings = make_settings("order")
            for method in (responses.GET, responses.POST):
                mock.add_callback(method, re.compile(re.escape(settings.url_of(service))), answer)
            return ServiceClient(service, settings), Api(app)

        yield start


# Users ---------------------------------------------------------------------------------------------------------------


def check_users(users: Users, active: str, suspended: str) -> None:
    found = users.find(active)
    assert found is not None
    assert found == {"status": "active", "version": found["version"]}
    assert isinstance(found["version"], int)
    other = users.find(suspended)
    assert other is not None
    assert other["status"] == "suspended"
    assert users.find(new_id()) is None


def test_users_are_found_by_id_with_status_and_version(serve: Serve) -> None:
    client, api = serve("user", create_user_app)
    active, suspended = (answered(api.post("/users", a_user()), 201)["id"] for _ in range(2))
    answered(api.patch(f"/users/{suspended}", {"status": "suspended"}))

    check_users(UserClient(client), active, suspended)


def test_the_fake_users_are_found_alike() -> None:
    users = FakeUsers(new_id(), new_id())
    active, suspended = users.known
    users.known[suspended]["status"] = "suspended"

    check_users(users, active, suspended)


# Products ------------------------------------------------------------------------------------------------------------


def a_demand(*lines: tuple[str, int]) -> Demand:
    wanted = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines]
    return Demand(new_id(), wanted, "a-request", time.monotonic() + 60)


def reserve(products: Products, *demands: Demand) -> list[Any]:
    return products.reserve(demands, time.monotonic() + 60)


def check_products(products: Products, product_id: str) -> None:
    """`product_id` has five units at 2499.99 EUR."""
    stranger = new_id()
    some, too_many, none = (
        a_demand((product_id, 2)),
        a_demand((product_id, 4)),
        a_demand((product_id, 1), (stranger, 1)),
    )

    first, short, unknown, again = reserve(products, some, too_many, none, some)

    (line,) = first
    assert {name: line[name] for name in ("product_id", "quantity", "unit_price", "currency")} == {
        "product_id": product_id, "quantity": 2, "unit_price": "2499.99", "currency": "EUR",
    }  # fmt: skip
    assert line["name"]
    assert isinstance(short, InsufficientStock)
    assert short.errors == [
        {"pointer": "/items/0/quantity", "detail": "3 available.", "product_id": product_id, "available": 3}
    ]
    assert isinstance(unknown, UnknownProduct)
    assert unknown.errors == [
        {"pointer": "/items/1/product_id", "detail": "There is no such product.", "product_id": stranger}
    ]
    assert again == first
    assert reserve(products, some) == [first]  # also in a separate call
    (last,) = reserve(products, a_demand((product_id, 3)))
    assert not isinstance(last, Problem)  # so nothing was taken twice
    (sold_out,) = reserve(products, a_demand((product_id, 1)))
    assert isinstance(sold_out, InsufficientStock)


def check_refused_again(products: Products, put_in: Callable[[], Any], product_id: str) -> None:
    """A refusal is not stored: a request that takes an order over may find more units."""
    demand = a_demand((product_id, 6))
    (refused,) = reserve(products, demand)
    assert isinstance(refused, InsufficientStock)

    put_in()

    (lines,) = reserve(products, demand)
    assert not isinstance(lines, Problem)


@pytest.fixture
def product(serve: Serve) -> tuple[ProductClient, Api, str]:
    client, api = serve("product", create_product_app)
    return ProductClient(client), api, answered(api.post("/products", a_product(stock=5)), 201)["id"]


def test_a_reservation_is_judged_alone_and_is_idempotent_by_its_order(product: tuple[ProductClient, Api, str]) -> None:
    products, _, product_id = product

    check_products(products, product_id)


def test_the_fake_products_judge_alike() -> None:
    products = FakeProducts()

    check_products(products, products.add(new_id(), price="2499.99", stock=5))


def test_a_refusal_is_not_remembered(product: tuple[ProductClient, Api, str]) -> None:
    products, api, product_id = product
    adjustment = {"delta": 1, "reason": "delivery"}

    check_refused_again(products, lambda: answered(api.post(f"/products/{product_id}/stock", adjustment)), product_id)


def test_the_fake_products_do_not_remember_a_refusal() -> None:
    products = FakeProducts()
    product_id = products.add(new_id(), stock=5)

    check_refused_again(products, lambda: products.stock.update({product_id: 6}), product_id)
