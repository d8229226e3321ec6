"""How a provider is verified against a pact: its real app on a socket, put into each state by requests of clients."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import sqlalchemy as sa
from pact import Verifier
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response
from werkzeug.wsgi import get_input_stream

from analytics_service.clients import PAGE
from demo.api import eventually
from libs.common import context
from libs.common.errors import DependencyUnavailable
from libs.common.events.broker import EVENT_JSON
from libs.common.events.event import BATCH_JSON
from libs.common.events.outbox import outbox
from libs.common.ids import new_id
from libs.common.web.exchange import JSON
from libs.common.web.routes import PREFIX
from notification_service.channels import FakeChannel
from notification_service.clients import FakeUsers as FakeAddresses
from notification_service.schemas import NewNotification
from notification_service.use_cases import send_notification
from order_service.checkout import Checkout, Verdict, place_all, settle_all
from order_service.clients import FakeProducts, FakeUsers
from order_service.models import NewOrder
from product_service.clients import FakeUsers as FakeSellers
from tests import factories
from tests.contract.pacts.drafts import Interaction
from tests.contract.pacts.services import Services
from tests.unit.order_service.factories import ORIGIN
from tests.web import Api, answered, refused

STATE, MESSAGE = "/_pact/state", "/_pact/message"

App = Callable[[dict[str, Any], Callable[..., Any]], Any]


class Provider:
    """The service that is verified; fakes stand in for those that it calls."""

    def __init__(self, interaction: Interaction, services: Services, stack: ExitStack):
        self.consumer, self.service = interaction.consumer, interaction.provider
        self.users, self.products, self.mail = FakeUsers(), FakeProducts(), FakeChannel()
        fakes: dict[str, dict[str, Any]] = {
            "product": {"users": FakeSellers()},
            "order": {"users": self.users, "products": self.products},
            "notification": {"users": FakeAddresses(), "channels": {"email": self.mail}},
        }
        narrow = {"max_concurrent_requests": 1, "max_queued_requests": 0}
        self.app = services.start(self.service, narrow, **fakes.get(self.service, {}))
        self.api = Api(self.app)
        self.stack = stack
        self.answer: App = self.app
        """The WSGI app that the consumer talks to; an injected mistake wraps the app."""
        self.port = 0
        self.faults: list[Exception] = []

    @property
    def db(self) -> Any:
        return self.app.extensions["quintet"].db

    def step(self, loop: str) -> None:
        """What a background loop does once."""
        context.begin(5.0)
        try:
            next(one for one in self.app.extensions["quintet"].loops if one.name == loop)._step()
        finally:
            context.end()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ["wsgi.input"] = get_input_stream(environ)  # which ends where the body does, as gunicorn's
        own = {STATE: self._set_up, MESSAGE: self._tell}.get(environ["PATH_INFO"])
        return (own(Request(environ)) if own else self.answer)(environ, start_response)

    def _set_up(self, request: Request) -> Response:
        """Set up the state; its result replaces `${name}` in the request of the consumer."""
        asked = request.json
        if not asked["state"]:  # a pact without a state
            return Response("{}", content_type=JSON)
        try:
            made = STATES[asked["state"]](self, **asked["params"]) or {}
        except Exception as exc:
            self.faults.append(exc)
            return Response(status=400)
        return Response(orjson.dumps(made), content_type=JSON)

    def _tell(self, request: Request) -> Response:
        """The newest event that waits for the consumer."""
        newest = sa.select(outbox.c.body).where(outbox.c.subscriber == self.consumer).order_by(outbox.c.seq.desc())
        with self.db.read() as session:
            return Response(session.scalar(newest.limit(1)) or "null", content_type=EVENT_JSON)


def faults(
    pact: Path, interaction: Interaction, services: Services, mistake: Callable[[Provider], None] | None = None
) -> list[str]:
    """How the provider differs from the pact; `mistake` is injected before the verification."""
    with ExitStack() as stack:
        provider = Provider(interaction, services, stack)
        if mistake:
            mistake(provider)
        url = stack.enter_context(_served(provider))
        verifier = (
            Verifier(provider.service, host="127.0.0.1")
            .add_transport(url=url)
            .add_transport(protocol="message", port=provider.port, path=MESSAGE)
            .state_handler(url + STATE, body=True)
            .add_source(pact)
            .set_request_timeout(30_000)
            .filter(f"^{re.escape(interaction.description)}$")
        )
        try:
            verifier.verify()
        except RuntimeError as exc:
            if provider.faults:
                raise provider.faults[0] from exc
        results = verifier.results
        assert [one["description"] for one in results["interactionResults"]] == [interaction.description]
        return [told for error in results["errors"] for told in _told(error["mismatch"])]


def _told(mismatch: dict[str, Any]) -> Iterator[str]:
    for one in mismatch.get("mismatches", [mismatch]):
        yield f"{one.get('path', '')} {one.get('mismatch') or one}".strip()


class _Quiet(WSGIRequestHandler):
    def log(self, *args: Any, **kwargs: Any) -> None:
        """Nobody reads it."""


@contextmanager
def _served(provider: Provider) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, provider, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    provider.port = server.port
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# States --------------------------------------------------------------------------------------------------------------

State = Callable[..., dict[str, Any] | None]
STATES: dict[str, State] = {}


def state(make: State) -> State:
    """Register a function that puts a provider into the state that it is named after; its result is for `provided`."""
    STATES[make.__name__.replace("_", " ")] = make
    return make


@state
def too_much_to_do(provider: Provider) -> None:
    """A request that does not end takes the only place."""
    client = provider.stack.enter_context(socket.create_connection(("127.0.0.1", provider.port)))
    path = "/users" if provider.service == "user" else "/events"
    client.sendall(
        f"POST {PREFIX}{path} HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: 2\r\n\r\n".encode()
    )
    assert eventually(lambda: provider.app.wsgi_app.is_full())  # type: ignore[attr-defined]


@state
def a_fault_of_its_own(provider: Provider) -> None:
    """The database raises an error that no handler expects."""
    with provider.db.write() as session:
        refuse = "CREATE TRIGGER refuse BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'refused'); END"
        session.connection().exec_driver_sql(refuse)


# Users and products


@state
def a_user(provider: Provider, status: str) -> dict[str, str]:
    made = answered(provider.api.post("/users", factories.a_user()), 201)
    if made["status"] != status:
        answered(provider.api.patch(f"/users/{made['id']}", {"status": status}))
    return {"user_id": made["id"]}


@state
def a_deleted_user(provider: Provider) -> dict[str, str]:
    made = a_user(provider, "active")
    answered(provider.api.delete(f"/users/{made['user_id']}"), 204)
    return made


@state
def a_laptop(provider: Provider, stock: int) -> dict[str, str]:
    made = answered(provider.api.post("/products", factories.a_product(stock=stock)), 201)
    return {"product_id": made["id"]}


@state
def a_release(provider: Provider, order_id: str) -> None:
    answered(provider.api.delete(f"/reservations/{order_id}"), 204)


# Orders


def ordered(provider: Provider, quantity: int = 1) -> Any:
    """The answer to a new order of a new user, for a product with a stock of a hundred."""
    user_id, product_id = new_id(), provider.products.add(new_id(), "2499.99")
    provider.users.known[user_id] = {"status": "active", "version": 1}
    body = {"user_id": user_id, "items": [{"product_id": product_id, "quantity": quantity}]}
    return provider.api.post("/orders", body)


@state
def a_confirmed_order(provider: Provider, *steps: str) -> None:
    order_id = answered(ordered(provider), 201)["id"]
    for step in steps:
        answered(provider.api.post(f"/orders/{order_id}/{step}", None))


@state
def a_cancelled_order(provider: Provider) -> None:
    a_confirmed_order(provider, "cancel")


@state
def a_shipped_order(provider: Provider) -> None:
    a_confirmed_order(provider, "ship")


@state
def a_delivered_order(provider: Provider) -> None:
    a_confirmed_order(provider, "ship", "deliver")


@state
def a_rejected_order(provider: Provider) -> None:
    refused(ordered(provider, quantity=101), 409, "insufficient-stock")


@state
def a_pending_order(provider: Provider) -> None:
    """Its request died between the two transactions."""
    with patch.object(Checkout, "settle", side_effect=DependencyUnavailable):
        answered(ordered(provider), 503)


@state
def more_orders_than_fit_on_a_page(provider: Provider) -> None:
    user_id, product_id = new_id(), provider.products.add(new_id(), "2499.99")
    told = factories.a_cloud_event("user.created.v1", {"user_id": user_id, "status": "active", "version": 1})
    answered(provider.api.post("/events", [told], content_type=BATCH_JSON))
    line = {"product_id": product_id, "quantity": 1}
    orders = [NewOrder.of(user_id, [line], None, None, time.monotonic() + 5.0) for _ in range(PAGE + 1)]
    reserved = [{**line, **provider.products.offers[product_id]}]
    with provider.db.write() as session:
        placed = place_all(session, orders)
    with provider.db.write() as session:
        settle_all(session, [Verdict(order, reserved, ORIGIN) for order in placed if isinstance(order, dict)])


@state
def two_pages_of_orders(provider: Provider) -> dict[str, str]:
    a_confirmed_order(provider)
    a_confirmed_order(provider)
    return first_cursor(provider)


def first_cursor(provider: Provider) -> dict[str, str]:
    return {"cursor": answered(provider.api.get(f"/{provider.service}s?sort=created_at&limit=1"))["next_cursor"]}


# Notifications


def asked_for(provider: Provider, **to: str) -> None:
    answered(provider.api.post("/notifications/send", {**to, "body": "A text."}), 201)


@state
def a_notification_that_waits(provider: Provider) -> None:
    asked_for(provider, recipient="ada@example.com")


@state
def a_notification_that_was_sent(provider: Provider) -> None:
    a_notification_that_waits(provider)
    provider.step("sender of email")


@state
def a_notification_that_is_dead(provider: Provider) -> None:
    """There is no such user."""
    asked_for(provider, user_id=new_id())
    provider.step("sender of email")


@state
def more_notifications_than_fit_on_a_page(provider: Provider) -> None:
    with provider.db.write() as session:
        for _ in range(PAGE + 1):
            new = NewNotification().load({"recipient": "ada@example.com", "body": "A text."})
            send_notification(session, new, context.begin(5.0))


@state
def two_pages_of_notifications(provider: Provider) -> dict[str, str]:
    a_notification_that_waits(provider)
    a_notification_that_waits(provider)
    return first_cursor(provider)


@state
def something_to_count(provider: Provider) -> None:
    match provider.service:
        case "user":
            a_user(provider, "active")
        case "product":
            a_laptop(provider, 5)
        case "order":
            a_confirmed_order(provider)
        case "notification":
            a_notification_that_waits(provider)
