"""POST /orders, when it succeeds."""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from libs.common.ids import new_id
from libs.common.times import now, read_time
from tests.integration.order_service.shop import Shop
from tests.web import answered, refused

MEMBERS = {
    "id", "user_id", "status", "confirmed_at", "shipped_at", "delivered_at", "cancelled_at", "items", "total",
    "currency", "note", "rejection", "created_at", "updated_at", "version",
}  # fmt: skip
UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


def test_the_answer_is_the_confirmed_order_as_the_contract_draws_it(shop: Shop) -> None:
    other = shop.products.add(new_id(), price="2499.99", stock=25)
    before = now()

    order = answered(shop.place(shop.body((shop.product_id, 2), (other, 1), note="Ring twice.")), 201)

    assert set(order) == MEMBERS
    assert re.fullmatch(UUID7, order["id"])
    assert (order["status"], order["user_id"], order["note"]) == ("confirmed", shop.user_id, "Ring twice.")
    assert (order["total"], order["currency"], order["version"]) == ("2519.99", "EUR", 2)
    assert order["items"] == [
        {
            "product_id": shop.product_id,
            "name": shop.products.offers[shop.product_id]["name"],
            "quantity": 2,
            "unit_price": "10.00",
            "line_total": "20.00",
        },
        {
            "product_id": other,
            "name": shop.products.offers[other]["name"],
            "quantity": 1,
            "unit_price": "2499.99",
            "line_total": "2499.99",
        },
    ]
    assert order["rejection"] is order["shipped_at"] is order["delivered_at"] is order["cancelled_at"] is None
    assert before <= read_time(order["created_at"]) <= read_time(order["confirmed_at"]) <= now()
    assert order["updated_at"] == order["confirmed_at"]
    assert order["confirmed_at"].endswith("Z")


def test_the_location_names_the_order_and_the_etag_its_version(shop: Shop) -> None:
    answer = shop.place()

    order = answered(answer, 201)
    assert answer.headers["Location"] == f"/api/v1/orders/{order['id']}"
    assert answer.headers["ETag"] == '"2"'
    assert "Idempotent-Replayed" not in answer.headers
    again = shop.app.test_client().get(answer.headers["Location"])
    assert (again.status_code, again.data, again.headers["ETag"]) == (200, answer.data, '"2"')
    unchanged = shop.app.test_client().get(answer.headers["Location"], headers={"If-None-Match": '"2"'})
    assert (unchanged.status_code, unchanged.data) == (304, b"")


def test_the_path_without_a_version_means_the_current_one(shop: Shop) -> None:
    answer = shop.app.test_client().post("/api/orders", json=shop.body())

    assert answer.status_code == 201
    assert answer.headers["Location"].startswith("/api/v1/orders/")


def test_the_request_id_is_taken_or_made_returned_and_passed_on(shop: Shop) -> None:
    given = shop.place(headers={"X-Request-ID": "order-4711"})
    made = shop.place()

    assert given.headers["X-Request-ID"] == "order-4711"
    assert made.headers["X-Request-ID"] not in ("", "order-4711")
    assert [event["correlationid"] for event in shop.events()] == ["order-4711", made.headers["X-Request-ID"]]


def test_the_trace_goes_on_in_the_event(shop: Shop) -> None:
    shop.place(headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})

    (event,) = shop.events()
    assert event["traceparent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"


def test_the_same_product_twice_is_one_line(shop: Shop) -> None:
    order = shop.order((shop.product_id, 1), (shop.product_id, 2))

    assert [(line["product_id"], line["quantity"]) for line in order["items"]] == [(shop.product_id, 3)]
    assert shop.products.stock[shop.product_id] == 97


def test_an_id_is_taken_in_any_case_and_written_in_lower_case(shop: Shop) -> None:
    order = shop.order((shop.product_id.upper(), 1), user_id=shop.user_id.upper())

    assert (order["user_id"], order["items"][0]["product_id"]) == (shop.user_id, shop.product_id)


@pytest.mark.parametrize(("price", "currency", "total"), [("1999", "JPY", "3998"), ("0.125", "KWD", "0.250")])
def test_the_total_has_the_digits_of_its_currency(shop: Shop, price: str, currency: str, total: str) -> None:
    product_id = shop.products.add(new_id(), price=price, currency=currency)

    order = shop.order((product_id, 2))

    assert (order["total"], order["currency"]) == (total, currency)
    assert shop.get(order["id"]) == order


def test_the_largest_order_is_taken(shop: Shop) -> None:
    ids = [shop.products.add(new_id(), stock=10_000) for _ in range(100)]

    order = shop.order(*((product_id, 10_000) for product_id in ids), note="n" * 1000)

    assert [line["product_id"] for line in order["items"]] == ids
    assert order["total"] == "10000000.00"


def test_the_highest_total_is_an_amount_as_the_openapi_document_describes_it(shop: Shop) -> None:
    document = shop.app.test_client().get("/openapi.json").json["components"]["schemas"]

    total = shop.order((shop.products.add(new_id(), price="10000000000.00"), 100))["total"]

    assert total == "1000000000000.00"
    assert re.fullmatch(document["Order"]["properties"]["total"]["pattern"], total)
    (revenue,) = answered(shop.api.get("/orders/stats"))["revenue"]
    assert re.fullmatch(document["Revenue"]["properties"]["amount"]["pattern"], revenue["amount"])


def test_the_price_is_the_product_services_and_never_the_clients(shop: Shop) -> None:
    body = shop.body()
    body["items"][0]["unit_price"] = "0.01"

    refused(shop.place(body), 422, "validation-failed", "/items/0/unit_price")
    assert shop.nothing_happened()


def test_the_order_is_stored_pending_and_committed_before_anything_is_reserved(shop: Shop) -> None:
    seen: list[dict[str, Any]] = []
    shop.products.meanwhile = lambda: seen.extend(shop.rows())

    order = shop.order()

    (row,) = seen
    assert (row["id"], row["status"], row["version"]) == (order["id"], "pending", 1)
    assert row["lines"] == [{"product_id": shop.product_id, "quantity": 2}]
    assert (row["total"], row["currency"], row["confirmed_at"]) == (Decimal(0), None, None)


def test_a_pending_order_can_be_looked_at(shop: Shop) -> None:
    order = shop.get(shop.pend())

    assert set(order) == MEMBERS
    assert (order["status"], order["total"], order["currency"], order["version"]) == ("pending", None, None, 1)
    line = {"product_id": shop.product_id, "quantity": 2, "name": None, "unit_price": None, "line_total": None}
    assert order["items"] == [line]


def test_no_transaction_is_open_while_the_product_service_is_asked(shop: Shop) -> None:
    shop.products.meanwhile = lambda: shop.know(new_id())  # on SQLite a second writer would wait for the first

    shop.order()


def test_the_units_are_reserved_for_the_order_and_the_request(shop: Shop) -> None:
    order = shop.order((shop.product_id, 3))

    assert list(shop.products.reserved) == [order["id"]]
    assert shop.products.stock[shop.product_id] == 97


def test_the_confirmation_is_published_to_its_subscribers_with_the_order(shop: Shop) -> None:
    order = shop.order(note="Ring twice.")

    (event,) = shop.events()
    assert (event["type"], event["source"], event["subject"]) == ("order.confirmed.v1", "/order_service", order["id"])
    assert event["data"] == {
        "order_id": order["id"],
        "user_id": shop.user_id,
        "items": order["items"],
        "total": "20.00",
        "currency": "EUR",
        "confirmed_at": order["confirmed_at"],
        "version": 2,
    }
    assert shop.subscribers(event["id"]) == {"notification", "analytics"}


def test_the_order_may_be_driven_until_the_deadline_of_its_request(shop: Shop) -> None:
    limit = datetime.fromtimestamp(shop.row(shop.order()["id"])["drive_until"], now().tzinfo)

    assert timedelta(0) < limit - now() < timedelta(seconds=5)


def test_every_order_counts(shop: Shop) -> None:
    shop.order()
    shop.order()

    assert shop.totals() == {"status:confirmed": 2, "total": 2, "revenue:EUR": 400_000}
