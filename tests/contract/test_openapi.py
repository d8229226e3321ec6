"""The OpenAPI documents: valid, complete, and true."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from argon2 import PasswordHasher
from flask import Flask
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from libs.common import errors
from libs.topology import SERVICES

pytestmark = [
    pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session"),
    pytest.mark.parametrize("service", SERVICES),
]

# What a valid request may be refused for, since no schema can say it. Everything else that the schema lets through,
# the service must take.
NOT_IN_A_SCHEMA = {
    "precondition-failed": "which version is the current one",
    "idempotency-key-reused": "what was sent with the key before",
    "unknown-user": "which users there are",
    "unknown-product": "which products there are",
}
RULES = {
    "/price": "More digits than",  # that the currency has
    "/delta": "At most",  # units of stock, the present ones included
    "/recipient": "Give a user or a recipient.",
    "/body": "Give either a body or a template.",
    "/from": "",  # how far it is from `to`
    "/to": "",
}


def document_of(app: Flask) -> dict[str, Any]:
    document: dict[str, Any] = app.test_client().get("/openapi.json").json
    return document


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, found) for path, methods in document["paths"].items() for method, found in methods.items()]


def test_a_document_is_valid_openapi_3_1(service: str, make_app: Callable[[str], Flask]) -> None:
    document = document_of(make_app(service))
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        for member in schema.get("properties", {}).values():
            for example in member.get("examples", ()):
                Draft202012Validator({**member, "components": document["components"]}).validate(example), name


def test_a_document_describes_every_route_below_the_prefix_and_no_other(
    service: str, make_app: Callable[[str], Flask]
) -> None:
    app = make_app(service)
    described = {(path, method.upper()) for path, method, _ in operations(document_of(app))}
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule.removeprefix("/api/v1")), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/v1/")
    }
    # The transport of events is between the services; its format is CloudEvents' own.
    assert served - {("/events", "POST")} == described


def test_every_operation_says_what_it_does_and_which_problems_it_may_answer_with(
    service: str, make_app: Callable[[str], Flask]
) -> None:
    known = {problem.status for problem in errors.all_problems().values()}
    found = operations(document_of(make_app(service)))
    assert len({operation["operationId"] for _, _, operation in found}) == len(found)
    for path, method, operation in found:
        assert operation["summary"], (path, method)
        responses = operation["responses"]
        assert [status for status in responses if status[0] == "2"], (path, method)
        assert {"405", "422", "500", "503"} <= set(responses)
        assert ("404" in responses) is ("{" in path), (path, method)
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= set(responses), (path, method)
        for status, response in responses.items():
            if status >= "400":
                assert int(status) in known
                assert set(response["content"]) == {errors.PROBLEM_JSON}


# Its own warnings are about what it cannot generate, and about clients that it would rather see.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(300)
def test_no_generated_request_finds_the_service_at_odds_with_its_document(
    service: str, make_app: Callable[[str], Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A hash of full strength takes 40 ms, and hundreds of passwords are generated.
    monkeypatch.setattr("user_service.models._hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    config = SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "generation": {
                "deterministic": True,
                "database": "none",
                "max-examples": 20,
                # NUL is refused in every text. A schema could say so only by a pattern on each of them; that it is
                # refused, tests/integration/libs/test_bad_input.py shows.
                "allow-x00": False,
            },
            # There are no links between the operations, so it would only send the same once more. What follows from
            # what, the integration tests show.
            "phases": {"stateful": {"enabled": False}},
        }
    )
    schema = schemathesis.openapi.from_wsgi("/openapi.json", make_app(service), config=config)
    phases: set[str] = set()
    checked = 0
    faults: list[str] = []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            raise AssertionError(getattr(event, "info", None) or event.exception)
        if isinstance(event, events.ScenarioFinished):
            phases.add(str(event.phase.value))
            for case_id, checks in event.recorder.checks.items():
                checked += len(checks)
                response = event.recorder.interactions[case_id].response
                faults += [_told(check, response) for check in checks if _is_fault(check, response)]
    assert faults == []
    assert {"examples", "coverage", "fuzzing"} <= phases
    assert checked > 500


def _is_fault(check: Any, response: Any) -> bool:
    if check.status.name != "FAILURE":
        return False
    if check.name != "positive_data_acceptance":
        return True
    problem = response.json()
    code, pointers = problem["code"], {fault["pointer"]: fault["detail"] for fault in problem.get("errors", ())}
    if code == "malformed-request":
        # A cursor is opaque: only those that were issued are taken. Bodies that are generated are well-formed.
        return "ursor" not in problem["detail"]
    if code == "validation-failed":
        return not all(pointer in RULES and detail.startswith(RULES[pointer]) for pointer, detail in pointers.items())
    return code not in NOT_IN_A_SCHEMA


def _told(check: Any, response: Any) -> str:
    failure = check.failure_info
    return f"{check.name}: {failure.failure.title}: {failure.code_sample} answered {response.status_code} {response.content[:500]}"
