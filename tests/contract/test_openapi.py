"""The OpenAPI documents: valid, complete, and in agreement with the services."""

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import schemathesis
from argon2 import PasswordHasher
from flask import Flask
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.config import SchemathesisConfig

from libs.common import errors
from libs.topology import SERVICES
from tests.contract.walk import document_of, operations
from tests.findings import GENERATION, find, labels
from tests.openapi import resolved

pytestmark = [
    pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session"),
    pytest.mark.parametrize("service", SERVICES),
]


def test_a_document_is_valid_openapi_3_1(service: str, make_app: Callable[[str], Flask]) -> None:
    document = document_of(make_app(service))
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        for member in schema.get("properties", {}).values():
            for example in member.get("examples", ()):
                Draft202012Validator({**member, "components": document["components"]}).validate(example), name


def enums(part: object) -> Iterator[tuple[str, ...]]:
    """Every list of words in the document, where it stands."""
    if isinstance(part, dict):
        if isinstance(words := part.get("enum"), list):
            yield tuple(word for word in words if word is not None)
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from enums(each)


def test_the_words_of_a_choice_stand_in_a_document_once(service: str, make_app: Callable[[str], Flask]) -> None:
    """A generated client then has one type for them, and not one for each member."""
    counted = Counter(enums(document_of(make_app(service))))
    assert [words for words, count in counted.items() if count > 1] == []


def test_no_default_says_that_a_member_may_be_null(service: str, make_app: Callable[[str], Flask]) -> None:
    """Its type already does."""
    schemas = document_of(make_app(service))["components"]["schemas"].values()
    members = [member for schema in schemas for member in schema.get("properties", {}).values()]
    assert [member for member in members if member.get("default", "none") is None] == []


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
    document = document_of(make_app(service))
    found = operations(document)
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
                assert set(resolved(document, response)["content"]) == {errors.PROBLEM_JSON}


def test_every_operation_of_a_resource_with_an_etag_is_conditional(
    service: str, make_app: Callable[[str], Flask]
) -> None:
    """An operation below such a resource that answers with it or with nothing is an operation of it (RFC 9110, 13.2)."""
    document = document_of(make_app(service))
    paths = document["paths"]
    resources = [path for path in paths if "{" in path and "ETag" in str(paths[path].get("get", {}))]
    wanted = {f"#/components/parameters/{name}" for name in ("If-Match", "If-None-Match")}
    checked = 0
    for path, method, operation in operations(document):
        shown = operation["responses"].get("200", {"headers": {}})["headers"]
        if path in resources or (path.rpartition("/")[0] in resources and "ETag" in shown):
            assert wanted <= {part.get("$ref") for part in operation["parameters"]}, (method, path)
            assert "412" in operation["responses"], (method, path)
            checked += 1
    assert checked > 0 or service == "analytics"


# Its own warnings are about values that it cannot generate, and about test clients that it prefers.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(300)
def test_no_generated_request_finds_the_service_at_odds_with_its_document(
    service: str, make_app: Callable[[str], Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A hash of full strength takes 40 ms, and hundreds of passwords are generated.
    monkeypatch.setattr("user_service.models._hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    # The other phases are those of tests/e2e/test_schemathesis.py, where the services run as processes.
    phases = {phase: {"enabled": False} for phase in ("examples", "coverage", "stateful")}
    config = SchemathesisConfig.from_dict(
        {"seed": 1, "generation": {**GENERATION, "max-examples": 20}, "phases": phases}
    )
    schema = schemathesis.openapi.from_wsgi("/openapi.json", make_app(service), config=config)
    findings = find(schema)
    assert findings.faults == []
    assert set(findings.answers["fuzzing"]) == labels(schema)
    assert findings.checked > 500
