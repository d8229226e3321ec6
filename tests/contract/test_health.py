"""The answers of `/health`, which is not in the OpenAPI documents, but which the analytics service calls."""

from collections.abc import Callable

import pytest
from flask import Flask
from jsonschema import Draft202012Validator

from libs.common.web.exchange import JSON
from libs.topology import SERVICES
from tests.cloudevents import FORMATS
from tests.network import HEALTH
from tests.web import Api, answered


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")
@pytest.mark.parametrize("service", SERVICES)
def test_every_service_tells_its_health_as_its_stand_in_does(service: str, make_app: Callable[[str], Flask]) -> None:
    told = answered(Api(make_app(service), prefix="").get("/health"))

    schema = HEALTH["content"][JSON]["schema"]
    assert [fault.message for fault in Draft202012Validator(schema, format_checker=FORMATS).iter_errors(told)] == []
    assert set(told) == set(schema["properties"])
