"""What the flows ask for is what the services offer, and the checks notice what is wrong."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from libs.topology import SERVICES
from tests.e2e.shop import Units
from tests.load import deployment, flows
from tests.load.__main__ import options
from tests.load.deployment import Deployment, LoadError, check_orders
from tests.load.flows import FLOWS, STOCK, Catalogue
from tests.unit.docs.test_docs import find_route

ID = "01900000-0000-7000-8000-{:012x}"


def a_catalogue(*acknowledged: bytes) -> Catalogue:
    ids = [ID.format(number) for number in range(4)]
    return Catalogue(ids[:1], ids, ids[:1], list(acknowledged))


REQUESTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "user": ("user", lambda: flows.user(7)),
    "product": ("product", lambda: flows.product(7)),
    **{name: (flow.service, partial(flow.request, a_catalogue())) for name, flow in FLOWS.items()},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_one_that_the_service_offers(name: str) -> None:
    service, make = REQUESTS[name]
    for _ in range(9):  # `mixed` makes one of three at random
        head, _, body = make().partition(b"\r\n\r\n")
        line, *headers = head.decode().split("\r\n")
        method, target, _ = line.split(" ")
        route = find_route(service, method, urlsplit(target).path)

        if route.body:
            assert not route.body().validate(json.loads(body))
            assert f"Content-Length: {len(body)}" in headers
        if route.query:
            assert not route.query().validate(dict(parse_qsl(urlsplit(target).query)))


def test_one_flow_has_keys_which_differ() -> None:
    keyed = [
        [line for line in FLOWS["keyed"].request(a_catalogue()).split(b"\r\n") if b"Key" in line] for _ in range(2)
    ]
    assert keyed[0] != keyed[1]
    assert len(keyed[0]) == 1


class FakeShop:
    """An order service with these orders, and a product service with what is reserved for them."""

    def __init__(self, *orders: dict[str, Any], reserved: int, stock: int | None = None):
        self._orders = orders
        self._units = Units(STOCK - reserved if stock is None else stock, reserved, 0)

    def __call__(self, api: Deployment) -> "FakeShop":
        return self

    def orders_of(self, user: dict[str, Any]) -> list[dict[str, Any]]:
        return list(self._orders)

    def units(self, product: dict[str, Any]) -> Units:
        return self._units if product["id"] == ID.format(1) else Units(STOCK, 0, 0)


ORDER = {"id": ID.format(9), "status": "confirmed", "items": [{"product_id": ID.format(1), "quantity": 3}]}
OTHER = {**ORDER, "id": ID.format(10)}


@pytest.mark.parametrize(
    ("shop", "fault"),
    [
        (FakeShop(ORDER, reserved=3), None),
        (FakeShop(reserved=3), "1 acknowledged orders are not there"),
        (FakeShop({**ORDER, "status": "pending"}, reserved=3), "1 acknowledged orders are not confirmed"),
        (FakeShop(ORDER, OTHER, reserved=3), "1 orders are there that were not acknowledged"),
        (FakeShop(ORDER, reserved=2), "1 products have reserved less than was sold"),
        (FakeShop(ORDER, reserved=4), "1 products have reserved more than was sold"),
        (FakeShop(ORDER, reserved=3, stock=STOCK), "1 products do not add up"),
    ],
)
def test_what_does_not_agree_with_the_acknowledged_orders_is_noticed(
    shop: FakeShop, fault: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "Shop", shop)
    catalogue = a_catalogue(json.dumps(ORDER).encode())

    if fault is None:
        check_orders(Deployment(["http://127.0.0.1:1"]), catalogue)
    else:
        with pytest.raises(LoadError, match=fault):
            check_orders(Deployment(["http://127.0.0.1:1"]), catalogue)


def test_a_request_without_an_answer_may_be_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "Shop", FakeShop(ORDER, OTHER, reserved=6))
    check_orders(Deployment(["http://127.0.0.1:1"]), a_catalogue(json.dumps(ORDER).encode()), all_answered=False)


def test_one_url_is_that_of_all_services() -> None:
    gateway = Deployment(["http://shop.example:81/"])
    assert {gateway.address(service) for service in SERVICES} == {("shop.example", 81)}
    each = Deployment([f"http://{service}" for service in SERVICES])
    assert each.address("order") == ("order", 80)


@pytest.mark.parametrize("urls", [[], ["https://a"], ["http://a/api"], ["a:80"], ["http://a", "http://b"]])
def test_other_urls_are_refused(urls: list[str]) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        Deployment(urls)


def test_the_variables_are_the_defaults_of_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWS", "orders,reads")
    monkeypatch.setenv("CONC", "4, 8")
    found = options(["--conc", "2", "--rounds", "1"])
    assert (found.flows, found.clients, found.rounds) == (["orders", "reads"], [2], 1)


@pytest.mark.parametrize(
    "given", [["--flows", "orders,no"], ["--conc", "0"], ["--rounds", "x"], ["--flows", ","], ["--duration", "-1"]]
)
def test_wrong_options_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options(given)
    assert "error" in capsys.readouterr().err
