"""Schemathesis generates requests from the documents of the running services, and finds no fault in the answers.

It works in four phases: the examples of the document, what covers every keyword of its schemas, random values, and
sequences in which an operation gets what an earlier answer told (`Location`, and members that are named alike).
tests/contract/test_openapi.py sends more that is random, to services in this process with fakes of the others.
"""

import os
import socket
from typing import Any

import pytest
import schemathesis
from flask import Flask
from schemathesis.config import SchemathesisConfig

from libs.topology import SERVICES
from tests.e2e.shop import Shop, answered
from tests.findings import GENERATION, find, labels, with_examples

# Its own warnings are about what it cannot generate.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900 if os.environ.get("LONG") else 120)]

RANDOM, SEQUENCES = (100, 100) if os.environ.get("LONG") else (3, 16)
"""How many of an operation, and of a service."""

REACHED = {"user": 2, "product": 2, "order": 2, "notification": 1, "analytics": 0}
"""How many operations must have used values of earlier answers. In analytics no operation depends on another."""


def config(**given: Any) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict({"seed": 1, "request-timeout": 10, **given})


def known(shop: Shop) -> dict[str, Any]:
    """In most cases a user or a product that is named is one that there is, and so is a notification: what is random
    alone gets no order, and nothing in that service makes a notification from what another answer told.
    """
    users = [shop.new_user()["id"] for _ in range(2)]
    products = [shop.new_product(10**9)["id"] for _ in range(2)]
    sent = [{"user_id": user_id, "body": "A text."} for user_id in users * 2]
    notifications = [answered(shop.api.post("notification", "/notifications/send", body), 201)["id"] for body in sent]
    places = {
        "body.user_id": users,
        "query.user_id": users,
        "body.seller_id": users,
        "body.items[*].product_id": products,
        "body.reservations[*].items[*].product_id": products,
        "path.notification_id": notifications,
    }
    return {
        "dictionaries": {place: {"values": ids} for place, ids in places.items()},
        "parameters": {place: {"dictionary": place, "probability": 0.8} for place in places},
    }


def with_short_lists(document: dict[str, Any]) -> dict[str, Any]:
    """The document, with at most three `ids` in a query: to generate two hundred takes a quarter of a minute. That so
    many are taken, tests/integration/libs/test_gunicorn.py shows.
    """
    parameters = [
        given for methods in document["paths"].values() for each in methods.values() for given in each["parameters"]
    ]
    for found in parameters:
        if found.get("name") == "ids":
            found["schema"] |= {
                "pattern": found["schema"]["pattern"].replace("{0,199}", "{0,2}"),
                "maxLength": 3 * 37 - 1,
            }
    return document


@pytest.mark.parametrize("service", SERVICES)
def test_no_generated_request_finds_a_running_service_at_odds_with_its_document(shop: Shop, service: str) -> None:
    phases = {
        "fuzzing": {"generation": {"max-examples": RANDOM}}, "stateful": {"generation": {"max-examples": SEQUENCES}},
    }  # fmt: skip
    given = {"base-url": shop.api.url(service, "/api/v1"), "generation": GENERATION, "phases": phases, **known(shop)}
    schema = schemathesis.openapi.from_dict(
        with_short_lists(shop.get(service, "/openapi.json")), config=config(**given)
    )
    findings = find(schema)
    assert findings.faults == []
    assert set(findings.answers["coverage"]) == set(findings.answers["fuzzing"]) == labels(schema)
    assert set(findings.answers["examples"]) == with_examples(schema)
    assert len(findings.reached) >= REACHED[service]
    assert {"POST /orders"} & labels(schema) <= findings.succeeded("stateful")


def test_a_service_that_does_not_answer_is_noticed(shop: Shop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/api/v1"
        document = shop.get("analytics", "/openapi.json")
        schema = schemathesis.openapi.from_dict(document, config=config(**{"base-url": url, "request-timeout": 0.2}))
        with pytest.raises(AssertionError, match="timed out"):
            find(schema.include(operation_id="service_healths"))


def test_an_internal_error_is_noticed(shop: Shop) -> None:
    app, document = Flask("broken"), shop.get("analytics", "/openapi.json")
    app.get("/openapi.json", endpoint="document")(lambda: document)
    app.get("/api/v1/analytics/services", endpoint="broken")(lambda: ({}, 500))
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app, config=config())
    faults = find(schema.include(operation_id="service_healths")).faults
    assert [fault for fault in faults if fault.startswith("not_a_server_error")]
