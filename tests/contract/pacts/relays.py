"""What the relay of a publisher expects of the subscribers (libs/common/events/courier.py)."""

from typing import Any

import orjson
from pact import match

from libs.common.events.event import BATCH_JSON, Event, envelope
from libs.common.events.http import HttpSender
from libs.common.events.outbox import Claimed
from libs.topology import SUBSCRIPTIONS
from notification_service.events import NotificationSent
from order_service.events import OrderCancelled, OrderConfirmed
from tests.contract.pacts.drafts import Call, a_time, an_id, call, text
from tests.contract.pacts.order import LAPTOP, ORDER, USER
from user_service.events import UserDeleted

NOON = "2026-01-31T12:00:00.000000Z"
EVENT = "0198c0de-0000-7000-8000-000000000006"

DELETED = UserDeleted(user_id=USER, deleted_at=NOON, version=2)
CANCELLED = OrderCancelled(order_id=ORDER, user_id=USER, cancelled_at=NOON, version=3)
CONFIRMED = OrderConfirmed(
    order_id=ORDER, user_id=USER, total="4999.98", currency="EUR", confirmed_at=NOON, version=2,
    items=[{
        "product_id": LAPTOP, "name": "Laptop", "quantity": 2, "unit_price": "2499.99", "line_total": "4999.98"
    }],
)  # fmt: skip
SENT = NotificationSent(
    notification_id=EVENT, order_id=ORDER, channel="email", template="order_confirmed", created_at=NOON, sent_at=NOON,
    attempts=1, version=2,
)  # fmt: skip

SAMPLES: dict[tuple[str, str], Event] = {
    ("user", "order"): DELETED,
    ("user", "notification"): DELETED,
    ("order", "product"): CANCELLED,
    ("order", "notification"): CONFIRMED,
    ("order", "analytics"): CANCELLED,
    ("notification", "analytics"): SENT,
}
"""(publisher, subscriber) → one of its events."""

assert SAMPLES.keys() == {(kind.split(".")[0], name) for kind, names in SUBSCRIPTIONS.items() for name in names}


def sent(call: Call) -> Claimed:
    """An event as it is stored in the outbox; the members that differ in each envelope are matched by type."""
    whole = envelope(SAMPLES[call.interaction[:2]], call.interaction.consumer)
    fresh = {"id": an_id(EVENT), "time": a_time(NOON), "correlationid": text("a-request", "[A-Za-z0-9._-]{1,128}")}
    call.asks("POST", "/events", [{**whole, **fresh}], BATCH_JSON)
    return Claimed(1, orjson.dumps(whole).decode(), 0)


def send(call: Call, row: Claimed) -> Any:
    with call.client() as client:
        return HttpSender(client).send([row])


def an_event_that_it_handles(call: Call) -> None:
    row = sent(call)
    call.answers(200, {"results": [{"outcome": match.regex("done", regex="^(done|duplicate|dead)$")}]})
    assert send(call, row) == ([1], [])


def an_event_that_it_wants_again(call: Call) -> None:
    row = sent(call.given("a fault of its own"))
    call.answers(200, {"results": [{"outcome": "retry"}]})
    assert send(call, row) == ([], [row])


def a_subscriber_with_too_much_to_do(call: Call) -> None:
    row = sent(call)
    call.too_much_to_do(lambda client: HttpSender(client).send([row]))


for publisher, subscriber in SAMPLES:
    for expectation in (an_event_that_it_handles, an_event_that_it_wants_again, a_subscriber_with_too_much_to_do):
        call(publisher, subscriber)(expectation)
