"""Mistakes of providers. Each breaks a promise to a consumer that the tests of the provider alone may miss; each must
be detected by the interaction that it names.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import patch

import orjson
from werkzeug.wrappers import Response

from libs.common.events.event import Event
from libs.topology import SUBSCRIPTIONS
from notification_service.events import NotificationSent
from order_service.events import OrderConfirmed, OrderShipped
from tests.contract.pacts.providers import Provider
from user_service.events import UserDeleted

Install = Callable[[Provider], None]


class Bug(NamedTuple):
    """`shown` is part of Pact's message."""

    name: str
    caught_by: str
    shown: str
    install: Install


def answering(change: Callable[[Any], Any], status: int | None = None) -> Install:
    """The provider's answers with another body, or another status."""

    def install(provider: Provider) -> None:
        honest = provider.answer

        def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            found = Response.from_app(honest, environ, buffered=True)
            changed = change(orjson.loads(found.get_data() or b"null"))
            found.set_data(b"" if changed is None else orjson.dumps(changed))
            found.status_code = status or found.status_code
            return found(environ, start_response)

        provider.answer = answer

    return install


def renaming(old: str, new: str) -> Callable[[Any], Any]:
    return lambda body: {new if name == old else name: value for name, value in body.items()}


def in_the_line(**changed: Any) -> Callable[[Any], Any]:
    """In the first line of the first outcome."""

    def change(body: Any) -> Any:
        body["outcomes"][0]["body"]["items"][0] |= changed
        return body

    return change


def in_the_refusal(**changed: Any) -> Callable[[Any], Any]:
    """In the first outcome."""

    def change(body: Any) -> Any:
        body["outcomes"][0]["body"] |= changed
        return body

    return change


def telling(event: type[Event], change: Callable[[Any], Any]) -> Install:
    """The data of an event, written in another way."""
    honest = event.data

    def install(provider: Provider) -> None:
        provider.stack.enter_context(patch.object(event, "data", lambda self: change(honest(self))))

    return install


def calling_it(event: type[Event], event_type: str) -> Install:
    def install(provider: Provider) -> None:
        provider.stack.enter_context(patch.dict(SUBSCRIPTIONS, {event_type: SUBSCRIPTIONS[event.TYPE]}))
        provider.stack.enter_context(patch.object(event, "TYPE", event_type))

    return install


BUGS = [
    Bug(
        "a member is renamed",
        "order-user: an active user", "missing the following keys: status",
        answering(renaming("status", "state")),
    ),
    Bug(
        "a word becomes another",
        "order-user: a suspended user", "$.status",
        answering(lambda body: {**body, "status": "blocked"}),
    ),
    Bug(
        "a number becomes a string",
        "order-user: an active user", "$.version",
        answering(lambda body: {**body, "version": str(body["version"])}),
    ),
    Bug(
        "404 becomes 200 with an empty body",
        "order-user: a user who was deleted", "expected 404 but was 200",
        answering(lambda body: None, status=200),
    ),
    Bug(
        "a status changes",
        "order-product: as much as there is", "expected 200 but was 207",
        answering(lambda body: body, status=207),
    ),
    Bug(
        "an amount becomes a number",
        "order-product: as much as there is", "$.outcomes[0].body.items[0].unit_price",
        answering(in_the_line(unit_price=2499.99)),
    ),
    Bug(
        "a list takes another shape",
        "order-product: several orders each judged alone", "$.outcomes",
        answering(lambda body: {"outcomes": {str(n): one for n, one in enumerate(body["outcomes"])}}),
    ),
    Bug(
        "an error code is renamed",
        "order-product: more than there is", "$.outcomes[0].body.code",
        answering(in_the_refusal(code="out-of-stock")),
    ),
    Bug(
        "a value becomes null",
        "notification-user: addresses of users", "$.items[0].email",
        answering(lambda body: {"items": [{**item, "email": None} for item in body["items"]]}),
    ),
    Bug(
        "a member is removed",
        "analytics-product: figures", "missing the following keys: stock_units",
        answering(lambda body: {"total": body["total"]}),
    ),
    Bug(
        "the cursor is renamed",
        "analytics-order: no orders", "missing the following keys: next_cursor",
        answering(renaming("next_cursor", "next")),
    ),
    Bug(
        "an overloaded service no longer says so",
        "order-product: a product service with too much to do", "$.code",
        answering(lambda body: {**body, "code": "dependency-unavailable"}),
    ),
    Bug(
        "an outcome of an event gets another name",
        "order-product: an event that it wants again", "$.results[0].outcome",
        answering(lambda body: {"results": [{**body["results"][0], "outcome": "later"}]}),
    ),
    Bug(
        "a member of an event is renamed",
        "notification-user: what was said to a deleted user is erased", "missing the following keys: deleted_at",
        telling(UserDeleted, renaming("deleted_at", "at")),
    ),
    Bug(
        "an amount in an event becomes a number",
        "analytics-order: a confirmed order counts", "$.data.total",
        telling(OrderConfirmed, lambda data: {**data, "total": float(data["total"])}),
    ),
    Bug(
        "a value in an event becomes null",
        "analytics-notification: a notification that was sent counts", "$.data.sent_at",
        telling(NotificationSent, lambda data: {**data, "sent_at": None}),
    ),
    Bug(
        "an event gets another version",
        "product-order: what a shipped order holds is sold", "$.type",
        calling_it(OrderShipped, "order.shipped.v2"),
    ),
]  # fmt: skip
