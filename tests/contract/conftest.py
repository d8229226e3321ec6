"""The five services in this process, on SQLite, with fakes of the others."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import pytest
from flask import Flask

from analytics_service.clients import FakeServices
from libs.common.config import Settings
from libs.common.ids import example_id
from notification_service.clients import FakeUsers as FakeAddresses
from order_service.clients import Demand, FakeProducts, FakeUsers, Reserved
from product_service.clients import FakeUsers as FakeSellers
from tests.contract.walk import Walk


def settings_of(service: str) -> type[Settings]:
    """The settings that a service declares: its own, or those that all share."""
    declared = vars(import_module(f"{service}_service.app")).values()
    own = [cls for cls in declared if isinstance(cls, type) and issubclass(cls, Settings) and cls is not Settings]
    return own[0] if own else Settings


class EveryUser(FakeUsers):
    """Every user exists, so that generated requests are not refused for an unknown user."""

    def find(self, user_id: str) -> dict[str, Any] | None:
        return {"status": "active", "version": 1}


class EveryProduct(FakeProducts):
    """Every product is on sale."""

    def reserve(self, batch: Sequence[Demand], deadline: float) -> list[Reserved]:
        for demand in batch:
            for line in demand.lines:
                if line["product_id"] not in self.offers:
                    self.add(line["product_id"])
        return super().reserve(batch, deadline)


class EverySeller(FakeSellers):
    """Every seller exists."""

    def exists(self, user_id: str) -> bool:
        return True


@pytest.fixture
def fakes() -> dict[str, dict[str, Any]]:
    """The fakes that create_app takes in place of clients of other services."""
    return {
        "product": {"users": EverySeller()},
        "order": {"users": EveryUser(), "products": EveryProduct()},
        "notification": {"users": FakeAddresses()},
        "analytics": {"services": FakeServices()},
    }


@pytest.fixture
def make_app(
    databases: Any, new_database: Callable[..., str], make_settings: Callable[..., Settings],
    run_app: Callable[[Flask], Flask], fakes: dict[str, dict[str, Any]],
) -> Callable[..., Flask]:  # fmt: skip
    """`make_app("order", log_level="INFO")`: a migrated service with fakes of the others; keywords are settings."""

    def make(service: str, **given: Any) -> Flask:
        create_app = import_module(f"{service}_service.app").create_app
        values = {"database_url": new_database(f"{service}_service"), "log_level": "ERROR", **given}
        settings = make_settings(service, settings_of(service), **values)
        return run_app(create_app(settings, **fakes.get(service, {})))

    return make


@pytest.fixture
def walk(service: str, make_app: Callable[..., Flask], fakes: dict[str, dict[str, Any]]) -> Callable[..., Walk]:
    """`walk(log_level="INFO")`: a new walk on a new service; keywords are settings."""
    sold = fakes["order"]["products"]
    sold.add(example_id("product_id"), price="2499.99")
    sold.offers[example_id("product_id")]["name"] = "Laptop"
    return lambda **given: Walk(make_app(service, **given))
