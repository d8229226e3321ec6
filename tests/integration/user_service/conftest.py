from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from libs.common.data.database import Database
from tests.factories import a_user
from tests.web import Api, answered


@pytest.fixture
def app(make_service: Callable[..., Flask]) -> Flask:
    return make_service("user")


@pytest.fixture
def api(app: Flask) -> Api:
    return Api(app)


@pytest.fixture
def db(app: Flask) -> Database:
    found: Database = app.extensions["quintet"].db
    return found


@pytest.fixture
def create(api: Api) -> Callable[..., dict[str, Any]]:
    """A registered user, as the service answers it."""

    def make(**given: Any) -> dict[str, Any]:
        user: dict[str, Any] = answered(api.post("/users", a_user(**given)), 201)
        return user

    return make
