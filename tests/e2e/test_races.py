"""Many concurrent clients, from several processes, over two or more workers of each service."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from prometheus_client.mmap_dict import MmapedDict

from demo.api import Quintet, eventually
from libs.topology import PORT_OFFSETS
from tests.e2e.crowd import Hit, Shot, volley
from tests.e2e.shop import Json, Shop, Units, a_user, an_order
from tests.e2e.system import System


def fire(system: System, service: str, shots: list[Shot]) -> list[Hit]:
    """The answers of a service, in any order. A client that is refused for overload retries with the same key."""
    hits = volley(system.base_port + PORT_OFFSETS[service], shots)
    sent_away = [hit for hit in hits if hit.status in (503, 504)]
    again = fire(system, service, [hit.shot for hit in sent_away]) if sent_away else []
    return [hit for hit in hits if hit not in sent_away] + again


def an_order_shot(body: Json) -> Shot:
    return Shot("/api/v1/orders", body, {"Idempotency-Key": uuid4().hex})


def outcomes(hits: list[Hit]) -> Counter[tuple[int, str]]:
    """How many answers there are of each status and problem code."""
    return Counter((hit.status, hit.body.get("code", "")) for hit in hits)


def posts_by_worker(system: System, route: str) -> dict[str, float]:
    """Worker → how many requests it has answered, from its metrics."""
    found: dict[str, float] = {}
    for path in system.metrics_dir("order").rglob("counter_*.db"):
        values = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        found[path.stem] = sum(value for key, value, *_ in values if f'"{route}"' in key and '"POST"' in key)
    return found


@contextmanager
def watched(shop: Shop, laptop: Json) -> Iterator[list[Units]]:
    """The figures of a product, read repeatedly during the block."""
    seen: list[Units] = []
    over = threading.Event()
    eye = Shop(Quintet(shop.api.base_port))

    def look() -> None:
        while not over.is_set():
            seen.append(eye.units(laptop))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def test_200_simultaneous_requests_with_one_key_make_one_order(system: System, shop: Shop) -> None:
    user, laptop = shop.new_user(), shop.new_product(25)
    shot = an_order_shot(an_order(user, laptop))

    hits = fire(system, "order", [shot] * 200)

    assert set(outcomes(hits)) <= {(201, ""), (409, "request-in-flight")}
    in_flight = [hit for hit in hits if hit.status == 409]
    assert all(int(hit.headers["retry-after"]) >= 1 for hit in in_flight)
    again = [shop.api.post("order", "/orders", shot.body, shot.headers) for _ in in_flight]
    answers = [hit.body for hit in hits if hit.status == 201] + [answer.json() for answer in again]
    [order] = shop.orders_of(user)
    assert answers == [order] * 200
    first = [hit for hit in hits if hit.status == 201 and "idempotent-replayed" not in hit.headers]
    assert len(first) == 1
    assert shop.units(laptop) == Units(stock=24, reserved=1, sold=0)


def test_one_key_makes_one_user_however_many_send_it(system: System, shop: Shop) -> None:
    before = shop.stats()["user"]["total"]
    shot = Shot("/api/v1/users", a_user(), {"Idempotency-Key": uuid4().hex})
    hits = fire(system, "user", [shot] * 60)
    assert outcomes(hits) == {(201, ""): 60}
    assert len({hit.body["id"] for hit in hits}) == 1
    assert shop.stats()["user"]["total"] == before + 1


def test_500_simultaneous_orders_sell_a_stock_of_100_exactly(system: System, shop: Shop) -> None:
    user, laptop = shop.new_user(), shop.new_product(100)
    before = posts_by_worker(system, "/api/v1/orders")

    with watched(shop, laptop) as seen:
        hits = fire(system, "order", [an_order_shot(an_order(user, laptop)) for _ in range(500)])

    assert outcomes(hits) == {(201, ""): 100, (409, "insufficient-stock"): 400}
    assert shop.units(laptop) == Units(stock=0, reserved=100, sold=0)
    assert {sum(units) for units in seen} == {100}
    assert min(min(units) for units in seen) >= 0
    assert Counter(order["status"] for order in shop.orders_of(user)) == {"confirmed": 100, "rejected": 400}

    def busy_workers() -> int:
        after = posts_by_worker(system, "/api/v1/orders")
        return len([worker for worker in after if after[worker] > before.get(worker, 0)])

    assert eventually(lambda: busy_workers() >= 2)


def test_cancelling_and_shipping_at_one_moment_leaves_one_winner(system: System, shop: Shop) -> None:
    user, laptop = shop.new_user(), shop.new_product(20)
    orders = [shop.order(user, laptop).json() for _ in range(20)]
    shots = [Shot(f"/api/v1/orders/{order['id']}/{step}", {}) for order in orders for step in ("cancel", "ship")]

    hits = fire(system, "order", shots)

    assert outcomes(hits) == {(200, ""): 20, (409, "invalid-transition"): 20}
    now = Counter(order["status"] for order in shop.orders_of(user))
    assert now["cancelled"] + now["shipped"] == 20
    wanted = Units(stock=now["cancelled"], reserved=0, sold=now["shipped"])
    assert eventually(lambda: shop.units(laptop) == wanted, 10)


@pytest.mark.parametrize("lines", [1, 3])
def test_orders_for_the_same_products_in_any_order_never_block_each_other(
    system: System, shop: Shop, lines: int
) -> None:
    """Locking rows in the order of the lines would deadlock here."""
    user = shop.new_user()
    laptops = [shop.new_product(1000) for _ in range(lines)]
    items = [{"product_id": laptop["id"], "quantity": 1} for laptop in laptops]
    bodies = [{"user_id": user["id"], "items": items[::step]} for step in (1, -1)]

    hits = fire(system, "order", [an_order_shot(body) for body in bodies * 60])

    assert outcomes(hits) == {(201, ""): 120}
    assert {shop.units(laptop) for laptop in laptops} == {Units(stock=880, reserved=120, sold=0)}
