import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from alembic import command
from flask import Flask

from libs.common import migrate
from libs.common.data.database import Database
from libs.common.errors import DependencyUnavailable
from libs.common.ids import new_id
from product_service.clients import FakeUsers
from product_service.models import MAX_STOCK, Product, products
from tests.factories import a_product
from tests.integration.contents import contents
from tests.integration.lists import Filter, Sorts, come_and_go, compare, compare_while_changing, tie, walk
from tests.integration.product_service.shop import Shop
from tests.web import Api, answered, refused

Create = Callable[..., dict[str, Any]]
UNKNOWN = "01a20598-7494-7095-a5b5-38cc38be70f6"
READ_ONLY = {
    "id": UNKNOWN, "reserved": 0, "sold": 0, "created_at": "2026-01-31T12:00:00Z", "updated_at": "2026-01-31T12:00:00Z",
    "version": 1,
}  # fmt: skip


# Create ------------------------------------------------------------------------------------------------------------


def test_a_new_product_is_answered_whole_with_where_it_is(api: Api) -> None:
    answer = api.post("/products", {"name": "Laptop", "price": "2499.99", "stock": 25})
    product = answered(answer, 201)
    assert {name: value for name, value in product.items() if name not in ("id", "created_at", "updated_at")} == {
        "sku": None, "name": "Laptop", "description": "", "category": None, "price": "2499.99", "currency": "EUR",
        "stock": 25, "reserved": 0, "sold": 0, "seller_id": None, "version": 1,
    }  # fmt: skip
    assert answer.headers["Location"] == f"/api/v1/products/{product['id']}"
    assert answer.headers["ETag"] == '"1"'
    assert answered(api.get(f"/products/{product['id']}")) == product


PRICES = [
        ("19.99", "EUR", "19.99"), (19.99, "EUR", "19.99"), (5, "EUR", "5.00"), ("5", "EUR", "5.00"), (0, "EUR", "0.00"),
        ("19.9", "USD", "19.90"), ("1.10", "EUR", "1.10"), ("1500", "JPY", "1500"), ("1500.0", "JPY", "1500"),
        ("1.234", "KWD", "1.234"), (1.2345, "CLF", "1.2345"), ("99999999999.99", "EUR", "99999999999.99"), (1e3, "EUR", "1000.00"),
]  # fmt: skip
NO_PRICES = [
        ("1e3", "EUR"), ("NaN", "EUR"), ("Infinity", "EUR"), (1.005, "EUR"), ("1.005", "EUR"), (-1, "EUR"), ("-1", "EUR"),
        ("-0.01", "EUR"), ("", "EUR"), (" 1", "EUR"), ("1,00", "EUR"), (None, "EUR"), (True, "EUR"), ([], "EUR"),
        ("100000000000", "EUR"), (10**11, "EUR"), ("1.5", "JPY"), (1.0005, "KWD"), ("1.00005", "CLF"), ("1\u0660", "EUR"),
]  # fmt: skip


def test_a_price_is_told_with_the_digits_of_its_currency(api: Api) -> None:
    for sent, currency, told in PRICES:
        product = answered(api.post("/products", a_product(price=sent, currency=currency)), 201)
        assert (product["price"], product["currency"]) == (told, currency)
        assert answered(api.get(f"/products/{product['id']}"))["price"] == told


def test_a_price_that_is_none_is_refused(api: Api, db: Database) -> None:
    before = contents(db)
    for price, currency in NO_PRICES:
        answer = api.post("/products", a_product(price=price, currency=currency))
        refused(answer, 422, "validation-failed", "/price")
    assert contents(db) == before


INVALID = {
    "name": ["", "x" * 201, "a\x00", "\ud800", 5, None],
    "description": ["x" * 5001, "\x00", None, 5],
    "category": ["", "x" * 101, "\udfff"],
    "sku": ["", "x" * 65, "a\x00", 5],
    "currency": ["eur", "XXX", "", None, 978, "EUR\n"],
    "stock": [-1, 1.5, "2", True, None, MAX_STOCK + 1, 10**30],
    "seller_id": ["", "x", 5, UNKNOWN + "0"],
    "surprise": [1],
    **{name: [value] for name, value in READ_ONLY.items()},
}


@pytest.mark.parametrize("member", INVALID)
def test_what_is_invalid_is_pointed_at_and_changes_nothing(api: Api, db: Database, member: str) -> None:
    before = contents(db)
    for value in INVALID[member]:
        refused(api.post("/products", a_product(**{member: value})), 422, "validation-failed", f"/{member}")
    assert contents(db) == before


def test_what_is_valid_is_stored_as_it_was_sent(api: Api) -> None:
    for member, value in (
        ("name", "é" * 200), ("name", "😀"), ("description", "x" * 5000), ("category", "x" * 100), ("category", None),
        ("sku", "é" * 64), ("sku", None), ("stock", 0), ("stock", MAX_STOCK), ("stock", 2.0), ("seller_id", None),
        ("description", "\u2028 ' \" \\ % _ ; --"),
    ):  # fmt: skip
        product = answered(api.post("/products", a_product(**{member: value})), 201)
        assert product[member] == value
        assert answered(api.get(f"/products/{product['id']}")) == product


def test_a_sku_is_taken_by_one_product(api: Api, create: Create) -> None:
    create(sku="A-1")
    refused(api.post("/products", a_product(sku="A-1")), 409, "sku-taken")
    create(sku="a-1")
    create(sku=None)
    create(sku=None)


def test_the_sku_of_a_deleted_product_is_free_again(api: Api, create: Create) -> None:
    product = create(sku="A-1")
    assert api.delete(f"/products/{product['id']}").status_code == 204
    create(sku="A-1")


# The seller --------------------------------------------------------------------------------------------------------


class DownUsers(FakeUsers):
    def exists(self, user_id: str) -> bool:
        raise DependencyUnavailable("The user service is unavailable.")


def test_a_seller_is_a_user(api: Api, create: Create, users: FakeUsers) -> None:
    seller = new_id()
    refused(api.post("/products", a_product(seller_id=seller)), 422, "unknown-user", "/seller_id")
    users.known.add(seller)
    assert create(seller_id=seller.upper())["seller_id"] == seller


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_seller_is_a_user_in_a_change_too(api: Api, create: Create, users: FakeUsers, method: str) -> None:
    product = create()
    body = {"name": "Laptop", "price": "1", "seller_id": new_id()}
    refused(api.send(method, f"/products/{product['id']}", body), 422, "unknown-user", "/seller_id")
    assert answered(api.get(f"/products/{product['id']}")) == product
    users.known.add(body["seller_id"])
    assert answered(api.send(method, f"/products/{product['id']}", body))["seller_id"] == body["seller_id"]


def test_a_user_service_that_is_down_is_not_a_user_that_is_unknown(make_service: Callable[..., Any]) -> None:
    api = Api(make_service("product", users=DownUsers()))
    answer = api.post("/products", a_product(seller_id=new_id()))
    refused(answer, 503, "dependency-unavailable")
    # Without a seller the user service is not called.
    answered(api.post("/products", a_product()), 201)


def test_the_user_service_is_asked_before_the_transaction(make_service: Callable[..., Any], monkeypatch: Any) -> None:
    seller = new_id()

    class Users(FakeUsers):
        def exists(self, user_id: str) -> bool:
            with db.write():
                return True

    app = make_service("product", users=Users())
    db = app.extensions["quintet"].db
    monkeypatch.setattr("libs.common.data.engines.LOCK_WAIT_SECONDS", 0.1)
    answered(Api(app).post("/products", a_product(seller_id=seller)), 201)


def test_a_stored_answer_is_told_again_whatever_became_of_the_seller(
    make_service: Callable[..., Any], users: FakeUsers, database_url: str, api: Api, db: Database
) -> None:
    seller = new_id()
    users.known.add(seller)
    body, headers = a_product(seller_id=seller), {"Idempotency-Key": "k"}
    first = api.post("/products", body, headers=headers)
    answered(first, 201)
    users.known.clear()
    again = api.post("/products", body, headers=headers)
    assert (again.status_code, again.data) == (201, first.data)
    assert again.headers["Idempotent-Replayed"] == "true"
    refused(api.post("/products", {**body, "name": "Other"}, headers=headers), 422, "idempotency-key-reused")


# Change ------------------------------------------------------------------------------------------------------------


def test_put_replaces_and_what_is_left_out_falls_back_to_its_default(api: Api, create: Create) -> None:
    product = create(sku="A", description="Old", category="old", currency="USD", price="1.50", stock=7)
    changed = answered(api.put(f"/products/{product['id']}", {"name": "New", "price": "3"}))
    assert changed == {
        **product, "name": "New", "price": "3.00", "currency": "EUR", "sku": None, "description": "", "category": None,
        "version": 2, "updated_at": changed["updated_at"],
    }  # fmt: skip
    assert answered(api.get(f"/products/{product['id']}")) == changed


def test_patch_changes_what_it_names(api: Api, create: Create) -> None:
    product = create(sku="A", description="Old", category="old")
    changed = answered(api.patch(f"/products/{product['id']}", {"price": 3.5, "category": None}))
    assert changed == {
        **product, "price": "3.50", "category": None, "version": 2, "updated_at": changed["updated_at"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("PATCH", {}), ("PATCH", {"price": 1.5, "category": None, "currency": None}),
        ("PUT", {"name": "Laptop", "price": "1.5", "sku": "A"}),
    ],
)  # fmt: skip
def test_a_change_that_leaves_all_as_it_is_writes_nothing_and_publishes_nothing(
    api: Api, create: Create, db: Database, method: str, body: dict[str, Any]
) -> None:
    product = create(name="Laptop", price="1.50", sku="A")
    before = contents(db)
    answer = api.send(method, f"/products/{product['id']}", body)
    assert answered(answer) == product
    assert answer.headers["ETag"] == '"1"'
    assert contents(db) == before


@pytest.mark.parametrize(
    ("patch", "told"),
    [
        ({"currency": "JPY", "price": "100"}, "100"), ({"currency": "KWD"}, "19.990"), ({"price": "1.5"}, "1.50"),
        ({"currency": "KWD", "price": "1.234"}, "1.234"),
    ],
)  # fmt: skip
def test_a_patch_of_the_currency_or_the_price_is_judged_with_the_other(
    api: Api, create: Create, patch: dict[str, str], told: str
) -> None:
    product = create(price="19.99")
    assert answered(api.patch(f"/products/{product['id']}", patch))["price"] == told


def test_a_patch_that_leads_to_a_price_that_is_none_is_refused(api: Api, create: Create, db: Database) -> None:
    product = create(price="19.99")
    before = contents(db)
    for patch in ({"currency": "JPY"}, {"price": "1.234"}, {"currency": "JPY", "price": "1.5"}):
        refused(api.patch(f"/products/{product['id']}", patch), 422, "validation-failed", "/price")
    assert contents(db) == before


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_read_only_members_and_the_stock_are_refused(api: Api, create: Create, method: str) -> None:
    product = create()
    for member in (*READ_ONLY, "stock", "surprise"):
        body = {"name": "Laptop", "price": "1", member: product.get(member, 1)}
        refused(api.send(method, f"/products/{product['id']}", body), 422, "validation-failed", f"/{member}")


def test_a_sku_of_another_is_refused_in_a_change_too(api: Api, create: Create) -> None:
    create(sku="taken")
    product = create(sku="own")
    refused(api.patch(f"/products/{product['id']}", {"sku": "taken"}), 409, "sku-taken")
    assert answered(api.get(f"/products/{product['id']}")) == product


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_change_that_names_another_version_is_refused(api: Api, create: Create, method: str) -> None:
    product = create()
    path, body = f"/products/{product['id']}", None if method == "DELETE" else {"name": "New", "price": "1"}
    answer = api.send(method, path, body, headers={"If-Match": '"2"'})
    refused(answer, 412, "precondition-failed")
    assert answer.headers["ETag"] == '"1"'
    assert answered(api.get(path)) == product
    assert api.send(method, path, body, headers={"If-Match": '"1"'}).status_code in (200, 204)


def test_a_stock_adjustment_by_0_writes_nothing_and_publishes_nothing(api: Api, create: Create, db: Database) -> None:
    product = create()
    before = contents(db)
    answer = api.post(f"/products/{product['id']}/stock", {"delta": 0, "reason": "count"})
    assert answered(answer) == product
    assert answer.headers["ETag"] == '"1"'
    assert contents(db) == before


@pytest.mark.parametrize("headers", [{"If-Match": '"2"'}, {"If-None-Match": '"1"'}, {"If-None-Match": "*"}])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "", {"name": "New", "price": "1"}), ("PATCH", "", {"name": "New"}), ("DELETE", "", None),
        ("POST", "/stock", {"delta": 1, "reason": "count"}),
    ],
)  # fmt: skip
def test_nothing_changes_where_a_precondition_does_not_hold(
    api: Api, create: Create, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    product = create()
    answer = api.send(method, f"/products/{product['id']}{path}", body, headers=headers)
    refused(answer, 412, "precondition-failed")
    assert answer.headers["ETag"] == '"1"'
    assert answered(api.get(f"/products/{product['id']}")) == product


def test_a_change_of_stock_that_was_answered_is_repeated_whatever_its_precondition(api: Api, create: Create) -> None:
    product, change = create(), {"delta": 1, "reason": "count"}
    headers = {"If-Match": '"1"', "Idempotency-Key": "k"}
    path = f"/products/{product['id']}/stock"
    first, again = (answered(api.post(path, change, headers=headers)) for _ in range(2))
    assert first == again


def test_a_key_is_known_again_however_the_path_is_written(api: Api, create: Create) -> None:
    product, change = create(), {"delta": 1, "reason": "count"}
    headers = {"Idempotency-Key": "k"}
    for given in (product["id"], product["id"].upper(), product["id"].title()):
        answered(api.post(f"/products/{given}/stock", change, headers=headers))
    assert answered(api.get(f"/products/{product['id']}"))["stock"] == product["stock"] + 1


def test_a_cursor_fits_the_same_filters_in_another_notation(api: Api, create: Create, users: FakeUsers) -> None:
    seller = new_id()
    users.known.add(seller)
    for _ in range(3):
        create(seller_id=seller)
    first = answered(api.get(f"/products?limit=1&seller_id={seller}&min_price=0.50"))
    cursor = first["next_cursor"]
    assert answered(api.get(f"/products?limit=1&min_price=0.5&seller_id={seller.upper()}&cursor={cursor}"))["items"]
    refused(api.get(f"/products?limit=1&min_price=0.5&cursor={cursor}"), 400, "malformed-request")


def test_a_product_that_is_not_the_one_that_was_named_is_not_shown(api: Api, create: Create) -> None:
    path = f"/products/{create()['id']}"
    refused(api.get(path, headers={"If-Match": '"2"'}), 412, "precondition-failed")
    refused(api.get(path, headers={"If-Match": '"2"', "If-None-Match": '"1"'}), 412, "precondition-failed")
    assert api.get(path, headers={"If-Match": '"1"'}).status_code == 200
    assert api.get(path, headers={"If-Match": '"1"', "If-None-Match": '"1"'}).status_code == 304


def test_an_etag_that_is_known_needs_no_answer_until_the_product_changes(shop: Shop) -> None:
    product = shop.product()
    path = f"/products/{product}"
    tag = shop.api.get(path).headers["ETag"]
    assert shop.api.get(path, headers={"If-None-Match": tag}).status_code == 304
    shop.reserved((product, 1))
    assert shop.api.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_an_unknown_product_is_not_found(api: Api) -> None:
    for method, path, body in (
        ("GET", "", None), ("PUT", "", a_product()), ("PATCH", "", {}), ("DELETE", "", None),
        ("POST", "/stock", {"delta": 1, "reason": "x"}),
    ):  # fmt: skip
        body = {k: v for k, v in body.items() if k != "stock"} if body else body
        refused(api.send(method, f"/products/{UNKNOWN}{path}", body), 404, "not-found")


# Delete ------------------------------------------------------------------------------------------------------------


def test_a_deleted_product_is_gone_for_everyone(api: Api, create: Create) -> None:
    product = create()
    assert api.delete(f"/products/{product['id']}").status_code == 204
    for method, path, body in (
        ("GET", "", None), ("PATCH", "", {}), ("DELETE", "", None), ("POST", "/stock", {"delta": 1, "reason": "x"}),
    ):  # fmt: skip
        refused(api.send(method, f"/products/{product['id']}{path}", body), 404, "not-found")
    assert walk(api, "/products", {}) == []
    assert walk(api, "/products", {"q": "Laptop"}) == []


def test_a_product_in_use_is_not_deleted(shop: Shop) -> None:
    product = shop.product(stock=5)
    order = shop.reserved((product, 2))
    refused(shop.api.delete(f"/products/{product}"), 409, "product-in-use")
    assert shop.units(product) == (3, 2, 0)
    shop.release(order)
    assert shop.api.delete(f"/products/{product}").status_code == 204


def test_a_product_that_was_only_sold_may_be_deleted(shop: Shop) -> None:
    product = shop.product(stock=5)
    shop.tell("shipped", shop.reserved((product, 2)))
    assert shop.api.delete(f"/products/{product}").status_code == 204


# Stock -------------------------------------------------------------------------------------------------------------


def adjust(api: Api, product_id: str, delta: Any, **given: Any) -> Any:
    return api.post(f"/products/{product_id}/stock", {"delta": delta, "reason": "delivery"}, **given)


def test_stock_is_put_in_and_taken_out(api: Api, create: Create) -> None:
    product = create(stock=5)
    answer = adjust(api, product["id"], 10)
    assert answered(answer) == {
        **product, "stock": 15, "version": 2, "updated_at": answer.json["updated_at"],
    }  # fmt: skip
    assert answer.headers["ETag"] == '"2"'
    assert answered(adjust(api, product["id"], -15))["stock"] == 0


def test_an_adjustment_is_kept_with_its_reason(api: Api, create: Create, db: Database) -> None:
    product = create(stock=5)
    answered(api.post(f"/products/{product['id']}/stock", {"delta": -2, "reason": "broken"}))
    refused(api.post(f"/products/{product['id']}/stock", {"delta": -9, "reason": "never"}), 409, "insufficient-stock")
    assert [(row.delta, row.reason) for row in contents_of(db, "adjustments")] == [(-2, "broken")]


def contents_of(db: Database, table: str) -> list[Any]:
    with db.read() as connection:
        return list(connection.execute(sa.select("*").select_from(sa.table(table))))


def test_below_zero_there_is_no_stock(api: Api, create: Create) -> None:
    product = create(stock=5)
    document = refused(adjust(api, product["id"], -6), 409, "insufficient-stock", "/delta")
    assert document["errors"][0]["available"] == 5
    assert answered(api.get(f"/products/{product['id']}")) == product


def test_what_is_reserved_cannot_be_taken_out(shop: Shop) -> None:
    product = shop.product(stock=5)
    shop.reserved((product, 3))
    refused(adjust(shop.api, product, -3), 409, "insufficient-stock")
    answered(adjust(shop.api, product, -2))
    assert shop.units(product) == (0, 3, 0)


def test_stock_has_a_bound(api: Api, create: Create) -> None:
    product = create(stock=MAX_STOCK)
    refused(adjust(api, product["id"], 1), 422, "validation-failed", "/delta")
    assert answered(adjust(api, product["id"], -MAX_STOCK))["stock"] == 0


def test_what_is_no_adjustment_is_refused(api: Api, create: Create) -> None:
    product = create()
    for delta in (1.5, "2", None, True, 10**13, -(10**13), []):
        refused(adjust(api, product["id"], delta), 422, "validation-failed", "/delta")
    for reason in ("", "x" * 201, None, 5, "\x00"):
        answer = api.post(f"/products/{product['id']}/stock", {"delta": 1, "reason": reason})
        refused(answer, 422, "validation-failed", "/reason")
    assert answered(api.get(f"/products/{product['id']}")) == product


def test_an_adjustment_with_a_key_is_made_once(api: Api, create: Create) -> None:
    product, other = create(stock=5), create(stock=5)
    first = adjust(api, product["id"], 10, headers={"Idempotency-Key": "k"})
    again = adjust(api, product["id"], 10, headers={"Idempotency-Key": "k"})
    assert (again.data, again.headers["Idempotent-Replayed"]) == (first.data, "true")
    assert answered(api.get(f"/products/{product['id']}"))["stock"] == 15
    # Another product is another operation.
    assert answered(adjust(api, other["id"], 10, headers={"Idempotency-Key": "k"}))["stock"] == 15


def test_a_refused_adjustment_is_stored_under_its_key(api: Api, create: Create) -> None:
    product = create(stock=5)
    first = adjust(api, product["id"], -6, headers={"Idempotency-Key": "k"})
    refused(first, 409, "insufficient-stock")
    adjust(api, product["id"], 100)
    again = adjust(api, product["id"], -6, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.data, again.headers["Idempotent-Replayed"]) == (409, first.data, "true")
    assert answered(api.get(f"/products/{product['id']}"))["stock"] == 105


def test_what_is_wrong_only_with_the_present_stock_claims_no_key(api: Api, create: Create) -> None:
    product = create(stock=MAX_STOCK)
    headers = {"Idempotency-Key": "k"}
    refused(adjust(api, product["id"], 1, headers=headers), 422, "validation-failed", "/delta")
    adjust(api, product["id"], -5)
    assert answered(adjust(api, product["id"], 1, headers=headers))["stock"] == MAX_STOCK - 4


# Lists -------------------------------------------------------------------------------------------------------------

WORDS = ["red", "green", "blue", "Laptop", "bag"]


def words(item: dict[str, Any]) -> set[str]:
    return set(f"{item['name']} {item['description']}".lower().split())


SORTS: Sorts = {
    "created_at": lambda p: p["created_at"], "name": lambda p: p["name"], "price": lambda p: Decimal(p["price"]),
}  # fmt: skip


def test_lists_are_what_a_plain_look_at_all_products_says(
    api: Api, create: Create, users: FakeUsers, db: Database
) -> None:
    sellers = [new_id(), new_id()]
    users.known |= set(sellers)
    made = []
    for n in range(42):
        made.append(
            create(
                name=f"{WORDS[n % 5]} {WORDS[n // 5 % 5]}",
                description=["", "Blue and round", "green"][n % 3],
                price=["5", "10.00", "9.99", "100", "0", "10.01"][n % 6],
                stock=n % 4,
                category=["tools", "toys", None][n % 3],
                seller_id=[*sellers, None][n // 2 % 3],
                currency=["EUR", "USD"][n % 2],
            )  # fmt: skip
        )
    for product in made[3::8]:
        api.delete(f"/products/{product['id']}")
    del made[3::8]
    # The search finds a changed text, and no longer the old one.
    made[0] = answered(api.patch(f"/products/{made[0]['id']}", {"name": "red bag", "description": "Hidden treasure"}))
    made[1] = answered(adjust(api, made[1]["id"], -made[1]["stock"])) if made[1]["stock"] else made[1]
    tie(db, products)
    made = [answered(api.get(f"/products/{product['id']}")) for product in made]
    some = [product["id"] for product in made[::3]]
    filters: list[Filter] = [
        ({"q": "blue"}, lambda p: "blue" in words(p)),
        ({"q": "GREEN laptop"}, lambda p: {"green", "laptop"} <= words(p)),
        ({"q": "treasure"}, lambda p: "treasure" in words(p)),
        ({"category": "tools"}, lambda p: p["category"] == "tools"),
        ({"seller_id": sellers[0]}, lambda p: p["seller_id"] == sellers[0]),
        ({"min_price": "9.99"}, lambda p: Decimal(p["price"]) >= Decimal("9.99")),
        ({"max_price": "10"}, lambda p: Decimal(p["price"]) <= 10),
        ({"in_stock": "true"}, lambda p: p["stock"] > 0),
        ({"in_stock": "false"}, lambda p: p["stock"] == 0),
        ({"ids": ",".join(some)}, lambda p: p["id"] in some),
    ]
    assert compare(api, "/products", made, filters, SORTS, together=2) > 300


def test_products_that_come_and_go_and_change_while_somebody_pages_are_where_they_belong(
    api: Api, create: Create
) -> None:
    prices, dice = ["5", "10.00", "9.99"], random.Random(20260131)
    known = [create(name=WORDS[n % 5], price=prices[n % 3])["id"] for n in range(15)]

    def change() -> None:
        come_and_go(
            dice, known,
            lambda: create(name=dice.choice(WORDS), price=dice.choice(prices))["id"],
            lambda product: answered(api.patch(f"/products/{product}", {"price": dice.choice(prices)})),
            lambda product: api.delete(f"/products/{product}"),
        )  # fmt: skip

    compare_while_changing(
        api, "/products", SORTS, lambda: [answered(api.get(f"/products/{product}")) for product in known], change
    )


def test_without_a_sort_the_newest_come_first(api: Api, create: Create) -> None:
    made = [create() for _ in range(5)]
    assert walk(api, "/products", {"limit": "2"}) == made[::-1]


def test_a_search_for_blanks_is_refused(api: Api) -> None:
    for q in (" ", "\t", "\u2028"):
        refused(api.get("/products", query_string={"q": q}), 422, "validation-failed", "/q")


def test_no_words_break_the_search(api: Api, create: Create) -> None:
    create()
    for q in (
        '"', '""', "'", "*", "a*", "NEAR", "NEAR(a b)", "AND", "OR", "NOT x", "a AND", "-", "--", "+a", "^a", "(", ")", "{}",
        "a:b", "name:laptop", ":", "\\", "%", "_", "&", "|", "!", "<->", "a & b", ";", " a ", "😀", "ß", "é", "a\u2028", "a\t",
        "x" * 200, '"a', 'laptop"', "laptop' OR '1'='1",
    ):  # fmt: skip
        answer = api.get("/products", query_string={"q": q})
        assert answer.status_code == 200, (q, answer.text)


def test_every_word_counts_wherever_it_stands(api: Api, create: Create) -> None:
    found = create(name="Laptop 15", description="A gray one")
    create(name="Lamp", description="A white one")
    for q in ("laptop", "LAPTOP", "Laptop 15", "15 laptop", "gray", "  laptop  "):
        assert answered(api.get("/products", query_string={"q": q}))["items"] == [found]
    for q in ("lap", "laptop white", "zebra", "!!!"):
        assert answered(api.get("/products", query_string={"q": q}))["items"] == []


def test_the_search_folds_case_alike_on_every_server(api: Api, create: Create) -> None:
    for name, asked in (
        ("Ärger", ("ärger", "ÄRGER", "A\u0308rger")), ("İzmir", ("izmir", "İZMİR", "IZMIR")), ("Straße", ("STRASSE", "straße")),
        ("ΟΔΟΣ", ("οδος", "οδοσ")), ("ﬁsh", ("FISH",)), ("हिन्दी", ("हिन्दी",)), ("x" * 200, ("X" * 200,)),
    ):  # fmt: skip
        found = create(name=name)
        for q in asked:
            assert answered(api.get("/products", query_string={"q": q}))["items"] == [found], q


def test_products_of_before_are_found_by_their_folded_words(
    database_url: str, open_database: Callable[[str], Database]
) -> None:
    db = open_database(database_url)
    with migrate._locked(db) as connection:
        command.upgrade(migrate._config("product_service", connection), "product_0001")
        connection.commit()
    new = Product.new(
        name="Straße", description="Ärger, ÄRGER", price=Decimal(1), currency="EUR", sku=None, category=None,
        seller_id=None, stock=1,
    )  # fmt: skip
    with db.write() as session:
        session.add(new)
    migrate.upgrade(db, "product_service")
    with db.read() as connection:
        assert connection.scalar(sa.text("SELECT words FROM product_words")) == "strasse ärger"


def test_the_search_finds_what_is_there_now(api: Api, create: Create) -> None:
    product = create(name="Laptop", description="gray")
    api.patch(f"/products/{product['id']}", {"description": "white"})
    assert answered(api.get("/products?q=gray"))["items"] == []
    assert len(answered(api.get("/products?q=white"))["items"]) == 1
    api.delete(f"/products/{product['id']}")
    assert answered(api.get("/products?q=white"))["items"] == []


def test_a_question_that_makes_no_sense_is_refused(api: Api) -> None:
    for query in (
        "limit=0", "sort=stock", "sort=", "min_price=x", "min_price=-1", "max_price=1e3", "max_price=NaN", "in_stock=1",
        "in_stock=", "seller_id=x", "ids=x", "q=", "q=%00", "category=%00", "surprise=1", "name=x",
    ):  # fmt: skip
        refused(api.get(f"/products?{query}"), 422, "validation-failed", f"/{query.split('=')[0]}")


# Events and stats --------------------------------------------------------------------------------------------------


def test_every_change_is_told_with_ids_and_facts(app: Flask, api: Api, create: Create, db: Database) -> None:
    # A broker gets all events; these have no subscriber yet.
    app.extensions["quintet"].owner.has_broker = True
    product = create(price="5", stock=3)
    api.patch(f"/products/{product['id']}", {"price": 6.5})
    adjust(api, product["id"], 4)
    api.delete(f"/products/{product['id']}")
    with db.read() as connection:
        told = [orjson.loads(body) for body in connection.scalars(sa.text("SELECT body FROM outbox ORDER BY seq"))]
    same = {"product_id": product["id"]}
    assert [(event["type"], event["data"]) for event in told[:3]] == [
        ("product.created.v1", {**same, "price": "5.00", "currency": "EUR", "stock": 3, "version": 1}),
        ("product.updated.v1", {**same, "price": "6.50", "currency": "EUR", "stock": 3, "version": 2}),
        ("product.stock_adjusted.v1", {**same, "delta": 4, "stock": 7, "version": 3}),
    ]
    assert told[3]["type"] == "product.deleted.v1"
    assert told[3]["data"].pop("deleted_at").endswith("Z")
    assert told[3]["data"] == {**same, "version": 4}
    assert {event["subject"] for event in told} == {product["id"]}


def test_stats_count_products_and_units(shop: Shop) -> None:
    zero = {"total": 0, "stock_units": 0, "reserved_units": 0, "sold_units": 0}
    assert answered(shop.api.get("/products/stats")) == zero
    first, second = shop.product(stock=10), shop.product(stock=5)
    shop.reserved((first, 3))
    shop.tell("shipped", shop.reserved((first, 2), (second, 1)))
    assert answered(shop.api.get("/products/stats")) == {
        "total": 2, "stock_units": 9, "reserved_units": 3, "sold_units": 3,
    }  # fmt: skip
    shop.api.delete(f"/products/{second}")
    assert answered(shop.api.get("/products/stats")) == {
        "total": 1, "stock_units": 5, "reserved_units": 3, "sold_units": 2,
    }  # fmt: skip
