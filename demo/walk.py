"""A walk through the running system, step by step: `make demo`.

Each step is a function; its docstring, which is printed, says what it shows. It sends requests, prints them with their
answers and checks these; the first failed check ends the walk with status 1. Every run creates its own user and
product, so it can be repeated on a system that is in use. The e2e tests run the same steps.
"""

import os
import sys
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import requests

from demo import show
from demo.api import Quintet, eventually
from libs.common.config import ConfigError
from libs.topology import SERVICES

Json = dict[str, Any]


class Unexpected(Exception):
    """A check has failed."""


class Walk:
    """The state that the steps share: the system, and the results of earlier steps."""

    user: Json
    laptop: Json
    order: Json
    key: str
    orders_before: int

    def __init__(self, quintet: Quintet):
        self.quintet = quintet

    def send(
        self, status: int, method: str, service: str, path: str, body: Any = None, **headers: str
    ) -> requests.Response:
        """Send a request, print it with its answer, and check the status. Headers are passed as `If_Match="..."`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.quintet.send(method, service, path, body, named)
        show.exchange(answer)
        expect("the status", answer.status_code, status)
        return answer

    def get(self, service: str, path: str) -> Any:
        return self.send(200, "GET", service, path).json()

    def poll(self, service: str, path: str, condition: Callable[[Json], Any], what: str, seconds: float = 15.0) -> Json:
        """Repeat a GET until the condition holds; prints only the last answer."""
        answers: list[requests.Response] = []

        def holds() -> bool:
            answers[:] = [self.quintet.get(service, path)]
            return answers[0].status_code == 200 and bool(condition(answers[0].json()))

        met = eventually(holds, seconds)
        show.exchange(answers[0])
        if not met:
            raise Unexpected(f"{what}: not within {seconds:g} seconds; the last answer was {answers[0].text}")
        found: Json = answers[0].json()
        return found

    def order_laptops(self, status: int, quantity: int, **headers: str) -> requests.Response:
        line = {"product_id": self.laptop["id"], "quantity": quantity}
        return self.send(status, "POST", "order", "/orders", {"user_id": self.user["id"], "items": [line]}, **headers)

    def units_become(self, stock: int, reserved: int, sold: int) -> None:
        """Wait until the laptop has these units, which change by event after the request has been answered."""
        units = {"stock": stock, "reserved": reserved, "sold": sold}
        path = f"/products/{self.laptop['id']}"
        self.poll("product", path, lambda laptop: units.items() <= laptop.items(), f"the laptop's units become {units}")


def expect(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Unexpected(f"{what}: expected {wanted!r}, got {found!r}")


# The steps ---------------------------------------------------------------------------------------------------------


def ask_how_all_are(walk: Walk) -> None:
    """Each of the five services reports its health and that of its parts."""
    for service in SERVICES:
        expect(f"the {service} service is", walk.get(service, "/health")["status"], "healthy")


def count_before(walk: Walk) -> None:
    """The summary combines figures of four services; its number of orders will have grown by two at the end."""
    summary = walk.get("analytics", "/analytics/summary")
    for part in ("users", "products", "orders", "notifications"):
        expect(f"the state of {part}", summary[part]["state"], "live")
    walk.orders_before = summary["orders"]["total"]


def create_user(walk: Walk) -> None:
    """The answer contains the new user; `Location` is its path."""
    answer = walk.send(201, "POST", "user", "/users", {"email": f"{uuid4().hex}@example.com", "name": "Ada Lovelace"})
    walk.user = answer.json()
    expect("Location", answer.headers["Location"], f"/api/v1/users/{walk.user['id']}")
    expect("the role by default", walk.user["role"], "customer")


def create_laptop(walk: Walk) -> None:
    """A price is a string with the digits of its currency, never a binary float."""
    body = {"name": "Laptop", "price": "2499.99", "stock": 25, "description": "Fourteen inches."}
    walk.laptop = walk.send(201, "POST", "product", "/products", body).json()
    expect("the price", (walk.laptop["price"], walk.laptop["currency"]), ("2499.99", "EUR"))


def order_one(walk: Walk) -> None:
    """An order takes the price from the product service; status 201 means that it is confirmed."""
    walk.key = uuid4().hex
    walk.order = walk.order_laptops(201, 1, Idempotency_Key=walk.key).json()
    expect("the order", (walk.order["status"], walk.order["total"]), ("confirmed", "2499.99"))


def send_it_again(walk: Walk) -> None:
    """The same request with the same key, as after a lost answer, gets the same answer and creates no second order."""
    answer = walk.order_laptops(201, 1, Idempotency_Key=walk.key)
    expect("Idempotent-Replayed", answer.headers.get("Idempotent-Replayed"), "true")
    expect("the order", answer.json(), walk.order)


def see_it_reserved(walk: Walk) -> None:
    """One of the 25 units is reserved for the order."""
    laptop = walk.get("product", f"/products/{walk.laptop['id']}")
    expect("stock, reserved, sold", (laptop["stock"], laptop["reserved"], laptop["sold"]), (24, 1, 0))


def read_the_confirmation(walk: Walk) -> None:
    """An event makes the notification service send a confirmation; the order did not wait for it."""
    path = f"/notifications?order_id={walk.order['id']}"
    sent = walk.poll(
        "notification", path, lambda page: [n["status"] for n in page["items"]] == ["sent"], "one confirmation is sent"
    )["items"][0]
    expect("it is for", (sent["user_id"], sent["channel"]), (walk.user["id"], "email"))
    expect("the total stands in the text", "2499.99" in sent["body"], True)


def order_too_many(walk: Walk) -> None:
    """An order of more units than available is refused: the problem document names the line and what is available."""
    problem = walk.order_laptops(409, 1000).json()
    expect("the code", problem["code"], "insufficient-stock")
    expect("the fault", (problem["errors"][0]["pointer"], problem["errors"][0]["available"]), ("/items/0/quantity", 24))


def ship_and_deliver(walk: Walk) -> None:
    """The order is shipped, then delivered; each step can be repeated safely."""
    for action, status in (("ship", "shipped"), ("ship", "shipped"), ("deliver", "delivered")):
        order = walk.send(200, "POST", "order", f"/orders/{walk.order['id']}/{action}").json()
        expect("the order is", order["status"], status)


def read_the_history(walk: Walk) -> None:
    """Every transition of the order is recorded with its time."""
    history = walk.get("order", f"/orders/{walk.order['id']}/history")["items"]
    expect("the steps", [step["status"] for step in history], ["pending", "confirmed", "shipped", "delivered"])


def see_it_sold(walk: Walk) -> None:
    """Shipping turned the reserved unit into a sold one."""
    walk.units_become(stock=24, reserved=0, sold=1)


def cancel_another(walk: Walk) -> None:
    """A second order is cancelled, and its three units can be sold again."""
    order = walk.order_laptops(201, 3).json()
    body = {"reason": "Ordered by mistake."}
    cancelled = walk.send(200, "POST", "order", f"/orders/{order['id']}/cancel", body).json()
    expect("the order is", cancelled["status"], "cancelled")
    walk.units_become(stock=24, reserved=0, sold=1)


def ship_what_is_cancelled(walk: Walk) -> None:
    """A transition that the lifecycle forbids is refused: the cancelled order cannot be shipped."""
    page = walk.get("order", f"/orders?user_id={walk.user['id']}&status=cancelled")
    problem = walk.send(409, "POST", "order", f"/orders/{page['items'][0]['id']}/ship").json()
    expect("the code", problem["code"], "invalid-transition")


def count_after(walk: Walk) -> None:
    """The summary counts both orders, even the cancelled one, since it had been confirmed."""
    total = walk.get("analytics", "/analytics/summary")["orders"]["total"]
    expect("the orders grew by two at least", total >= walk.orders_before + 2, True)


def rank_the_products(walk: Walk) -> None:
    """The products with the most units sold, from figures that the analytics service derives from events."""
    page = walk.poll(
        "analytics", "/analytics/products/top?by=units&limit=5", lambda page: page["items"], "some product is ranked"
    )
    units = [item["units"] for item in page["items"]]
    expect("the order of the ranks", units, sorted(units, reverse=True))


def turn_the_page(walk: Walk) -> None:
    """Long lists are paged with a cursor; every page costs the same, however far down the list it is."""
    path = f"/orders?user_id={walk.user['id']}&limit=2"
    answer = walk.send(200, "GET", "order", path)
    first, link = answer.json(), answer.headers["Link"]
    second = walk.get("order", f"{path}&cursor={first['next_cursor']}")
    expect("the link names the cursor", first["next_cursor"] in link and 'rel="next"' in link, True)
    expect("the three orders, newest first", len({order["id"] for order in first["items"] + second["items"]}), 3)
    expect("the oldest", second["items"][0]["id"], walk.order["id"])
    expect("the cursor of the last page", second["next_cursor"], None)


def ask_for_news(walk: Walk) -> None:
    """A client that names the version it has gets 304 without a body while nothing has changed."""
    path = f"/products/{walk.laptop['id']}"
    tag = walk.send(200, "GET", "product", path).headers["ETag"]
    answer = walk.send(304, "GET", "product", path, If_None_Match=tag)
    expect("the body", answer.content, b"")


def change_what_has_changed(walk: Walk) -> None:
    """Two clients change the same price: the second, which has not seen the first change, is refused."""
    path = f"/products/{walk.laptop['id']}"
    tag = walk.send(200, "GET", "product", path).headers["ETag"]
    walk.send(200, "PATCH", "product", path, {"price": "2399.99"}, If_Match=tag)
    problem = walk.send(412, "PATCH", "product", path, {"price": "2299.99"}, If_Match=tag).json()
    expect("the code", problem["code"], "precondition-failed")


STEPS: tuple[Callable[[Walk], None], ...] = (
    ask_how_all_are,
    count_before,
    create_user,
    create_laptop,
    order_one,
    send_it_again,
    see_it_reserved,
    read_the_confirmation,
    order_too_many,
    ship_and_deliver,
    read_the_history,
    see_it_sold,
    cancel_another,
    ship_what_is_cancelled,
    count_after,
    rank_the_products,
    turn_the_page,
    ask_for_news,
    change_what_has_changed,
)


def take(step: Callable[[Walk], None], walk: Walk) -> None:
    """Print what the step shows, then run it; raises Unexpected."""
    print(show.paint(f"{STEPS.index(step) + 1}. {step.__doc__}", show.BOLD) + "\n")
    try:
        step(walk)
    except requests.RequestException as exc:
        raise Unexpected(f"no answer came ({type(exc).__name__}); is the system up? `make up` starts it") from exc
    except (KeyError, IndexError, TypeError, ValueError) as exc:
        raise Unexpected(f"the answer has another shape ({type(exc).__name__}: {exc})") from exc


def main() -> None:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        walk = Walk(Quintet.configured(os.environ.get("DEMO_HOST")))
    except ConfigError as exc:
        sys.exit("\n".join(exc.faults))
    for step in STEPS:
        try:
            take(step, walk)
        except Unexpected as exc:
            sys.exit(show.paint(f"FAILED at step {STEPS.index(step) + 1}, {step.__name__}: {exc}", show.RED, show.BOLD))
    print(show.paint(f"All {len(STEPS)} steps went as expected.", show.GREEN, show.BOLD))


if __name__ == "__main__":
    main()
