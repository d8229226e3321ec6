"""Long random histories: the service agrees with a model of twenty lines after every step."""

import random
from typing import Any

import pytest

from libs.common.ids import new_id
from tests.factories import a_reservation
from tests.integration.product_service.shop import Shop
from tests.web import answered


class Model:
    """Units by product, and the reservation of each order."""

    def __init__(self) -> None:
        self.units: dict[str, list[int]] = {}
        self.orders: dict[str, tuple[str, dict[str, int]]] = {}
        self.put_in: dict[str, int] = {}

    def reserve(self, order: str, lines: dict[str, int]) -> int:
        if order in self.orders:
            return 409 if self.orders[order][0] == "released" else 201
        if any(product not in self.units for product in lines):
            return 422
        if any(self.units[product][0] < quantity for product, quantity in lines.items()):
            return 409
        self._move(lines, -1, 1, 0)
        self.orders[order] = ("reserved", lines)
        return 201

    def release(self, order: str) -> None:
        status, lines = self.orders.get(order, ("none", {}))
        if status == "reserved":
            self._move(lines, 1, -1, 0)
        if status != "sold":
            self.orders[order] = ("released", lines)

    def ship(self, order: str) -> None:
        status, lines = self.orders.get(order, ("none", {}))
        if status == "reserved":
            self._move(lines, 0, -1, 1)
            self.orders[order] = ("sold", lines)

    def adjust(self, product: str, delta: int) -> int:
        if self.units[product][0] + delta < 0:
            return 409
        self.units[product][0] += delta
        self.put_in[product] += delta
        return 200

    def delete(self, product: str) -> int:
        if self.units[product][1]:
            return 409
        del self.units[product]
        return 204

    def _move(self, lines: dict[str, int], stock: int, reserved: int, sold: int) -> None:
        for product, quantity in lines.items():
            for place, sign in enumerate((stock, reserved, sold)):
                if product in self.units:
                    self.units[product][place] += sign * quantity


@pytest.mark.parametrize("seed", range(3))
def test_the_service_agrees_with_the_model(shop: Shop, seed: int) -> None:
    dice, model = random.Random(seed), Model()
    orders = [new_id() for _ in range(25)]
    for _ in range(110):
        _step(shop, model, dice, orders)
    assert {status for status, _ in model.orders.values()} == {"reserved", "released", "sold"}
    for order, (status, _) in model.orders.items():
        assert answered(shop.api.get(f"/reservations/{order}"))["status"] == status


def _step(shop: Shop, model: Model, dice: random.Random, orders: list[str]) -> None:
    products = sorted(model.units)
    action = dice.choice(
        ["create", "adjust", "delete", *["reserve"] * 5, "batch", "batch", "release", "event", "ship", "ship"]
    )
    if action == "create" or not products:
        stock = dice.randint(0, 12)
        product = shop.product(stock=stock)
        model.units[product], model.put_in[product] = [stock, 0, 0], stock
    elif action == "adjust":
        product, delta = dice.choice(products), dice.randint(-8, 8)
        answer = shop.api.post(f"/products/{product}/stock", {"delta": delta, "reason": "test"})
        assert answer.status_code == model.adjust(product, delta)
    elif action == "delete":
        product = dice.choice(products)
        assert shop.api.delete(f"/products/{product}").status_code == model.delete(product)
    elif action in ("reserve", "batch"):
        wanted = [_wanted(dice, products, orders) for _ in range(1 if action == "reserve" else dice.randint(1, 5))]
        bodies = [a_reservation(*lines.items(), order_id=order) for order, lines in wanted]
        if action == "reserve":
            found = [shop.api.post("/reservations", bodies[0]).status_code]
        else:
            found = [outcome["status"] for outcome in shop.batch(*bodies)]
        assert found == [model.reserve(order, lines) for order, lines in wanted]
    elif action == "release":
        order = dice.choice(orders)
        shop.release(order)
        model.release(order)
    else:
        some = dice.choices(orders, k=dice.randint(1, 4))
        shop.tell("shipped" if action == "ship" else dice.choice(["rejected", "cancelled"]), *some)
        for order in some:
            (model.ship if action == "ship" else model.release)(order)
    _agree(shop, model)


def _wanted(dice: random.Random, products: list[str], orders: list[str]) -> tuple[str, dict[str, int]]:
    known = dice.sample(products, min(len(products), dice.randint(1, 3)))
    unknown = [new_id()] if dice.random() < 0.1 else []
    order = new_id() if dice.random() < 0.3 else dice.choice(orders)
    return order, {product: dice.randint(1, 5) for product in known + unknown}


def _agree(shop: Shop, model: Model) -> None:
    found: list[dict[str, Any]] = answered(shop.api.get("/products?limit=200"))["items"]
    units = {p["id"]: [p["stock"], p["reserved"], p["sold"]] for p in found}
    assert units == model.units
    # Every unit is counted exactly once, and no number is negative.
    assert all(sum(held) == model.put_in[product] and min(held) >= 0 for product, held in units.items())
    assert answered(shop.api.get("/products/stats")) == {
        "total": len(units),
        **{f"{name}_units": sum(u[n] for u in units.values()) for n, name in enumerate(("stock", "reserved", "sold"))},
    }
