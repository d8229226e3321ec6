"""Malformed bytes and headers. Each request gets its problem document and changes nothing."""

import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from libs.common.data.database import Database
from libs.common.events.event import BATCH_JSON
from product_service.clients import FakeUsers
from tests.factories import a_cloud_event, a_product, a_user
from tests.integration.contents import contents
from tests.web import Api, answered, refused

# These requests are refused before any query, so one engine is enough.
pytestmark = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")

JSON = "application/json"
PATCH = "application/merge-patch+json"
UNKNOWN = "01a20598-7494-7095-a5b5-38cc38be70f6"


class Target:
    """One operation that takes a body, and a valid body."""

    def __init__(self, api: Api, db: Database, method: str, path: str, body: Any, media_type: str = JSON):
        self.api, self.db, self.method, self.path, self.body, self.media_type = api, db, method, path, body, media_type

    def send(self, data: bytes, **options: Any) -> Any:
        return self.api.send(self.method, self.path, data, **{"content_type": self.media_type, **options})


def user_created(api: Api) -> str:
    return f"/users/{answered(api.post('/users', a_user()), 201)['id']}"


def product_created(api: Api) -> str:
    return f"/products/{answered(api.post('/products', a_product()), 201)['id']}"


RESERVATION = {"order_id": UNKNOWN, "items": [{"product_id": UNKNOWN, "quantity": 1}]}
TARGETS: dict[str, tuple[str, str, Callable[[Api], str], Any, str]] = {
    "create a user": ("user", "POST", lambda api: "/users", a_user(), JSON),
    "replace a user": ("user", "PUT", user_created, a_user(), JSON),
    "update a user": ("user", "PATCH", user_created, {"name": "New"}, PATCH),
    "create a product": ("product", "POST", lambda api: "/products", a_product(), JSON),
    "replace a product": ("product", "PUT", product_created, {"name": "New", "price": "1"}, JSON),
    "update a product": ("product", "PATCH", product_created, {"name": "New"}, PATCH),
    "adjust stock": ("product", "POST", lambda api: product_created(api) + "/stock", {"delta": 1, "reason": "x"}, JSON),
    "reserve": ("product", "POST", lambda api: "/reservations", RESERVATION, JSON),
    "reserve many": ("product", "POST", lambda api: "/reservations/batch", {"reservations": [RESERVATION]}, JSON),
    "tell of an event": (
        "product", "POST", lambda api: "/events", [a_cloud_event("order.rejected.v1", {"order_id": UNKNOWN})], BATCH_JSON,
    ),
}  # fmt: skip


@pytest.fixture(params=TARGETS)
def target(request: Any, make_service: Callable[..., Flask]) -> Target:
    service, method, path, body, media_type = TARGETS[request.param]
    app = make_service(service, **({"users": FakeUsers()} if service == "product" else {}))
    api = Api(app)
    return Target(api, app.extensions["quintet"].db, method, path(api), body, media_type)


MALFORMED = {
    "a member twice": b'{"name": "x", "name": "x"}', "deep inside": b'{"data": [{"a": 1, "b": 2, "\\u0061": 1}]}',
    "nothing": b"", "half": b'{"name": "x', "text": b"hello", "single quotes": b"{'name': 'x'}", "comment": b"{} // x",
    "trailing comma": b'{"name": "x",}', "two": b"{} {}", "NaN": b'{"price": NaN}', "infinity": b'{"price": -Infinity}',
    "hex": b'{"stock": 0x10}', "leading zero": b'{"stock": 01}', "plus": b'{"stock": +1}', "no digits": b'{"price": .5}',
    "control character": b'{"name": "a\nb"}', "latin-1": b'{"name": "\xe9"}', "overlong": b'{"name": "\xc0\x80"}',
    "surrogate in utf-8": b'{"name": "\xed\xa0\x80"}', "utf-16": '{"name": "x"}'.encode("utf-16"),
    "bom": b'\xef\xbb\xbf{"name": "x"}', "nul": b"\x00", "deep lists": b"[" * 100_000, "deep objects": b'{"a":' * 100_000,
    "deep and closed": b"[" * 50_000 + b"]" * 50_000, "monstrous exponent": b'{"price": 1e99999999999999999999}',
    "monstrous integer": b'{"stock": ' + b"9" * 100_000 + b"}",
}  # fmt: skip


def test_what_is_no_json_is_malformed(target: Target) -> None:
    before = contents(target.db)
    for name, data in MALFORMED.items():
        started = time.process_time()
        refused(target.send(data), 400, "malformed-request")
        assert time.process_time() - started < 2, name
    assert contents(target.db) == before


WRONG = {
    "null": b"null", "number": b"1", "text": b'"x"', "true": b"true", "surprise": b'{"surprise": 1}',
    "nested surprise": b'{"surprise": ' + b"[" * 200 + b"]" * 200 + b"}", "surrogate name": b'{"\\ud800": 1}',
    "nul name": b'{"\\u0000": 1}', "dunder": b'{"__class__": 1}', "schema": b'{"_schema": 1}', "pointer": b'{"a/b~c": 1}',
    "empty name": b'{"": 1}', "many": json.dumps({f"m{n}": n for n in range(2000)}).encode(),
}  # fmt: skip


def test_what_is_json_and_wrong_is_refused(target: Target) -> None:
    before = contents(target.db)
    for data in WRONG.values():
        refused(target.send(data), 422, "validation-failed")
    assert contents(target.db) == before


MEBIBYTE = 1024 * 1024
MEMBERS = ("items", "reservations", "data", "name", "email", "delta", "price")


def filled(beginning: str, item: str, end: str) -> bytes:
    """As large as a body may be."""
    room = MEBIBYTE - len(beginning) - len(end)
    return (beginning + item * (room // len(item)) + end).encode()


LARGEST = {
    **{f"objects in {name}": filled(f'{{"{name}":[{{}}', ",{}", "]}") for name in MEMBERS},
    **{f"numbers in {name}": filled(f'{{"{name}":[0', ",0", "]}") for name in MEMBERS},
    **{f"text in {name}": filled(f'{{"{name}":"', "a.", '"}') for name in MEMBERS},
    **{f"digits in {name}": filled(f'{{"{name}":1.', "1", "}") for name in MEMBERS},
    "lists": filled("[[]", ",[]", "]"),
    "members": ("{" + ",".join(f'"{n}":0' for n in range(100_000)) + "}").encode(),
    "decimals": filled("[1.1", ",1.1", "]"),
    "lists in lists": json.dumps({"reservations": [{"items": [{}] * 100}] * 100}).encode(),
    "members of lists": json.dumps({"reservations": [{str(n): 0 for n in range(900)}] * 100}).encode(),
}


@pytest.fixture
def _what_others_left_is_not_collected() -> Iterator[None]:
    """A collection of the objects of all earlier tests would be counted as the cost of one request."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_what_others_left_is_not_collected")
def test_the_largest_body_is_refused_before_it_costs_anything(target: Target) -> None:
    """The length of a list is checked before its items, and validation stops at the maximum number of reported faults."""
    if target.media_type == BATCH_JSON:
        pytest.skip("a batch of events has bounds of its own")
    for name, data in LARGEST.items():
        assert len(data) <= MEBIBYTE
        started = time.process_time()
        answer = target.send(data)
        assert time.process_time() - started < 0.25, name
        assert answer.status_code in (400, 422), name


def test_a_body_makes_no_more_objects_than_any_operation_takes(target: Target) -> None:
    data = b"[[]" + b",[]" * 20_000 + b"]"
    refused(target.send(data), 400, "malformed-request")


def test_what_says_it_is_no_json_is_an_unsupported_media_type(target: Target) -> None:
    before = contents(target.db)
    for media_type in (
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        "x",
    ):
        answer = target.send(json.dumps(target.body).encode(), content_type=media_type)
        refused(answer, 415, "unsupported-media-type")
    assert contents(target.db) == before


def test_a_parameter_of_the_media_type_does_no_harm(target: Target) -> None:
    for parameter in ("; charset=utf-8", "; charset=UTF-8", ";charset=latin-1", "; x=y"):
        answer = target.send(b"[]", content_type=target.media_type + parameter)
        assert answer.status_code == (200 if target.media_type == BATCH_JSON else 422), answer.text


def test_a_body_over_a_mebibyte_is_too_large(target: Target) -> None:
    before = contents(target.db)
    for size in (1024 * 1024 + 1, 2 * 1024 * 1024, 20 * 1024 * 1024):
        refused(target.send(b'"' + b"x" * (size - 2) + b'"'), 413, "payload-too-large")
    assert contents(target.db) == before


def test_a_body_of_a_mebibyte_is_read(target: Target) -> None:
    answer = target.send(b'"' + b"x" * (1024 * 1024 - 2) + b'"')
    if target.media_type == BATCH_JSON:
        refused(answer, 413, "payload-too-large")
        answer = target.send(b'"' + b"x" * (512 * 1024 - 2) + b'"')
    refused(answer, 422, "validation-failed")


@pytest.mark.parametrize(
    "name", ["X-Request-ID", "traceparent", "X-Request-Timeout-Ms", "If-Match", "Accept", "Origin"]
)
def test_no_header_breaks_a_request(make_service: Callable[..., Flask], name: str) -> None:
    api = Api(make_service("user"))
    path = user_created(api)
    for value in ("", "\xff\xfe", "x" * 5000, '"', "a,b", "\t", "-1", "()%20"):
        assert api.get("/users", headers={name: value}).status_code == 200
        assert api.patch(path, {"name": "x"}, headers={name: value}).status_code in (200, 412)


def test_more_than_a_hundred_events_are_too_many(make_service: Callable[..., Flask]) -> None:
    api = Api(make_service("product"))
    events = [a_cloud_event("order.rejected.v1", {"order_id": UNKNOWN}) for _ in range(101)]
    refused(api.post("/events", events, content_type=BATCH_JSON), 413, "payload-too-large")
    assert len(answered(api.post("/events", events[1:], content_type=BATCH_JSON))["results"]) == 100
    assert answered(api.post("/events", [], content_type=BATCH_JSON)) == {"results": []}
    assert answered(api.post("/events", [], content_type=JSON)) == {"results": []}
