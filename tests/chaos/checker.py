"""Compares the answers that clients got with the state of the five services once they are idle, and names every broken
promise.

The numbers are those of the promises in docs/reliability.md:

    1  an order answered with 201 exists exactly once, for ever
    2  stock + reserved + sold of a product is constant but for recorded adjustments; none is negative; no oversell
    3  a confirmed order has exactly one confirmation, and is counted once in the analytics
    4  a fault reaches a caller only as 5xx that says so, and is over when its cause is over
    5  what is refused changed nothing; an order refused for want of stock is `rejected` and holds nothing
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from demo.api import Quintet
from libs.topology import SERVICES
from tests.chaos import stock
from tests.chaos.history import History, Intent, Json

PUBLISHERS = ("user", "product", "order", "notification")
EVER_CONFIRMED = ("confirmed", "cancelled", "shipped", "delivered")
MAX_SHOWN = 20


def is_quiet(api: Quintet) -> bool:
    """Whether no order is pending and no event waits to be sent."""
    for service in SERVICES:
        answer = api.get(service, "/health")
        if answer.status_code != 200 or answer.json()["checks"]["events"]["pending"]:
            return False
    if "pending" in _get(api, "order", "/orders/stats")["by_status"]:
        return False
    return _get(api, "notification", "/health")["checks"]["sending"]["waiting"] == 0  # type: ignore[no-any-return]


class Check:
    """One check of the whole state; `violations` are sentences, none when every promise is kept."""

    def __init__(self, api: Quintet, history: History):
        self._history = history
        self.violations: list[str] = list(history.faults)
        self.orders: dict[str, Json] = {order["id"]: order for order in _all(api, "order", "/orders")}
        self._products = {product["id"]: product for product in _all(api, "product", "/products")}
        self._notifications = list(_all(api, "notification", "/notifications"))
        self._counted = _get(api, "analytics", "/analytics/products/top?by=units&limit=100")["items"]
        self._delivered = _get(api, "analytics", "/analytics/notifications/delivery")
        self._order_stats = _get(api, "order", "/orders/stats")
        self._gone = {intent.body["user_id"] for intent in history.of("leave")}
        self._health = {service: _get(api, service, "/health") for service in SERVICES}
        for look in (
            self._answers, self._existence, self._lifecycles, self._units, self._sights, self._confirmations,
            self._analytics, self._refusals, self._users, self._rest,
        ):  # fmt: skip
            look()

    def _broken(self, promise: int, what: str) -> None:
        if len(self.violations) < MAX_SHOWN:
            self.violations.append(f"promise {promise}: {what}")

    def _answers(self) -> None:
        """A key gets one order, and never both an order and a refusal."""
        for intent in self._history.intents:
            if len({(status, str(body)) for status, body in intent.answers}) > 1:
                self._broken(1, f"{intent.kind} {intent.key} was answered differently: {intent.answers}")
        for intent in self._history.unsettled():
            self._broken(4, f"{intent.kind} {intent.key} was never answered, in {intent.tries} tries")

    def _existence(self) -> None:
        told = {intent.result["id"]: intent for intent in self._history.of("order") if intent.status == 201}
        for order_id, intent in told.items():
            order = self.orders.get(order_id)
            if order is None or order["status"] not in EVER_CONFIRMED:
                self._broken(1, f"order {order_id} was answered 201 and is {order and order['status']}")
            elif _lines(order) != _wanted(intent):
                self._broken(1, f"order {order_id} holds {_lines(order)} instead of {_wanted(intent)}")
        left = Counter(_wish(i.body["user_id"], _wanted(i)) for i in self._history.of("order") if i.given_up)
        for order in self.orders.values():
            # The keys of a deleted user are erased: a repeated request is refused, since the user does not exist.
            of_deleted = order["status"] == "cancelled" and order["user_id"] in self._gone
            if order["status"] in EVER_CONFIRMED and order["id"] not in told and not of_deleted:
                wish = _wish(order["user_id"], _lines(order))
                left[wish] -= 1
                if left[wish] < 0:
                    self._broken(1, f"order {order['id']} is {order['status']}, and nobody was told of it")
        ids = [intent.result["id"] for intent in self._history.of("order") if intent.status == 201]
        for order_id, count in Counter(ids).items():
            if count > 1:
                self._broken(1, f"order {order_id} is the answer to {count} wishes")

    def _lifecycles(self) -> None:
        """An acknowledged transition is not undone, and no transition happens without a request."""
        asked: dict[str, set[str]] = defaultdict(set)
        for step, reached in (
            ("cancel", ("cancelled",)),
            ("ship", ("shipped", "delivered")),
            ("deliver", ("delivered",)),
        ):
            for intent in self._history.of(step):
                order_id = intent.body["order_id"]
                asked[order_id].add(reached[0])
                status = self.orders.get(order_id, {}).get("status")
                if intent.status == 200 and status not in reached:
                    self._broken(1, f"order {order_id}: {step} was acknowledged, and it is {status}")
        for order in self.orders.values():
            of_deleted = order["status"] == "cancelled" and order["user_id"] in self._gone
            if order["status"] in EVER_CONFIRMED[1:] and not of_deleted and order["status"] not in asked[order["id"]]:
                self._broken(1, f"order {order['id']} is {order['status']}, and nobody asked for it")

    def _units(self) -> None:
        put_in: Counter[str] = Counter()
        for intent in self._history.of("launch"):
            put_in[intent.result["id"]] += intent.body["stock"]
        for intent in self._history.of("restock"):
            if intent.status == 200:
                put_in[intent.body["product_id"]] += intent.body["delta"]
        held: dict[str, Counter[str]] = {"reserved": Counter(), "sold": Counter()}
        for order in self.orders.values():
            name = {"confirmed": "reserved", "shipped": "sold", "delivered": "sold"}.get(order["status"])
            if name:
                held[name].update(_lines(order))
        for product_id, units in put_in.items():
            product = self._products[product_id]
            wanted = {name: held[name][product_id] for name in held}
            wanted["stock"] = units - sum(wanted.values())
            found = {name: product[name] for name in wanted}
            if found != wanted:
                self._broken(2, f"product {product_id} has {found} instead of {wanted}")
            if min(found.values()) < 0:
                self._broken(2, f"product {product_id} is oversold: {found}")

    def _sights(self) -> None:
        for what in stock.contradictions(self._history):
            self._broken(2, what)

    def _confirmations(self) -> None:
        sent: dict[str, list[str]] = defaultdict(list)
        for notification in self._notifications:
            sent[notification["order_id"]].append(notification["status"])
        for order in self.orders.values():
            found = sent.pop(order["id"], [])
            wanted = [["sent"], ["dead"]] if order["user_id"] in self._gone else [["sent"]]
            if order["status"] in EVER_CONFIRMED and found not in wanted:
                self._broken(3, f"order {order['id']} has the confirmations {found}")
            if order["status"] not in EVER_CONFIRMED and found:
                self._broken(3, f"order {order['id']} is {order['status']} and was confirmed to the customer")
        for order_id, found in sent.items():
            self._broken(3, f"order {order_id} does not exist and has the confirmations {found}")

    def _analytics(self) -> None:
        units: Counter[str] = Counter()
        for order in self.orders.values():
            if order["status"] in EVER_CONFIRMED and order["status"] != "cancelled":
                units.update(_lines(order))
        counted = {item["product_id"]: item["units"] for item in self._counted}
        if counted != dict(units):
            self._broken(3, f"the analytics count {counted} units instead of {dict(units)}")
        statuses = Counter(notification["status"] for notification in self._notifications)
        told = (self._delivered["sent"], self._delivered["dead"])
        if told != (statuses["sent"], statuses["dead"]):
            self._broken(3, f"the analytics count {told} notifications instead of {dict(statuses)}")
        by_status = Counter(order["status"] for order in self.orders.values())
        if self._order_stats["by_status"] != dict(by_status):
            self._broken(3, f"the order service counts {self._order_stats['by_status']} instead of {dict(by_status)}")

    def _refusals(self) -> None:
        """Each refusal for insufficient stock is recorded once; `_existence` and `_units` check that it had no effect."""
        wishes = self._history.of("order")
        codes = Counter(wish.result.get("code") for wish in wishes if wish.status not in (201, None))
        if unknown := codes.keys() - {"insufficient-stock", "unknown-user"}:
            self._broken(5, f"orders were refused as {unknown}")
        rejected = Counter(order["rejection"]["code"] for order in self.orders.values() if order["rejection"])
        told, found = codes["insufficient-stock"], rejected["insufficient-stock"]
        if not told <= found <= told + sum(wish.given_up for wish in wishes):
            self._broken(5, f"{told} orders were refused for want of stock, and {found} are recorded as such")

    def _users(self) -> None:
        for intent in self._history.of("register"):
            if intent.status not in (201, None):
                self._broken(1, f"user {intent.body['email']} was refused: {intent.result}")

    def _rest(self) -> None:
        for service, health in self._health.items():
            if dead := health["checks"]["events"]["dead_letters"]:
                self._broken(3, f"the {service} service has {dead} dead letters")
        pending = [order["id"] for order in self.orders.values() if order["status"] == "pending"]
        if pending:
            self._broken(4, f"orders are still pending: {pending[:5]}")


def _lines(order: Json) -> Counter[str]:
    return Counter({item["product_id"]: item["quantity"] for item in order["items"]})


def _wanted(intent: Intent) -> Counter[str]:
    return Counter({item["product_id"]: item["quantity"] for item in intent.body["items"]})


def _wish(user_id: str, lines: Counter[str]) -> tuple[Any, ...]:
    return user_id, *sorted(lines.items())


def _get(api: Quintet, service: str, path: str) -> Any:
    answer = api.get(service, path)
    assert answer.status_code == 200, f"{service} {path}: {answer.status_code} {answer.text}"
    return answer.json()


def _all(api: Quintet, service: str, path: str) -> Iterator[Json]:
    page = _get(api, service, f"{path}?limit=200")
    yield from page["items"]
    while page["next_cursor"]:
        page = _get(api, service, f"{path}?limit=200&cursor={page['next_cursor']}")
        yield from page["items"]
