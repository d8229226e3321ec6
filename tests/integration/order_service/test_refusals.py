"""POST /orders, when it is refused: the answer, and the state that is left."""

import json
import time
from typing import Any

import pytest

from libs.common import context
from libs.common.errors import DeadlineExceeded
from libs.common.ids import new_id
from order_service.checkout import Checkout, Verdict
from order_service.models import InsufficientStock
from tests.integration.order_service.shop import Shop, with_key
from tests.web import answered, refused

A_USER, A_PRODUCT = "0198c0de-0000-7000-8000-000000000001", "0198c0de-0000-7000-8000-000000000002"


def raw(**given: Any) -> bytes:
    """A body, with members as JSON text where Python has no such value."""
    members = {"user_id": f'"{A_USER}"', "items": f'[{{"product_id": "{A_PRODUCT}", "quantity": 1}}]', **given}
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in members.items() if value) + "}").encode()


def item(**given: Any) -> str:
    members = {"product_id": f'"{A_PRODUCT}"', "quantity": "1", **given}
    return "[{" + ", ".join(f'"{name}": {value}' for name, value in members.items() if value) + "}]"


# Refused before it began: nothing is stored, and no key is claimed ---------------------------------------------------


MALFORMED = [
    (b"{", 400, "malformed-request", None),
    (b"\xff", 400, "malformed-request", None),
    (raw(items="[NaN]"), 400, "malformed-request", None),
    (b"[]", 422, "validation-failed", ""),
    (raw(user_id=None), 422, "validation-failed", "/user_id"),
    (raw(user_id='"42"'), 422, "validation-failed", "/user_id"),
    (raw(user_id="null"), 422, "validation-failed", "/user_id"),
    (raw(items=None), 422, "validation-failed", "/items"),
    (raw(items="[]"), 422, "validation-failed", "/items"),
    (raw(items="{}"), 422, "validation-failed", "/items"),
    (raw(items=json.dumps([{"product_id": A_PRODUCT, "quantity": 1}] * 101)), 422, "validation-failed", "/items"),
    (raw(items=item(product_id=None)), 422, "validation-failed", "/items/0/product_id"),
    (raw(items=item(product_id='"\\u0000"')), 422, "validation-failed", "/items/0/product_id"),
    (raw(items=item(quantity=None)), 422, "validation-failed", "/items/0/quantity"),
    (raw(items=item(quantity="0")), 422, "validation-failed", "/items/0/quantity"),
    (raw(items=item(quantity="-1")), 422, "validation-failed", "/items/0/quantity"),
    (raw(items=item(quantity="1.5")), 422, "validation-failed", "/items/0/quantity"),
    (raw(items=item(quantity='"2"')), 422, "validation-failed", "/items/0/quantity"),
    (raw(items=item(quantity="true")), 422, "validation-failed", "/items/0/quantity"),
    (raw(items=item(quantity="10001")), 422, "validation-failed", "/items/0/quantity"),
    (raw(items=item(quantity="1000000000")), 422, "validation-failed", "/items/0/quantity"),
    (raw(items=item(quantity="1e999999")), 422, "validation-failed", "/items/0/quantity"),
    (raw(items=item(price='"0.01"')), 422, "validation-failed", "/items/0/price"),
    (raw(note='"\\u0000"'), 422, "validation-failed", "/note"),
    (raw(note='"\\ud800"'), 422, "validation-failed", "/note"),
    (raw(note=json.dumps("n" * 1001)), 422, "validation-failed", "/note"),
    (raw(total='"0.01"'), 422, "validation-failed", "/total"),
    (raw(status='"confirmed"'), 422, "validation-failed", "/status"),
]


def test_a_malformed_order_is_refused_where_it_is_wrong_and_leaves_nothing(shop: Shop) -> None:
    for body, status, code, pointer in MALFORMED:
        refused(shop.api.post("/orders", body, headers=with_key("k")), status, code, pointer)

    assert shop.nothing_happened()
    assert shop.users.asked == []


def test_a_body_that_is_not_json_or_too_large_is_refused(shop: Shop) -> None:
    as_text = shop.api.post("/orders", raw(), content_type="text/plain")
    too_large = shop.api.post("/orders", raw(note='"' + "n" * 2 * 1024 * 1024 + '"'))

    refused(as_text, 415, "unsupported-media-type")
    refused(too_large, 413, "payload-too-large")
    assert shop.nothing_happened()


def test_a_method_that_orders_do_not_have_is_refused_and_told_which_they_have(shop: Shop) -> None:
    for method in ("PUT", "PATCH", "DELETE"):
        answer = shop.api.send(method, "/orders", shop.body())

        refused(answer, 405, "method-not-allowed")
        assert {"GET", "POST"} <= set(answer.headers["Allow"].split(", "))


def test_a_key_that_is_not_visible_ascii_is_refused(shop: Shop) -> None:
    for key in ("", "two words", "k" * 256, "schlüssel"):
        answer = shop.api.post("/orders", shop.body(), headers={"Idempotency-Key": key})

        refused(answer, 422, "validation-failed", "/Idempotency-Key")
    assert shop.nothing_happened()


def test_an_unknown_user_leaves_nothing_and_claims_no_key(shop: Shop) -> None:
    body = shop.body(user_id=new_id())

    refused(shop.place(body, key="k"), 422, "unknown-user", "/user_id")

    assert shop.nothing_happened()
    assert shop.replica() == {}
    shop.users.known[body["user_id"]] = {"status": "active", "version": 1}
    answered(shop.place(body, key="k"), 201)


# Refused on the merits: recorded, and the key is kept ----------------------------------------------------------------


def check_rejected(shop: Shop, order_id: str, document: dict[str, Any]) -> None:
    """The order is stored as rejected with the problem of the answer, and its rejection is published."""
    order = shop.get(order_id)
    assert (order["status"], order["total"], order["confirmed_at"]) == ("rejected", None, None)
    told = {name: document[name] for name in ("code", "detail", "errors") if name in document}
    assert order["rejection"] == told
    (event,) = shop.events()
    assert event["type"] == "order.rejected.v1"
    assert event["data"] == {
        "order_id": order_id,
        "user_id": order["user_id"],
        "code": document["code"],
        "rejected_at": order["updated_at"],
        "version": 2,
    }
    assert event["correlationid"] == document["request_id"]
    assert shop.subscribers(event["id"]) == {"product", "analytics"}
    assert shop.totals() == {"status:rejected": 1}


def check_replayed(shop: Shop, body: dict[str, Any], first: Any) -> None:
    """The same request again gets the same answer, word for word, and changes nothing."""
    again = shop.place_again(body, "k", headers={"X-Request-ID": "another"})

    assert (again.status_code, again.data) == (first.status_code, first.data)
    differing = dict(set(again.headers) - set(first.headers))
    assert differing.keys() == {"Idempotent-Replayed", "X-Request-ID", "traceparent"}
    assert differing["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert len(shop.rows()) == len(shop.events()) == 1


def test_an_order_for_want_of_stock_is_recorded_as_rejected_and_replayed(shop: Shop) -> None:
    body = shop.body((shop.product_id, 101))

    first = shop.place(body, key="k")

    document = refused(first, 409, "insufficient-stock")
    check_rejected(shop, shop.rows()[0]["id"], document)
    shop.products.stock[shop.product_id] = 1000
    check_replayed(shop, body, first)
    assert shop.products.stock[shop.product_id] == 1000


def test_each_short_line_is_named_with_what_is_available(shop: Shop) -> None:
    faults = [{"pointer": "/items/0/quantity", "detail": "1 available.", "product_id": shop.product_id, "available": 1}]
    shop.products._judge = lambda demand: InsufficientStock(errors=faults)  # type: ignore[method-assign]
    body = shop.body()

    first = shop.place(body, key="k")

    assert refused(first, 409, "insufficient-stock")["errors"] == faults
    assert shop.get(shop.rows()[0]["id"])["rejection"]["errors"] == faults
    check_replayed(shop, body, first)


def test_a_fault_points_at_the_item_that_the_client_sent_though_lines_are_merged(shop: Shop) -> None:
    short = shop.products.add(new_id())
    faults = [{"pointer": "/items/1/quantity", "detail": "1 available.", "product_id": short, "available": 1}]
    shop.products._judge = lambda demand: InsufficientStock(errors=faults)  # type: ignore[method-assign]
    body = shop.body((shop.product_id, 1), (shop.product_id, 1), (short, 2), (short, 2))

    first = shop.place(body, key="k")

    refused(first, 409, "insufficient-stock", "/items/2/quantity")
    check_replayed(shop, body, first)


def test_an_unknown_product_is_recorded_as_rejected_and_replayed(shop: Shop) -> None:
    body = shop.body((shop.product_id, 1), (new_id(), 1))

    first = shop.place(body, key="k")

    document = refused(first, 422, "unknown-product")
    check_rejected(shop, shop.rows()[0]["id"], document)
    check_replayed(shop, body, first)


def test_products_of_two_currencies_are_rejected_and_what_they_hold_is_released_by_the_event(shop: Shop) -> None:
    body = shop.body((shop.product_id, 1), (shop.products.add(new_id(), currency="USD"), 1))

    first = shop.place(body, key="k")

    document = refused(first, 422, "currency-mismatch")
    assert "EUR, USD" in document["detail"]
    (order_id,) = shop.products.reserved
    check_rejected(shop, order_id, document)
    check_replayed(shop, body, first)


def test_a_total_that_nobody_could_pay_is_rejected(shop: Shop) -> None:
    body = shop.body((shop.products.add(new_id(), price="99999999999.99", stock=100), 11))

    first = shop.place(body, key="k")

    document = refused(first, 422, "validation-failed", "/items")
    check_rejected(shop, shop.rows()[0]["id"], document)
    check_replayed(shop, body, first)


def test_a_refusal_without_a_key_is_never_replayed(shop: Shop) -> None:
    body = shop.body((shop.product_id, 101))
    refused(shop.place(body), 409, "insufficient-stock")

    shop.products.stock[shop.product_id] = 1000

    answered(shop.place(body), 201)


# Failed for our fault: rejected, and the key is given back -----------------------------------------------------------


def test_with_the_product_service_down_nothing_is_confirmed_and_the_client_may_try_again(shop: Shop) -> None:
    body = shop.body()
    shop.products.down = True

    answer = shop.place(body, key="k")

    document = refused(answer, 503, "dependency-unavailable")
    assert answer.headers["Retry-After"] == "2"
    (row,) = shop.rows()
    check_rejected(shop, row["id"], document)
    assert row["idempotency_key"] is None

    shop.products.down = False
    retried = shop.place(body, key="k")

    order = answered(retried, 201)
    assert order["id"] != row["id"]
    assert "Idempotent-Replayed" not in retried.headers
    assert [(row["status"]) for row in shop.rows()] == ["rejected", "confirmed"]


def test_a_reservation_that_could_not_be_made_is_our_fault(shop: Shop) -> None:
    body = shop.body()
    shop.pend(body, key="k", seconds=0.0)
    (row,) = shop.rows()
    shop.products.release(row["id"])  # a tombstone: the release was quicker than the reserve

    refused(shop.place(body, key="k"), 503, "dependency-unavailable")

    assert shop.row(row["id"])["idempotency_key"] is None
    assert answered(shop.place(body, key="k"), 201)["id"] != row["id"]


def test_when_the_time_is_over_before_the_reservation_the_order_is_rejected_and_asks_for_nothing(shop: Shop) -> None:
    body = shop.body()
    shop.know()

    answer = shop.place(body, key="k", headers={"X-Request-Timeout-Ms": "400"})  # SETTLE_SECONDS are kept for the end

    document = refused(answer, 504, "deadline-exceeded")
    assert answer.headers["Retry-After"] == "1"
    (row,) = shop.rows()
    check_rejected(shop, row["id"], document)
    assert (row["idempotency_key"], shop.products.reserved) == (None, {})
    answered(shop.place(body, key="k"), 201)


def test_when_the_time_ends_while_the_second_transaction_waits_the_next_request_finds_its_order(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(self: Checkout, verdict: Verdict) -> None:
        raise DeadlineExceeded

    with monkeypatch.context() as patch:
        patch.setattr(Checkout, "settle", too_late)
        refused(shop.place(key="k"), 504, "deadline-exceeded")

    (row,) = shop.rows()
    assert row["status"] == "pending"
    shop.abandon(row["id"])
    assert answered(shop.place(key="k"), 201)["id"] == row["id"]
    assert shop.products.stock[shop.product_id] == 98


def test_a_fault_of_ours_leaves_the_order_to_recovery(shop: Shop) -> None:
    """A bug in the middle of the saga is a 500, and recovery settles the order."""

    def broken() -> None:
        raise RuntimeError("a bug")

    shop.products.meanwhile = broken

    answer = shop.place_again(shop.body(), "k")

    assert (answer.status_code, json.loads(answer.data)["code"]) == (500, "internal-error")
    (row,) = shop.rows()
    assert row["status"] == "pending"
    shop.abandon(row["id"])
    shop.recover()
    assert shop.row(row["id"])["status"] == "rejected"


# The user service ---------------------------------------------------------------------------------------------------


def test_with_the_user_service_down_known_users_order_and_unknown_ones_are_told_to_come_back(shop: Shop) -> None:
    shop.order()
    stranger = shop.a_user()
    shop.users.down = True

    answered(shop.place(), 201)
    answer = shop.place(shop.body(user_id=stranger), key="k")

    refused(answer, 503, "dependency-unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert [row["user_id"] for row in shop.rows()] == [shop.user_id] * 2
    shop.users.down = False
    answered(shop.place(shop.body(user_id=stranger), key="k"), 201)


def test_a_request_without_time_is_not_kept_waiting(shop: Shop) -> None:
    started = time.monotonic()

    answer = shop.place(headers={"X-Request-Timeout-Ms": "0"})

    refused(answer, 504, "deadline-exceeded")
    assert time.monotonic() - started < 4
    assert context.current() is None
