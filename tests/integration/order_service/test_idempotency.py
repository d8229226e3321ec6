"""POST /orders with an Idempotency-Key: one key is one order."""

from datetime import timedelta
from typing import Any

import pytest

from libs.common.errors import RequestInFlight
from libs.common.ids import new_id
from libs.common.times import now
from order_service import checkout, repository, use_cases
from order_service.clients import Demand
from order_service.use_cases import KeyExpiry
from tests.integration.order_service.shop import Shop, summary, with_key
from tests.web import answered, refused


def ids(shop: Shop) -> list[str]:
    return [row["id"] for row in shop.rows()]


# The outcome is known ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [(), ("cancel",), ("ship",), ("ship", "deliver")])
def test_a_replay_is_the_first_answer_byte_for_byte_whatever_came_later(shop: Shop, later: tuple[str, ...]) -> None:
    body = shop.body(note="Ring twice.")
    first = shop.place(body, key="k")
    order = answered(first, 201)
    shop.take(order["id"], *later)

    again = shop.place_again(body, "k")

    assert (again.status_code, again.data) == (201, first.data)
    for name in ("Location", "ETag", "Content-Type"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert ids(shop) == list(shop.products.reserved) == [order["id"]]
    assert len(shop.events("order.confirmed.v1")) == 1


def test_the_same_body_written_otherwise_is_the_same_request(shop: Shop) -> None:
    shop.know()
    client = shop.app.test_client()
    order = f'{{"user_id": "{shop.user_id}", "items": [{{"product_id": "{shop.product_id}", "quantity": 1}}]}}'
    same = f'{{"items":[{{"quantity":1,"product_id":"{shop.product_id}"}}],"user_id":"{shop.user_id}"}}'

    first, again = (
        client.post("/api/v1/orders", data=data, headers=with_key("k"), content_type="application/json")
        for data in (order, same)
    )

    assert (first.status_code, again.status_code, again.data) == (201, 201, first.data)


def test_the_path_without_a_version_shares_its_keys(shop: Shop) -> None:
    body = shop.body()
    first = shop.app.test_client().post("/api/orders", json=body, headers=with_key("k"))

    assert shop.place_again(body, "k").data == first.data


def test_another_key_or_none_is_another_order(shop: Shop) -> None:
    placed = [answered(shop.place(shop.body(), key), 201)["id"] for key in ("a", "b", None, None)]

    assert len(set(placed)) == 4


@pytest.mark.parametrize(
    "change", [{"note": "Ring twice."}, {"items": []}, {"user_id": new_id()}], ids=["note", "items", "user"]
)
def test_a_key_with_another_body_is_refused_and_changes_nothing(shop: Shop, change: dict[str, Any]) -> None:
    first = shop.place(shop.body(), key="k")
    body = {**shop.body(), **change}
    body["items"] = body["items"] or [{"product_id": shop.product_id, "quantity": 3}]
    shop.know(body["user_id"])

    refused(shop.place(body, key="k"), 422, "idempotency-key-reused")

    assert ids(shop) == [first.json["id"]]
    assert shop.place_again(shop.body(), "k").data == first.data


def test_a_key_in_flight_with_another_body_is_told_so(shop: Shop) -> None:
    shop.pend(key="k")

    refused(shop.place(shop.body(note="other"), key="k"), 422, "idempotency-key-reused")


# The outcome is not known yet ----------------------------------------------------------------------------------------


def test_a_key_whose_first_request_may_still_run_is_in_flight(shop: Shop) -> None:
    """Another process drives the order."""
    shop.pend(key="k", seconds=30.0)

    answer = shop.place(key="k")

    refused(answer, 409, "request-in-flight")
    assert 29 <= int(answer.headers["Retry-After"]) <= 31
    assert [row["status"] for row in shop.rows()] == ["pending"]
    assert shop.products.reserved == {}


def test_the_pause_that_is_asked_for_is_never_nothing(shop: Shop) -> None:
    shop.pend(key="k", seconds=0.3)

    answer = shop.place(key="k")

    if answer.status_code == 409:  # on a slow machine the deadline has passed, and the order is taken over
        assert answer.headers["Retry-After"] == "1"


def test_after_its_deadline_the_next_request_drives_the_same_order_on(shop: Shop) -> None:
    """The first died after the reservation: nothing is reserved twice."""
    order_id = shop.pend(key="k")
    shop.products.reserve([Demand(order_id, shop.body()["items"], "the first", 0.0)], 0.0)
    shop.abandon(order_id)

    answer = shop.place(key="k")

    assert answered(answer, 201)["id"] == order_id
    assert "Idempotent-Replayed" not in answer.headers
    assert ids(shop) == [order_id]
    assert shop.products.stock[shop.product_id] == 98
    assert len(shop.events("order.confirmed.v1")) == 1


def test_a_clock_that_was_set_back_does_not_block_a_key(shop: Shop) -> None:
    order_id = shop.pend(key="k")
    shop.abandon(order_id, seconds=-3600.0)

    assert answered(shop.place(key="k"), 201)["id"] == order_id


def test_who_drives_an_order_on_has_its_own_deadline(shop: Shop) -> None:
    """While the second drives the order, a third is refused."""
    order_id = shop.pend(key="k")
    shop.abandon(order_id)
    third: list[Any] = []
    shop.products.meanwhile = lambda: third.append(shop.place(key="k"))

    answered(shop.place(key="k"), 201)

    refused(third[0], 409, "request-in-flight")
    assert ids(shop) == [order_id]


def test_of_two_that_would_drive_it_on_at_once_one_does(shop: Shop) -> None:
    order_id = shop.pend(key="k")
    shop.abandon(order_id)

    with shop.db.write() as session:
        first, second = checkout.place_all(session, [shop.new(key="k"), shop.new(key="k")])

    assert [summary(first), summary(second)] == [(order_id, "pending"), RequestInFlight.__name__]


def test_the_late_first_and_the_second_agree(shop: Shop) -> None:
    """The first was slow, and the second took its order over and confirmed it: the first answers with the stored order."""
    other, second = shop.twin(), []

    def overtake() -> None:
        shop.abandon(shop.rows()[0]["id"])
        second.append(other.place(key="k"))

    shop.products.meanwhile = overtake

    first = shop.place(key="k")

    assert (first.status_code, first.data) == (second[0].status_code, second[0].data)
    assert first.status_code == 201
    assert shop.products.stock[shop.product_id] == 98
    assert len(shop.events("order.confirmed.v1")) == 1


# Keys are given back -------------------------------------------------------------------------------------------------


def test_keys_are_freed_after_a_day_without_anybody_asking(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "PAGE", 2)
    day = timedelta(hours=24)
    old = [answered(shop.place(key=f"old-{n}"), 201)["id"] for n in range(3)]
    pending, fresh = shop.pend(key="pending"), answered(shop.place(key="fresh"), 201)["id"]
    for order_id in (*old, pending):
        shop.write(order_id, created_at=now() - day - timedelta(minutes=1))
    expiry = KeyExpiry(shop.db)

    steps = [expiry.step() for _ in range(4)]

    assert steps == [True, True, False, False]
    assert [shop.row(order_id)["idempotency_key"] for order_id in old] == [None] * 3
    assert shop.row(pending)["idempotency_key"]
    assert shop.row(fresh)["idempotency_key"]


def test_a_key_is_free_again_after_a_day(shop: Shop) -> None:
    body = shop.body()
    first = answered(shop.place(body, key="k"), 201)
    shop.write(first["id"], created_at=now() - timedelta(hours=24, seconds=1))

    second = answered(shop.place(body, key="k"), 201)

    assert second["id"] != first["id"]
    assert shop.row(first["id"])["idempotency_key"] is None
    assert shop.row(second["id"])["idempotency_key"] is not None


def test_a_key_is_kept_for_a_day(shop: Shop) -> None:
    body = shop.body()
    first = shop.place(body, key="k")
    shop.write(first.json["id"], created_at=now() - timedelta(hours=23, minutes=59))

    again = shop.place_again(body, "k")

    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json["id"] == first.json["id"]


def test_a_key_that_is_free_after_a_day_may_come_with_another_body(shop: Shop) -> None:
    first = answered(shop.place(key="k"), 201)
    shop.write(first["id"], created_at=now() - timedelta(days=2))

    answered(shop.place(shop.body(note="other"), key="k"), 201)


def test_a_pending_order_keeps_its_key_however_old_it_is(shop: Shop) -> None:
    """Otherwise the first request, if it still runs, and the next would place two orders."""
    order_id = shop.pend(key="k")
    shop.write(order_id, created_at=now() - timedelta(days=2))

    refused(shop.place(key="k"), 409, "request-in-flight")
    shop.abandon(order_id)
    assert answered(shop.place(key="k"), 201)["id"] == order_id


def test_a_key_that_was_taken_and_given_back_at_this_moment_is_in_flight(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL another process may take the key, fail and free it between our INSERT and our SELECT."""
    shop.know()
    with monkeypatch.context() as patch:
        patch.setattr(repository, "add_pending", lambda session, new: set())
        refused(shop.place(key="k"), 409, "request-in-flight")

    answered(shop.place(key="k"), 201)
