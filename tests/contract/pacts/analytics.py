"""What the analytics service expects of the four others, and of the events of orders and notifications."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from pact import match

from analytics_service.clients import FIGURES, FakeServices, ServiceClients
from analytics_service.models import notifications, orders
from libs.common.calls.client import ServiceClient
from libs.common.times import write_time
from tests.contract.pacts.drafts import Call, Published, a_time, an_amount, an_id, call, event, provided, text
from tests.contract.pacts.order import LAPTOP, ORDER

NOTIFICATION = "0198c0de-0000-7000-8000-000000000005"
FIRST, SECOND, THIRD = (f"2026-01-31T12:00:0{n}.000000Z" for n in (1, 2, 3))
CURSOR = "the-cursor-of-the-page-before"

# Figures and health --------------------------------------------------------------------------------------------------

COUNTS = match.each_value_matches({"sent": 1}, rules=match.int(1))
STATS: dict[str, dict[str, Any]] = {
    "user": {"total": match.int(3)},
    "product": {"total": match.int(2), "stock_units": match.int(40)},
    "order": {
        "total": match.int(1),
        "by_status": COUNTS,
        "revenue": match.each_like({"currency": text("EUR", "[A-Z]{3}"), "amount": an_amount("9.50")}, min=1),
    },
    "notification": {"total": match.int(1), "by_status": COUNTS},
}
FOUND: dict[str, dict[str, Any]] = {
    "user": {"total": 3},
    "product": {"total": 2, "stock_units": 40},
    "order": {"total": 1, "by_status": {"sent": 1}, "revenue": [{"currency": "EUR", "amount": "9.50"}]},
    "notification": {"total": 1, "by_status": {"sent": 1}},
}


def clients(client: ServiceClient) -> ServiceClients:
    return ServiceClients({client.service: client})


def figures(call: Call) -> None:
    service = call.interaction.provider
    call.given("something to count").asks("GET", f"/{service}s/stats").answers(200, STATS[service])
    with call.client() as client:
        assert clients(client).figures(service).values == FOUND[service]


def health(call: Call) -> None:
    service = call.interaction.provider
    call.asks("GET", "/health").answers(200, {"status": text("healthy", "healthy|degraded")})
    with call.client() as client:
        assert clients(client).health(service).status == "healthy"


def a_service_with_too_much_to_do(call: Call) -> None:
    service = call.interaction.provider
    call.asks("GET", f"/{service}s/stats").too_much_to_do(lambda client: clients(client).figures(service))


for provider in FIGURES:
    for expectation in (figures, health, a_service_with_too_much_to_do):
        call("analytics", provider)(expectation)

# Pages, for a rebuild ------------------------------------------------------------------------------------------------


def page(call: Call, items: Any, next_cursor: Any = None, cursor: Any = None) -> tuple[list[dict[str, Any]], Any]:
    """The facts that the rebuild learns from a page, and the cursor of the next one."""
    service = call.interaction.provider
    beginning = {"cursor": provided(CURSOR, "${cursor}")} if cursor else {}
    call.asks("GET", f"/{service}s", limit="200", sort="created_at", **beginning)
    call.answers(200, {"items": items, "next_cursor": next_cursor})
    with call.client() as client:
        published, following = clients(client).page(service, cursor)
        return [readable(one.facts()) for one in published], following


LINE = {
    "product_id": an_id(LAPTOP), "name": match.str("Laptop"), "quantity": match.int(2),
    "line_total": an_amount("4999.98"),
}  # fmt: skip
SALE = {
    "items": match.each_like(LINE, min=1), "total": an_amount("4999.98"), "currency": text("EUR", "[A-Z]{3}"),
    "confirmed_at": a_time(FIRST),
}  # fmt: skip
NEVER = dict.fromkeys(("confirmed_at", "cancelled_at", "shipped_at", "delivered_at"))


SOLD = {
    "lines": [{"product_id": LAPTOP, "name": "Laptop", "quantity": 2, "line_total": "4999.98"}],
    "total": Decimal("4999.98"), "currency": "EUR", "confirmed_at": FIRST,
}  # fmt: skip


def an_order(**given: Any) -> dict[str, Any]:
    return {"id": an_id(ORDER), "status": match.str("any"), **NEVER, **given}


def a_notification(**given: Any) -> dict[str, Any]:
    return {"id": an_id(NOTIFICATION), "channel": match.str("email"), "created_at": a_time(FIRST), **given}


def learned(call: Call, *shown: dict[str, Any]) -> list[dict[str, Any]]:
    """The facts that are learned from each item of a single page."""
    facts, following = page(call, list(shown))
    assert following is None
    return facts


def readable(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: write_time(value) if isinstance(value, datetime) else value for name, value in facts.items()}


@call("analytics", "order")
def no_orders(call: Call) -> None:
    assert learned(call) == []


@call("analytics", "order")
def a_pending_order(call: Call) -> None:
    call.given("a pending order")
    assert learned(call, an_order(status="pending")) == []


@call("analytics", "order")
def a_rejected_order(call: Call) -> None:
    call.given("a rejected order")
    facts = learned(call, an_order(status="rejected", updated_at=a_time(SECOND)))
    assert facts == [{"id": ORDER, "rejected_at": SECOND}]


@call("analytics", "order")
def a_cancelled_order(call: Call) -> None:
    call.given("a cancelled order")
    facts = learned(call, an_order(**SALE, cancelled_at=a_time(SECOND)))
    assert facts == [{"id": ORDER, **SOLD}, {"id": ORDER, "cancelled_at": SECOND}]


@call("analytics", "order")
def a_delivered_order(call: Call) -> None:
    call.given("a delivered order")
    facts = learned(call, an_order(**SALE, shipped_at=a_time(SECOND), delivered_at=a_time(THIRD)))
    assert facts == [
        {"id": ORDER, **SOLD}, {"id": ORDER, "shipped_at": SECOND}, {"id": ORDER, "delivered_at": THIRD}
    ]  # fmt: skip


@call("analytics", "order")
def more_orders_than_fit_on_a_page(call: Call) -> None:
    call.given("more orders than fit on a page")
    shown = match.each_like(an_order(**SALE), min=1)
    assert page(call, shown, next_cursor=match.str("more")) == ([{"id": ORDER, **SOLD}], "more")


@call("analytics", "order")
def the_last_page_of_orders(call: Call) -> None:
    call.given("two pages of orders")
    assert page(call, [an_order(**SALE)], cursor=CURSOR) == ([{"id": ORDER, **SOLD}], None)


@call("analytics", "notification")
def no_notifications(call: Call) -> None:
    assert learned(call) == []


@call("analytics", "notification")
def a_notification_that_waits(call: Call) -> None:
    call.given("a notification that waits")
    assert learned(call, a_notification(sent_at=None, status="queued")) == []


@call("analytics", "notification")
def a_notification_that_was_sent(call: Call) -> None:
    call.given("a notification that was sent")
    facts = learned(call, a_notification(sent_at=a_time(SECOND)))
    assert facts == [{"id": NOTIFICATION, "channel": "email", "created_at": FIRST, "sent_at": SECOND}]


@call("analytics", "notification")
def a_notification_that_is_dead(call: Call) -> None:
    call.given("a notification that is dead")
    facts = learned(call, a_notification(sent_at=None, status="dead"))
    assert facts == [{"id": NOTIFICATION, "channel": "email", "created_at": FIRST, "dead_at": FIRST}]


@call("analytics", "notification")
def more_notifications_than_fit_on_a_page(call: Call) -> None:
    call.given("more notifications than fit on a page")
    shown = match.each_like(a_notification(sent_at=None, status="queued"), min=1)
    assert page(call, shown, next_cursor=match.str("more")) == ([], "more")


@call("analytics", "notification")
def the_last_page_of_notifications(call: Call) -> None:
    call.given("two pages of notifications")
    assert page(call, [a_notification(sent_at=None, status="queued")], cursor=CURSOR) == ([], None)


# Events --------------------------------------------------------------------------------------------------------------


def learns(published: Published, table: Any, **wanted: Any) -> None:
    """Deliver the event, and check the facts about its subject."""
    app = published.services.start("analytics", services=FakeServices())
    published.to(app)
    with app.extensions["quintet"].db.read() as session:
        row = readable(dict(session.execute(sa.select(table)).mappings().one()))
    assert {name: value for name, value in row.items() if value is not None} == {**wanted, "generation": 1}


@event("analytics", "order.confirmed.v1")
def a_confirmed_order_counts(published: Published) -> None:
    published.given("a confirmed order").says({"order_id": an_id(ORDER), **SALE})
    learns(published, orders, id=ORDER, **SOLD)


@event("analytics", "order.rejected.v1")
def a_rejection_is_known(published: Published) -> None:
    published.given("a rejected order").says({"order_id": an_id(ORDER), "rejected_at": a_time(FIRST)})
    learns(published, orders, id=ORDER, rejected_at=FIRST)


@event("analytics", "order.cancelled.v1")
def a_cancellation_is_known(published: Published) -> None:
    published.given("a cancelled order").says({"order_id": an_id(ORDER), "cancelled_at": a_time(FIRST)})
    learns(published, orders, id=ORDER, cancelled_at=FIRST)


@event("analytics", "order.shipped.v1")
def a_shipment_is_known(published: Published) -> None:
    published.given("a shipped order").says({"order_id": an_id(ORDER), "shipped_at": a_time(FIRST)})
    learns(published, orders, id=ORDER, shipped_at=FIRST)


@event("analytics", "order.delivered.v1")
def a_delivery_is_known(published: Published) -> None:
    published.given("a delivered order").says({"order_id": an_id(ORDER), "delivered_at": a_time(FIRST)})
    learns(published, orders, id=ORDER, delivered_at=FIRST)


def sending(**given: Any) -> dict[str, Any]:
    return {
        "notification_id": an_id(NOTIFICATION), "channel": match.str("email"), "created_at": a_time(FIRST), **given
    }  # fmt: skip


@event("analytics", "notification.sent.v1")
def a_notification_that_was_sent_counts(published: Published) -> None:
    published.given("a notification that was sent").says(sending(sent_at=a_time(SECOND)))
    learns(published, notifications, id=NOTIFICATION, channel="email", created_at=FIRST, sent_at=SECOND)


@event("analytics", "notification.dead.v1")
def a_notification_that_is_dead_counts(published: Published) -> None:
    published.given("a notification that is dead").says(sending(dead_at=a_time(SECOND)))
    learns(published, notifications, id=NOTIFICATION, channel="email", created_at=FIRST, dead_at=SECOND)
