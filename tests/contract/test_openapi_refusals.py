"""The refusals of the OpenAPI documents: each documented refusal is provoked, and equals its example."""

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain
from typing import Any, NamedTuple

import pytest
from werkzeug.test import TestResponse

from analytics_service.clients import FIGURES
from libs.common.errors import PROBLEM_JSON
from libs.common.ids import example_id
from libs.common.web import messages as api
from libs.topology import SERVICES
from order_service.clients import FakeProducts, FakeUsers
from product_service.clients import FakeUsers as FakeSellers
from tests.contract.walk import OTHERWISE, Walk, fits, sends
from tests.openapi import resolved

pytestmark = [
    pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session"),
    pytest.mark.parametrize("service", SERVICES),
]

NewWalk = Callable[..., Walk]
Fakes = dict[str, dict[str, Any]]
REPLAYED = "Idempotent-Replayed"


class Refusal(NamedTuple):
    walked: Walk
    name: str
    code: str
    answer: TestResponse


ANYWHERE: dict[str, dict[str, Any]] = {
    "method-not-allowed": {"method": "PROPFIND"},
    "validation-failed": {"query_string": "colour=red"},
    "payload-too-large": {"body": b" " * (api.MAX_BODY + 1)},
    "unsupported-media-type": {"content_type": "text/plain"},
    "deadline-exceeded": {"headers": {"X-Request-Timeout-Ms": "0"}},
}
"""Code → how to get the example request of any operation that documents it refused with it."""

SETTINGS: dict[str, dict[str, Any]] = {
    "rate-limited": {"rate_limit": "1/day", "rate_limit_exempt": ()},
    "overloaded": {"max_concurrent_requests": 0, "max_queued_requests": 0},
    "dependency-unavailable": {"database_url": "sqlite:////there/is/none.db"},
}
"""Code → the settings of a service that refuses every request with it."""


def items(quantity: int, *product_ids: str) -> dict[str, Any]:
    return {"items": [{"product_id": product_id, "quantity": quantity} for product_id in product_ids]}


LAPTOP, IMPORTED, UNKNOWN = (example_id(name) for name in ("product_id", "imported", "unknown"))

ON_THE_MERITS: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("create_user", "email-taken", ["create_user"], {}),
    ("replace_user", "email-taken", ["create_user", "another create_user"], {}),
    ("update_user", "email-taken", ["create_user", "another create_user"], {"email": "ada@example.com"}),
    ("create_product", "sku-taken", ["create_product"], {}),
    ("create_product", "unknown-user", [], {"seller_id": UNKNOWN}),
    ("replace_product", "sku-taken", ["create_product", "another create_product"], {}),
    ("replace_product", "unknown-user", ["create_product"], {"seller_id": UNKNOWN}),
    ("update_product", "sku-taken", ["create_product", "another create_product"], {"sku": "LAP-14-1"}),
    ("update_product", "unknown-user", ["create_product"], {"seller_id": UNKNOWN}),
    ("delete_product", "product-in-use", ["create_product", "create_reservation"], {}),
    ("adjust_stock", "insufficient-stock", ["create_product"], {"delta": -1000}),
    ("create_reservation", "insufficient-stock", ["create_product"], items(1000, LAPTOP)),
    ("create_reservation", "unknown-product", [], {}),
    ("create_reservation", "invalid-transition", ["create_product", "delete_reservation"], {}),
    ("create_order", "insufficient-stock", [], items(1000, LAPTOP)),
    ("create_order", "unknown-user", [], {"user_id": UNKNOWN}),
    ("create_order", "unknown-product", [], items(1, UNKNOWN)),
    ("create_order", "currency-mismatch", [], items(1, LAPTOP, IMPORTED)),
    ("ship_order", "invalid-transition", ["create_order", "cancel_order"], {}),
    ("cancel_order", "invalid-transition", ["create_order", "ship_order"], {}),
    ("deliver_order", "invalid-transition", ["create_order"], {}),
    ("retry_notification", "invalid-transition", ["send_notification"], {}),
]  # fmt: skip
"""Operation, code, the operations before, and the members in which the request differs from the example."""


@pytest.fixture
def fakes(fakes: Fakes) -> Fakes:
    """The users of the examples exist, and no others; there are two products, of different currencies. The analytics
    service reaches no other service.
    """
    fakes["analytics"]["services"].down = set(FIGURES)
    products = FakeProducts()
    products.add(IMPORTED, currency="USD")
    order = {"users": FakeUsers(example_id("user_id")), "products": products}
    return {**fakes, "product": {"users": FakeSellers(example_id("seller_id"))}, "order": order}


def test_every_refusal_that_is_documented_is_brought_about_and_is_that_of_the_example(
    service: str, walk: NewWalk, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = chain(
        at_the_door(walk), by_settings(walk), stale(walk), on_the_merits(walk), reused(walk),
        half_way(walk, fakes, monkeypatch), without_others(walk, fakes, monkeypatch), broken(walk, service, monkeypatch),
    )  # fmt: skip
    seen = set()
    for refusal in refusals:
        check(*refusal)
        seen.add((refusal.name, refusal.code))
    walked = walk()
    promised = {(name, code) for name in walked.operations for code in codes(walked, name)}
    assert promised - seen == set()


def test_a_refusal_is_replayed_where_the_document_says_so_and_nowhere_else(service: str, walk: NewWalk) -> None:
    found = set()
    for name, code, before, members in ON_THE_MERITS:
        if name in documenting(walk(), "idempotency-key-reused"):
            walked = walk()
            walked.do(before)
            _, again = (walked.send(name, members, headers=walked.key()) for _ in range(2))
            check(walked, name, code, again)
            if REPLAYED in again.headers:
                found.add((name, again.status_code))
    walked = walk()
    promised = {(name, status) for name in walked.operations for status in replayed(walked, name)}
    assert found == promised


def at_the_door(walk: NewWalk) -> Iterator[Refusal]:
    """Refused for the request itself, whatever the state of the service."""
    walked = walk()
    for name, (path, method, _) in walked.operations.items():
        wrong = {
            **ANYWHERE,
            "malformed-request": {"query_string": "cursor=x"} if method == "get" else {"body": b"{"},
            "not-found": {"path": re.sub(r"{\w+}", "1", path)},
        }
        for code in codes(walked, name) & wrong.keys():
            yield Refusal(walked, name, code, walked.send(name, **wrong[code]))


def by_settings(walk: NewWalk) -> Iterator[Refusal]:
    for code, settings in SETTINGS.items():
        walked = walk(**settings)
        walked.send(next(iter(walked.operations)))  # the only request within the limit
        for name in walked.operations:
            answer = walked.send(name)
            if answer.status_code >= 400:
                yield Refusal(walked, name, code, answer)


def stale(walk: NewWalk) -> Iterator[Refusal]:
    code = "precondition-failed"
    for name in documenting(walk(), code):
        walked = walk()
        walked.prepare(name)
        yield Refusal(walked, name, code, walked.send(name, headers={"If-Match": '"0"'}))


def on_the_merits(walk: NewWalk) -> Iterator[Refusal]:
    there = walk().operations
    for name, code, before, members in ON_THE_MERITS:
        if name in there:
            walked = walk()
            walked.do(before)
            yield Refusal(walked, name, code, walked.send(name, members))


def reused(walk: NewWalk) -> Iterator[Refusal]:
    code = "idempotency-key-reused"
    for name in documenting(walk(), code):
        walked = walk()
        walked.prepare(name)
        walked.send(name, headers=walked.key())
        yield Refusal(walked, name, code, walked.send(name, OTHERWISE[name], headers=walked.key()))


def half_way(walk: NewWalk, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusal]:
    """The first request with the key has failed with a 500; the second must assume that it still runs."""
    code = "request-in-flight"
    for name in documenting(walk(), code):
        walked = walk(log_level="CRITICAL")
        walked.api.is_broken = True
        with monkeypatch.context() as patch:
            patch.setattr(fakes["order"]["products"], "reserve", fail)
            walked.send(name, headers=walked.key())
        yield Refusal(walked, name, code, walked.send(name, headers=walked.key()))


def without_others(walk: NewWalk, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusal]:
    """An order is refused in another way when the product service, and not the database, is unavailable."""
    if "create_order" in walk().operations:
        for other in fakes["order"].values():
            walked = walk()
            with monkeypatch.context() as patch:
                patch.setattr(other, "down", True)
                yield Refusal(walked, "create_order", "dependency-unavailable", walked.send("create_order"))


def broken(walk: NewWalk, service: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusal]:
    """Everything that the views call raises an exception."""
    routes = import_module(f"{service}_service.routes")
    walked = walk(log_level="CRITICAL")
    walked.api.is_broken = True
    with monkeypatch.context() as patch:
        for module in ("saga", "use_cases", "repository"):
            patch.setattr(routes, module, Broken(), raising=False)
        for name in walked.operations:
            yield Refusal(walked, name, "internal-error", walked.send(name))


class Broken:
    """Stands in for a module; every call of it raises an exception."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return fail


def fail(*args: Any, **options: Any) -> None:
    raise ZeroDivisionError("a fault of ours")


def documenting(walked: Walk, code: str) -> list[str]:
    """The operations that promise this code."""
    return [name for name in walked.operations if code in codes(walked, name)]


def codes(walked: Walk, name: str) -> set[str]:
    """The codes that an operation may answer with."""
    return {code for found in documented(walked, name).values() for code in found["content"][PROBLEM_JSON]["examples"]}


def replayed(walked: Walk, name: str) -> set[int]:
    """The statuses of the refusals that an operation may answer with again."""
    return {status for status, found in documented(walked, name).items() if REPLAYED in found["headers"]}


def documented(walked: Walk, name: str) -> dict[int, dict[str, Any]]:
    """The refusals of an operation, by status."""
    responses = walked.operations[name][2]["responses"]
    return {int(status): resolved(walked.document, found) for status, found in responses.items() if status >= "400"}


def check(walked: Walk, name: str, code: str, answer: TestResponse) -> None:
    """The answer is documented, and equals the example of its code."""
    told = (name, code, answer.text)
    response = documented(walked, name).get(answer.status_code)
    assert response, told
    sends(walked.document, response, answer)
    content = response["content"][PROBLEM_JSON]
    fits(walked.document, content["schema"], answer.json)
    assert code in content["examples"], told
    example = resolved(walked.document, content["examples"][code])["value"]
    assert shape(answer.json) == shape(example), told


def shape(problem: dict[str, Any]) -> tuple[Any, ...]:
    """The part of a problem document that is the same for every refusal with its code."""
    same = [problem[member] for member in ("type", "title", "status", "code")]
    return same, problem.keys(), [fault.keys() for fault in problem.get("errors", ())]
