"""The clients of the order service: every answer becomes one of its own types, and the fakes agree."""

import inspect
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
import responses

from libs.common import context
from libs.common.batching import Batcher
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, InvalidTransition, Problem
from libs.common.ids import new_id
from libs.common.web.messages import JSON, MAX_BODY
from order_service.clients import (
    Demand,
    FakeProducts,
    FakeUsers,
    ProductClient,
    Products,
    Reserved,
    UserClient,
    Users,
)
from order_service.models import InsufficientStock, UnknownProduct
from tests.network import Provider
from tests.unit.order_service.factories import a_demand, a_line, a_reserved_line

USER_ID = "0198c0de-0000-7000-8000-000000000001"
USER = f"/users/{USER_ID}"
BATCH = "/reservations/batch"


@pytest.fixture
def users(user: Provider) -> UserClient:
    return UserClient(user.client)


@pytest.fixture
def products(product: Provider) -> ProductClient:
    return ProductClient(product.client)


def soon() -> float:
    return time.monotonic() + 5.0


# The user service --------------------------------------------------------------------------------------------------


def test_a_user_is_told_by_status_and_version_and_nothing_personal(user: Provider, users: UserClient) -> None:
    user.answers("GET", USER, id=USER_ID, status="suspended", version=3)

    assert users.find(USER_ID) == {"status": "suspended", "version": 3}


def test_a_user_that_the_service_does_not_know_is_none(user: Provider, users: UserClient) -> None:
    user.answers("GET", USER, 404)

    assert users.find(USER_ID) is None


def test_a_refusal_is_never_taken_for_unknown(user: Provider, users: UserClient) -> None:
    user.answers("GET", USER, 422)

    with pytest.raises(DependencyUnavailable):
        users.find(USER_ID)


@pytest.mark.parametrize("status", [301, 400, 403])
def test_nor_is_an_answer_from_elsewhere(user: Provider, users: UserClient, status: int) -> None:
    user.misbehaves("GET", USER, because="a proxy is in between", status=status, json={"code": "something-else"})

    with pytest.raises(DependencyUnavailable):
        users.find(USER_ID)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'"active"', b'{"status": "active"}'])
def test_a_user_without_status_or_version_is_no_useful_answer(user: Provider, users: UserClient, body: bytes) -> None:
    user.misbehaves("GET", USER, because="something else listens there", body=body, content_type=JSON)

    with pytest.raises(DependencyUnavailable):
        users.find(USER_ID)


@pytest.mark.parametrize(
    "fault",
    [
        lambda user: user.answers("GET", USER, 500),
        lambda user: user.answers("GET", USER, 503, headers={"Retry-After": "0"}),
        lambda user: user.answers("GET", USER, 429, headers={"Retry-After": "0"}),
        lambda user: user.misbehaves("GET", USER, because="a proxy is in between", body=b"<html>"),
        lambda user: user.fails("GET", USER, requests.ConnectionError("refused")),
        lambda user: user.fails("GET", USER, requests.ReadTimeout("too slow")),
    ],
    ids=["500", "503", "429", "not JSON", "no connection", "no answer"],
)
def test_a_user_service_that_cannot_be_asked_is_unavailable_after_three_attempts(
    user: Provider, users: UserClient, fault: Callable[[Provider], responses.BaseResponse]
) -> None:
    call = fault(user)

    with pytest.raises(DependencyUnavailable, match="The user service is unavailable"):
        users.find(USER_ID)

    assert call.call_count == 3


def test_a_user_is_not_asked_for_when_the_time_of_the_request_is_over(users: UserClient) -> None:
    context.begin(-1.0)

    with pytest.raises(DeadlineExceeded):
        users.find(USER_ID)


# The product service -----------------------------------------------------------------------------------------------


def outcome(product: Provider, status: int, **members: Any) -> dict[str, Any]:
    """What a single call could have been answered with."""
    return {"status": status, "body": product.body("POST", "/reservations", status, **members)}


def test_a_batch_is_one_call_with_the_order_the_lines_and_the_request_of_each(
    product: Provider, products: ProductClient
) -> None:
    batch = [a_demand(request_id="first"), a_demand(a_line(), a_line(), request_id="second")]
    call = product.answers("POST", BATCH, outcomes=[outcome(product, 201)] * 2)

    products.reserve(batch, soon())

    assert call.call_count == 1
    assert json.loads(call.calls[0].request.body or b"") == {
        "reservations": [
            {"order_id": demand.order_id, "items": demand.lines, "request_id": demand.request_id} for demand in batch
        ]
    }


def test_the_largest_batch_fits_into_what_the_product_service_takes(product: Provider, products: ProductClient) -> None:
    largest = Batcher[Demand, Reserved](lambda batch: [])._max_batch
    lines = [a_line(quantity=1_000_000) for _ in range(100)]
    call = product.answers("POST", BATCH, outcomes=[outcome(product, 201)] * largest)

    products.reserve([a_demand(*lines, request_id="r" * 128) for _ in range(largest)], soon())

    assert len(call.calls[0].request.body or b"") < MAX_BODY


def test_each_order_of_a_batch_has_its_own_outcome_in_order(product: Provider, products: ProductClient) -> None:
    lines = [a_reserved_line()]
    short = [{"pointer": "/items/0/quantity", "detail": "1 available.", "product_id": new_id(), "available": 1}]
    unknown = [{"pointer": "/items/0/product_id", "detail": "There is no such product.", "product_id": new_id()}]
    outcomes = [
        outcome(product, 409, code="insufficient-stock", errors=short),
        outcome(product, 201, items=lines),
        outcome(product, 422, code="unknown-product", errors=unknown),
        outcome(product, 409, code="invalid-transition"),
        outcome(product, 500),
        outcome(product, 201, items=lines),
    ]
    product.answers("POST", BATCH, outcomes=outcomes)

    refused, reserved, missing, released, broken, last = products.reserve([a_demand() for _ in outcomes], soon())

    assert isinstance(refused, InsufficientStock)
    assert refused.errors == short
    assert reserved == last == lines
    assert isinstance(missing, UnknownProduct)
    assert missing.errors == unknown
    # A late reserve that the tombstone refused, and a 500: neither is a refusal on the merits.
    assert type(released) is type(broken) is DependencyUnavailable


def test_a_reservation_is_sent_again_since_it_is_idempotent_by_its_order(
    product: Provider, products: ProductClient
) -> None:
    lines = [a_reserved_line()]
    product.fails("POST", BATCH, requests.ReadTimeout("the answer is lost"))
    product.answers("POST", BATCH, outcomes=[outcome(product, 201, items=lines)])

    assert products.reserve([a_demand()], soon()) == [lines]


@pytest.mark.parametrize("status", [413, 422])
def test_a_refusal_of_the_whole_batch_is_no_useful_answer(
    product: Provider, products: ProductClient, status: int
) -> None:
    product.answers("POST", BATCH, status)

    with pytest.raises(DependencyUnavailable):
        products.reserve([a_demand()], soon())


@pytest.mark.parametrize("count", [0, 2])
def test_an_answer_that_does_not_fit_the_question_is_no_useful_answer(
    product: Provider, products: ProductClient, count: int
) -> None:
    product.answers("POST", BATCH, outcomes=[outcome(product, 201)] * count)

    with pytest.raises(DependencyUnavailable):
        products.reserve([a_demand()], soon())


@pytest.mark.parametrize("body", [b"{}", b'{"outcomes": null}', b"[]", b""])
def test_an_answer_without_outcomes_is_no_useful_answer(
    product: Provider, products: ProductClient, body: bytes
) -> None:
    product.misbehaves("POST", BATCH, because="something else listens there", body=body, content_type=JSON)

    with pytest.raises(DependencyUnavailable):
        products.reserve([a_demand()], soon())


def test_a_product_service_that_is_down_is_unavailable(product: Provider, products: ProductClient) -> None:
    call = product.fails("POST", BATCH, requests.ConnectionError("refused"))

    with pytest.raises(DependencyUnavailable, match="The product service is unavailable"):
        products.reserve([a_demand()], soon())

    assert call.call_count == 3


def test_nothing_is_reserved_when_the_deadline_has_passed(products: ProductClient) -> None:
    with pytest.raises(DeadlineExceeded):
        products.reserve([a_demand()], time.monotonic() - 1.0)


# The fakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "real", "fake"), [(Users, UserClient, FakeUsers), (Products, ProductClient, FakeProducts)]
)
def test_a_fake_has_the_interface_of_the_real_thing(protocol: type, real: type, fake: type) -> None:
    methods = [name for name in vars(protocol) if not name.startswith("_")]

    assert methods
    for name in methods:
        wanted = inspect.signature(getattr(protocol, name))
        assert inspect.signature(getattr(real, name)) == inspect.signature(getattr(fake, name)) == wanted


def test_the_fake_users_are_those_it_was_given() -> None:
    users = FakeUsers(USER_ID)

    assert users.find(USER_ID) == {"status": "active", "version": 1}
    assert users.find(new_id()) is None
    users.down = True
    with pytest.raises(DependencyUnavailable):
        users.find(USER_ID)


def test_the_fake_products_reserve_all_lines_or_none() -> None:
    products = FakeProducts()
    plenty, scarce = products.add(new_id(), stock=10), products.add(new_id(), stock=1)
    wanted = [a_line(product_id=plenty, quantity=2), a_line(product_id=scarce, quantity=2)]

    (refused,) = products.reserve([a_demand(*wanted)], soon())

    assert isinstance(refused, InsufficientStock)
    assert products.stock == {plenty: 10, scarce: 1}


def test_the_fake_products_answer_the_same_order_the_same_and_take_its_units_once() -> None:
    products = FakeProducts()
    demand = a_demand(a_line(product_id=products.add(new_id(), stock=10), quantity=2))

    first, again = products.reserve([demand, demand], soon())

    assert first == again
    assert not isinstance(first, Problem)
    assert list(products.stock.values()) == [8]


def test_the_fake_products_know_only_what_was_added() -> None:
    (refused,) = FakeProducts().reserve([a_demand()], soon())

    assert isinstance(refused, UnknownProduct)


def test_the_fake_products_can_be_down() -> None:
    products = FakeProducts()
    products.down = True

    with pytest.raises(DependencyUnavailable):
        products.reserve([a_demand()], soon())


def test_a_tombstone_is_no_refusal_of_this_services_own() -> None:
    assert InvalidTransition.code not in {InsufficientStock.code, UnknownProduct.code}
