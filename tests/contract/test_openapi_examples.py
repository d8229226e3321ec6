"""The examples of the OpenAPI documents, each sent to the service or compared with what it answers."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa
from flask import Flask
from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

from libs.common import api
from libs.common.errors import PROBLEM_JSON
from libs.common.events import BATCH_JSON
from libs.common.fields import example_id
from libs.topology import SERVICES
from notification_service.models import notifications
from tests.contract.test_openapi import document_of, operations, resolved
from tests.factories import a_cloud_event
from tests.web import Api, answered

pytestmark = [
    pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session"),
    pytest.mark.parametrize("service", SERVICES),
]

STEPS = {
    "create_user": "list_users user_stats get_user replace_user update_user delete_user",
    "create_product": "list_products get_product replace_product update_product delete_product adjust_stock "
                      "create_reservation create_reservations",
    "create_product create_reservation": "product_stats get_reservation",
    "create_order": "list_orders order_stats get_order order_history cancel_order ship_order",
    "create_order ship_order": "deliver_order",
    "send_notification": "list_notifications notification_stats get_notification update_notification "
                         "delete_notification retry_notification",
}  # fmt: skip
BEFORE = {name: steps.split() for steps, names in STEPS.items() for name in names.split()}
"""Operation → what must have happened before its example can be sent: other operations, by their examples."""

# What no operation can bring about.
SOLD = {
    "order_id": example_id("order_id"), "total": "9.50", "currency": "EUR", "confirmed_at": "2026-01-31T12:00:00Z",
    "items": [{"product_id": example_id("product_id"), "name": "Laptop", "quantity": 1, "unit_price": "9.50", "line_total": "9.50"}],
}  # fmt: skip
SENT = {
    "notification_id": example_id("notification_id"), "channel": "email",
    "created_at": "2026-01-31T12:00:00Z", "sent_at": "2026-01-31T12:00:02Z",
}  # fmt: skip
DEAD = {"status": "dead", "last_error": "The mail server refused it (550).", "due_at": None, "version": 3}


class Walk:
    """Sends the examples of a document, with the ids that the answers tell instead of those of the examples."""

    def __init__(self, app: Flask):
        self.app, self.api, self.document = app, Api(app), document_of(app)
        self.operations = {found[2]["operationId"]: found for found in operations(self.document)}
        self._ids: dict[str, str] = {}

    def send(self, name: str, *, media_type: str = api.JSON, **given: Any) -> TestResponse:
        """The example of an operation; `given` are other options of the request."""
        path, method, operation = self.operations[name]
        parameters = [resolved(self.document, part) for part in operation["parameters"]]
        told = [(part["in"], part["name"], part["schema"].get("examples", [])) for part in parameters]
        query = {}
        for place, parameter, (value, *_) in (one for one in told if one[2]):
            if place == "path":
                path = path.replace(f"{{{parameter}}}", value)
            elif place == "query":
                query[parameter] = value if isinstance(value, str) else json.dumps(value)
        options = {"path": self._known(path), "query_string": self._known(urlencode(query))}
        if "requestBody" in operation:
            example = operation["requestBody"]["content"][media_type]["example"]
            options |= {"body": self._known(json.dumps(example)).encode(), "content_type": media_type}
        answer = self.api.send(**{"method": method.upper(), **options, **given})
        if answer.status_code < 300 and answer.data:
            self._learn(self.example(name), answer.json)
        return answer

    def example(self, name: str) -> Any:
        """The example of what an operation answers when it succeeds; None where that is nothing."""
        response = next(found for status, found in self.operations[name][2]["responses"].items() if status[0] == "2")
        return response["content"][api.JSON]["example"] if "content" in response else None

    def prepare(self, name: str) -> None:
        """Bring about what the example of an operation needs."""
        for step in BEFORE.get(name, ()):
            assert self.send(step).status_code < 300
        if name == "retry_notification":
            with self.app.extensions["quintet"].db.write() as session:
                session.execute(sa.update(notifications).values(DEAD))
        if "top_products" in self.operations:
            told = [a_cloud_event("order.confirmed.v1", SOLD), a_cloud_event("notification.sent.v1", SENT)]
            answered(self.api.post("/events", told, content_type=BATCH_JSON))

    def _known(self, text: str) -> str:
        return re.sub("|".join(self._ids) or "(?!)", lambda found: self._ids[found[0]], text)

    def _learn(self, example: Any, real: Any) -> None:
        for wanted, found in zip(leaves(example), leaves(real), strict=False):
            if isinstance(wanted, str) and UUID.fullmatch(wanted):
                self._ids[wanted] = found


UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in sorted(value):
            yield from leaves(value[name])
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def masked(value: Any) -> Any:
    """Without what is another one each time: ids, times, and how long something took."""
    if isinstance(value, dict):
        return {name: "…" if name == "latency_ms" else masked(member) for name, member in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return TIME.sub("a time", UUID.sub("an id", value)) if isinstance(value, str) else value


@pytest.fixture
def walk(service: str, make_app: Callable[[str], Flask], fakes: dict[str, dict[str, Any]]) -> Callable[[], Walk]:
    """A new one on a service to which nothing has happened yet."""
    sold = fakes["order"]["products"]
    sold.add(example_id("product_id"), price="2499.99")
    sold.offers[example_id("product_id")]["name"] = "Laptop"
    return lambda: Walk(make_app(service))


def fits(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def sends(document: dict[str, Any], response: dict[str, Any], answer: TestResponse) -> None:
    """The answer has the headers that are always there, and those that it has are as they are described."""
    for name, part in response["headers"].items():
        header = resolved(document, part)
        assert name in answer.headers or not header.get("required"), name
        if name in answer.headers:
            value = answer.headers[name]
            fits(document, header["schema"], int(value) if header["schema"]["type"] == "integer" else value)


def test_the_example_of_a_request_gets_the_answer_of_the_example(service: str, walk: Callable[[], Walk]) -> None:
    for name, (_, _, operation) in walk().operations.items():
        for media_type in operation.get("requestBody", {}).get("content", [api.JSON]):
            walked = walk()
            walked.prepare(name)
            answer = walked.send(name, media_type=media_type)
            response = operation["responses"].get(str(answer.status_code))
            assert response, (name, answer.status_code, answer.text)
            sends(walked.document, response, answer)
            if "content" in response:
                fits(walked.document, response["content"][api.JSON]["schema"], answer.json)
            assert masked(answer.json if answer.data else None) == masked(walked.example(name)), name


def test_every_example_fits_its_schema(service: str, make_app: Callable[[str], Flask]) -> None:
    document = document_of(make_app(service))
    checked = 0
    for schema, example in examples(document, document):
        fits(document, schema, example)
        checked += 1
    assert checked > 30


def examples(document: dict[str, Any], part: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every example in a part of a document with its schema."""
    if isinstance(part, list):
        for inner in part:
            yield from examples(document, inner)
    elif isinstance(part, dict):
        found = part.get("examples", [])
        if isinstance(found, dict):
            found = [resolved(document, example)["value"] for example in found.values() if "schema" in part]
        found = [*found, part["example"]] if "example" in part else found
        yield from ((part.get("schema", part), example) for example in found)
        for name in part.keys() - {"example", "examples", "value"}:
            yield from examples(document, part[name])


# Refusals ----------------------------------------------------------------------------------------------------------

ANYWHERE: dict[str, dict[str, Any]] = {
    "method-not-allowed": {"method": "PROPFIND"},
    "validation-failed": {"query_string": "colour=red"},
    "payload-too-large": {"body": b" " * (api.MAX_BODY + 1)},
    "unsupported-media-type": {"content_type": "text/plain"},
    "precondition-failed": {"headers": {"If-Match": '"0"'}},
    "deadline-exceeded": {"headers": {"X-Request-Timeout-Ms": "0"}},
}
"""Code → what makes the example of any operation that documents it be refused so."""

HERE: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("create_user", "email-taken", ["create_user"], {}),
    ("create_product", "sku-taken", ["create_product"], {}),
    ("adjust_stock", "insufficient-stock", ["create_product"], {"body": b'{"delta": -1000, "reason": "theft"}'}),
    ("create_reservation", "unknown-product", [], {}),
    ("create_reservation", "invalid-transition", ["create_product", "delete_reservation"], {}),
    ("delete_product", "product-in-use", ["create_product", "create_reservation"], {}),
    ("ship_order", "invalid-transition", ["create_order", "cancel_order"], {}),
    ("cancel_order", "invalid-transition", ["create_order", "ship_order"], {}),
    ("deliver_order", "invalid-transition", ["create_order"], {}),
    ("retry_notification", "invalid-transition", ["send_notification"], {}),
]
"""Operation, code, what happened before, and what else makes the example be refused so."""

OTHERWISE = {
    "create_user": {"name": "Grace Hopper"}, "create_product": {"name": "Lamp"}, "adjust_stock": {"delta": 1},
    "create_order": {"note": None}, "send_notification": {"subject": "Another parcel"},
}  # fmt: skip
"""Operation with a key → how a second request differs."""


def test_what_is_refused_gets_the_problem_of_the_example(service: str, walk: Callable[[], Walk]) -> None:
    for name, (path, method, operation) in walk().operations.items():
        walked = walk()
        walked.prepare(name)
        wrong = {
            **ANYWHERE,
            "malformed-request": {"query_string": "cursor=x"} if method == "get" else {"body": b"{"},
            "not-found": {"path": re.sub(r"{\w+}", "1", path)},
        }
        for code in codes(walked.document, operation) & wrong.keys():
            media_type = next(iter(operation.get("requestBody", {}).get("content", ())), api.JSON)
            check(walked, name, code, walked.send(name, **{"media_type": media_type, **wrong[code]}))


def test_what_has_happened_before_gets_the_problem_of_the_example(service: str, walk: Callable[[], Walk]) -> None:
    for name, code, before, given in HERE:
        walked = walk()
        if name in walked.operations:
            for step in before:
                assert walked.send(step).status_code < 300, (name, step)
            check(walked, name, code, walked.send(name, **given))


def test_a_key_gets_the_answer_again_and_another_request_with_it_the_problem(
    service: str, walk: Callable[[], Walk]
) -> None:
    for name, (_, _, operation) in walk().operations.items():
        if {"$ref": "#/components/parameters/Idempotency-Key"} in operation["parameters"]:
            walked = walk()
            walked.prepare(name)
            key = walked.document["components"]["parameters"]["Idempotency-Key"]["schema"]["examples"][0]
            first, again = (walked.send(name, headers={"Idempotency-Key": key}) for _ in range(2))
            assert (again.status_code, again.json) == (first.status_code, first.json)
            assert "Idempotent-Replayed" in again.headers
            sends(walked.document, operation["responses"][str(again.status_code)], again)
            body = {**operation["requestBody"]["content"][api.JSON]["example"], **OTHERWISE[name]}
            other = walked.send(name, headers={"Idempotency-Key": key}, body=json.dumps(body).encode())
            check(walked, name, "idempotency-key-reused", other)


def codes(document: dict[str, Any], operation: dict[str, Any]) -> set[str]:
    """The codes that an operation may answer with."""
    refusals = [resolved(document, found) for status, found in operation["responses"].items() if status >= "400"]
    return {code for refusal in refusals for code in refusal["content"][PROBLEM_JSON]["examples"]}


def check(walked: Walk, name: str, code: str, answer: TestResponse) -> None:
    """The answer is documented, and is the example of its code."""
    response = resolved(walked.document, walked.operations[name][2]["responses"][str(answer.status_code)])
    sends(walked.document, response, answer)
    content = response["content"][PROBLEM_JSON]
    fits(walked.document, content["schema"], answer.json)
    example = resolved(walked.document, content["examples"][code])["value"]
    same = ("type", "title", "status", "code")
    assert [answer.json[member] for member in same] == [example[member] for member in same], (name, answer.text)
    assert answer.json.keys() == example.keys(), (name, answer.text)
