"""Races of two processes, each with its own app and fakes: they share only the database."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from order_service.app import OrderSettings, create_app
from tests.conftest import SECRET
from tests.integration.order_service.shop import InterruptedProducts, Shop, WatchedUsers

Work = Callable[[Shop, Any], Any]


class Racers:
    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(2, spawn, initializer=_enter, initargs=(spawn.Barrier(2),))

    def race(self, shop: Shop, *work: tuple[Work, Any]) -> list[Any]:
        """Call each of two functions in its own process, with a shop of that process; returns their results. A function
        must be found by its name, and its argument and its result be plain values.
        """
        url = shop.db.url.render_as_string(hide_password=False)
        first, second = (
            self._pool.submit(_run, url, shop.user_id, shop.product_id, function, job) for function, job in work
        )
        return [first.result(timeout=60), second.result(timeout=60)]

    def close(self) -> None:
        self._pool.shutdown()


_barrier: Any = None


def _enter(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _run(url: str, user_id: str, product_id: str, function: Work, job: Any) -> Any:
    with _shop(url, user_id, product_id) as shop:
        shop.rows()  # connected
        _barrier.wait(timeout=60)
        return function(shop, job)


@contextmanager
def _shop(url: str, user_id: str, product_id: str) -> Iterator[Shop]:
    # Generous, since other programs may slow the machine down.
    settings = OrderSettings(
        service="order", base_port=18600, secret_key=SECRET, database_url=url, request_deadline_seconds=30.0,
        log_level="ERROR",
    )  # fmt: skip
    users, products = WatchedUsers(), InterruptedProducts()
    shop = Shop(lambda: create_app(settings, users=users, products=products), users, products)
    shop.user_id, shop.product_id = user_id, product_id
    users.known[user_id] = {"status": "active", "version": 1}
    products.add(product_id, stock=1000)
    try:
        yield shop
    finally:
        shop.db.dispose()
