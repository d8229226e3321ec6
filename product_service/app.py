"""The composition root of the product service."""

from flask import Flask

from libs.common.app import Service
from libs.common.config import Settings
from product_service.clients import UserClient, Users
from product_service.routes import routes
from product_service.use_cases import HANDLERS


def create_app(settings: Settings | None = None, *, users: Users | None = None) -> Flask:
    service = Service(settings or Settings.load("product"), "product_service")
    service.handle(HANDLERS)
    return service.serve(
        routes,
        description="What is for sale, and what of it is reserved.",
        dependencies={"db": service.db, "users": users or UserClient(service.client("user"))},
    )
