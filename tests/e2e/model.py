"""A model of the five services: the rules of the API in memory, one request after the other.

Every operation is a method that returns the predicted `Answer`, or raises `Refusal`. Resources are dictionaries with
exactly the members of an answer. Values that the service generates (ids, times) are `NEW` until an answer has them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Json = dict[str, Any]

NEW = type("New", (), {"__repr__": lambda self: "NEW"})()

REQUIRED = object()
USER = {"email": REQUIRED, "name": REQUIRED, "role": "customer", "status": "active"}
PRODUCT = {
    "name": REQUIRED, "price": REQUIRED, "currency": "EUR", "sku": None, "description": "", "category": None,
    "seller_id": None,
}  # fmt: skip
"""The members that a client may set → their defaults."""
CHOICES = {
    "role": ("customer", "staff", "admin"), "status": ("active", "suspended"), "currency": ("EUR", "USD", "JPY"),
}  # fmt: skip
DIGITS = {"EUR": 2, "USD": 2, "JPY": 0}
STEPS = {"cancel": ("confirmed", "cancelled"), "ship": ("confirmed", "shipped"), "deliver": ("shipped", "delivered")}
"""Action → the only status that it starts from, and the status that it leads to."""
DONE = {"cancel": ("cancelled",), "ship": ("shipped", "delivered"), "deliver": ("delivered",)}
"""Action → the statuses in which it changes nothing."""
ERASED = {"recipient": None, "subject": None, "body": None}
"""The members of a notification after its user was deleted."""
SOLD = ("confirmed", "shipped", "delivered")
"""Statuses of orders that count towards the revenue."""


@dataclass
class Answer:
    """A status and the whole body. `resource` is the stored resource, which changes later; the body does not."""

    status: int
    body: Any = None
    resource: Json | None = None
    replayed: bool = False


class Refusal(Exception):
    """A problem document; of `errors` only the members that are given here are compared."""

    def __init__(self, status: int, code: str, errors: list[Json] | None = None):
        super().__init__(status, code, errors)
        self.status, self.code, self.errors, self.replayed = status, code, errors, False
        self.resource: Json | None = None
        """The order that was rejected."""


def whole(resource: Json, status: int = 200) -> Answer:
    return Answer(status, dict(resource), resource)


def amount(value: Decimal, currency: str) -> str:
    return f"{value:.{DIGITS[currency]}f}"


@dataclass
class Model:
    users: list[Json] = field(default_factory=list)
    products: list[Json] = field(default_factory=list)
    orders: list[Json] = field(default_factory=list)
    notifications: list[Json] = field(default_factory=list)
    reasons: dict[str, str | None] = field(default_factory=dict)
    """Cancelled order → why."""
    keys: dict[tuple[str, str], tuple[Json, Answer | Refusal]] = field(default_factory=dict)
    tried: list[Json] = field(default_factory=list)
    """Notifications that were sent or are dead, also those that were deleted since."""

    # Users -----------------------------------------------------------------------------------------------------

    def create_user(self, body: Json, key: str | None = None) -> Answer:
        if "status" in body:
            raise Refusal(422, "validation-failed", [{"pointer": "/status"}])
        made = _complete(USER, body)
        return self._once("/users", key, body, lambda: self._create_user(made))

    def _create_user(self, made: Json) -> Answer:
        self._is_free("email", made["email"])
        self.users.append({"id": NEW, **made, "created_at": NEW, "updated_at": NEW, "version": 1})
        return whole(self.users[-1], 201)

    def change_user(self, user_id: str, body: Json, match: int | None, *, patch: bool) -> Answer:
        return self._change(self.users, USER, user_id, body, match, patch)

    def delete_user(self, user_id: str, match: int | None) -> Answer:
        """The other services erase the data of the user: notes, notifications, and the answers of idempotency keys."""
        self.users.remove(_at(_find(self.users, user_id), match))
        theirs = [user_id]
        for order in self.orders:
            if order["user_id"] == user_id:
                order["note"] = None
                theirs.append(order["id"])
        for told in self.notifications:
            if told["user_id"] == user_id:
                theirs.append(told["id"])
                told["version"] += told["body"] is not None
                told |= ERASED
        self.keys = {
            name: (body, kept) for name, (body, kept) in self.keys.items()
            if not kept.resource or kept.resource["id"] not in theirs
        }  # fmt: skip
        return Answer(204)

    # Products --------------------------------------------------------------------------------------------------

    def create_product(self, body: Json, key: str | None = None) -> Answer:
        made = _complete({**PRODUCT, "stock": 0}, body)
        return self._once("/products", key, body, lambda: self._create_product(made))

    def _create_product(self, made: Json) -> Answer:
        self._knows_seller(made)
        self._is_free("sku", made["sku"])
        nothing = {"reserved": 0, "sold": 0, "created_at": NEW, "updated_at": NEW, "version": 1}
        self.products.append({"id": NEW, **made, **nothing})
        return whole(self.products[-1], 201)

    def change_product(self, product_id: str, body: Json, match: int | None, *, patch: bool) -> Answer:
        if not patch:
            _complete(PRODUCT, body)
        _check(PRODUCT, body, patch)
        self._knows_seller(body)
        return self._change(self.products, PRODUCT, product_id, body, match, patch)

    def delete_product(self, product_id: str, match: int | None) -> Answer:
        product = _at(_find(self.products, product_id), match)
        if product["reserved"]:
            raise Refusal(409, "product-in-use")
        self.products.remove(product)
        return Answer(204)

    def adjust_stock(self, product_id: str, body: Json, key: str | None = None) -> Answer:
        return self._once(f"/products/{product_id}/stock", key, body, lambda: self._adjust(product_id, body["delta"]))

    def _adjust(self, product_id: str, delta: int) -> Answer:
        product = _find(self.products, product_id)
        if product["stock"] + delta < 0:
            raise Refusal(409, "insufficient-stock", [{"pointer": "/delta", "available": product["stock"]}])
        if delta:
            _move(product, delta, 0, 0)
        return whole(product)

    def _knows_seller(self, body: Json) -> None:
        if body.get("seller_id") and not _has(self.users, body["seller_id"]):
            raise Refusal(422, "unknown-user", [{"pointer": "/seller_id"}])

    # Orders ----------------------------------------------------------------------------------------------------

    def place(self, body: Json, key: str | None = None) -> Answer:
        return self._once("/orders", key, body, lambda: self._place(body))

    def _place(self, body: Json) -> Answer:
        if not any(user["id"] == body["user_id"] and user["status"] == "active" for user in self.users):
            raise Refusal(422, "unknown-user", [{"pointer": "/user_id"}])
        wanted: dict[str, int] = {}
        for item in body["items"]:
            wanted[item["product_id"]] = wanted.get(item["product_id"], 0) + item["quantity"]
        order = {
            "id": NEW, "user_id": body["user_id"], "status": "confirmed", "confirmed_at": NEW, "shipped_at": None,
            "delivered_at": None, "cancelled_at": None, "items": [], "total": None, "currency": None,
            "note": body.get("note"), "rejection": None, "created_at": NEW, "updated_at": NEW, "version": 2,
        }  # fmt: skip
        self.orders.append(order)
        try:
            self._reserve(order, wanted, body["items"])
        except Refusal as refusal:
            nothing = {"name": None, "unit_price": None, "line_total": None}
            items = [{"product_id": p, "quantity": quantity, **nothing} for p, quantity in wanted.items()]
            told = {"code": refusal.code, "detail": NEW, **({"errors": NEW} if refusal.errors else {})}
            order |= {"status": "rejected", "confirmed_at": None, "items": items, "rejection": told}
            refusal.resource = order
            raise
        words = {"channel": "email", "template": "order_confirmed", "body": NEW}
        self.notifications.append(_notification(user_id=order["user_id"], order=order, **words))
        return whole(order, 201)

    def _reserve(self, order: Json, wanted: dict[str, int], items: list[Json]) -> None:
        """All lines or none. A fault points at the first line of the request that names the product."""
        place = {p: next(n for n, item in enumerate(items) if item["product_id"] == p) for p in wanted}
        if unknown := [p for p in wanted if not _has(self.products, p)]:
            raise Refusal(422, "unknown-product", [{"pointer": f"/items/{place[p]}/product_id"} for p in unknown])
        lines = [(_find(self.products, p), quantity) for p, quantity in wanted.items()]
        if short := [product for product, quantity in lines if product["stock"] < quantity]:
            raise Refusal(409, "insufficient-stock", [
                {"pointer": f"/items/{place[p['id']]}/quantity", "product_id": p["id"], "available": p["stock"]}
                for p in short
            ])  # fmt: skip
        currencies = {product["currency"] for product, _ in lines}
        if len(currencies) > 1:
            for product, _ in lines:
                product["version"] += 2  # reserved, and released again
                product["updated_at"] = NEW
            raise Refusal(422, "currency-mismatch")
        order["currency"] = currency = currencies.pop()
        for product, quantity in lines:
            _move(product, -quantity, quantity, 0)
            line_total = amount(Decimal(product["price"]) * quantity, currency)
            order["items"].append({
                "product_id": product["id"], "name": product["name"], "quantity": quantity,
                "unit_price": product["price"], "line_total": line_total,
            })  # fmt: skip
        order["total"] = amount(sum(Decimal(line["line_total"]) for line in order["items"]), currency)

    def step(self, order_id: str, action: str, match: int | None, reason: str | None = None) -> Answer:
        order = _at(_find(self.orders, order_id), match)
        source, target = STEPS[action]
        if order["status"] not in DONE[action]:
            if order["status"] != source:
                raise Refusal(409, "invalid-transition")
            order |= {"status": target, f"{target}_at": NEW, "updated_at": NEW, "version": order["version"] + 1}
            if action == "cancel":
                self.reasons[order_id] = reason
            for line in order["items"] if action != "deliver" else ():
                stock, sold = (line["quantity"], 0) if action == "cancel" else (0, line["quantity"])
                _move(_find(self.products, line["product_id"]), stock, -line["quantity"], sold)
        return whole(order)

    def history(self, order_id: str) -> list[Json]:
        order = _find(self.orders, order_id)
        steps = {"pending": order["created_at"], **{s: order[f"{s}_at"] for s in (*SOLD, "cancelled")}}
        if order["status"] == "rejected":
            steps["rejected"] = order["updated_at"]
        reasons = {"cancelled": self.reasons.get(order_id), "rejected": NEW}
        return [{"status": status, "at": at, "reason": reasons.get(status)} for status, at in steps.items() if at]

    # Notifications ---------------------------------------------------------------------------------------------

    def send(self, body: Json, key: str | None = None) -> Answer:
        return self._once("/notifications/send", key, body, lambda: self._send(body))

    def _send(self, body: Json) -> Answer:
        self.notifications.append(_notification(**{"channel": "email", **body}))
        return whole(self.notifications[-1], 201)

    def mark(self, notification_id: str, read: bool, match: int | None) -> Answer:
        told = _at(_find(self.notifications, notification_id), match)
        if read != bool(told["read_at"]):
            told |= {"read_at": NEW if read else None, "version": told["version"] + 1}
        return whole(told)

    def retry(self, notification_id: str, match: int | None) -> Answer:
        told = _at(_find(self.notifications, notification_id), match)
        if told["status"] != "dead" or told["body"] is None:
            raise Refusal(409, "invalid-transition")
        told |= {"status": "queued", "attempts": 0, "version": told["version"] + 1}
        return whole(told)

    def forget(self, notification_id: str, match: int | None) -> Answer:
        told = _at(_find(self.notifications, notification_id), match)
        self.notifications.remove(told)
        self._redact(told)
        return Answer(204)

    def _redact(self, told: Json) -> None:
        """The stored answers that repeat a notification lose what is erased of it."""
        for _, kept in self.keys.values():
            if isinstance(kept, Answer) and kept.resource is told:
                kept.body |= ERASED

    def settle(self) -> None:
        """Every queued notification is sent, or dead: where the user was deleted, and on the webhook channel."""
        for told in [told for told in self.notifications if told["status"] == "queued"]:
            if order := told.pop("order", None):
                told |= {"order_id": order["id"], "subject": f"Your order {order['id']} is confirmed"}
            told["version"] += 1
            if told["channel"] == "webhook":
                told |= {"status": "dead", "attempts": 1, "last_error": NEW}
            elif told["recipient"] is None and not _has(self.users, told["user_id"]):
                told |= {"status": "dead", "last_error": "There is no such user.", **ERASED}
                self._redact(told)
            else:
                told |= {"status": "sent", "attempts": 1, "sent_at": NEW}
            if not any(told is other for other in self.tried):
                self.tried.append(told)

    # Figures ---------------------------------------------------------------------------------------------------

    def figures(self) -> Counter[str]:
        """The statistics and the analytics of the state, each figure by its name there."""
        found: Counter[Any] = Counter()
        for user in self.users:
            found.update(["user.total", f"user.by_role.{user['role']}", f"user.by_status.{user['status']}"])
        for product in self.products:
            found.update(
                {"product.total": 1, **{f"product.{n}_units": product[n] for n in ("stock", "reserved", "sold")}}
            )
        for told in self.notifications:
            names = ("total", f"by_status.{told['status']}", f"by_channel.{told['channel']}")
            found.update(f"notification.{name}" for name in names)
        for told in self.tried:
            found.update([f"delivery.{told['status']}", f"delivery.by_channel.{told['channel']}.{told['status']}"])
        for order in self.orders:
            found[f"order.by_status.{order['status']}"] += 1
            if order["confirmed_at"]:
                found.update(["order.total", "series.orders"])
                found["series.cancelled"] += order["status"] == "cancelled"
            if order["status"] in SOLD:
                for place in "order", "series":
                    found[f"{place}.revenue.{order['currency']}"] += Decimal(order["total"])
                for line in order["items"]:
                    best = f"top.{line['product_id']}.{order['currency']}"
                    found[f"{best}.units"] += line["quantity"]
                    found[f"{best}.revenue"] += Decimal(line["line_total"])
        return Counter({name: value for name, value in found.items() if value})

    # What several do -------------------------------------------------------------------------------------------

    def _once(self, operation: str, key: str | None, body: Json, act: Callable[[], Answer]) -> Answer:
        """The same key and body get the same answer. A refusal before the key is claimed leaves it free; an order
        claims its key when its user is known, the others when they succeed or conflict.
        """
        if key and (operation, key) in self.keys:
            given, kept = self.keys[operation, key]
            if given != body:
                raise Refusal(422, "idempotency-key-reused")
            kept.replayed = True
            if isinstance(kept, Refusal):
                raise kept
            return kept
        answer: Answer | Refusal
        try:
            answer = act()
        except Refusal as refusal:
            begun = operation == "/orders" and refusal.code != "unknown-user"
            if key and (refusal.status == 409 or begun):
                self.keys[operation, key] = body, refusal
            raise
        if key:
            self.keys[operation, key] = body, answer
        return answer

    def _change(
        self, among: list[Json], shape: Json, resource_id: str, body: Json, match: int | None, patch: bool
    ) -> Answer:
        _check(shape, body, patch)
        resource = _at(_find(among, resource_id), match)
        if patch:
            body = {
                name: value for name, value in {**{n: resource[n] for n in shape}, **body}.items() if value is not None
            }
        new = _complete(shape, body)
        for unique in ("email", "sku"):
            if unique in shape:
                self._is_free(unique, new[unique], resource)
        if any(resource[name] != value for name, value in new.items()):
            resource |= {**new, "updated_at": NEW, "version": resource["version"] + 1}
        return whole(resource)

    def _is_free(self, member: str, value: str | None, own: Json | None = None) -> None:
        """E-mails are compared without regard to case."""
        same: Callable[[str], str] = str.lower if member == "email" else str
        among = self.users if member == "email" else self.products
        taken = [same(other[member]) for other in among if other is not own and other[member] is not None]
        if value is not None and same(value) in taken:
            raise Refusal(409, f"{member}-taken")


def _check(shape: Json, body: Json, patch: bool) -> None:
    """Raises Refusal for members that nobody may set, that have no such value, or that are required."""
    wrong = {name for name in body if name not in shape}
    wrong |= {name for name in CHOICES if body.get(name) is not None and body[name] not in CHOICES[name]}
    wrong |= {n for n, d in shape.items() if d is REQUIRED and (body.get(n) is None if n in body else not patch)}
    if wrong:
        raise Refusal(422, "validation-failed", [{"pointer": f"/{name}"} for name in sorted(wrong)])


def _complete(shape: Json, body: Json) -> Json:
    """The members that a client may set, each with its value or its default; amounts have the digits of the currency."""
    _check(shape, body, patch=False)
    found = {**shape, **body}
    if "price" in shape:
        price = Decimal(str(found["price"]))
        if price != round(price, DIGITS[found["currency"]]):
            raise Refusal(422, "validation-failed", [{"pointer": "/price"}])
        found["price"] = amount(price, found["currency"])
    return found


def _find(among: list[Json], resource_id: str) -> Json:
    for resource in among:
        if resource["id"] == resource_id:
            return resource
    raise Refusal(404, "not-found")


def _has(among: list[Json], resource_id: str) -> bool:
    return any(resource["id"] == resource_id for resource in among)


def _at(resource: Json, match: int | None) -> Json:
    """The resource, unless If-Match names another version of it."""
    if match not in (None, resource["version"]):
        raise Refusal(412, "precondition-failed")
    return resource


def _move(product: Json, stock: int, reserved: int, sold: int) -> None:
    moved = {"stock": stock, "reserved": reserved, "sold": sold}
    product |= {name: product[name] + units for name, units in moved.items()}
    product |= {"updated_at": NEW, "version": product["version"] + 1}


def _notification(**given: Any) -> Json:
    nothing = dict.fromkeys(
        ("user_id", "order_id", "recipient", "template", "subject", "body", "last_error", "read_at", "sent_at")
    )
    return {**nothing, "id": NEW, "status": "queued", "attempts": 0, "version": 1, "created_at": NEW, **given}
