"""The operations of a customer and a shopkeeper, for the tests."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import uuid4

import requests

from demo.api import Quintet
from libs.common.errors import PROBLEM_JSON
from tests.web import INTERNAL, MEMBERS

Json = dict[str, Any]


class Units(NamedTuple):
    stock: int
    reserved: int
    sold: int


class Shop:
    def __init__(self, api: Quintet):
        self.api = api

    def new_user(self, **given: Any) -> Json:
        return answered(self.api.post("user", "/users", {**a_user(), **given}), 201)

    def new_product(self, stock: int = 25, **given: Any) -> Json:
        body = {"name": "Laptop", "price": "2499.99", "stock": stock, **given}
        return answered(self.api.post("product", "/products", body), 201)

    def order(self, user: Json, product: Json, quantity: int = 1, **headers: str) -> requests.Response:
        """Headers are given as `Idempotency_Key="..."`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.api.post("order", "/orders", an_order(user, product, quantity), named)

    def known_user(self) -> Json:
        """A user whom the order service knows already."""
        user = self.new_user()
        answered(self.order(user, self.new_product(1)), 201)
        return user

    def units(self, product: Json) -> Units:
        found = self.get("product", f"/products/{product['id']}")
        return Units(found["stock"], found["reserved"], found["sold"])

    def notifications(self, order: Json) -> list[Json]:
        return self.get("notification", f"/notifications?order_id={order['id']}")["items"]  # type: ignore[no-any-return]

    def orders_of(self, user: Json, status: str = "") -> list[Json]:
        """All of them, however many pages they take."""
        path = f"/orders?user_id={user['id']}&limit=200" + (f"&status={status}" if status else "")
        return list(self.all("order", path))

    def notifications_of(self, user: Json) -> list[Json]:
        """All of them, however many pages they take."""
        return list(self.all("notification", f"/notifications?user_id={user['id']}&limit=200"))

    def get(self, service: str, path: str) -> Json:
        return answered(self.api.get(service, path), 200)

    def waiting(self, *subscribers: str) -> bool:
        """Whether an event waits to be sent: to one of the subscribers, or to any."""
        health = [self.get(service, "/health") for service in ("user", "order", "notification")]
        waits = {name for each in health for name in each["checks"]["events"]["pending"]}
        return bool(waits & set(subscribers) if subscribers else waits)

    def stats(self) -> Json:
        """The statistics of users, products and orders."""
        return {service: self.get(service, f"/{service}s/stats") for service in ("user", "product", "order")}

    def all(self, service: str, path: str) -> Any:
        """The items of a list, page by page."""
        page = self.get(service, path)
        yield from page["items"]
        while page["next_cursor"]:
            page = self.get(service, f"{path}&cursor={page['next_cursor']}")
            yield from page["items"]


def a_user() -> Json:
    return {"email": f"{uuid4().hex}@example.com", "name": "Ada Lovelace"}


def an_order(user: Json, product: Json, quantity: int = 1) -> Json:
    return {"user_id": user["id"], "items": [{"product_id": product["id"], "quantity": quantity}]}


def answered(answer: requests.Response, status: int) -> Any:
    """The JSON of an answer that has this status."""
    assert answer.status_code == status, f"{answer.status_code} instead of {status}: {answer.text}"
    return answer.json()


def refused(answer: requests.Response, status: int, code: str) -> Json:
    """The problem document of an answer that has this status and code."""
    answered(answer, status)
    document = check_problem(answer.text, answer.status_code, answer.headers)
    assert document["code"] == code, document
    return document


def check_problem(text: str, status: int, headers: Mapping[str, str]) -> Json:
    """Check that the problem document is complete and names nothing internal; returns it."""
    document: Json = json.loads(text)
    assert headers["Content-Type"] == PROBLEM_JSON
    assert MEMBERS <= set(document) <= MEMBERS | {"errors"}
    assert document["status"] == status
    assert document["request_id"] == headers["X-Request-ID"]
    assert status not in (429, 503, 504) or int(headers["Retry-After"]) >= 0
    told = text.replace(document["instance"], "").lower()
    assert not [word for word in INTERNAL if word in told]
    return document
