"""The order service in this process, on both engines, with fakes of the others."""

from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from libs.common.config import Settings
from order_service.app import OrderSettings, create_app
from tests.integration.order_service.race import Racers
from tests.integration.order_service.shop import InterruptedProducts, Shop, WatchedUsers


@pytest.fixture
def shop(
    new_database: Callable[[str], str], make_settings: Callable[..., Settings], run_app: Callable[[Flask], Flask]
) -> Shop:
    """A shop with one customer, who is not yet in the replica, and one product at 10.00 EUR."""
    url, users, products = new_database("order_service"), WatchedUsers(), InterruptedProducts()

    def open_shop() -> Flask:
        settings = make_settings("order", OrderSettings, base_port=18600, database_url=url)
        return run_app(create_app(settings, users=users, products=products))

    return Shop(open_shop, users, products)


@pytest.fixture(scope="session")
def racers() -> Iterator[Racers]:
    made = Racers()
    yield made
    made.close()
