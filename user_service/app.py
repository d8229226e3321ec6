"""The composition root of the user service."""

from flask import Flask

from libs.common.app import Service
from libs.common.config import Settings
from user_service.routes import routes


def create_app(settings: Settings | None = None) -> Flask:
    service = Service(settings or Settings.load("user"), "user_service")
    return service.serve(routes, description="People who buy and people who sell.", dependencies={"db": service.db})
