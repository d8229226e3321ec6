"""Every member of a product, a change of stock and a reservation that can be written is read back as it was written."""

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.data.database import Database
from libs.common.ids import new_id
from libs.common.money import CURRENCIES
from product_service.clients import FakeUsers
from product_service.models import Adjustment
from tests.factories import a_product, a_reservation
from tests.integration.product_service.shop import Shop
from tests.integration.round_trips import Resource, bodies, round_trips, shape
from tests.web import Api, answered

PRICES = ["0", 0, "19.99", 19.99, 5, "5.0", 1e3, "99999999999.99", 99999999999]


@pytest.mark.parametrize("method", ["post", "put", "patch"])
def test_every_member_of_a_product_is_read_back(api: Api, users: FakeUsers, method: str) -> None:
    seller = new_id()
    users.known.add(seller)
    # Once is enough.
    currencies = {} if method == "post" else {"currency": ["USD", "JPY", "KWD", "CLF"]}
    given = {"price": PRICES, "seller_id": [seller, None], **currencies}
    products = Resource("product", "/products", lambda **body: a_product(**{"price": "7", **body}), given)
    for expected, found in round_trips(api, products, method, category="old", sku="old", description="Old."):
        price, shown = Decimal(str(expected.pop("price"))), found["price"]
        assert (Decimal(shown), len(shown.partition(".")[2])) == (price, CURRENCIES[found["currency"]])
        assert expected.items() <= found.items()


def test_every_change_of_stock_is_read_back(shop: Shop, db: Database) -> None:
    deltas = [-(10**12) + 1, -1, 1, 10**12 - 1]  # 0 changes nothing, and is not kept
    for body in bodies("product", "post", "/products/{product_id}/stock", {"delta": deltas}):
        sent: dict[str, Any] = {"delta": 3, "reason": "A count.", **body}
        product = shop.product(stock=max(0, -sent["delta"]))
        answered(shop.api.post(f"/products/{product}/stock", sent))
        assert shop.units(product) == (max(0, sent["delta"]), 0, 0)
        kept = sa.select(Adjustment.delta, Adjustment.reason).where(Adjustment.product_id == product)
        with db.read() as connection:
            assert connection.execute(kept).one()._mapping == sent


def test_every_reservation_is_read_back(shop: Shop) -> None:
    assert shape("product", "post", "/reservations").keys() == {"order_id", "items"}
    for wanted in reservations(shop):
        answer = answered(shop.api.post("/reservations", wanted), 201)
        assert_read_back(shop, wanted, answer)
        (again,) = shop.batch({**wanted, "request_id": "r" * 128})
        assert again == {"status": 201, "body": answer}


def test_every_reservation_of_a_batch_is_read_back(shop: Shop) -> None:
    assert shape("product", "post", "/reservations/batch").keys() == {"reservations"}
    batch = [{**wanted, "request_id": "r" * 128} for wanted in reservations(shop)]
    for wanted, outcome in zip(batch, shop.batch(*batch), strict=True):
        assert outcome["status"] == 201
        assert_read_back(shop, wanted, outcome["body"])


def reservations(shop: Shop) -> list[dict[str, Any]]:
    """New ones of two products, of one, and of one in two lines, each with the quantities of both ends."""
    first, second = shop.product(stock=10**12, name="é😀", price="19.99"), shop.product(stock=10**12, price="7")
    return [
        a_reservation(*((product, quantity) for product in products))
        for quantity in (1, 2, 999_999, 1_000_000)
        for products in ((first, second), (first,), (first, first))
    ]


def assert_read_back(shop: Shop, wanted: dict[str, Any], answer: dict[str, Any]) -> None:
    """Check that the answer is what is read back, and has the values of the request."""
    assert answer == answered(shop.api.get(f"/reservations/{wanted['order_id']}"))
    assert (answer["order_id"], answer["status"]) == (wanted["order_id"], "reserved")
    units: Counter[str] = Counter()
    for line in wanted["items"]:
        units[line["product_id"]] += line["quantity"]
    assert {line["product_id"]: line["quantity"] for line in answer["items"]} == units
    assert (answer["items"][0]["name"], answer["items"][0]["unit_price"]) == ("é😀", "19.99")
