"""Declared routes, tested with routes of this module."""

from collections.abc import Callable
from typing import Any

import marshmallow as ma
import pytest
import sqlalchemy as sa
from flask import Flask

from libs.common import context
from libs.common.app import Service
from libs.common.data import counters, idempotency
from libs.common.data.database import Database
from libs.common.errors import DependencyUnavailable, InvalidTransition, StoredProblem, all_problems
from libs.common.events import outbox
from libs.common.web.fields import Integer, Schema, String
from libs.common.web.routes import Routes
from tests.integration.libs import tables
from tests.integration.libs.events import Confirmed
from tests.integration.libs.tables import accounts, balance
from tests.integration.libs.test_db import deposit
from tests.web import Api, answered, refused


class Amount(Schema):
    amount = Integer(min=-1000, max=1000, load_default=1)
    note = String(max=10, load_default=None, allow_none=True)


class Account(Schema):
    id = ma.fields.Integer()
    balance = ma.fields.Integer()
    version = ma.fields.Integer()


routes = Routes()
seen: list[Any] = []


def _account(session: Any) -> dict[str, Any]:
    return {"id": 1, "balance": session.scalar(sa.select(accounts.c.balance)), "version": 3}


@routes.post(
    "/deposits", body=Amount, returns=Account, status=201, refuses=[InvalidTransition], idempotent=True,
    location="/accounts",
)  # fmt: skip
def make_deposit(session: Any, body: Any) -> Any:
    """Refuse at the end, when everything is written."""
    deposit(session, body["amount"])
    counters.add(session, {"deposits": 1})
    outbox.add(session, Confirmed(order_id="o-1"))
    session.after_commit(lambda: seen.append("committed"))
    if body["amount"] < 0:
        raise InvalidTransition("Never.")
    return _account(session)


@routes.post("/empty", body=Amount, body_optional=True, returns=Amount)
def take_or_leave(body: Any) -> Any:
    return body


@routes.get("/work", returns=None)
def show_work() -> Any:
    work = context.current()
    assert work
    return {"request_id": work.request_id, "seconds": work.seconds_left()}


@routes.post("/orders", body=Amount, returns=Account, status=201, idempotent=True)
def own_key(db: Any, key: Any, body: Any, raw: Any) -> Any:
    """An operation that stores its key itself, and has found the answer of an earlier request."""
    seen.append((key, body, raw))
    if body["amount"] < 0:
        document = DependencyUnavailable().document("/api/v1/orders", "first")
        raise StoredProblem(document, replayed=True)
    return idempotency.Replayed({"id": 1, "balance": 5, "version": 1})


@pytest.fixture
def app(database_url: str, make_settings: Callable[..., Any], run_app: Callable[[Flask], Flask]) -> Flask:
    service = Service(make_settings("order", database_url=database_url), "order_service")
    tables.create(service.db)
    seen.clear()
    return run_app(service.serve(routes, description="A test.", dependencies={"db": service.db}))


@pytest.fixture
def api(app: Flask) -> Api:
    return Api(app)


@pytest.fixture
def db(app: Flask) -> Database:
    found: Database = app.extensions["quintet"].db
    return found


def totals(db: Database) -> dict[str, int]:
    with db.read() as connection:
        return counters.read(connection)


def test_a_view_commits_when_it_returns(api: Api, db: Database) -> None:
    answer = api.post("/deposits", {"amount": 5})
    assert answered(answer, 201) == {"id": 1, "balance": 5, "version": 3}
    assert answer.headers["Location"] == "/api/v1/accounts/1"
    assert answer.headers["ETag"] == '"3"'
    assert balance(db) == 5
    assert totals(db) == {"deposits": 1}
    assert seen == ["committed"]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}])
def test_a_refusal_undoes_everything_also_what_was_to_happen_at_the_commit(
    api: Api, db: Database, headers: dict[str, str]
) -> None:
    refused(api.post("/deposits", {"amount": -5}, headers=headers), 409, "invalid-transition")
    assert balance(db) == 0
    assert totals(db) == {}
    assert seen == []
    with db.read() as connection:
        assert outbox.pending(connection) == {}


def test_a_refusal_that_is_kept_is_told_again(api: Api) -> None:
    first = api.post("/deposits", {"amount": -5}, headers={"Idempotency-Key": "k"})
    again = api.post("/deposits", {"amount": -5}, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json) == (409, first.json)
    differing = dict(set(again.headers) - set(first.headers))
    assert differing.keys() == {"Idempotent-Replayed", "X-Request-ID", "traceparent"}
    assert differing["Idempotent-Replayed"] == "true"


def test_the_same_numbers_in_another_notation_are_the_same_body(api: Api, db: Database) -> None:
    """In any case there is no second deposit."""
    for text in (b'{"amount": 5}', b'{ "amount" : 5 }', b'{"amount":5.0}', b'{"amount":5}'):
        api.post("/deposits", text, headers={"Idempotency-Key": "k"})
    assert balance(db) == 5


@pytest.mark.parametrize("options", [{}, {"content_type": "application/json"}])
def test_a_body_that_is_optional_may_be_left_out(app: Flask, options: dict[str, str]) -> None:
    answer = app.test_client().post("/api/v1/empty", **options)
    assert (answer.status_code, answer.json) == (200, {"amount": 1, "note": None})


def test_a_body_that_is_optional_is_checked_where_it_is_sent(api: Api) -> None:
    assert answered(api.post("/empty", {"amount": 7}))["amount"] == 7
    refused(api.post("/empty", {"amount": "7"}), 422, "validation-failed", "/amount")
    refused(api.post("/empty", b"{}", content_type="text/plain"), 415, "unsupported-media-type")


def test_a_body_that_is_not_optional_is_needed(app: Flask) -> None:
    assert app.test_client().post("/api/v1/deposits").status_code == 415
    assert app.test_client().post("/api/v1/deposits", content_type="application/json").status_code == 400


def test_a_view_works_within_the_callers_deadline(api: Api) -> None:
    work = answered(api.get("/work", headers={"X-Request-Timeout-Ms": "1500", "X-Request-ID": "req-1"}))
    assert 0 < work["seconds"] <= 1.5
    assert work["request_id"] == "req-1"
    assert answered(api.get("/work"))["seconds"] > 4
    assert context.current() is None


def test_an_operation_may_keep_its_key_itself(api: Api) -> None:
    answer = api.post("/orders", {"amount": 2}, headers={"Idempotency-Key": "k"})
    assert answered(answer, 201)["balance"] == 5
    assert answer.headers["Idempotent-Replayed"] == "true"
    key, body, raw = seen[0]
    assert (key.name != "k", body["amount"], raw) == (True, 2, {"amount": 2})
    api.post("/orders", {"amount": 2})
    assert seen[1][0] is None


def test_a_stored_problem_is_told_as_it_was(api: Api) -> None:
    answer = api.post("/orders", {"amount": -1})
    assert (answer.status_code, answer.json["request_id"]) == (503, "first")
    assert answer.headers["Idempotent-Replayed"] == "true"


def test_a_service_without_handlers_takes_no_events(api: Api) -> None:
    refused(api.post("/events", []), 404, "not-found")


def test_the_answer_to_a_body_full_of_faults_is_short(api: Api) -> None:
    body = {f"{number}": 0 for number in range(50_000)}
    answer = api.post("/deposits", body)
    document = refused(answer, 422, "validation-failed")
    assert len(document["errors"]) == 100
    assert "There are more than 100 faults" in document["detail"]
    assert len(answer.data) < 10_000


def test_every_problem_that_a_route_may_answer_with_is_in_the_document(app: Flask) -> None:
    document = app.test_client().get("/openapi.json").json
    responses = document["paths"]["/deposits"]["post"]["responses"]
    assert set(responses) == {"201", "400", "405", "409", "413", "415", "422", "429", "500", "503", "504"}
    assert {cls.status for cls in all_problems().values()} >= {int(status) for status in responses} - {201}
    assert document["paths"]["/empty"]["post"]["requestBody"]["required"] is False
