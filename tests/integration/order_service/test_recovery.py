"""Recovery: it rejects orders that no request drives any more, and is harmless when a request still runs."""

from typing import Any

import pytest

from libs.common.data.statements import epoch
from libs.common.errors import DependencyUnavailable
from order_service import checkout
from order_service.checkout import GRACE_SECONDS
from tests.integration.order_service.shop import Shop, a_user_event
from tests.web import answered, refused


def test_an_order_whose_request_ended_long_ago_is_rejected_and_that_is_published(shop: Shop) -> None:
    order_id = shop.pend(key="k")
    shop.abandon(order_id, seconds=GRACE_SECONDS + 1)

    assert shop.recover() is False

    order = shop.get(order_id)
    assert (order["status"], order["version"]) == ("rejected", 2)
    assert order["rejection"] == {"code": "dependency-unavailable", "detail": "The order was abandoned."}
    (event,) = shop.events()
    assert event["type"] == "order.rejected.v1"
    assert event["data"] == {
        "order_id": order_id,
        "user_id": shop.user_id,
        "code": "dependency-unavailable",
        "rejected_at": order["updated_at"],
        "version": 2,
    }
    assert shop.subscribers(event["id"]) == {"product", "analytics"}
    assert shop.totals() == {"status:rejected": 1}


def test_the_key_of_an_abandoned_order_is_given_back(shop: Shop) -> None:
    order_id = shop.pend(key="k")
    shop.abandon(order_id)
    shop.recover()

    assert answered(shop.place(key="k"), 201)["id"] != order_id


@pytest.mark.parametrize("seconds", [-60.0, 0.0, GRACE_SECONDS - 2])
def test_an_order_that_somebody_may_still_drive_is_left_alone(shop: Shop, seconds: float) -> None:
    order_id = shop.pend()
    shop.abandon(order_id, seconds)

    assert shop.recover() is False

    assert shop.get(order_id)["status"] == "pending"
    assert shop.events() == []


def test_a_clock_that_was_set_back_holds_no_order_up(shop: Shop) -> None:
    order_id = shop.pend()
    shop.abandon(order_id, seconds=-3600.0)

    shop.recover()

    assert shop.get(order_id)["status"] == "rejected"


def test_a_long_deadline_is_not_taken_for_such_a_clock(shop: Shop) -> None:
    order_id = shop.pend(seconds=3600.0)

    shop.recover()

    assert shop.get(order_id)["status"] == "pending"


def test_only_pending_orders_are_looked_for(shop: Shop) -> None:
    orders = [shop.order() for _ in range(4)]
    shop.take(orders[1]["id"], "cancel")
    shop.take(orders[2]["id"], "ship")
    shop.take(orders[3]["id"], "ship", "deliver")
    refused(shop.place(shop.body((shop.product_id, 1000))), 409, "insufficient-stock")
    before = shop.rows()
    for row in before:
        shop.abandon(row["id"], seconds=1e6)

    shop.recover()

    assert [row["version"] for row in shop.rows()] == [row["version"] for row in before]
    assert [row["status"] for row in shop.rows()] == [row["status"] for row in before]


def test_the_oldest_come_first_and_it_says_when_there_may_be_more(shop: Shop) -> None:
    ids = [shop.pend() for _ in range(5)]
    for age, order_id in enumerate(ids):
        shop.abandon(order_id, seconds=60.0 + age)

    more = [checkout.reject_abandoned(shop.db, limit=2) for _ in range(4)]

    assert more == [True, True, False, False]
    assert [event["subject"] for event in shop.events()] == ids[::-1]


def test_a_request_that_loses_against_recovery_answers_what_the_row_says_and_holds_nothing(shop: Shop) -> None:
    """The request still runs, and its reservation arrives late."""
    other = shop.twin()

    def give_up_on_it() -> None:
        shop.abandon(shop.rows()[0]["id"])
        other.recover()

    shop.products.meanwhile = give_up_on_it

    answer = shop.place_again(shop.body(), "k")

    document = refused(answer, 503, "dependency-unavailable")
    assert document["detail"] == "The order was abandoned."  # the stored outcome
    assert int(answer.headers["Retry-After"]) > 0
    (row,) = shop.rows()
    assert row["status"] == "rejected"
    (event,) = shop.events()
    assert (event["type"], event["subject"]) == ("order.rejected.v1", row["id"])
    assert shop.totals() == {"status:rejected": 1}
    shop.products.release(row["id"])
    assert shop.products.stock[shop.product_id] == 100
    assert answered(shop.place(key="k"), 201)["id"] != row["id"]


def test_a_request_that_loses_against_the_deletion_of_its_user_answers_what_the_row_says(shop: Shop) -> None:
    shop.know()
    shop.products.meanwhile = lambda: shop.hear(a_user_event("deleted", shop.user_id, 2))

    answer = shop.place_again(shop.body(note="Ring twice."), "k")

    document = refused(answer, 422, "unknown-user")
    assert document["detail"] == "The user was deleted."
    (row,) = shop.rows()
    assert (row["status"], row["note"], row["idempotency_key"]) == ("rejected", None, None)
    assert [event["type"] for event in shop.events()] == ["order.rejected.v1"]


def test_a_request_whose_user_was_suspended_meanwhile_is_rejected(shop: Shop) -> None:
    shop.know()
    shop.products.meanwhile = lambda: shop.hear(a_user_event("updated", shop.user_id, 2, status="suspended"))

    document = refused(shop.place(), 422, "unknown-user", "/user_id")

    assert document["errors"][0]["detail"] == "The user is no longer active."
    assert shop.rows()[0]["status"] == "rejected"


def test_an_order_rejected_for_a_user_who_is_gone_keeps_nothing_of_the_user(shop: Shop) -> None:
    """On PostgreSQL the user may be deleted while T1 is under way, which stores the order after the deletion."""
    order_id = shop.pend(shop.body(note="Ring twice."), key="k")
    shop.know(shop.user_id, status="deleted", version=9)  # the event found no order
    shop.abandon(order_id)

    shop.recover()

    row = shop.row(order_id)
    assert (row["status"], row["note"], row["idempotency_key"], row["fingerprint"]) == ("rejected", None, None, None)


def test_it_runs_in_every_process_as_often_as_the_setting_says(shop: Shop) -> None:
    (loop,) = (loop for loop in shop.app.extensions["quintet"].loops if loop.name == "recovery")
    order_id = shop.pend()
    shop.abandon(order_id)

    assert loop._interval == 2.0
    assert loop._step() is False
    assert shop.get(order_id)["status"] == "rejected"


def test_a_database_that_is_down_fails_the_step_and_not_the_job(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any) -> Any:
        raise DependencyUnavailable("The database is unavailable.")

    order_id = shop.pend()
    shop.write(order_id, drive_until=epoch() - 60)
    with monkeypatch.context() as patch:
        patch.setattr("order_service.repository.find_abandoned", unreachable)
        with pytest.raises(DependencyUnavailable):
            shop.recover()

    shop.recover()
    assert shop.get(order_id)["status"] == "rejected"
