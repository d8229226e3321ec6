"""Races of two processes on both engines."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from libs.common.data.idempotency import Key
from libs.common.errors import DependencyUnavailable, RequestInFlight
from libs.common.times import now, write_time
from order_service import checkout, use_cases
from order_service.checkout import Verdict
from order_service.events import UserDeleted
from order_service.models import NewOrder, OrderRow
from tests.integration.order_service.race import Racers
from tests.integration.order_service.shop import Shop, a_user_event
from tests.processes import in_threads
from tests.unit.order_service.factories import ORIGIN, a_line, a_reserved_line
from tests.web import refused


def check_books(shop: Shop) -> None:
    """Each order's status, its events and the totals agree."""
    published = Counter((event["subject"], event["type"].split(".")[1]) for event in shop.events())
    expected: Counter[tuple[str, str]] = Counter()
    for row in shop.rows():
        for status in ("confirmed", "rejected", "cancelled", "shipped", "delivered"):
            if row[f"{status}_at"]:
                expected[row["id"], status] = 1
    assert published == expected
    statuses = Counter(row["status"] for row in shop.rows())
    assert shop.by_status() == dict(statuses)


# One key -------------------------------------------------------------------------------------------------------------


class Received(NamedTuple):
    status: int
    body: bytes
    replayed: bool
    retry_after: str | None


def send(shop: Shop, job: tuple[dict[str, Any], str, int]) -> tuple[list[Received], int]:
    """Send an order many times concurrently; returns the answers, and how many units this process reserved."""
    body, key, times = job

    def once(_: int) -> Received:
        answer = shop.place_again(body, key)
        headers = answer.headers
        return Received(answer.status_code, answer.data, "Idempotent-Replayed" in headers, headers.get("Retry-After"))

    with ThreadPoolExecutor(times) as pool:
        answers = list(pool.map(once, range(times)))
    return answers, 1000 - shop.products.stock[shop.product_id]


def test_200_simultaneous_sends_of_one_key_make_one_order(shop: Shop, racers: Racers) -> None:
    body = shop.body()

    (first, taken), (second, taken_there) = racers.race(shop, (send, (body, "k", 100)), (send, (body, "k", 100)))

    answers = first + second
    assert len(answers) == 200
    (row,) = shop.rows()
    assert row["status"] == "confirmed"
    assert taken + taken_there == 2
    confirmed = [answer for answer in answers if answer.status == 201]
    assert len({answer.body for answer in confirmed}) == 1
    assert row["id"].encode() in confirmed[0].body
    assert sum(not answer.replayed for answer in confirmed) == 1
    for answer in answers:
        if answer.status != 201:  # arrived while the first was in progress
            assert answer.status == 409
            assert b'"code":"request-in-flight"' in answer.body
            assert int(answer.retry_after or 0) >= 1
    check_books(shop)


def test_of_all_who_would_drive_an_abandoned_order_on_one_does(shop: Shop, racers: Racers) -> None:
    body = shop.body()
    order_id = shop.pend(body, key="k")
    shop.abandon(order_id, seconds=1.0)

    (first, taken), (second, taken_there) = racers.race(shop, (send, (body, "k", 20)), (send, (body, "k", 20)))

    (row,) = shop.rows()
    assert (row["id"], row["status"]) == (order_id, "confirmed")
    assert taken + taken_there == 2
    assert {answer.status for answer in first + second} <= {201, 409}
    assert sum(answer.status == 201 and not answer.replayed for answer in first + second) == 1
    check_books(shop)


def place(shop: Shop, batches: list[list[str]]) -> list[list[str]]:
    """Place an order for each key, in batches; returns the outcomes."""
    told = []
    for keys in batches:
        until = time.monotonic() + 60.0
        new = [NewOrder.of(shop.user_id, [a_line()], None, Key(key, "the same"), until) for key in keys]
        with shop.db.write() as session:
            placed = checkout.place_all(session, new)
        told.append([outcome["status"] if isinstance(outcome, dict) else type(outcome).__name__ for outcome in placed])
    return told


def test_batches_that_bring_the_same_keys_in_opposite_orders_neither_deadlock_nor_double(
    shop: Shop, racers: Racers
) -> None:
    shop.know()
    batches = [[f"{batch}-{n}" for n in range(40)] for batch in range(15)]

    first, second = racers.race(shop, (place, batches), (place, [keys[::-1] for keys in batches]))

    outcomes = [pair for one, other in zip(first, second, strict=True) for pair in zip(one, other[::-1], strict=True)]
    assert Counter(map(frozenset, outcomes)) == {frozenset({"pending", RequestInFlight.__name__}): 600}
    assert len(shop.rows()) == 600
    check_books(shop)


SLOW_INSERTS = """
CREATE FUNCTION wait() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END' LANGUAGE plpgsql;
CREATE TRIGGER slow BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION wait();
"""


def test_keys_in_opposite_orders_do_not_deadlock_however_slowly_they_are_stored(shop: Shop) -> None:
    if shop.db.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    shop.know()
    with shop.db.write() as session:
        session.connection().exec_driver_sql(SLOW_INSERTS)
    keys = [str(n) for n in range(6)]

    first, second = in_threads(2, lambda number: place(shop, [keys if number else keys[::-1]]))

    assert {*map(frozenset, zip(first[0], second[0][::-1], strict=True))} == {
        frozenset({"pending", RequestInFlight.__name__})
    }
    assert len(shop.rows()) == 6


# One order -----------------------------------------------------------------------------------------------------------


def confirm(shop: Shop, orders: list[OrderRow]) -> dict[str, str]:
    """Settle orders, as they were read while they were pending, in batches, as if all were reserved; returns their
    statuses.
    """
    found = {}
    for n in range(0, len(orders), 3):
        verdicts = [Verdict(order, [a_reserved_line()], ORIGIN) for order in orders[n : n + 3]]
        with shop.db.write() as session:
            found |= {row["id"]: row["status"] for row in checkout.settle_all(session, verdicts)}
    return found


def recover(shop: Shop, limit: int) -> None:
    while checkout.reject_abandoned(shop.db, limit):
        pass


def test_recovery_and_the_request_agree_on_every_order(shop: Shop, racers: Racers) -> None:
    ids = [shop.pend(key=str(n)) for n in range(90)]
    for age, order_id in enumerate(ids):
        shop.abandon(order_id, seconds=60.0 + age)  # recovery starts with the last

    found, _ = racers.race(shop, (confirm, [shop.row(order_id) for order_id in ids]), (recover, 7))

    rows = shop.rows()
    assert found == {row["id"]: row["status"] for row in rows}
    assert {row["status"] for row in rows} <= {"confirmed", "rejected"}
    assert all((row["idempotency_key"] is None) == (row["status"] == "rejected") for row in rows)
    check_books(shop)


def test_a_verdict_waits_for_one_that_is_not_yet_committed_and_answers_what_that_says(shop: Shop) -> None:
    order_id = shop.pend()
    late, early = (
        Verdict(shop.row(order_id), outcome, ORIGIN) for outcome in ([a_reserved_line()], DependencyUnavailable())
    )

    def settle_late() -> list[str]:
        with shop.db.write() as session:
            return [row["status"] for row in checkout.settle_all(session, [late])]

    with ThreadPoolExecutor(1) as pool, shop.db.write() as session:
        checkout.settle_all(session, [early])
        found = pool.submit(settle_late)
        wait([found], timeout=0.5)

    assert found.result() == [shop.get(order_id)["status"]] == ["rejected"]
    check_books(shop)


def hear(shop: Shop, events: list[list[dict[str, Any]]]) -> list[str]:
    return [outcome for batch in events for outcome in shop.hear(*batch)]


def test_no_order_of_a_deleted_user_stays_confirmed(shop: Shop, racers: Racers) -> None:
    users = [shop.a_user() for _ in range(20)]
    orders = [shop.row(shop.pend(shop.body(user_id=user_id))) for user_id in users * 3]
    moment = write_time(now() - timedelta(hours=1))
    events = [a_user_event("deleted", user_id, 2, deleted_at=moment) for user_id in users]

    found, outcomes = racers.race(
        shop, (confirm, orders), (hear, [[events[n + 1], events[n]] for n in range(18, -1, -2)])
    )

    assert set(outcomes) == {"done"}
    rows = {row["id"]: row for row in shop.rows()}
    assert {row["status"] for row in rows.values()} <= {"rejected", "cancelled"}
    for order_id, status in found.items():
        assert (rows[order_id]["confirmed_at"] is not None) == (status == "confirmed")
    check_books(shop)


def test_an_order_that_runs_through_while_its_user_is_deleted_is_not_confirmed(shop: Shop) -> None:
    """The deletion has read the orders of the user without this one, and is not yet committed."""
    shop.know()
    deleted = UserDeleted.read(a_user_event("deleted", shop.user_id, 2, deleted_at=write_time(now())))
    with ThreadPoolExecutor(1) as pool, shop.db.write() as deletion:
        use_cases.HANDLERS[UserDeleted](deletion, [deleted])
        answer = pool.submit(shop.place)
        wait([answer], timeout=0.5)

    refused(answer.result(), 422, "unknown-user")
    assert {row["status"] for row in shop.rows()} <= {"rejected"}
    check_books(shop)


def take(shop: Shop, job: tuple[str, list[str]]) -> dict[str, int]:
    step, ids = job
    return {order_id: shop.api.post(f"/orders/{order_id}/{step}", None).status_code for order_id in ids}


def test_an_order_is_cancelled_or_shipped_and_never_both(shop: Shop, racers: Racers) -> None:
    ids = [shop.order()["id"] for _ in range(40)]

    cancelled, shipped = racers.race(shop, (take, ("cancel", ids)), (take, ("ship", ids[::-1])))

    for row in shop.rows():
        answers = (cancelled[row["id"]], shipped[row["id"]])
        assert answers == ((200, 409) if row["status"] == "cancelled" else (409, 200))
    check_books(shop)


def test_a_step_that_two_take_at_once_is_taken_once(shop: Shop, racers: Racers) -> None:
    ids = [shop.order()["id"] for _ in range(30)]

    first, second = racers.race(shop, (take, ("ship", ids)), (take, ("ship", ids[::-1])))

    assert set(first.values()) == set(second.values()) == {200}
    assert {row["version"] for row in shop.rows()} == {3}
    check_books(shop)
