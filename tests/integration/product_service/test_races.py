"""Races of workers in several processes."""

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from libs.common.data.database import Database
from libs.common.ids import new_id
from product_service import repository
from product_service.app import create_app
from product_service.models import Demand
from product_service.use_cases import close_reservations, reserve
from tests.factories import a_cloud_event, a_product, a_reservation
from tests.integration.product_service.shop import Shop
from tests.processes import Workers, beside, in_threads, patient
from tests.web import Api, answered

THREADS = 3


def in_a_process(url: str, work: Callable[[Shop, int], Any]) -> list[Any]:
    """Run `work` in several threads, with a service of this process."""
    app = create_app(patient("product", url))
    results = in_threads(THREADS, lambda number: work(Shop(Api(app)), number))
    app.extensions["quintet"].db.dispose()
    return results


@pytest.fixture
def race(workers: Workers, db: Database) -> Callable[..., list[Any]]:
    """Run a function of this module in three processes with three threads each; what each thread returned."""
    url = db.url.render_as_string(hide_password=False)

    def run(function: Callable[..., list[Any]], *given: Any) -> list[Any]:
        found = workers.race(function, *[(url, process, *given) for process in range(3)])
        return [result for results in found for result in results]

    return run


def buy(url: str, process: int, product: str, other: str) -> list[int]:
    """Reserve singly and in batches until nothing is left; returns how many units each thread got."""

    def work(shop: Shop, number: int) -> int:
        dice, bought = random.Random(process * 10 + number), 0
        for _ in range(12):
            lines = [(product, 1), (other, 1)] if dice.random() < 0.5 else [(other, 1), (product, 1)]
            if dice.random() < 0.5:
                bought += shop.reserve(*lines).status_code == 201
            else:
                outcomes = shop.batch(*[a_reservation(*lines) for _ in range(4)])
                bought += sum(outcome["status"] == 201 for outcome in outcomes)
        return bought

    return in_a_process(url, work)


def test_exactly_the_stock_is_sold_in_singles_and_batches(shop: Shop, race: Callable[..., list[int]]) -> None:
    product, other = shop.product(stock=100), shop.product(stock=1000)
    bought = race(buy, product, other)
    assert sum(bought) == 100
    assert shop.units(product) == (0, 100, 0)
    assert shop.units(other) == (900, 100, 0)
    assert len([one for one in bought if one]) > 1
    assert answered(shop.api.get("/products/stats"))["reserved_units"] == 200


def repeat(url: str, process: int, product: str, orders: list[str]) -> list[list[Any]]:
    """Every thread reserves for the same orders."""

    def work(shop: Shop, number: int) -> list[Any]:
        mine = list(orders)
        random.Random(process * 10 + number).shuffle(mine)
        found = {}
        for start in range(0, len(mine), 4):
            some = mine[start : start + 4]
            if number % 2:
                bodies = [
                    outcome["body"] for outcome in shop.batch(*[a_reservation((product, 2), order_id=o) for o in some])
                ]
            else:
                bodies = [shop.reserve((product, 2), order_id=order).json for order in some]
            found |= dict(zip(some, bodies, strict=True))
        return [found[order] for order in orders]

    return in_a_process(url, work)


def test_an_order_that_many_reserve_for_at_once_holds_its_lines_once(
    shop: Shop, race: Callable[..., list[list[Any]]]
) -> None:
    product, orders = shop.product(stock=100), [new_id() for _ in range(16)]
    answers = race(repeat, product, orders)
    assert all(answer == answers[0] for answer in answers)
    assert [answer["status"] for answer in answers[0]] == ["reserved"] * 16
    assert shop.units(product) == (68, 32, 0)


def reserve_or_release(url: str, process: int, products: list[str], orders: list[str]) -> list[int]:
    """One process reserves for the orders that the others release, in every way."""

    def work(shop: Shop, number: int) -> int:
        dice = random.Random(process * 10 + number)
        mine = list(orders)
        dice.shuffle(mine)
        troubles = 0
        for start in range(0, len(mine), 5):
            some = mine[start : start + 5]
            if process == 0:
                lines = [(product, 1) for product in dice.sample(products, 3)]
                outcomes = shop.batch(*[a_reservation(*lines, order_id=order) for order in some])
                troubles += sum(outcome["status"] not in (201, 409) for outcome in outcomes)
            elif number == 0:
                for order in some:
                    shop.release(order)
            else:
                name = "rejected" if number == 1 else "cancelled"
                events = [a_cloud_event(f"order.{name}.v1", {"order_id": order}) for order in some]
                troubles += sum(outcome != "done" for outcome in shop.deliver(*events))
        return troubles

    return in_a_process(url, work)


def test_whoever_comes_first_after_reserve_and_release_nothing_is_held(
    shop: Shop, race: Callable[..., list[int]]
) -> None:
    products = [shop.product(stock=50) for _ in range(4)]
    orders = [new_id() for _ in range(60)]
    troubles = race(reserve_or_release, products, orders)
    assert {shop.units(product) for product in products} == {(50, 0, 0)}
    # Locks are taken in one order, so no request failed with a deadlock.
    assert sum(troubles) == 0


def take_out(url: str, process: int, product: str) -> list[int]:
    def work(shop: Shop, number: int) -> int:
        body = {"delta": -1, "reason": "test"}
        return sum(shop.api.post(f"/products/{product}/stock", body).status_code == 200 for _ in range(10))

    return in_a_process(url, work)


def test_stock_is_taken_out_down_to_zero_and_no_further(shop: Shop, race: Callable[..., list[int]]) -> None:
    product = shop.product(stock=50)
    assert sum(race(take_out, product)) == 50
    assert shop.units(product) == (0, 0, 0)


def change(url: str, process: int, product: str) -> list[int]:
    def work(shop: Shop, number: int) -> int:
        body = {"name": f"{process} {number}"}
        return shop.api.patch(f"/products/{product}", body, headers={"If-Match": '"1"'}).status_code

    return in_a_process(url, work)


def test_of_many_changes_to_one_version_one_wins(shop: Shop, race: Callable[..., list[int]]) -> None:
    product = shop.product()
    assert sorted(race(change, product)) == [200] + [412] * 8
    assert answered(shop.api.get(f"/products/{product}"))["version"] == 2


def put_on_sale(url: str, process: int, body: dict[str, Any], key: str | None) -> list[Any]:
    def work(shop: Shop, number: int) -> Any:
        answer = shop.api.post("/products", body, headers={"Idempotency-Key": key} if key else None)
        return answer.status_code, answer.json.get("id"), answer.headers.get("Idempotent-Replayed")

    return in_a_process(url, work)


def test_of_many_products_with_one_sku_one_is_made(shop: Shop, race: Callable[..., list[Any]]) -> None:
    statuses = [status for status, _, _ in race(put_on_sale, a_product(sku="one"), None)]
    assert sorted(statuses) == [201] + [409] * 8
    assert answered(shop.api.get("/products/stats"))["total"] == 1


def test_one_key_sent_by_many_at_once_makes_one_product(shop: Shop, race: Callable[..., list[Any]]) -> None:
    answers = race(put_on_sale, a_product(stock=3), "one-key")
    assert {status for status, _, _ in answers} == {201}
    assert len({product_id for _, product_id, _ in answers}) == 1
    assert sorted(str(replayed) for _, _, replayed in answers) == ["None"] + ["true"] * 8
    assert answered(shop.api.get("/products/stats")) == {
        "total": 1, "stock_units": 3, "reserved_units": 0, "sold_units": 0,
    }  # fmt: skip


def test_a_release_of_several_orders_and_a_reserve_do_not_wait_for_each_other(
    shop: Shop, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reserve has locked the product and is about to insert its reservation; the release is about to insert a
    tombstone for the same order, and to release units of the product.
    """
    product, held, late = (
        shop.product(stock=5),
        "00000000-0000-7000-8000-000000000002",
        "00000000-0000-7000-8000-000000000001",
    )
    shop.reserved((product, 2), order_id=held)
    holds_product, refused_late = threading.Event(), threading.Event()
    add_reservations, add_tombstones = repository.add_reservations, repository.add_tombstones

    def store(session: Any, lines: Any) -> None:
        holds_product.set()
        refused_late.wait(0.5)
        add_reservations(session, lines)

    def refuse(session: Any, order_ids: Any) -> None:
        add_tombstones(session, order_ids)
        refused_late.set()

    monkeypatch.setattr(repository, "add_reservations", store)
    monkeypatch.setattr(repository, "add_tombstones", refuse)
    outcomes: list[Any] = []
    with beside(lambda: outcomes.extend(reserve(db, [Demand(late, {product: 1}, {product: 0})]))):
        assert holds_product.wait(10)
        with db.write() as session:
            close_reservations(session, {held, late}, set())
    assert len(outcomes) == 1
    assert shop.units(product) == (5, 0, 0)
