"""Orders at the same step are batched, and each has its own outcome."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Event
from typing import Any

from libs.common.errors import DeadlineExceeded, DependencyUnavailable, IdempotencyKeyReused, RequestInFlight
from libs.common.ids import new_id
from libs.common.times import now
from order_service import checkout, repository
from order_service.checkout import Checkout, Verdict
from order_service.clients import Demand, Reserved
from order_service.models import InsufficientStock, Rejected, UnknownUser
from tests.integration.order_service.shop import InterruptedProducts, Shop, summary
from tests.unit.order_service.factories import ORIGIN, a_demand, a_line, a_reserved_line
from tests.web import Api, answered


def a_checkout(shop: Shop) -> Checkout:
    return Checkout(shop.db, shop.users, shop.products)


# The first transaction -----------------------------------------------------------------------------------------------


def test_in_one_commit_each_order_is_placed_refused_or_replayed_on_its_own(shop: Shop) -> None:
    done = answered(shop.place(key="done"), 201)
    in_flight = shop.pend(key="in flight")
    left = shop.pend(key="left")
    shop.abandon(left)
    gone, stranger = shop.a_user(), shop.a_user()
    shop.know(gone, status="deleted")
    new = [
        shop.new(key="fresh"),
        shop.new(shop.body(user_id=gone), key="gone"),
        shop.new(key="done"),
        shop.new(shop.body(note="other"), key="done"),
        shop.new(shop.body(user_id=stranger), key="stranger"),
        shop.new(key="in flight"),
        shop.new(key="left"),
        shop.new(),
        shop.new(key="fresh"),
    ]

    with shop.db.write() as session:
        placed = checkout.place_all(session, new)

    assert [summary(item) for item in placed] == [
        (new[0].order_id, "pending"),
        UnknownUser.__name__,
        (done["id"], "confirmed"),
        IdempotencyKeyReused.__name__,
        None,
        RequestInFlight.__name__,
        (left, "pending"),
        (new[7].order_id, "pending"),
        RequestInFlight.__name__,
    ]
    assert {row["id"] for row in shop.rows()} == {done["id"], in_flight, left, new[0].order_id, new[7].order_id}
    assert shop.by_status()["pending"] == 4


def test_a_batch_may_have_one_key_many_times_with_different_bodies(shop: Shop) -> None:
    shop.know()
    new = [shop.new(key="k"), shop.new(shop.body(note="other"), key="k")]

    with shop.db.write() as session:
        first, second = checkout.place_all(session, new)

    assert [summary(first), summary(second)] == [(new[0].order_id, "pending"), IdempotencyKeyReused.__name__]
    assert [row["id"] for row in shop.rows()] == [new[0].order_id]


def test_a_key_of_an_unknown_user_is_left_to_the_next_who_brings_it(shop: Shop) -> None:
    shop.know()
    new = [shop.new(shop.body(user_id=shop.a_user()), key="k"), shop.new(key="k")]

    with shop.db.write() as session:
        first, second = checkout.place_all(session, new)

    assert [summary(first), summary(second)] == [IdempotencyKeyReused.__name__, (new[1].order_id, "pending")]


# The reservation -----------------------------------------------------------------------------------------------------


class WatchedProducts(InterruptedProducts):
    """Records the batches that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[list[str], float]] = []

    def reserve(self, batch: Sequence[Demand], deadline: float) -> list[Reserved]:
        self.asked.append(([demand.order_id for demand in batch], deadline))
        return super().reserve(batch, deadline)


def test_what_has_expired_is_not_asked_for_and_cuts_the_others_not_short(shop: Shop) -> None:
    products = WatchedProducts()
    product_id = products.add(new_id())
    lines = [a_line(product_id=product_id)]
    soon, late, over = a_demand(*lines, seconds=1), a_demand(*lines, seconds=9), a_demand(*lines, seconds=-1)

    outcomes = Checkout(shop.db, shop.users, products)._reserve_all([over, soon, late])

    assert isinstance(outcomes[0], DeadlineExceeded)
    assert outcomes[1:] == [products.reserved[soon.order_id], products.reserved[late.order_id]]
    assert products.asked == [([soon.order_id, late.order_id], late.deadline)]


def test_a_batch_that_has_expired_as_a_whole_asks_for_nothing(shop: Shop) -> None:
    products = WatchedProducts()

    outcomes = Checkout(shop.db, shop.users, products)._reserve_all([a_demand(seconds=-1)])

    assert isinstance(outcomes[0], DeadlineExceeded)
    assert products.asked == []


def test_one_order_that_cannot_be_reserved_does_not_fail_the_others(shop: Shop) -> None:
    product_id = shop.products.add(new_id(), stock=5)
    demands = [a_demand(a_line(product_id=product_id, quantity=quantity)) for quantity in (2, 100, 2)]

    first, second, third = a_checkout(shop)._reserve_all(demands)

    assert isinstance(second, InsufficientStock)
    assert isinstance(first, list)
    assert isinstance(third, list)


# The second transaction ----------------------------------------------------------------------------------------------


def verdict(shop: Shop, order_id: str, outcome: Any) -> Verdict:
    return Verdict(shop.row(order_id), outcome, ORIGIN)


def test_in_one_commit_each_order_is_confirmed_or_rejected_on_its_own(shop: Shop) -> None:
    gone = shop.a_user()
    short, fine, mixed, failed = (shop.pend(key=key) for key in ("short", "fine", "mixed", "failed"))
    orphan = shop.pend(shop.body(user_id=gone))
    shop.know(gone, status="suspended", version=2)
    settled = shop.order()
    lines = [a_reserved_line()]
    verdicts = [
        verdict(shop, short, InsufficientStock()),
        verdict(shop, fine, lines),
        verdict(shop, mixed, [*lines, a_reserved_line(currency="USD")]),
        verdict(shop, orphan, lines),
        verdict(shop, failed, DependencyUnavailable()),
        verdict(shop, settled["id"], DependencyUnavailable()),
    ]

    with shop.db.write() as session:
        rows = checkout.settle_all(session, verdicts)

    assert [(row["id"], row["status"]) for row in rows] == [
        (short, "rejected"),
        (fine, "confirmed"),
        (mixed, "rejected"),
        (orphan, "rejected"),
        (failed, "rejected"),
        (settled["id"], "confirmed"),
    ]
    stored = [shop.row(row["id"]) for row in rows]
    assert [row["status"] for row in stored] == [row["status"] for row in rows]
    assert [(row["rejection"] or {}).get("code") for row in stored] == [
        "insufficient-stock", None, "currency-mismatch", "unknown-user", "dependency-unavailable", None,
    ]  # fmt: skip
    assert [row["id"] for row in stored if row["idempotency_key"]] == [short, fine, mixed]
    assert [(event["type"], event["subject"]) for event in shop.events()][1:] == [
        ("order.rejected.v1", short),
        ("order.confirmed.v1", fine),
        ("order.rejected.v1", mixed),
        ("order.rejected.v1", orphan),
        ("order.rejected.v1", failed),
    ]
    assert shop.row(fine)["total"] == Decimal("20.00")


def test_of_two_verdicts_upon_one_order_the_first_holds(shop: Shop) -> None:
    order_id = shop.pend()

    with shop.db.write() as session:
        rows = checkout.settle_all(
            session, [verdict(shop, order_id, [a_reserved_line()]), verdict(shop, order_id, InsufficientStock())]
        )

    assert [row["status"] for row in rows] == ["confirmed", "confirmed"]
    assert shop.get(order_id)["status"] == "confirmed"
    assert [event["type"] for event in shop.events()] == ["order.confirmed.v1"]
    assert shop.totals() == {"status:confirmed": 1, "total": 1, "revenue:EUR": 200_000}


def test_the_statement_itself_changes_only_what_is_pending(shop: Shop) -> None:
    """A caller that does not check the status changes nothing."""
    pending, shipped = shop.pend(), shop.take(shop.order()["id"], "ship")
    problem = DependencyUnavailable("Too late.").document("/orders", "a-request")
    late = Rejected(
        status="rejected", updated_at=now(), rejected_at=now(), rejection=problem, idempotency_key=None, version=9
    )

    with shop.db.write() as session:
        repository.write(session, {shipped["id"]: late, pending: late})

    assert shop.get(shipped["id"]) == shipped
    assert shop.get(pending)["status"] == "rejected"


def test_the_halves_of_different_orders_share_a_commit_and_get_their_own_answers(shop: Shop) -> None:
    first, second = shop.pend(), shop.pend()
    new = [shop.new(), shop.new()]
    work = [new[0], verdict(shop, first, [a_reserved_line()]), new[1], verdict(shop, second, InsufficientStock())]

    answers = a_checkout(shop)._write_all(work)

    assert [summary(answer) for answer in answers] == [
        (new[0].order_id, "pending"), (first, "confirmed"), (new[1].order_id, "pending"), (second, "rejected"),
    ]  # fmt: skip
    assert [row["status"] for row in shop.rows()] == ["confirmed", "rejected", "pending", "pending"]


def test_a_key_that_is_given_back_can_be_taken_in_the_same_commit(shop: Shop) -> None:
    failed = shop.pend(key="k")
    again = shop.new(key="k")

    _, placed = a_checkout(shop)._write_all([verdict(shop, failed, DependencyUnavailable()), again])

    assert summary(placed) == (again.order_id, "pending")
    assert [(row["id"], row["status"]) for row in shop.rows()] == [(failed, "rejected"), (again.order_id, "pending")]


# All together --------------------------------------------------------------------------------------------------------


def test_of_many_requests_at_once_each_gets_its_own_answer(shop: Shop) -> None:
    """40 at a time in one process: confirmed, too little stock, unknown product, unknown user."""
    shop.know()
    scarce = shop.products.add(new_id(), stock=0)
    bodies = [
        shop.body((shop.product_id, 1)),
        shop.body((scarce, 1)),
        shop.body((new_id(), 1)),
        shop.body(user_id=new_id()),
    ] * 10

    with ThreadPoolExecutor(len(bodies)) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda body: Api(shop.app).post("/orders", body), bodies))

    assert [answer.status_code for answer in answers] == [201, 409, 422, 422] * 10, time.monotonic() - started
    assert [answer.json.get("code") for answer in answers[:4]] == [
        None, "insufficient-stock", "unknown-product", "unknown-user",
    ]  # fmt: skip
    for body, answer in zip(bodies, answers, strict=True):
        if answer.status_code == 201:
            assert answer.json["user_id"] == body["user_id"]
            assert answer.json == shop.get(answer.json["id"])
    assert shop.products.stock[shop.product_id] == 90
    assert shop.totals() == {"status:confirmed": 10, "status:rejected": 20, "total": 10, "revenue:EUR": 1_000_000}
    assert len({event["subject"] for event in shop.events()}) == len(shop.events()) == 30


def test_clients_with_little_time_fail_no_neighbour(shop: Shop) -> None:
    """The second leads the batch of all that follow, while another process holds the lock of the database."""
    shop.know()

    def place(timeout_ms: str) -> int:
        return Api(shop.app).post("/orders", shop.body(), headers={"X-Request-Timeout-Ms": timeout_ms}).status_code

    with ThreadPoolExecutor(12) as pool:
        taken = Event()
        busy = pool.submit(hold_the_lock, shop, taken)
        assert taken.wait(10)
        for timeout_ms in ("100", "300"):
            pool.submit(place, timeout_ms)
            time.sleep(0.03)
        patient = list(pool.map(place, ["5000"] * 8))
        busy.result()

    assert patient == [201] * 8


def hold_the_lock(shop: Shop, taken: Event) -> None:
    with shop.db.write():
        taken.set()
        time.sleep(0.6)
