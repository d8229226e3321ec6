"""The deployment that is measured: where its services are, what is put into it, and what must be in it afterwards."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from urllib.parse import urlsplit

from demo.api import Quintet
from libs.topology import SERVICES
from tests.e2e.shop import Shop
from tests.load import flows
from tests.load.flows import FLOWS, Catalogue
from tests.load.generator import Answer, Crowd

FILLING_CLIENTS = 8
DRAIN_SECONDS = 60.0
POLL_SECONDS = 0.1
ASKED = ("order", "notification", *(service for service in SERVICES if service not in ("order", "notification")))
"""In the order in which they are asked whether something waits: the answers cost CPU, and the first one mostly suffices."""


class LoadError(Exception):
    """Answers, or what is stored, are not as they must be."""


class Deployment(Quintet):
    """Five services at the given base URLs, or all at one, as behind a gateway."""

    def __init__(self, urls: Sequence[str]):
        parts = [urlsplit(url) for url in urls]
        if len(urls) not in (1, len(SERVICES)) or any(
            part.scheme != "http" or part.path.strip("/") or not part.hostname for part in parts
        ):
            raise ValueError(f"one or {len(SERVICES)} of the form http://host:port are needed, not {', '.join(urls)}")
        super().__init__(0)
        hosts = [part.netloc for part in parts] * (len(SERVICES) if len(parts) == 1 else 1)
        self._addresses = dict(zip(SERVICES, hosts, strict=True))

    def address(self, service: str) -> tuple[str, int]:
        parts = urlsplit(self.url(service))
        return parts.hostname or "", parts.port or 80

    def fill(self, users: int, products: int, orders: int) -> Catalogue:
        """Create users, products and orders, over HTTP. Raises LoadError."""
        catalogue = Catalogue(
            [_id(body) for body in self._create("user", flows.user, users)],
            [_id(body) for body in self._create("product", flows.product, products)],
            [],
            [],
        )
        catalogue.acknowledged.extend(self._create("order", lambda _: FLOWS["orders"].request(catalogue), orders))
        catalogue.orders.extend(map(_id, catalogue.acknowledged))
        return catalogue

    def _create(self, service: str, request: Callable[[int], bytes], number: int) -> list[bytes]:
        """The bodies of the answers."""
        crowd = Crowd(self.address(service), map(request, count()), FILLING_CLIENTS, keep_bodies=True)
        for _ in range(number):
            while not crowd.idle:
                crowd.listen(0.1)
            crowd.send(crowd.now())
        answers = crowd.finish()
        if wrong := failures(answers, (201,)):
            raise LoadError(f"The {service} service cannot be filled: {wrong}.")
        return [answer.body for answer in answers]

    def drain(self) -> float:
        """Wait until all events have been taken and all notifications sent; returns the seconds that it took."""
        started = time.monotonic()
        while not self._is_quiet():
            if time.monotonic() - started > DRAIN_SECONDS:
                raise LoadError(f"Events or notifications still wait after {DRAIN_SECONDS:.0f} seconds.")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - started

    def _is_quiet(self) -> bool:
        """Whether no service says otherwise in its /health; one of another make may have none."""
        for service in ASKED:
            answer = self.get(service, "/health")
            checks = answer.json().get("checks", {}) if answer.ok else {}
            if checks.get("events", {}).get("pending") or checks.get("sending", {}).get("waiting"):
                return False
        return True


def failures(answers: Iterable[Answer], statuses: Sequence[int]) -> str:
    """How many of the answers have which other status; empty if none has."""
    others = Counter(f"{answer.status} {answer.code}".strip() for answer in answers if answer.status not in statuses)
    return ", ".join(f"{number} x {outcome}" for outcome, number in others.most_common())


def check_orders(deployment: Deployment, catalogue: Catalogue, all_answered: bool = True) -> None:
    """Every acknowledged order is there, confirmed, and no other is; the stock adds up. Raises LoadError.

    Requests without an answer may have created orders, or may not, so after these there may be more of both.
    """
    shop = Shop(deployment)
    sold: Counter[str] = Counter()
    acknowledged = set()
    for body in catalogue.acknowledged:
        order = json.loads(body)
        acknowledged.add(order["id"])
        for line in order["items"]:
            sold[line["product_id"]] += line["quantity"]
    try:
        stored = {order["id"]: order["status"] for user in catalogue.users for order in shop.orders_of({"id": user})}
        units = {product: shop.units({"id": product}) for product in catalogue.products}
    except AssertionError as exc:
        raise LoadError(f"What is stored cannot be read: {exc}") from exc
    wrong = {
        "acknowledged orders are not there": acknowledged - stored.keys(),
        "acknowledged orders are not confirmed": {name for name in acknowledged if stored.get(name) != "confirmed"},
        "products have reserved less than was sold": {name for name in units if units[name].reserved < sold[name]},
        "products do not add up": {name for name in units if sum(units[name][:2]) != flows.STOCK},
    }
    if all_answered:
        wrong |= {
            "orders are there that were not acknowledged": stored.keys() - acknowledged,
            "products have reserved more than was sold": {name for name in units if units[name].reserved > sold[name]},
        }
    if faults := [f"{len(ids)} {what}, such as {min(ids)}" for what, ids in wrong.items() if ids]:
        raise LoadError("; ".join(faults))


def _id(body: bytes) -> str:
    return str(json.loads(body)["id"])
