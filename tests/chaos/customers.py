"""The load of a chaos run: clients that order, cancel, ship, restock, register and read, and that send each intent with
its key until they get its outcome. The outcomes are recorded in the history.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests

from demo.api import Quintet
from tests.chaos.history import History, Intent, Json, Sight

PATIENCE_SECONDS = 60.0
"""An intent without an outcome by then is a fault of the system."""
STOCK = 40
PRODUCTS = 8
USERS = 3


class Customer:
    """One client with its own users, so that no other client deletes them while it orders for them."""

    def __init__(self, crowd: "Crowd", number: int):
        self._crowd, self._history = crowd, crowd.history
        self._random = random.Random(f"{crowd.seed}/{number}")
        self._api = Quintet(crowd.base_port)
        self._users: list[str] = []
        self._open: list[str] = []
        self._shipped: list[str] = []

    def act(self) -> None:
        """One step of a client."""
        acts = [
            (54, self.order), (4, self.order_twice), (8, self.order_and_leave), (8, self.cancel), (8, self.ship), (4, self.deliver),
            (5, self.restock), (2, self.register), (1, self.leave), (6, self.look),
        ]  # fmt: skip
        if len(self._users) < USERS:
            self.register()
        else:
            weights, deeds = zip(*acts, strict=True)
            self._random.choices(deeds, weights)[0]()

    def order(self) -> None:
        if self._crowd.hasty:
            self.order_and_leave()
            return
        intent = self._wish_for_order()
        self._send(intent, "order", "/orders")
        self._remember(intent)

    def order_twice(self) -> None:
        """An impatient client sends the same request over two connections at once."""
        if self._crowd.hasty:
            self.order_and_leave()
            return
        intent = self._wish_for_order()
        if not self._crowd.keys:  # without a key there would rightly be two orders
            self._send(intent, "order", "/orders")
            return
        other = threading.Thread(target=self._send, args=(intent, "order", "/orders", Quintet(self._crowd.base_port)))
        other.start()
        self._send(intent, "order", "/orders")
        other.join()
        self._remember(intent)

    def order_and_leave(self) -> None:
        """A client that does not retry when it gets no answer: only recovery can settle its order."""
        intent = self._wish_for_order()
        self._send(intent, "order", "/orders", patience=0.0)
        intent.given_up = not intent.settled
        self._remember(intent)

    def cancel(self) -> None:
        if self._open:
            self._step(self._open.pop(self._random.randrange(len(self._open))), "cancel")

    def ship(self) -> None:
        if self._open:
            order_id = self._open.pop(self._random.randrange(len(self._open)))
            self._step(order_id, "ship")
            self._shipped.append(order_id)

    def deliver(self) -> None:
        if self._shipped:
            self._step(self._shipped.pop(), "deliver")

    def restock(self) -> None:
        product_id = self._random.choice(self._crowd.products)
        body = {"delta": self._random.choice([1, 5, 20, 40, -1]), "reason": "chaos"}
        intent = self._begin("restock", {"product_id": product_id, **body})
        self._send(intent, "product", f"/products/{product_id}/stock", body=body)

    def register(self) -> None:
        name = f"{self._random.getrandbits(64):016x}"
        intent = self._begin("register", {"email": f"{name}@example.com", "name": name})
        self._send(intent, "user", "/users")
        if intent.status == 201:
            self._users.append(intent.result["id"])

    def leave(self) -> None:
        """A user is deleted, and tries to order once more."""
        user_id = self._users.pop()
        intent = self._begin("leave", {"user_id": user_id})
        self._send(intent, "user", f"/users/{user_id}", method="DELETE")
        self._open.clear()
        self._send(self._wish_for_order(user_id), "order", "/orders")

    def look(self) -> None:
        product_id = self._random.choice(self._crowd.products)
        began = time.monotonic()
        try:
            answer = self._api.get("product", f"/products/{product_id}")
        except requests.RequestException:
            return
        if answer.status_code == 200:
            seen = answer.json()
            units = {name: seen[name] for name in ("stock", "reserved", "sold", "version")}
            self._history.see(Sight(product_id, began, time.monotonic(), **units))
        elif answer.status_code < 500 or answer.status_code == 500:
            self._history.blame(f"GET of a product: {answer.status_code} {answer.text}")

    def _wish_for_order(self, user_id: str = "") -> Intent:
        wanted = self._random.sample(self._crowd.products, self._random.choice([1, 1, 1, 2, 3]))
        items = [{"product_id": product_id, "quantity": self._random.choice([1, 1, 2])} for product_id in wanted]
        return self._begin("order", {"user_id": user_id or self._random.choice(self._users), "items": items})

    def _remember(self, intent: Intent) -> None:
        if intent.status == 201:
            self._open.append(intent.result["id"])

    def _step(self, order_id: str, step: str) -> None:
        intent = self._begin(step, {"order_id": order_id})
        self._send(intent, "order", f"/orders/{order_id}/{step}", body={})

    def _begin(self, kind: str, body: Json) -> Intent:
        return self._history.begin(kind, f"{self._random.getrandbits(128):032x}", body)

    def _send(
        self, intent: Intent, service: str, path: str, api: Quintet | None = None,
        *, method: str = "POST", body: Any = None, patience: float = PATIENCE_SECONDS,
    ) -> None:  # fmt: skip
        """Send it until it is answered: again after a lost connection, a 5xx or `request-in-flight`, as docs/saga.md
        says.
        """
        give_up = time.monotonic() + patience
        headers = {"Idempotency-Key": intent.key} if self._crowd.keys else {}
        if method == "DELETE":
            body, headers = None, {}
        elif body is None:
            body = intent.body
        while not intent.tries or time.monotonic() < give_up:
            intent.tries += 1
            try:
                answer = (api or self._api).send(method, service, path, body, headers)
            except requests.RequestException:
                time.sleep(0.05)
                continue
            told = answer.json() if answer.content else {}
            if self._says_something(intent, answer.status_code, told):
                self._history.tell(intent, answer.status_code, told)
                return
            time.sleep(0.05 * self._random.random())

    def _says_something(self, intent: Intent, status: int, told: Json) -> bool:
        if status == 500:
            self._history.blame(f"{intent.kind}: 500 {told}")
        if intent.kind == "leave" and status == 404 and intent.tries > 1:
            return True  # the previous attempt took effect
        return status < 500 and told.get("code") != "request-in-flight"


class Crowd:
    """Customers in threads of their own."""

    def __init__(self, base_port: int, seed: int, *, count: int = 8, keys: bool = True):
        self.base_port, self.seed, self.keys = base_port, seed, keys
        self.hasty = False
        """Orders without an answer are not retried."""
        self.history = History()
        self.products: list[str] = []
        self._customers = [Customer(self, number) for number in range(count)]
        self._resting = threading.Event()
        self._faults: list[BaseException] = []

    def prepare(self) -> None:
        """Put products on sale."""
        api = Quintet(self.base_port)
        for number in range(PRODUCTS):
            body = {"name": f"Thing {number}", "price": f"{number + 1}.25", "stock": STOCK}
            intent = self.history.begin("launch", "", body)
            answer = api.post("product", "/products", body)
            assert answer.status_code == 201, answer.text
            self.history.tell(intent, 201, answer.json())
            self.products.append(answer.json()["id"])

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The customers act inside the block; at its end they finish what they have started."""
        self._resting.clear()
        threads = [threading.Thread(target=self._live, args=(customer,)) for customer in self._customers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._resting.set()
            for thread in threads:
                thread.join(2 * PATIENCE_SECONDS)
        assert not self._faults, self._faults

    def _live(self, customer: Customer) -> None:
        while not self._resting.is_set():
            try:
                customer.act()
            except BaseException as exc:
                self._faults.append(exc)
                raise
