"""The replica of the users: filled by events and by lookups; a deleted user is never revived."""

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from libs.common.data import erasures
from libs.common.data.erasures import Erasure
from libs.common.ids import new_id
from libs.common.times import now, write_time
from order_service import checkout, repository, use_cases
from order_service.checkout import Verdict
from tests.factories import a_cloud_event
from tests.integration.order_service.shop import Shop, a_user_event
from tests.unit.order_service.factories import ORIGIN, a_reserved_line
from tests.web import answered, refused


def deleted(user_id: str, version: int = 9, at: datetime | None = None) -> dict[str, Any]:
    return a_user_event("deleted", user_id, version, deleted_at=write_time(at or now()))


# Asking --------------------------------------------------------------------------------------------------------------


def test_a_user_is_asked_for_once_and_known_afterwards(shop: Shop) -> None:
    shop.users.known[shop.user_id]["version"] = 4

    shop.order()
    shop.order()

    assert shop.users.asked == [shop.user_id]
    assert shop.replica() == {shop.user_id: ("active", 4)}


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "known"])
def test_a_suspended_user_may_not_order(shop: Shop, asked: bool) -> None:
    user_id = shop.a_user(status="suspended")
    if not asked:
        shop.know(user_id, status="suspended")

    document = refused(shop.place(shop.body(user_id=user_id), key="k"), 422, "unknown-user", "/user_id")

    assert document["errors"][0]["detail"] == "The user is suspended."
    assert (shop.rows(), shop.events(), shop.totals()) == ([], [], {})
    assert shop.replica() == {user_id: ("suspended", 1)}


def test_a_deleted_user_may_not_order_whatever_the_user_service_says(shop: Shop) -> None:
    """The replica is newer, so there is no lookup."""
    shop.hear(deleted(shop.user_id))

    document = refused(shop.place(), 422, "unknown-user", "/user_id")

    assert document["errors"][0]["detail"] == "The user is deleted."
    assert shop.users.asked == []


def test_an_old_answer_does_not_revive_a_user_who_was_deleted_meanwhile(shop: Shop) -> None:
    shop.users.meanwhile = lambda: shop.hear(deleted(shop.user_id))

    refused(shop.place(), 422, "unknown-user", "/user_id")

    assert shop.replica() == {shop.user_id: ("deleted", 9)}
    assert shop.rows() == []


def test_a_newer_answer_than_the_event_is_kept(shop: Shop) -> None:
    shop.users.known[shop.user_id]["version"] = 7
    shop.order()

    shop.hear(a_user_event("updated", shop.user_id, 3, status="suspended"))

    assert shop.replica() == {shop.user_id: ("active", 7)}


def test_a_suspended_user_who_is_active_again_may_order(shop: Shop) -> None:
    shop.hear(a_user_event("updated", shop.user_id, 2, status="suspended"))
    refused(shop.place(), 422, "unknown-user")

    shop.hear(a_user_event("updated", shop.user_id, 3, status="active"))

    shop.order()


# Events --------------------------------------------------------------------------------------------------------------


def test_a_user_who_is_known_by_an_event_is_not_asked_for(shop: Shop) -> None:
    assert shop.hear(a_user_event("created", shop.user_id, 1)) == ["done"]

    shop.order()

    assert shop.users.asked == []


LIFE = {"created": ("active", 1), "updated": ("suspended", 2), "deleted": ("deleted", 3)}


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
def test_events_of_a_user_end_alike_in_any_order_and_however_often_they_come(shop: Shop, together: bool) -> None:
    for order in permutations(LIFE):
        user_id = new_id()
        events = [
            a_user_event(what, user_id, LIFE[what][1], **({} if what == "deleted" else {"status": LIFE[what][0]}))
            for what in order
        ]
        events = [*events, *events]

        outcomes = shop.hear(*events) if together else [shop.hear(event)[0] for event in events]

        assert outcomes == ["done"] * 3 + ["duplicate"] * 3
        assert shop.replica()[user_id] == ("deleted", 3)


@pytest.mark.parametrize("newer_first", [True, False])
def test_of_two_facts_in_one_batch_the_newer_holds(shop: Shop, newer_first: bool) -> None:
    older = a_user_event("updated", shop.user_id, 2, status="active")
    newer = a_user_event("updated", shop.user_id, 3, status="suspended")

    shop.hear(*([newer, older] if newer_first else [older, newer]))

    assert shop.replica() == {shop.user_id: ("suspended", 3)}


def test_the_same_fact_under_another_event_id_changes_nothing(shop: Shop) -> None:
    """As when it is delivered again after the inbox was trimmed."""
    order = shop.order()
    shop.hear(deleted(shop.user_id))
    before, published = shop.rows(), shop.events()

    assert shop.hear(deleted(shop.user_id)) == ["done"]

    assert (shop.rows(), shop.events()) == (before, published)
    assert order["id"] == before[0]["id"]


def test_a_deletion_rejects_what_is_pending(shop: Shop) -> None:
    order_id = shop.pend(shop.body(note="Ring twice."), key="k")
    event = deleted(shop.user_id, at=now() - timedelta(hours=1))
    event["correlationid"] = "the-deletion"

    shop.hear(event)

    order = shop.get(order_id)
    assert (order["status"], order["note"]) == ("rejected", None)
    assert order["rejection"] == {"code": "unknown-user", "detail": "The user was deleted."}
    (told,) = shop.events()
    assert (told["type"], told["subject"], told["correlationid"]) == ("order.rejected.v1", order_id, "the-deletion")


def test_a_deletion_cancels_what_was_confirmed_after_it_and_not_shipped_yet(shop: Shop) -> None:
    before, moment = shop.order(), now()
    after, shipped = shop.order(), shop.order()
    shop.take(shipped["id"], "ship")

    shop.hear(deleted(shop.user_id, at=moment))

    assert [shop.get(order["id"])["status"] for order in (before, after, shipped)] == [
        "confirmed",
        "cancelled",
        "shipped",
    ]
    (told,) = shop.events("order.cancelled.v1")
    assert told["subject"] == after["id"]
    steps = answered(shop.api.get(f"/orders/{after['id']}/history"))["items"]
    assert steps[-1]["reason"] == "The user was deleted."


def test_a_deletion_leaves_the_orders_of_others_alone(shop: Shop) -> None:
    stranger = shop.a_user()
    order = shop.order(user_id=stranger, note="Ring twice.")
    pending = shop.pend(shop.body(user_id=stranger))

    shop.hear(deleted(shop.user_id, at=now() - timedelta(hours=1)))

    assert shop.get(order["id"]) == order
    assert shop.get(pending)["status"] == "pending"


def test_a_deletion_erases_what_the_user_wrote_and_the_keys(shop: Shop) -> None:
    body = shop.body(note="Ring twice.")
    order = answered(shop.place(body, key="k"), 201)
    shop.take(order["id"], "ship", "deliver")

    shop.hear(deleted(shop.user_id))

    refused(shop.place(body, key="k"), 422, "unknown-user")
    shop.erase()
    row = shop.row(order["id"])
    assert (row["note"], row["idempotency_key"], row["fingerprint"]) == (None, None, None)
    assert (row["status"], shop.get(order["id"])["total"]) == ("delivered", "20.00")


def test_a_deletion_erases_the_reason_that_the_user_gave_for_a_cancellation(shop: Shop) -> None:
    order = shop.order()
    answered(shop.api.post(f"/orders/{order['id']}/cancel", {"reason": "I have moved to Lovelace Street 1."}))

    shop.hear(deleted(shop.user_id))
    shop.erase()

    assert shop.row(order["id"])["cancel_reason"] is None
    assert answered(shop.api.get(f"/orders/{order['id']}/history"))["items"][-1]["reason"] is None


def test_the_orders_of_a_deleted_user_are_erased_a_page_at_a_time(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "PAGE", 4)
    ids = [shop.order(note="Ring twice.")["id"] for _ in range(10)]
    stranger = shop.order(user_id=shop.a_user(), note="Ring twice.")
    shop.hear(deleted(shop.user_id))
    erasure = Erasure(shop.db, repository.walk_user, repository.erase)

    noted = []
    while erasure.step():
        noted.append(sum(shop.row(order_id)["note"] is not None for order_id in ids))

    assert noted == [6, 2, 0]
    assert erasure.step() is False
    assert shop.get(stranger["id"])["note"] == "Ring twice."


def test_an_erasure_that_was_killed_begins_anew(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasures, "PAGE", 2)
    ids = [shop.order(note="Ring twice.")["id"] for _ in range(5)]
    shop.hear(deleted(shop.user_id))
    Erasure(shop.db, repository.walk_user, repository.erase).step()

    shop.erase()

    assert [shop.row(order_id)["note"] for order_id in ids] == [None] * 5


def test_many_deletions_in_one_batch_each_have_their_effect(shop: Shop) -> None:
    users = [shop.a_user() for _ in range(3)]
    pending = [shop.pend(shop.body(user_id=user_id)) for user_id in users]

    outcomes = shop.hear(*(deleted(user_id) for user_id in users))

    assert outcomes == ["done"] * 3
    assert [shop.get(order_id)["status"] for order_id in pending] == ["rejected"] * 3
    assert shop.totals() == {"status:rejected": 3}


def test_a_deletion_of_a_user_nobody_knew_is_remembered(shop: Shop) -> None:
    shop.hear(deleted(shop.user_id))

    assert shop.replica() == {shop.user_id: ("deleted", 9)}
    shop.hear(a_user_event("created", shop.user_id, 1))
    assert shop.replica() == {shop.user_id: ("deleted", 9)}


def test_a_bad_event_fails_no_neighbour(shop: Shop) -> None:
    good, other = a_user_event("created", shop.user_id, 1), a_user_event("created", new_id(), 1)
    bad = a_cloud_event("user.created.v1", {"user_id": new_id()})
    foreign = a_cloud_event("product.created.v1", {"product_id": new_id()})

    assert shop.hear(good, bad, foreign, other) == ["done", "dead", "dead", "done"]

    assert set(shop.replica()) == {good["subject"], other["subject"]}


def test_a_deletion_without_a_time_can_never_be_handled_and_changes_nothing(shop: Shop) -> None:
    shop.know()

    assert shop.hear(a_user_event("deleted", shop.user_id, 2, deleted_at="yesterday")) == ["retry"]

    assert shop.replica() == {shop.user_id: ("active", 1)}


def test_a_deletion_waits_for_a_confirmation_that_has_read_the_user_and_cancels_it(shop: Shop) -> None:
    """Otherwise the deletion would miss the confirmation, which is not yet committed."""
    order_id = shop.pend()
    event = deleted(shop.user_id, at=now() - timedelta(hours=1))

    with ThreadPoolExecutor(1) as pool:
        with shop.db.write() as session:
            checkout.settle_all(session, [Verdict(shop.row(order_id), [a_reserved_line()], ORIGIN)])
            deletion = pool.submit(shop.hear, event)
            wait([deletion], timeout=0.3)  # time for the deletion to run, if it did not wait
        outcomes = deletion.result()

    assert outcomes == ["done"]
    assert shop.get(order_id)["status"] == "cancelled"
    assert [told["type"] for told in shop.events()] == ["order.confirmed.v1", "order.cancelled.v1"]


def test_a_deletion_waits_for_a_shipment_and_leaves_it_alone(shop: Shop) -> None:
    order_id = shop.order()["id"]
    event = deleted(shop.user_id, at=now() - timedelta(hours=1))

    with ThreadPoolExecutor(1) as pool:
        with shop.db.write() as session:
            use_cases.ship_order(session, order_id, lambda version: None)
            session.flush()
            deletion = pool.submit(shop.hear, event)
            wait([deletion], timeout=0.3)
        outcomes = deletion.result()

    assert outcomes == ["done"]
    assert shop.get(order_id)["status"] == "shipped"
