"""An OpenAPI document, read operation by operation, and a client that sends its examples to the service."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlencode

import sqlalchemy as sa
from flask import Flask
from jsonschema import Draft202012Validator
from werkzeug.test import TestResponse

from libs.common.events.event import BATCH_JSON
from libs.common.ids import example_id
from libs.common.web import messages as api
from notification_service.models import notifications
from tests.factories import a_cloud_event
from tests.openapi import header_value, resolved
from tests.web import Api, answered

NOT_DESCRIBED = {
    "Content-Type", "Content-Length",  # documented by `content`, and by HTTP itself
    "traceparent", "X-Content-Type-Options", "Vary",  # on every answer, for tracers, browsers and caches
}  # fmt: skip
"""Headers that an answer may have although the document does not list them."""


def document_of(app: Flask) -> dict[str, Any]:
    document: dict[str, Any] = app.test_client().get("/openapi.json").json
    return document


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, found) for path, methods in document["paths"].items() for method, found in methods.items()]


def fits(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def sends(document: dict[str, Any], response: dict[str, Any], answer: TestResponse) -> None:
    """The answer has the required headers, its headers are valid by their descriptions, and it has no others."""
    unknown = set(answer.headers.keys()) - response["headers"].keys() - NOT_DESCRIBED
    assert not unknown, unknown
    for name, part in response["headers"].items():
        header = resolved(document, part)
        assert name in answer.headers or not header.get("required"), name
        if name in answer.headers:
            fits(document, header["schema"], header_value(header["schema"], answer.headers[name]))


# Sending the examples ----------------------------------------------------------------------------------------------

STEPS = {
    "create_user": "list_users user_stats get_user replace_user update_user delete_user",
    "create_product": "list_products get_product replace_product update_product delete_product adjust_stock "
                      "create_reservation create_reservations",
    "create_product create_reservation": "product_stats get_reservation delete_reservation",
    "create_order": "list_orders order_stats get_order order_history cancel_order ship_order",
    "create_order ship_order": "deliver_order",
    "send_notification": "list_notifications notification_stats get_notification update_notification "
                         "delete_notification retry_notification",
}  # fmt: skip
BEFORE = {name: steps.split() for steps, names in STEPS.items() for name in names.split()}
"""Operation → the operations whose examples must be sent before its own."""

OTHERWISE = {
    "create_user": {"email": "grace@example.com"}, "create_product": {"sku": "LAP-15-1"}, "adjust_stock": {"delta": 1},
    "create_order": {"note": None}, "send_notification": {"subject": "Another parcel"},
}  # fmt: skip
"""Operation → how a second request differs from its example."""

# States that no operation can set up.
SOLD = {
    "order_id": example_id("order_id"), "total": "9.50", "currency": "EUR", "confirmed_at": "2026-01-31T12:00:00Z",
    "items": [{"product_id": example_id("product_id"), "name": "Laptop", "quantity": 1, "unit_price": "9.50", "line_total": "9.50"}],
}  # fmt: skip
SENT = {
    "notification_id": example_id("notification_id"), "channel": "email",
    "created_at": "2026-01-31T12:00:00Z", "sent_at": "2026-01-31T12:00:02Z",
}  # fmt: skip
DEAD = {"status": "dead", "last_error": "The mail server refused it (550).", "due_at": None, "version": 3}

TAG = '"1"'
"""The `ETag` of the examples."""
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Walk:
    """Sends the examples of a document, with the ids and the `ETag` of earlier answers in place of those of the
    examples.
    """

    def __init__(self, app: Flask):
        self.app, self.api, self.document = app, Api(app), document_of(app)
        self.operations = {found[2]["operationId"]: found for found in operations(self.document)}
        self._ids: dict[str, str] = {}
        self._tag = ""

    def send(
        self, name: str, members: dict[str, Any] | None = None, *, media_type: str | None = None, **given: Any
    ) -> TestResponse:
        """Send the example of an operation, with these members in place of its own; `given` are other options of the
        request.
        """
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
            media_type = media_type or next(iter(operation["requestBody"]["content"]))
            example = {**operation["requestBody"]["content"][media_type]["example"], **(members or {})}
            options |= {"body": self._known(json.dumps(example)).encode(), "content_type": media_type}
        answer = self.api.send(**{"method": method.upper(), **options, **given})
        self._tag = answer.headers.get("ETag", self._tag)
        if answer.status_code < 300 and answer.data:
            self._learn(self.example(name), answer.json)
        return answer

    def example(self, name: str) -> Any:
        """The example of a successful answer of an operation; None where it has no body."""
        response = next(found for status, found in self.operations[name][2]["responses"].items() if status[0] == "2")
        return response["content"][api.JSON]["example"] if "content" in response else None

    def do(self, steps: Iterable[str]) -> None:
        """Send the examples of these operations; `another` before one means a request that differs from the example."""
        for step in steps:
            another, _, name = step.rpartition(" ")
            assert self.send(name, OTHERWISE[name] if another else None).status_code < 300, step

    def prepare(self, name: str) -> None:
        """Set up what the example of an operation needs."""
        self.do(BEFORE.get(name, ()))
        if name == "retry_notification":
            with self.app.extensions["quintet"].db.write() as session:
                session.execute(sa.update(notifications).values(DEAD))
            self.do(["get_notification"])  # its ETag is another one now
        if "top_products" in self.operations:
            told = [a_cloud_event("order.confirmed.v1", SOLD), a_cloud_event("notification.sent.v1", SENT)]
            answered(self.api.post("/events", told, content_type=BATCH_JSON))

    def taking(self, header: str) -> list[str]:
        """The operations that accept this header."""
        part = {"$ref": f"#/components/parameters/{header}"}
        return [name for name, (_, _, operation) in self.operations.items() if part in operation["parameters"]]

    def header(self, name: str) -> dict[str, str]:
        """The header with its example."""
        (example,) = self.document["components"]["parameters"][name]["schema"]["examples"]
        return {name: example.replace(TAG, self._tag)}

    def key(self) -> dict[str, str]:
        return self.header("Idempotency-Key")

    def _known(self, text: str) -> str:
        return re.sub("|".join(self._ids) or "(?!)", lambda found: self._ids[found[0]], text)

    def _learn(self, example: Any, real: Any) -> None:
        for wanted, found in zip(leaves(example), leaves(real), strict=False):
            if isinstance(wanted, str) and UUID.fullmatch(wanted):
                self._ids[wanted] = found


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in sorted(value):
            yield from leaves(value[name])
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value
