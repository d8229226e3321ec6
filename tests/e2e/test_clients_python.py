"""The clients that openapi-python-client generates from the five documents place and follow an order."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import pytest
from openapi_python_client import generate
from openapi_python_client.config import Config, ConfigFile, MetaType

from demo.api import eventually
from libs.topology import SERVICES
from tests.e2e.system import System

OPTIONAL = {"Problem.errors", "Rejection.errors"}
"""The only members of an answer that may be missing; others are null when they have no value."""


class Client:
    """A generated package, and the service that it talks to."""

    def __init__(self, package: str, connection: Any):
        self.models = import_module(f"{package}.models")
        self._connection = connection
        modules = Path(str(import_module(package).__file__)).parent.glob("api/*/[a-z]*.py")
        self._operations = {
            path.stem: import_module(f"{package}.api.{path.parent.name}.{path.stem}") for path in modules
        }

    def answer(self, operation: str, status: int, /, **given: Any) -> Any:
        """The answer of an operation, by its id: `headers`, and `parsed`, the body as an object of a generated class."""
        answer = self._operations[operation].sync_detailed(client=self._connection, **given)
        assert answer.status_code == status, answer.content
        check(answer.parsed)
        return answer

    def done(self, operation: str, status: int = 200, /, **given: Any) -> Any:
        return self.answer(operation, status, **given).parsed

    def refused(self, operation: str, status: int, code: str, /, **given: Any) -> Any:
        answer = self.answer(operation, status, **given)
        assert type(answer.parsed) is self.models.Problem
        assert (answer.parsed.status, answer.parsed.code) == (status, code)
        assert answer.parsed.request_id == answer.headers["X-Request-ID"]
        return answer.parsed


def check(value: Any) -> None:
    """Every member is there and has one of the types of its annotation.

    The generated parsers do not check that: a nullable member that they cannot parse is left as it is.
    """
    if isinstance(value, list):
        for each in value:
            check(each)
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            name, found, types = f"{type(value).__name__}.{field.name}", getattr(value, field.name), str(field.type)
            assert ("Unset" in types) == (name in OPTIONAL), f"{name} is {types}"
            kind = "None" if found is None else type(found).__name__
            assert kind in re.findall(r"\w+", types), f"{name} is {found!r}"
            check(found)


def make_client(url: str, directory: Path) -> None:
    """Generate a package without warnings. It is not formatted."""
    settings = ConfigFile(post_hooks=[])
    config = Config.from_sources(settings, MetaType.NONE, url, "utf-8", overwrite=False, output_path=directory)
    assert list(generate(config=config)) == []


Clients = dict[str, Client]


@pytest.fixture(scope="module")
def clients(running: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Clients generated from the documents that the services serve."""
    directory = tmp_path_factory.mktemp("clients")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as connections:
        patch.syspath_prepend(directory)
        made = {}
        for service in SERVICES:
            url, package = running.api.url(service), f"{service}_client"
            make_client(f"{url}/openapi.json", directory / package)
            connection = import_module(package).Client(base_url=f"{url}/api/v1", raise_on_unexpected_status=True)
            made[service] = Client(package, connections.enter_context(connection))
        yield made


def new_user(clients: Clients) -> Any:
    user = clients["user"]
    return user.done(
        "create_user", 201, body=user.models.NewUser(email=f"{uuid4().hex}@example.com", name="Ada Lovelace")
    )


def new_product(clients: Clients) -> Any:
    product = clients["product"]
    return product.done("create_product", 201, body=product.models.NewProduct(name="Laptop", price="2499.99", stock=25))


def new_order(clients: Clients, quantity: int = 2) -> Any:
    """An order of a new user for a new product."""
    models = clients["order"].models
    item = models.OrderItem(product_id=new_product(clients).id, quantity=quantity)
    return models.NewOrder(user_id=new_user(clients).id, items=[item], note="Ring twice.")


def test_an_order_is_placed_once_and_read_back(clients: Clients) -> None:
    order, body, key = clients["order"], new_order(clients), uuid4().hex

    first = order.answer("create_order", 201, body=body, idempotency_key=key)
    again = order.answer("create_order", 201, body=body, idempotency_key=key)

    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    placed = first.parsed
    assert placed == again.parsed == order.done("get_order", order_id=placed.id)
    assert first.headers["Location"] == f"/api/v1/orders/{placed.id}"
    assert (placed.user_id, placed.items[0].product_id) == (body.user_id, body.items[0].product_id)
    assert (placed.status, placed.total, placed.currency, placed.rejection) == ("confirmed", "4999.98", "EUR", None)
    assert (placed.items[0].unit_price, placed.items[0].line_total) == ("2499.99", "4999.98")
    assert timedelta(0) <= placed.confirmed_at - placed.created_at < timedelta(seconds=30)
    order.answer("get_order", 304, order_id=placed.id, if_none_match=first.headers["ETag"])


def test_a_list_is_read_page_by_page(clients: Clients) -> None:
    order, body = clients["order"], new_order(clients)
    since = datetime.now(UTC) - timedelta(minutes=5)
    placed = [order.done("create_order", 201, body=body).id for _ in range(3)]

    status = order.models.OrderStatus.CONFIRMED
    wanted = {"user_id": body.user_id, "status": status, "created_from": since, "limit": 2}
    pages = [order.done("list_orders", **wanted)]
    while cursor := pages[-1].next_cursor:
        pages.append(order.done("list_orders", cursor=cursor, **wanted))

    assert [[each.id for each in page.items] for page in pages] == [[placed[2], placed[1]], [placed[0]]]
    assert {each.status for page in pages for each in page.items} == {status}


def test_an_order_is_shipped_and_another_is_cancelled_and_everybody_is_told(clients: Clients) -> None:
    order, notification, analytics = clients["order"], clients["notification"], clients["analytics"]
    body = new_order(clients)

    def today() -> Any:
        return analytics.done("order_series").items[-1]

    before = today()
    placed, unwanted = (order.answer("create_order", 201, body=body) for _ in range(2))
    order_id, product_id = placed.parsed.id, body.items[0].product_id

    shipped = order.done("ship_order", order_id=order_id, if_match=placed.headers["ETag"])
    delivered = order.done("deliver_order", order_id=order_id)
    reason = order.models.Cancellation(reason="Too late.")
    cancelled = order.done("cancel_order", order_id=unwanted.parsed.id, body=reason)

    assert placed.parsed.confirmed_at < shipped.shipped_at < delivered.delivered_at < cancelled.cancelled_at
    history = order.done("order_history", order_id=order_id).items
    assert [each.status for each in history] == ["pending", "confirmed", "shipped", "delivered"]
    assert [each.at for each in history[1:]] == [placed.parsed.confirmed_at, shipped.shipped_at, delivered.delivered_at]

    def units() -> tuple[int, int, int]:
        product = clients["product"].done("get_product", product_id=product_id)
        return product.stock, product.reserved, product.sold

    assert eventually(lambda: units() == (23, 0, 2)), units()
    sent = eventually(lambda: [
        each for each in notification.done("list_notifications", order_id=order_id).items if each.status == "sent"
    ])  # fmt: skip
    assert [(each.user_id, each.channel, each.attempts) for each in sent] == [(body.user_id, "email", 1)]
    summary = analytics.done("summary")
    assert (summary.degraded, summary.orders.state) == (False, "live")
    assert summary.orders.by_status["delivered"] >= 1
    assert eventually(lambda: today().orders >= before.orders + 2 and today().cancelled > before.cancelled)
    assert "EUR" in [each.currency for each in today().revenue]
    assert len(analytics.done("top_products", limit=1).items) == 1
    assert eventually(lambda: analytics.done("delivery").sent >= 1)


def test_a_patch_changes_what_it_names_and_nothing_else(clients: Clients) -> None:
    product, models = clients["product"], clients["product"].models
    new = models.NewProduct(
        name="Laptop", price="2499.99", sku=uuid4().hex, description="Very light.", category="computers"
    )
    made = product.answer("create_product", 201, body=new)
    product_id, version = made.parsed.id, made.headers["ETag"]

    patch = models.ProductChangePatch(price="1999.00", category=None)
    changed = product.done("update_product", product_id=product_id, body=patch, if_match=version)

    assert changed.updated_at > made.parsed.updated_at
    expected = {"price": "1999.00", "category": None, "version": 2, "updated_at": changed.updated_at}
    assert changed == attrs.evolve(made.parsed, **expected)
    product.refused("delete_product", 412, "precondition-failed", product_id=product_id, if_match=version)
    assert product.done("delete_product", 204, product_id=product_id) is None
    product.refused("get_product", 404, "not-found", product_id=product_id)


def test_a_refusal_is_a_problem_of_the_generated_class(clients: Clients) -> None:
    order, key = clients["order"], uuid4().hex
    body = new_order(clients, 25)
    placed = order.done("create_order", 201, body=body, idempotency_key=key)

    short = order.refused("create_order", 409, "insufficient-stock", body=body).errors
    assert [(each.pointer, each["available"]) for each in short] == [("/items/0/quantity", 0)]
    other = attrs.evolve(body, note="Ring once.")
    order.refused("create_order", 422, "idempotency-key-reused", body=other, idempotency_key=key)
    order.refused("get_order", 404, "not-found", order_id=uuid4())
    order.refused("ship_order", 412, "precondition-failed", order_id=placed.id, if_match='"0"')
    order.refused("deliver_order", 409, "invalid-transition", order_id=placed.id)
    taken = clients["user"].models.NewUser(email="Ada@example.com", name="")
    (empty,) = clients["user"].refused("create_user", 422, "validation-failed", body=taken).errors
    assert empty.pointer == "/name"
