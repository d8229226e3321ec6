"""The composition root of the order service."""

from dataclasses import dataclass

from flask import Flask

from libs.common.app import PAUSE_SECONDS, Service
from libs.common.config import Settings, setting
from libs.common.data import erasures
from libs.common.data.erasures import Erasure
from order_service import use_cases
from order_service.checkout import Checkout, reject_abandoned
from order_service.clients import ProductClient, Products, UserClient, Users
from order_service.repository import erase, walk_user
from order_service.routes import routes


@dataclass(frozen=True, kw_only=True)
class OrderSettings(Settings):
    recovery_seconds: float = setting(2.0, "How often the order service looks for abandoned orders.", minimum=0.1)


def create_app(
    settings: OrderSettings | None = None, *, users: Users | None = None, products: Products | None = None
) -> Flask:
    settings = settings or OrderSettings.load("order")
    service = Service(settings, "order_service")
    checkout = Checkout(
        service.db,
        users or UserClient(service.client("user")),
        products or ProductClient(service.client("product")),
    )
    service.handle(use_cases.HANDLERS)
    service.every("recovery", lambda: reject_abandoned(service.db), interval_seconds=settings.recovery_seconds)
    service.every(
        erasures.LOOP, Erasure(service.db, walk_user, erase).step, interval_seconds=60.0, linger_seconds=PAUSE_SECONDS
    )
    expiry = use_cases.KeyExpiry(service.db)
    service.every("key expiry", expiry.step, interval_seconds=3600.0, linger_seconds=PAUSE_SECONDS)
    return service.serve(
        routes,
        description="Orders, from the request to the delivery.",
        dependencies={"checkout": checkout},
    )
