"""Cancel, ship and deliver: their changes, events and refusals."""

from itertools import product
from typing import Any

import pytest

from libs.common.ids import new_id
from libs.common.times import now, read_time
from order_service.models import STATUSES
from tests.integration.order_service.shop import Shop
from tests.web import answered, refused

STEPS = {"cancel": "cancelled", "ship": "shipped", "deliver": "delivered"}
BEFORE = {"cancel": (), "ship": (), "deliver": ("ship",)}
"""Operation → the operations that a confirmed order needs before."""
WAY = {"confirmed": (), "cancelled": ("cancel",), "shipped": ("ship",), "delivered": ("ship", "deliver")}
ALLOWED = {
    ("confirmed", "cancel"), ("cancelled", "cancel"), ("confirmed", "ship"), ("shipped", "ship"), ("delivered", "ship"),
    ("shipped", "deliver"), ("delivered", "deliver"),
}  # fmt: skip


def an_order_that_is(shop: Shop, status: str) -> str:
    if status == "pending":
        return shop.pend()
    if status == "rejected":
        refused(shop.place(shop.body((shop.product_id, 1000))), 409, "insufficient-stock")
        return str(shop.rows()[-1]["id"])
    order_id: str = shop.order()["id"]
    shop.take(order_id, *WAY[status])
    return order_id


@pytest.mark.parametrize("step", STEPS)
def test_a_step_changes_the_order_and_is_published(shop: Shop, step: str) -> None:
    placed = shop.order(note="Ring twice.")
    earlier = shop.take(placed["id"], *BEFORE[step])
    started = now()

    answer = shop.api.post(f"/orders/{placed['id']}/{step}", None, headers={"X-Request-ID": "the-step"})

    order, status = answered(answer), STEPS[step]
    moment = order[f"{status}_at"]
    assert started <= read_time(moment) <= now()
    assert order == {
        **earlier, "status": status, f"{status}_at": moment, "updated_at": moment, "version": earlier["version"] + 1,
    }  # fmt: skip
    assert answer.headers["ETag"] == f'"{order["version"]}"'
    assert shop.get(order["id"]) == order
    (event,) = shop.events(f"order.{status}.v1")
    assert (event["subject"], event["correlationid"]) == (order["id"], "the-step")
    assert event["data"] == {
        "order_id": order["id"],
        "user_id": shop.user_id,
        f"{status}_at": moment,
        "version": order["version"],
    }


@pytest.mark.parametrize(
    ("steps", "event_type", "subscribers"),
    [
        (["cancel"], "order.cancelled.v1", {"product", "analytics"}),
        (["ship"], "order.shipped.v1", {"product", "analytics"}),
        (["ship", "deliver"], "order.delivered.v1", {"analytics"}),
    ],
)
def test_those_hear_of_a_step_who_need_to(shop: Shop, steps: list[str], event_type: str, subscribers: set[str]) -> None:
    shop.take(shop.order()["id"], *steps)

    (event,) = shop.events(event_type)
    assert shop.subscribers(event["id"]) == subscribers


@pytest.mark.parametrize(
    ("status", "step"), [("cancelled", "cancel"), ("shipped", "ship"), ("delivered", "ship"), ("delivered", "deliver")]
)
def test_a_step_that_was_taken_before_answers_the_order_and_changes_and_publishes_nothing(
    shop: Shop, status: str, step: str
) -> None:
    order_id = an_order_that_is(shop, status)
    before = shop.get(order_id), shop.events(), shop.totals()

    assert answered(shop.api.post(f"/orders/{order_id}/{step}", None)) == before[0]

    assert (shop.get(order_id), shop.events(), shop.totals()) == before


@pytest.mark.parametrize("status", STATUSES)
def test_a_forbidden_step_is_refused_and_changes_and_publishes_nothing(shop: Shop, status: str) -> None:
    order_id = an_order_that_is(shop, status)
    before = shop.get(order_id), shop.events(), shop.totals()

    for step in STEPS:
        if (status, step) not in ALLOWED:
            document = refused(shop.api.post(f"/orders/{order_id}/{step}", None), 409, "invalid-transition")
            assert status in document["detail"]

    assert (shop.get(order_id), shop.events(), shop.totals()) == before


def test_a_step_of_an_order_that_does_not_exist_is_not_found(shop: Shop) -> None:
    for step, order_id in product(STEPS, (new_id(), "42")):
        refused(shop.api.post(f"/orders/{order_id}/{step}", None), 404, "not-found")


# If-Match ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_step_upon_a_stale_version_is_refused_and_told_the_current_one(shop: Shop, step: str) -> None:
    order = shop.take(shop.order()["id"], *BEFORE[step])

    answer = shop.api.post(f"/orders/{order['id']}/{step}", None, headers={"If-Match": '"1"'})

    refused(answer, 412, "precondition-failed")
    assert answer.headers["ETag"] == f'"{order["version"]}"'
    assert shop.get(order["id"]) == order


@pytest.mark.parametrize("step", STEPS)
def test_a_step_upon_the_current_version_is_taken(shop: Shop, step: str) -> None:
    for given in ('"{}"', "*", '"1", "{}"'):
        order = shop.take(shop.order()["id"], *BEFORE[step])
        headers = {"If-Match": given.format(order["version"])}

        answer = shop.api.post(f"/orders/{order['id']}/{step}", None, headers=headers)

        assert answered(answer)["status"] == STEPS[step]


def test_a_weak_tag_never_matches(shop: Shop) -> None:
    order = shop.order()

    answer = shop.api.post(f"/orders/{order['id']}/ship", None, headers={"If-Match": 'W/"2"'})

    refused(answer, 412, "precondition-failed")


# Reasons and history -------------------------------------------------------------------------------------------------


def test_a_cancellation_may_say_why(shop: Shop) -> None:
    order = shop.order()

    answered(shop.api.post(f"/orders/{order['id']}/cancel", {"reason": "Changed my mind."}))

    steps = answered(shop.api.get(f"/orders/{order['id']}/history"))["items"]
    assert steps[-1]["reason"] == "Changed my mind."


def test_a_cancellation_need_not_say_why(shop: Shop) -> None:
    for body in (None, {}, {"reason": None}):
        order = shop.order()

        answered(shop.api.post(f"/orders/{order['id']}/cancel", body))

        assert answered(shop.api.get(f"/orders/{order['id']}/history"))["items"][-1]["reason"] is None


def test_a_reason_that_is_none_is_refused_and_cancels_nothing(shop: Shop) -> None:
    order = shop.order()
    bodies: list[dict[str, Any]] = [
        {"reason": ""},
        {"reason": "r" * 201},
        {"reason": 7},
        {"reason": "\x00"},
        {"why": ""},
    ]

    for body in bodies:
        refused(shop.api.post(f"/orders/{order['id']}/cancel", body), 422, "validation-failed", f"/{next(iter(body))}")

    assert shop.get(order["id"]) == order


def test_the_history_has_each_transition_with_its_time(shop: Shop) -> None:
    order = shop.take(shop.order()["id"], "ship", "deliver")

    assert answered(shop.api.get(f"/orders/{order['id']}/history")) == {
        "items": [
            {"status": "pending", "at": order["created_at"], "reason": None},
            {"status": "confirmed", "at": order["confirmed_at"], "reason": None},
            {"status": "shipped", "at": order["shipped_at"], "reason": None},
            {"status": "delivered", "at": order["delivered_at"], "reason": None},
        ]
    }


def test_the_history_tells_why_an_order_was_rejected(shop: Shop) -> None:
    order_id = an_order_that_is(shop, "rejected")

    steps = answered(shop.api.get(f"/orders/{order_id}/history"))["items"]

    assert [(step["status"], step["reason"]) for step in steps] == [
        ("pending", None),
        ("rejected", "There is too little stock"),
    ]


def test_an_order_that_does_not_exist_is_not_found(shop: Shop) -> None:
    for path, order_id in product(("/orders/{}", "/orders/{}/history"), (new_id(), "42")):
        refused(shop.api.get(path.format(order_id)), 404, "not-found")
