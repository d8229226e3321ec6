"""The random sequences of operations of test_model.py, each answer of which is compared with the model's.

After each operation the system becomes idle, and its whole state is compared: resources, lists, statistics, and what
the other services have learnt from events. Requests are sequential; the tests of races and tests/chaos cover concurrent
ones.
"""

import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    precondition,
    rule,
)

from demo.api import Quintet, eventually
from libs.common.ids import new_id
from tests.e2e.comparison import agree, compare, figures
from tests.e2e.model import STEPS, Answer, Json, Model, Refusal
from tests.e2e.shop import Shop

QUIET_SECONDS = 30.0
COMPARE_EVERY = 1 if os.environ.get("LONG") else 4

roles, statuses = st.sampled_from(["customer", "staff", "admin"]), st.sampled_from(["active", "suspended"])
names = st.sampled_from(["Ada", "Zoë", "ada", "Bob", "😀", ""])
emails = st.sampled_from(["ada", "Ada", "bob"])
prices = st.sampled_from(["0", "5", "19.99", "1500", "0.5", 7, 2.25])
currencies = st.sampled_from(["EUR", "EUR", "USD", "JPY"])
skus = st.sampled_from(["a", "A", "b", None])
quantities = st.integers(1, 6)
keys = st.sampled_from([None, "k1", "k2"])
signs = st.sampled_from(["", "-"])
matches = st.sampled_from([None, None, None, None, "current", "stale"])
"""What If-Match names."""

Predict = Callable[[Json, str | None], Answer]
"""What the model answers to a body and a key."""


def some(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=members)


class List(NamedTuple):
    """A list with a filter and a sort, and the same in Python."""

    service: str
    query: dict[str, Any]
    passes: Callable[[Json], bool]
    sort: str = "created_at"

    def key(self, item: Json) -> Any:
        value = item[self.sort]
        return value.lower() if self.sort == "email" else Decimal(value) if self.sort == "price" else value


LISTS = [
    List("user", {}, lambda user: True, "name"),
    List("user", {"role": "staff"}, lambda user: user["role"] == "staff", "email"),
    List("user", {"status": "suspended"}, lambda user: user["status"] == "suspended"),
    List("product", {}, lambda product: True, "price"),
    List("product", {"in_stock": "false"}, lambda product: product["stock"] == 0, "name"),
    List("product", {"min_price": "5", "max_price": "100"}, lambda product: 5 <= Decimal(product["price"]) <= 100),
    List("product", {"q": "GRAY"}, lambda product: "Gray" in product["description"], "price"),
    List("order", {}, lambda order: True),
    List("order", {"status": "confirmed"}, lambda order: order["status"] == "confirmed"),
    List("notification", {"unread": "true"}, lambda told: told["read_at"] is None),
    List(
        "notification",
        {"status": "sent", "channel": "email"},
        lambda told: (told["status"], told["channel"]) == ("sent", "email"),
    ),
]


class EveryRule:
    def is_enabled(self, name: str) -> bool:
        return True


class Walk(RuleBasedStateMachine):
    """One sequence. Values in the bundles are ids, of what exists or has existed."""

    api: Quintet

    users, products = Bundle("users"), Bundle("products")
    orders, notifications = Bundle("orders"), Bundle("notifications")

    def __init__(self) -> None:
        super().__init__()
        # Hypothesis disables some rules in each example (swarm testing), which covers too little in few examples.
        self._rules_strategy.enabled_rules_strategy = st.just(EveryRule())
        self.model, self.run, self.calls = Model(), uuid4().hex[:8], 0
        self.keyed: list[tuple[str, str, Json, str, Predict]] = []
        """What was sent with a key, and how the model answers it."""
        self.sound = True
        """Whether no call has failed; hypothesis tears down in any case."""
        self.met: set[str] = set()
        """Every user who ever got a notification."""
        self.restless = True
        self.rest()
        self.before = figures(self.api)

    @initialize(target=users)
    def begin_with_users(self) -> Any:
        return multiple(*(self.create_user(email, "Ada", {}, None) for email in ("first", "second")))

    @initialize(target=products)
    def begin_with_products(self) -> Any:
        prices = [("19.99", "EUR"), ("5", "EUR"), ("1500", "JPY")]
        given = {"category": "tools", "description": "Gray."}
        return multiple(
            *(self.create_product(price, 9, {"currency": code, **given}, None, None) for price, code in prices)
        )

    # Users -----------------------------------------------------------------------------------------------------

    @rule(target=users, email=emails, given=some(role=roles, status=statuses), name=names.filter(bool), key=keys)
    def create_user(self, email: str, name: str, given: Json, key: str | None) -> Any:
        body = {"email": f"{email}@{self.run}.example.com", "name": name, **given}
        return self.post("user", "/users", body, key, self.model.create_user)

    @rule(email=emails)
    def create_twins(self, email: str) -> None:
        """The case of an e-mail address does not matter."""
        for written in email, email.swapcase():
            self.create_user(written, "Ada", {}, None)

    @rule(user=users, email=emails, given=some(role=roles, status=statuses, name=names.filter(bool)), match=matches)
    def replace_user(self, user: str, email: str, given: Json, match: str | None) -> None:
        body = {"email": f"{email}@{self.run}.example.com", "name": "New", **given}
        self.change("user", f"/users/{user}", "PUT", body, match, self.model.change_user)

    @rule(user=users, given=some(role=roles | st.none(), status=statuses | st.none()), match=matches)
    def patch_user(self, user: str, given: Json, match: str | None) -> None:
        self.change("user", f"/users/{user}", "PATCH", given, match, self.model.change_user)

    @rule(user=users, member=st.sampled_from(["id", "created_at", "version"]))
    def write_what_nobody_may(self, user: str, member: str) -> None:
        self.change("user", f"/users/{user}", "PATCH", {member: 1}, None, self.model.change_user)

    @precondition(lambda self: len(self.model.users) > 1)
    @rule(user=consumes(users), match=matches)
    def delete_user(self, user: str, match: str | None) -> None:
        self.delete("user", f"/users/{user}", match, self.model.delete_user)

    # Products --------------------------------------------------------------------------------------------------

    described = some(currency=currencies, sku=skus, description=st.just("Gray."), category=st.just("tools"))

    @rule(target=products, price=prices, stock=st.integers(0, 12), given=described, seller=st.none() | users, key=keys)
    def create_product(self, price: Any, stock: int, given: Json, seller: str | None, key: str | None) -> Any:
        body = self.of_run({"name": "Laptop", "price": price, "stock": stock, "seller_id": seller, **given})
        return self.post("product", "/products", body, key, self.model.create_product)

    @rule(product=products, price=prices, given=described, match=matches)
    def replace_product(self, product: str, price: Any, given: Json, match: str | None) -> None:
        body = self.of_run({"name": "Lamp", "price": price, **given})
        self.change("product", f"/products/{product}", "PUT", body, match, self.model.change_product)

    @rule(
        product=products, match=matches,
        given=some(price=prices, currency=currencies, category=st.none(), sku=skus),
    )  # fmt: skip
    def patch_product(self, product: str, given: Json, match: str | None) -> None:
        body = self.of_run(given)
        self.change("product", f"/products/{product}", "PATCH", body, match, self.model.change_product)

    @precondition(lambda self: len(self.model.products) > 1)
    @rule(product=consumes(products), match=matches)
    def delete_product(self, product: str, match: str | None) -> None:
        self.delete("product", f"/products/{product}", match, self.model.delete_product)

    @rule(product=products, delta=st.integers(-8, 8), key=keys)
    def adjust_stock(self, product: str, delta: int, key: str | None) -> None:
        body = {"delta": delta, "reason": "A count."}
        predict: Predict = lambda body, key: self.model.adjust_stock(product, body, key)  # noqa: E731
        self.post("product", f"/products/{product}/stock", body, key, predict)

    # Orders ----------------------------------------------------------------------------------------------------

    @rule(target=orders, user=users, product=products, quantity=quantities)
    def buy(self, user: str, product: str, quantity: int) -> Any:
        return self.place(user, [(product, quantity)], None, None)

    @rule(
        target=orders, user=users, key=keys, note=st.sampled_from([None, "Ring twice."]),
        items=st.lists(st.tuples(products, quantities), min_size=2, max_size=4),
    )  # fmt: skip
    def place(self, user: str, items: list[tuple[str, int]], note: str | None, key: str | None) -> Any:
        lines = [{"product_id": product, "quantity": quantity} for product, quantity in items]
        return self.post("order", "/orders", {"user_id": user, "items": lines, "note": note}, key, self.model.place)

    @rule(order=orders, match=matches)
    def cancel(self, order: str, match: str | None) -> None:
        self.step(order, "cancel", match, {"reason": "It is late."})

    @rule(order=orders, match=matches)
    def ship(self, order: str, match: str | None) -> None:
        self.step(order, "ship", match)

    @rule(order=orders, match=matches)
    def deliver(self, order: str, match: str | None) -> None:
        self.step(order, "deliver", match)

    @rule(order=orders, actions=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=3))
    def hurry(self, order: str, actions: list[str]) -> None:
        for action in actions:
            self.step(order, action, None, {} if action == "cancel" else None)

    @rule(order=orders)
    def look_at_history(self, order: str) -> None:
        path = f"/orders/{order}/history"
        self.call("GET", "order", path, None, {}, lambda: Answer(200, {"items": self.model.history(order)}))

    @rule(target=notifications, order=orders)
    def find_confirmation(self, order: str) -> Any:
        self.compare_all()
        return multiple(*(told["id"] for told in self.model.notifications if told["order_id"] == order))

    # Notifications ---------------------------------------------------------------------------------------------

    @rule(
        target=notifications, key=keys,
        to=st.one_of(
            st.fixed_dictionaries({"user_id": users}), st.just({"recipient": "ada@example.com"}),
            st.just({"recipient": "http://127.0.0.1:1/", "channel": "webhook"}),
            st.builds(lambda: {"user_id": new_id()}),
        ),
        given=some(subject=st.just("Hello")),
    )  # fmt: skip
    def notify(self, to: Json, given: Json, key: str | None) -> Any:
        body = {**to, **given, "body": "A text."}
        return self.post("notification", "/notifications/send", body, key, self.model.send)

    @precondition(lambda self: len(self.model.users) > 1)
    @rule(user=consumes(users))
    def take_leave(self, user: str) -> None:
        """A user who got a notification is deleted."""
        self.notify({"user_id": user}, {}, None)
        self.delete_user(user, None)

    @rule(told=notifications, read=st.booleans(), match=matches)
    def mark(self, told: str, read: bool, match: str | None) -> None:
        version = self.version(self.model.notifications, told, match)
        self.call(
            "PATCH", "notification", f"/notifications/{told}", {"read": read}, named(match=version),
            lambda: self.model.mark(told, read, version),
        )  # fmt: skip

    @rule(told=notifications, match=matches)
    def retry(self, told: str, match: str | None) -> None:
        version = self.version(self.model.notifications, told, match)
        self.call(
            "POST", "notification", f"/notifications/{told}/retry", None, named(match=version),
            lambda: self.model.retry(told, version),
        )  # fmt: skip

    @rule(told=consumes(notifications), match=matches)
    def forget(self, told: str, match: str | None) -> None:
        self.delete("notification", f"/notifications/{told}", match, self.model.forget)

    # All of them -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.keyed)
    @rule(which=st.integers(0, 9), other=st.booleans())
    def repeat(self, which: int, other: bool) -> None:
        """The same key, with the same body or with another one."""
        service, path, body, key, predict = self.keyed[which % len(self.keyed)]
        member = {"user": "name", "product": "name", "order": "note", "notification": "subject"}[service]
        changed = {"reason" if "delta" in body else member: "Another"} if other else {}
        self.call("POST", service, path, {**body, **changed}, named(key), lambda: predict({**body, **changed}, key))

    @rule(service=st.sampled_from(["user", "product", "order", "notification"]), sign=signs, limit=st.integers(1, 4))
    def look_at_lists(self, service: str, sign: str, limit: int) -> None:
        self.compare_all()
        among: list[Json] = getattr(self.model, f"{service}s")
        for which in (one for one in LISTS if one.service == service):
            for scope, own in self.scopes(service, among):
                query = urlencode({**which.query, **scope, "sort": sign + which.sort, "limit": limit})
                found = list(Shop(self.api).all(service, f"/{service}s?{query}"))
                wanted = filter(which.passes, own)
                expected = sorted(wanted, key=lambda item: (which.key(item), item["id"]), reverse=sign == "-")
                assert found == expected

    def scopes(self, service: str, among: list[Json]) -> Iterator[tuple[dict[str, str], list[Json]]]:
        """Filters that leave out what other sequences have made, and what each leaves."""
        if service in ("user", "product") and among:
            yield {"ids": ",".join(item["id"] for item in among)}, among
        elif service in ("order", "notification"):
            for user_id in sorted({item["user_id"] for item in among} - {None}):
                yield {"user_id": user_id}, [item for item in among if item["user_id"] == user_id]

    def teardown(self) -> None:
        if not self.sound:
            return
        self.compare_all()
        expected = self.model.figures()
        found = figures(self.api)
        assert {n: v - self.before.get(n, 0) for n, v in found.items() if v != self.before.get(n, 0)} == expected

    # How -------------------------------------------------------------------------------------------------------

    def of_run(self, body: Json) -> Json:
        """A SKU is unique in the shop."""
        return {**body, "sku": f"{body['sku']}-{self.run}"} if body.get("sku") else body

    def version(self, among: list[Json], resource_id: str, match: str | None) -> int | None:
        """What If-Match names."""
        current = next((resource["version"] for resource in among if resource["id"] == resource_id), 1)
        return {None: None, "current": current, "stale": current + 1}[match]

    def post(self, service: str, path: str, body: Json, key: str | None, predict: Predict) -> Any:
        """The id of what was made, nothing when it was refused."""
        if key:
            key = f"{self.run}-{key}"
            self.keyed.append((service, path, body, key, predict))
        answer = self.call("POST", service, path, body, named(key), lambda: predict(body, key))
        return answer.resource["id"] if isinstance(answer, Answer) and not answer.replayed else multiple()

    def change(self, service: str, path: str, method: str, body: Json, match: str | None, predict: Any) -> None:
        resource_id, patch = path.rpartition("/")[2], method == "PATCH"
        version = self.version(getattr(self.model, f"{service}s"), resource_id, match)
        self.call(
            method, service, path, body, named(match=version), lambda: predict(resource_id, body, version, patch=patch)
        )

    def step(self, order: str, action: str, match: str | None, body: Json | None = None) -> None:
        version = self.version(self.model.orders, order, match)
        self.call(
            "POST", "order", f"/orders/{order}/{action}", body, named(match=version),
            lambda: self.model.step(order, action, version, (body or {}).get("reason")),
        )  # fmt: skip

    def delete(self, service: str, path: str, match: str | None, predict: Any) -> None:
        resource_id = path.rpartition("/")[2]
        version = self.version(getattr(self.model, f"{service}s"), resource_id, match)
        self.call("DELETE", service, path, None, named(match=version), lambda: predict(resource_id, version))

    def call(
        self, method: str, service: str, path: str, body: Json | None, headers: dict[str, str],
        predict: Callable[[], Answer],
    ) -> Answer | Refusal:  # fmt: skip
        self.sound = False
        if service != "user" or method == "DELETE":
            self.rest()
        answer = self.api.send(method, service, path, body, headers)
        predicted: Answer | Refusal
        try:
            predicted = predict()
        except Refusal as refusal:
            predicted = refusal
        compare(predicted, answer)
        # Events of products, and of new users, have no handlers that matter here.
        self.restless |= (method, service) != ("POST", "user") and service != "product"
        self.calls += 1
        if self.calls % COMPARE_EVERY == 0:
            self.compare_all()
        self.sound = True
        return predicted

    def rest(self) -> None:
        """Wait until every event is handled."""
        if self.restless:
            if not eventually(self.is_at_rest, QUIET_SECONDS):
                raise TimeoutError("The system does not come to rest.")  # which tells of no fault
            self.model.settle()
            self.restless = False

    def is_at_rest(self) -> bool:
        """A service that is checked later may publish because of events of one that was checked before."""
        for service in "user", "order", "notification", "notification":
            checks = self.api.get(service, "/health").json()["checks"]
            if checks["events"]["pending"] or checks.get("sending", {}).get("waiting"):
                return False
        return True

    def compare_all(self) -> None:
        self.rest()
        model = self.model
        self.met |= {user["id"] for user in model.users} | {told["user_id"] for told in model.notifications}
        self.met -= {None}
        for service, resources in ("user", model.users), ("product", model.products):
            ids = [resource["id"] for resource in resources]
            self.compare_list(service, resources, {"ids": ",".join(ids)} if ids else None)
        for user_id in self.met:
            for service, resources in ("order", model.orders), ("notification", model.notifications):
                theirs = [resource for resource in resources if resource["user_id"] == user_id]
                self.compare_list(service, theirs, {"user_id": user_id})
        for told in model.notifications:
            if told["user_id"] is None:
                agree(told, self.api.get("notification", f"/notifications/{told['id']}").json(), told)

    def compare_list(self, service: str, expected: list[Json], query: dict[str, str] | None) -> None:
        """Oldest first."""
        if query is not None:
            asked = urlencode({**query, "sort": "created_at", "limit": 200})
            found = self.api.get(service, f"/{service}s?{asked}").json()["items"]
            assert len(found) == len(expected), (service, found, expected)
            for live, item in zip(expected, found, strict=True):
                agree(live, item, live)


def named(key: str | None = None, match: int | None = None) -> dict[str, str]:
    return {**({"Idempotency-Key": key} if key else {}), **({"If-Match": f'"{match}"'} if match else {})}
