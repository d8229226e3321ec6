"""The flows that are measured: what their clients ask for, and of which service."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import uuid4

STOCK = 1_000_000_000
"""Of each product, so that no order is rejected."""
MAX_QUANTITY = 5


class Catalogue(NamedTuple):
    """What the requests are about: the ids of what was created for them."""

    users: list[str]
    products: list[str]
    orders: list[str]
    acknowledged: list[bytes]
    """The bodies of all answers with 201 to orders of these users."""


class Flow(NamedTuple):
    service: str
    statuses: tuple[int, ...]
    """Of every answer, unless something is wrong; 201 is an order."""
    request: Callable[[Catalogue], bytes]

    @property
    def creates_orders(self) -> bool:
        return 201 in self.statuses

    def requests(self, catalogue: Catalogue) -> Iterator[bytes]:
        """Requests without end, each of something else at random."""
        while True:
            yield self.request(catalogue)


def http(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """A request of HTTP/1.1; headers are given as `Idempotency_Key="..."`."""
    lines = [f"{method} /api/v1{path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    data = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    if data:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


def user(number: int) -> bytes:
    return http("POST", "/users", {"email": f"load-{uuid4().hex}@example.com", "name": f"User {number}"})


def product(number: int) -> bytes:
    body = {"name": f"Product {number}", "price": f"{5 + number % 95}.99", "stock": STOCK}
    return http("POST", "/products", body)


def _order(catalogue: Catalogue, lines: int = 1, **headers: str) -> bytes:
    items = [
        {"product_id": product_id, "quantity": random.randint(1, MAX_QUANTITY)}
        for product_id in random.sample(catalogue.products, lines)
    ]
    return http("POST", "/orders", {"user_id": random.choice(catalogue.users), "items": items}, **headers)


def _keyed(catalogue: Catalogue) -> bytes:
    return _order(catalogue, Idempotency_Key=uuid4().hex)


def _order_read(catalogue: Catalogue) -> bytes:
    return http("GET", f"/orders/{random.choice(catalogue.orders)}")


def _order_page(catalogue: Catalogue) -> bytes:
    return http("GET", "/orders?limit=20")


def _any_of_orders(catalogue: Catalogue) -> bytes:
    return random.choice((_order, _order_read, _order_page))(catalogue)


FLOWS = {
    "orders": Flow("order", (201,), _order),
    "keyed": Flow("order", (201,), _keyed),
    "orders3": Flow("order", (201,), lambda catalogue: _order(catalogue, 3)),
    "reads": Flow("product", (200,), lambda catalogue: http("GET", f"/products/{random.choice(catalogue.products)}")),
    "order-reads": Flow("order", (200,), _order_read),
    "pages": Flow("product", (200,), lambda catalogue: http("GET", "/products?limit=20")),
    "order-pages": Flow("order", (200,), _order_page),
    "mixed": Flow("order", (200, 201), _any_of_orders),
    "summary": Flow("analytics", (200,), lambda catalogue: http("GET", "/analytics/summary")),
}
"""`keyed` has an Idempotency-Key, `orders3` has three lines, the others of orders one; a page has 20 items; `mixed` are
orders, reads and pages of the order service in equal parts.
"""
