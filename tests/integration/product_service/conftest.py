from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from libs.common.data.database import Database
from product_service.clients import FakeUsers
from tests.factories import a_product
from tests.integration.product_service.shop import Shop
from tests.web import Api, answered


@pytest.fixture
def users() -> FakeUsers:
    return FakeUsers()


@pytest.fixture
def app(make_service: Callable[..., Flask], users: FakeUsers) -> Flask:
    return make_service("product", users=users)


@pytest.fixture
def api(app: Flask) -> Api:
    return Api(app)


@pytest.fixture
def db(app: Flask) -> Database:
    found: Database = app.extensions["quintet"].db
    return found


@pytest.fixture
def create(api: Api) -> Callable[..., dict[str, Any]]:
    """A product on sale, as the service answers it."""

    def make(**given: Any) -> dict[str, Any]:
        product: dict[str, Any] = answered(api.post("/products", a_product(**given)), 201)
        return product

    return make


@pytest.fixture
def shop(api: Api) -> Shop:
    return Shop(api)
