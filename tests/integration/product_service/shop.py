"""The operations of the order service on the product service."""

from typing import Any

from libs.common.events.event import BATCH_JSON
from libs.common.ids import new_id
from tests.factories import a_cloud_event, a_product, a_reservation
from tests.web import Api, answered


class Shop:
    def __init__(self, api: Api):
        self.api = api

    def product(self, **given: Any) -> str:
        """The id of a new product."""
        return str(answered(self.api.post("/products", a_product(**given)), 201)["id"])

    def units(self, product_id: str) -> tuple[int, int, int]:
        """Stock, reserved, sold."""
        product = answered(self.api.get(f"/products/{product_id}"))
        return product["stock"], product["reserved"], product["sold"]

    def reserve(self, *lines: tuple[str, int], order_id: str | None = None) -> Any:
        return self.api.post("/reservations", a_reservation(*lines, order_id=order_id))

    def reserved(self, *lines: tuple[str, int], order_id: str | None = None) -> str:
        """The order whose reservation was made."""
        return str(answered(self.reserve(*lines, order_id=order_id), 201)["order_id"])

    def batch(self, *reservations: dict[str, Any]) -> list[dict[str, Any]]:
        """Reserve in one batch; returns the outcomes."""
        outcomes: list[dict[str, Any]] = answered(
            self.api.post("/reservations/batch", {"reservations": list(reservations)})
        )["outcomes"]
        return outcomes

    def tell(self, event_type: str, *order_ids: str) -> list[str]:
        """Deliver an event about each order, in one batch; returns the outcomes."""
        return self.deliver(
            *(a_cloud_event(f"order.{event_type}.v1", {"order_id": order_id}) for order_id in order_ids)
        )

    def deliver(self, *events: dict[str, Any]) -> list[str]:
        told = answered(self.api.post("/events", list(events), content_type=BATCH_JSON))
        return [result["outcome"] for result in told["results"]]

    def release(self, order_id: str | None = None) -> None:
        assert self.api.delete(f"/reservations/{order_id or new_id()}").status_code == 204
