"""Every member of an order that can be written is read back as it was written."""

from decimal import Decimal
from typing import Any

from libs.common.ids import new_id
from tests.integration.order_service.shop import Shop
from tests.integration.round_trips import bodies, written
from tests.web import answered


def test_every_member_of_an_order_is_read_back(shop: Shop) -> None:
    products = [shop.products.add(new_id(), price=price, stock=10**9) for price in ("0.01", "19.99", "99999.99")]
    lines = [
        [{"product_id": p, "quantity": n} for p in products[:many]] for many in (1, 3) for n in (1, 2, 9999, 10_000)
    ]
    hundred = [{"product_id": shop.products.add(new_id()), "quantity": 1} for _ in range(100)]
    given: dict[str, list[Any]] = {"user_id": [shop.user_id, shop.a_user()], "items": [*lines, hundred]}
    for body in bodies("order", "post", "/orders", given):
        sent = {**shop.body((products[0], 1)), **body}
        order = written(shop.api, "POST", "/orders", sent)
        assert (order["user_id"], order["note"]) == (sent["user_id"], sent.get("note"))
        assert [{name: line[name] for name in ("product_id", "quantity")} for line in order["items"]] == sent["items"]
        for line in order["items"]:
            offer = shop.products.offers[line["product_id"]]
            assert (line["name"], line["unit_price"]) == (offer["name"], offer["unit_price"])
            assert Decimal(line["line_total"]) == Decimal(offer["unit_price"]) * line["quantity"]
        assert Decimal(order["total"]) == sum(Decimal(line["line_total"]) for line in order["items"])


def test_every_reason_of_a_cancellation_is_read_back(shop: Shop) -> None:
    for body in [{}, *bodies("order", "post", "/orders/{order_id}/cancel", {})]:
        order = shop.order()
        cancelled = answered(shop.api.post(f"/orders/{order['id']}/cancel", body))
        assert shop.get(order["id"]) == cancelled
        history = answered(shop.api.get(f"/orders/{order['id']}/history"))["items"]
        assert history[-1] == {"status": "cancelled", "at": cancelled["cancelled_at"], "reason": body.get("reason")}
