"""The mocks of the services answer only as their documents allow."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from libs.common.errors import DependencyUnavailable
from tests.network import Provider

USER = "/users/0198c0de-0000-7000-8000-000000000001"
OTHER = "/users/0198c0de-0000-7000-8000-000000000002"


@pytest.mark.parametrize(
    ("method", "path", "status", "members", "told"),
    [
        ("GET", "/users/1/orders", 200, {}, "there is no GET"),
        ("POST", USER, 200, {}, "there is no POST"),
        ("GET", USER, 201, {}, "is not answered with 201"),
        ("GET", USER, 409, {}, "is not answered with 409"),
        ("GET", USER, 304, {"id": USER}, "304 has no body"),
        ("GET", USER, 200, {"version": "1"}, "is not of type 'integer'"),
        ("GET", USER, 200, {"version": None}, "is not of type 'integer'"),
        ("GET", USER, 200, {"status": "deleted"}, "is not one of"),
        ("GET", USER, 200, {"id": "7"}, "is not a 'uuid'"),
        ("GET", USER, 200, {"nickname": "Ada"}, "'nickname' was unexpected"),
        ("GET", "/health", 200, {"uptime": 1}, "'uptime' was unexpected"),
        ("POST", "/events", 200, {"results": [], "count": 0}, "'count' was unexpected"),
        ("GET", USER, 404, {"code": "unknown-user"}, "404 does not mean unknown-user"),
        ("GET", "/users/stats", 404, {}, "is not answered with 404"),
        ("GET", "/users", 200, {"items": [{"id": "7"}]}, "is a required property"),
        ("GET", "/health", 200, {"status": "well"}, "is not one of"),
        ("POST", "/events", 200, {"results": [{"id": "7", "outcome": "lost"}]}, "is not one of"),
        ("POST", "/events", 404, {}, "is not answered with 404"),
    ],
)
def test_what_a_service_cannot_answer_it_does_not_answer_here(
    user: Provider, method: str, path: str, status: int, members: dict[str, Any], told: str
) -> None:
    with pytest.raises(AssertionError, match=told):
        user.answers(method, path, status, **members)


def test_an_answer_is_the_example_of_the_document_but_for_what_is_given(user: Provider) -> None:
    user.answers("GET", USER, status="suspended")
    user.answers("GET", "/users/stats")

    answer = user.client.get(USER)

    assert (answer.status, answer.body) == (200, {**user.body("GET", USER), "status": "suspended"})
    assert answer.body["email"]
    assert user.client.get("/users/stats").body["total"] >= 0


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (200, {"X-Total": "7"}, "'X-Total' was unexpected"),
        (200, {"Retry-After": "1"}, "'Retry-After' was unexpected"),
        (200, {"ETag": "3"}, "3.* does not match"),
        (200, {"X-Request-ID": ""}, "does not match"),
        (503, {"Retry-After": "soon"}, "'soon' is not of type 'integer'"),
        (503, {"Retry-After": "-1"}, "'-1' is not of type 'integer'"),
        (503, {"Retry-After": str(2**31)}, "is greater than the maximum"),
        (404, {"ETag": '"3"'}, "'ETag' was unexpected"),
    ],
)
def test_a_header_that_a_service_cannot_send_it_does_not_send_here(
    user: Provider, status: int, headers: dict[str, str], told: str
) -> None:
    with pytest.raises(AssertionError, match=told):
        user.answers("GET", USER, status, headers=headers)


def test_an_answer_has_the_headers_that_the_document_requires(user: Provider) -> None:
    user.answers("GET", USER, version=7)
    user.answers("POST", "/users", 201, headers={"X-Request-ID": "of-the-test"})
    user.answers("GET", OTHER, 404)

    got = user.client.get(USER).headers
    made = user.client.call("POST", "/users", json={}).headers
    missing = user.client.get(OTHER).headers

    assert got["ETag"] == '"7"'
    assert got["X-Request-ID"]
    assert (made["X-Request-ID"], made["Location"][:8]) == ("of-the-test", "/api/v1/")
    assert missing["X-Request-ID"]
    assert "ETag" not in missing


def test_a_problem_is_that_of_its_code(product: Provider) -> None:
    wanted = {
        code: product.body("POST", "/reservations", 409, code=code)
        for code in ("insufficient-stock", "invalid-transition")
    }

    assert {code: problem["code"] for code, problem in wanted.items()} == {code: code for code in wanted}
    assert wanted["insufficient-stock"]["title"] != wanted["invalid-transition"]["title"]


def test_what_a_service_can_answer_is_not_called_impossible(user: Provider) -> None:
    with pytest.raises(AssertionError, match="it can answer so"):
        user.misbehaves("GET", USER, because="it is odd", json=user.body("GET", USER))


def test_what_it_cannot_answer_may_come_from_elsewhere(user: Provider) -> None:
    odd: list[dict[str, Any]] = [
        {"json": []}, {"body": b"<html>"}, {"body": b""}, {"json": user.body("GET", USER), "status": 203},
    ]  # fmt: skip
    calls = [user.misbehaves("GET", USER, because="a proxy is in between", **answer) for answer in odd]

    for _ in calls:
        with suppress(DependencyUnavailable):
            user.client.get(USER, attempts=1)

    assert [call.call_count for call in calls] == [1] * len(odd)


def test_only_the_tests_of_the_client_itself_live_on_answers_of_nobody() -> None:
    files = Path(__file__).parents[1].rglob("*.py")

    assert {file.name for file in files if re.search(r"\bpeer: ", file.read_text())} == {
        "conftest.py",
        "test_client.py",
    }
