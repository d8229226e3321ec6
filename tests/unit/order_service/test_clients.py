"""What the order service asks of others: every answer becomes one of its own words, and the fakes say the same."""

import inspect
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
import responses

from libs.common import client, context
from libs.common.api import MAX_BODY
from libs.common.batching import Batcher
from libs.common.client import ServiceClient
from libs.common.config import Settings
from libs.common.db import new_id
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, InvalidTransition, Problem
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
from tests.unit.order_service.factories import a_demand, a_line, a_reserved_line

USER_ID = "0198c0de-0000-7000-8000-000000000001"
USER_URL = f"http://127.0.0.1:18601/api/v1/users/{USER_ID}"
BATCH_URL = "http://127.0.0.1:18602/api/v1/reservations/batch"


@pytest.fixture
def make_client(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ServiceClient]:
    monkeypatch.setattr(client.random, "uniform", lambda low, high: 0.0)
    return lambda service: ServiceClient(service, make_settings("order", base_port=18600))


@pytest.fixture
def users(make_client: Callable[[str], ServiceClient]) -> UserClient:
    return UserClient(make_client("user"))


@pytest.fixture
def products(make_client: Callable[[str], ServiceClient]) -> ProductClient:
    return ProductClient(make_client("product"))


def soon() -> float:
    return time.monotonic() + 5.0


# The user service --------------------------------------------------------------------------------------------------


def test_a_user_is_told_by_status_and_version_and_nothing_personal(
    users: UserClient, peer: responses.RequestsMock
) -> None:
    peer.get(USER_URL, json={"id": USER_ID, "email": "ada@example.com", "status": "suspended", "version": 3})

    assert users.find(USER_ID) == {"status": "suspended", "version": 3}


def test_a_user_that_the_service_does_not_know_is_none(users: UserClient, peer: responses.RequestsMock) -> None:
    peer.get(USER_URL, status=404, json={"code": "not-found"})

    assert users.find(USER_ID) is None


@pytest.mark.parametrize("status", [301, 400, 403, 422])
def test_an_answer_that_says_neither_is_never_taken_for_unknown(
    users: UserClient, peer: responses.RequestsMock, status: int
) -> None:
    peer.get(USER_URL, status=status, json={"code": "something-else"})

    with pytest.raises(DependencyUnavailable):
        users.find(USER_ID)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'"active"', b'{"status": "active"}'])
def test_a_user_without_status_or_version_is_no_useful_answer(
    users: UserClient, peer: responses.RequestsMock, body: bytes
) -> None:
    peer.get(USER_URL, body=body)

    with pytest.raises(DependencyUnavailable):
        users.find(USER_ID)


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503, "headers": {"Retry-After": "0"}},
        {"status": 429},
        {"body": b"<html>"},
        {"body": requests.ConnectionError("refused")},
        {"body": requests.ReadTimeout("too slow")},
    ],
    ids=["500", "503", "429", "not JSON", "no connection", "no answer"],
)
def test_a_user_service_that_cannot_be_asked_is_unavailable_after_three_attempts(
    users: UserClient, peer: responses.RequestsMock, fault: dict[str, Any]
) -> None:
    call = peer.get(USER_URL, **fault)

    with pytest.raises(DependencyUnavailable, match="The user service is unavailable"):
        users.find(USER_ID)

    assert call.call_count == 3


def test_a_user_is_not_asked_for_when_the_time_of_the_request_is_over(users: UserClient) -> None:
    context.begin(-1.0)

    with pytest.raises(DeadlineExceeded):
        users.find(USER_ID)


# The product service -----------------------------------------------------------------------------------------------


def outcome(status: int, **body: Any) -> dict[str, Any]:
    return {"status": status, "body": body}


def test_a_batch_is_one_call_with_the_order_the_lines_and_the_request_of_each(
    products: ProductClient, peer: responses.RequestsMock
) -> None:
    batch = [a_demand(request_id="first"), a_demand(a_line(), a_line(), request_id="second")]
    answer = {"outcomes": [outcome(201, items=[a_reserved_line()])] * 2}
    call = peer.post(BATCH_URL, json=answer)

    products.reserve(batch, soon())

    assert call.call_count == 1
    assert json.loads(call.calls[0].request.body or b"") == {
        "reservations": [
            {"order_id": demand.order_id, "items": demand.lines, "request_id": demand.request_id} for demand in batch
        ]
    }


def test_the_largest_batch_fits_into_what_the_product_service_takes(
    products: ProductClient, peer: responses.RequestsMock
) -> None:
    largest = Batcher[Demand, Reserved](lambda batch: [])._max_batch
    lines = [a_line(quantity=1_000_000) for _ in range(100)]
    call = peer.post(BATCH_URL, json={"outcomes": [outcome(201, items=[])] * largest})

    products.reserve([a_demand(*lines, request_id="r" * 128) for _ in range(largest)], soon())

    assert len(call.calls[0].request.body or b"") < MAX_BODY


def test_each_order_of_a_batch_has_its_own_outcome_in_order(
    products: ProductClient, peer: responses.RequestsMock
) -> None:
    lines = [a_reserved_line()]
    short = [{"pointer": "/items/0/quantity", "detail": "1 available.", "product_id": new_id(), "available": 1}]
    unknown = [{"pointer": "/items/0/product_id", "detail": "There is no such product.", "product_id": new_id()}]
    outcomes = [
        outcome(409, code="insufficient-stock", errors=short),
        outcome(201, items=lines),
        outcome(422, code="unknown-product", errors=unknown),
        outcome(409, code="invalid-transition"),
        outcome(500, code="internal-error"),
        outcome(201, items=lines),
    ]
    peer.post(BATCH_URL, json={"outcomes": outcomes})

    refused, reserved, missing, released, broken, last = products.reserve([a_demand() for _ in outcomes], soon())

    assert isinstance(refused, InsufficientStock)
    assert refused.errors == short
    assert reserved == last == lines
    assert isinstance(missing, UnknownProduct)
    assert missing.errors == unknown
    # A late reserve that the tombstone refused, and a fault: neither is a refusal on the merits.
    assert type(released) is type(broken) is DependencyUnavailable


def test_a_reservation_is_sent_again_since_it_is_idempotent_by_its_order(
    products: ProductClient, peer: responses.RequestsMock
) -> None:
    lines = [a_reserved_line()]
    peer.post(BATCH_URL, body=requests.ReadTimeout("the answer is lost"))
    peer.post(BATCH_URL, json={"outcomes": [outcome(201, items=lines)]})

    assert products.reserve([a_demand()], soon()) == [lines]


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 422, "json": {"code": "validation-failed"}},
        {"status": 413, "json": {"code": "payload-too-large"}},
        {"json": {"outcomes": []}},
        {"json": {"outcomes": [outcome(201, items=[]), outcome(201, items=[])]}},
        {"json": {}},
        {"json": {"outcomes": None}},
        {"json": []},
        {"body": b""},
    ],
    ids=["422", "413", "too few", "too many", "nothing", "null", "a list", "empty"],
)
def test_an_answer_that_does_not_fit_the_question_is_no_useful_answer(
    products: ProductClient, peer: responses.RequestsMock, answer: dict[str, Any]
) -> None:
    peer.post(BATCH_URL, **answer)

    with pytest.raises(DependencyUnavailable):
        products.reserve([a_demand()], soon())


def test_a_product_service_that_is_down_is_unavailable(products: ProductClient, peer: responses.RequestsMock) -> None:
    call = peer.post(BATCH_URL, body=requests.ConnectionError("refused"))

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
