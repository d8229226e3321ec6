"""The clients of the user service and the product service, and their fakes."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypedDict  # noqa: TID251 - Any is the JSON of another service

from libs.common.calls.client import ServiceClient
from libs.common.errors import DependencyUnavailable, Problem
from order_service.models import InsufficientStock, ReservedLine, UnknownProduct, WantedLine


class Demand(NamedTuple):
    """A reservation to make for an order, on behalf of a request; `deadline` is a time of `time.monotonic()`."""

    order_id: str
    lines: Sequence[WantedLine]
    request_id: str
    deadline: float


Reserved = Sequence[ReservedLine] | Problem
"""The outcome of a reservation: its lines with names and prices, or the reason why there is none."""


class UserState(TypedDict):
    """The state of a user that decides whether an order is taken."""

    status: str
    version: int


class Users(Protocol):
    def find(self, user_id: str) -> UserState | None:
        """None when there is no such user; raises DependencyUnavailable."""


class Products(Protocol):
    def reserve(self, batch: Sequence[Demand], deadline: float) -> list[Reserved]:
        """For each demand its lines with names and prices, or InsufficientStock, UnknownProduct or
        DependencyUnavailable; raises DependencyUnavailable or DeadlineExceeded when the whole call fails.
        """


class UserClient:
    def __init__(self, client: ServiceClient):
        self._client = client

    def find(self, user_id: str) -> UserState | None:
        answer = self._client.get(f"/users/{user_id}")
        if answer.status == 404:
            return None
        if answer.status != 200 or not isinstance(answer.body, dict) or not answer.body.keys() >= {"status", "version"}:
            raise DependencyUnavailable("The user service gave no useful answer.")
        return {"status": answer.body["status"], "version": answer.body["version"]}


class ProductClient:
    def __init__(self, client: ServiceClient):
        self._client = client

    def reserve(self, batch: Sequence[Demand], deadline: float) -> list[Reserved]:
        wanted = [{"order_id": d.order_id, "items": d.lines, "request_id": d.request_id} for d in batch]
        body = {"reservations": wanted}
        # Safe to repeat: a reservation is idempotent by its order's id.
        answer = self._client.call("POST", "/reservations/batch", json=body, idempotent=True, deadline=deadline)
        outcomes = answer.body.get("outcomes") if answer.status == 200 and isinstance(answer.body, dict) else None
        if not isinstance(outcomes, list) or len(outcomes) != len(batch):
            raise DependencyUnavailable("The product service gave no useful answer.")
        return [_translated(outcome["status"], outcome["body"]) for outcome in outcomes]


def _translated(status: int, body: dict[str, Any]) -> Reserved:
    """The outcome of one reservation, whose JSON is `body`, in the types of this service."""
    if status == 201:
        lines: list[ReservedLine] = body["items"]
        return lines
    for refusal in (InsufficientStock, UnknownProduct):
        if body.get("code") == refusal.code:
            return refusal(errors=body.get("errors"))
    return DependencyUnavailable("The reservation could not be made.")


class FakeUsers:
    def __init__(self, *known: str):
        self.known: dict[str, UserState] = {user_id: {"status": "active", "version": 1} for user_id in known}
        self.down = False

    def find(self, user_id: str) -> UserState | None:
        if self.down:
            raise DependencyUnavailable("The user service is unavailable.")
        return self.known.get(user_id)


class Offer(TypedDict):
    name: str
    unit_price: str
    currency: str


class FakeProducts:
    """Prices and stock by product; `reserved` holds the outcome for each order."""

    def __init__(self) -> None:
        self.stock: dict[str, int] = {}
        self.offers: dict[str, Offer] = {}
        self.reserved: dict[str, Reserved] = {}
        self.down = False

    def add(self, product_id: str, price: str = "10.00", stock: int = 100, currency: str = "EUR") -> str:
        self.stock[product_id] = stock
        self.offers[product_id] = {"name": f"Product {product_id[-4:]}", "unit_price": price, "currency": currency}
        return product_id

    def reserve(self, batch: Sequence[Demand], deadline: float) -> list[Reserved]:
        if self.down:
            raise DependencyUnavailable("The product service is unavailable.")
        return [self._judge(demand) for demand in batch]

    def _judge(self, demand: Demand) -> Reserved:
        if demand.order_id in self.reserved:
            return self.reserved[demand.order_id]
        if unknown := self._unknown(demand.lines):
            return UnknownProduct(errors=unknown)
        if short := self._short(demand.lines):
            return InsufficientStock(errors=short)
        for line in demand.lines:
            self.stock[line["product_id"]] -= line["quantity"]
        lines: list[ReservedLine] = [{**line, **self.offers[line["product_id"]]} for line in demand.lines]
        self.reserved[demand.order_id] = lines
        return lines

    def _unknown(self, lines: Sequence[WantedLine]) -> list[dict[str, object]]:
        return [
            {"pointer": f"/items/{place}/product_id", "product_id": line["product_id"],
             "detail": "There is no such product."}
            for place, line in enumerate(lines)
            if line["product_id"] not in self.offers
        ]  # fmt: skip

    def _short(self, lines: Sequence[WantedLine]) -> list[dict[str, object]]:
        units = [(place, line, self.stock[line["product_id"]]) for place, line in enumerate(lines)]
        return [
            {"pointer": f"/items/{place}/quantity", "product_id": line["product_id"], "available": available,
             "detail": f"{available} available."}
            for place, line, available in units
            if available < line["quantity"]
        ]  # fmt: skip
