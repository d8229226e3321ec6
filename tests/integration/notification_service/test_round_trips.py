"""Every member of a notification that can be written is read back, or sent, as it was written."""

from typing import Any

import pytest

from libs.common.ids import new_id
from tests.integration.notification_service.conftest import Running
from tests.integration.round_trips import MIXED, bodies, defaults, shape, written
from tests.unit.notification_service.samples import order_data

RECIPIENTS = {
    "email": "ada@example.com", "sms": "+4915112345678", "push": MIXED, "log": MIXED,
    "webhook": "https://example.com/" + "x" * 1980,
}  # fmt: skip
GIVEN: dict[str, list[Any]] = {
    "user_id": [new_id()],
    "recipient": ["x" * 64 + "@example.com"],
    "subject": [None, "", "x" * 300, "😀" * 300, "é\u202e'\"\\%_"],
    "template": [None],
    "data": [{}, {"a": [1, 1.25, -(2**53), None, True, {"é😀": MIXED}]}, {MIXED: "x" * 100_000}],
}


def test_every_member_of_a_notification_is_read_back_and_sent(service: Running) -> None:
    for body in bodies("notification", "post", "/notifications/send", GIVEN):
        if body.get("body", "") is None:
            continue  # It needs a template: below.
        channel = body.get("channel", "email")
        sent = {"recipient": RECIPIENTS[channel], "body": "A text.", **body}
        if "user_id" in body:
            del sent["recipient"]
            service.users.known[body["user_id"]] = "ada@example.com"
        check(service, sent, {"subject": None, **sent})


def test_a_template_is_read_back_and_sent_as_what_it_says(service: Running) -> None:
    (template,) = [name for name in shape("notification", "post", "/notifications/send")["template"]["enum"] if name]
    data = order_data(items=[{**order_data()["items"][0], "name": "é😀 <&>"}])
    sent = {"recipient": "ada@example.com", "template": template, "data": data, "body": None}
    told = check(service, sent, {"recipient": "ada@example.com", "template": template})
    assert told["subject"] == f"Your order {data['order_id']} is confirmed"
    assert "2 x é😀 <&>, 2499.99 EUR each: 4999.98 EUR" in told["body"]


def check(service: Running, sent: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Check that the answer and the sent message have what was written."""
    told = written(service.api, "POST", "/notifications/send", sent)
    data = expected.pop("data", {})
    left_out = defaults("notification", "post", "/notifications/send")
    del left_out["subject"], left_out["body"]  # a template makes them
    assert {**left_out, **expected}.items() <= told.items()
    service.step(told["channel"])
    message = service.channels[told["channel"]].sent.pop()
    assert (message.subject, message.body, message.template) == (told["subject"], told["body"], told["template"])
    assert message.to == (told["recipient"] or service.users.known[told["user_id"]])
    assert message.data == (sent["data"] if told["template"] else data)
    assert service.api.delete(f"/notifications/{told['id']}").status_code == 204
    return told


@pytest.mark.parametrize("read", [True, False])
def test_whether_a_notification_was_read_is_read_back(service: Running, read: bool) -> None:
    assert shape("notification", "patch", "/notifications/{notification_id}").keys() == {"read"}
    told = service.send(recipient="ada@example.com")
    changed = written(service.api, "PATCH", f"/notifications/{told['id']}", {"read": read})
    assert changed == {**told, "read_at": changed["read_at"], "version": told["version"] + read}
    assert bool(changed["read_at"]) is read
