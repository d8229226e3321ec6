import pytest

from libs.common import errors
from libs.common.data.database import CommitInDoubt
from libs.common.web.messages import MAX_REQUEST_LINE


def test_a_document_has_every_member_of_the_contract() -> None:
    fault = {"pointer": "/items/0/quantity", "detail": "Must be a whole number."}
    document = errors.ValidationFailed("Two faults.", errors=[fault]).document("/api/v1/orders", "req-1")
    assert document == {
        "type": "/errors/validation-failed",
        "title": "The request is not valid",
        "status": 422,
        "detail": "Two faults.",
        "instance": "/api/v1/orders",
        "code": "validation-failed",
        "request_id": "req-1",
        "errors": [fault],
    }


@pytest.mark.parametrize(
    ("path", "instance"),
    [
        ("/", "/"),
        ("/api/v1/orders/0-1_2.~3", "/api/v1/orders/0-1_2.~3"),
        ("/a b", "/a%20b"),
        ("/café", "/caf%C3%A9"),
        ("/%zz", "/%25zz"),
        ("/a\n?b#c", "/a%0A%3Fb%23c"),
        ('/"<>\\^`{|}[]:@', "/%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D%3A%40"),
        ("/\ufffd", "/%EF%BF%BD"),
    ],
)
def test_the_instance_is_a_uri_reference_whatever_the_path_is(path: str, instance: str) -> None:
    assert errors.NotFound().document(path, "r")["instance"] == instance


def test_an_instance_is_as_long_as_a_path_can_be_at_most() -> None:
    assert len(errors.NotFound().document("/" + "\ufffd" * 8000, "r")["instance"]) < MAX_REQUEST_LINE


def test_without_faults_there_is_no_member_errors() -> None:
    assert "errors" not in errors.NotFound().document("/", "r")


@pytest.mark.parametrize(
    ("count", "given", "told"),
    [
        (100, None, "The request is not valid"),
        (101, None, "The request is not valid. There are more than 100 faults."),
        (5000, "No.", "No. There are more than 100 faults."),
    ],
)
def test_of_many_faults_the_first_are_told_and_how_many_there_are(count: int, given: str | None, told: str) -> None:
    faults = [{"pointer": f"/{number}", "detail": "Unknown field."} for number in range(count)]
    document = errors.ValidationFailed(given, errors=faults).document("/", "r")
    assert (document["errors"], document["detail"]) == (faults[:100], told)


def test_without_a_detail_the_title_is_the_detail() -> None:
    assert errors.NotFound().document("/", "r")["detail"] == "Not found"


@pytest.mark.parametrize(
    ("problem", "seconds"),
    [
        (errors.Overloaded(), "1"),
        (errors.DependencyUnavailable(), "2"),
        (errors.RateLimited(retry_after=30), "30"),
        (errors.DependencyUnavailable(retry_after=0), "0"),
        (errors.RequestInFlight(), "1"),
        (CommitInDoubt(), "2"),
    ],
)
def test_what_may_be_tried_again_says_when(problem: errors.Problem, seconds: str) -> None:
    assert problem.headers["Retry-After"] == seconds


def test_what_may_not_be_tried_again_does_not() -> None:
    assert "Retry-After" not in errors.NotFound().headers


def test_headers_are_the_problems_own() -> None:
    given = {"Allow": "GET"}
    errors.MethodNotAllowed(headers=given).headers["X"] = "y"
    assert given == {"Allow": "GET"}


# The table of api.md, section 2, row by row.
@pytest.mark.parametrize(
    ("status", "codes"),
    [
        (400, {"malformed-request"}),
        (401, {"unauthenticated"}),
        (403, {"forbidden"}),
        (404, {"not-found"}),
        (405, {"method-not-allowed"}),
        (409, {"email-taken", "sku-taken", "invalid-transition", "insufficient-stock", "request-in-flight"}),
        (412, {"precondition-failed"}),
        (413, {"payload-too-large"}),
        (414, {"uri-too-long"}),
        (415, {"unsupported-media-type"}),
        (417, {"expectation-failed"}),
        (422, {"validation-failed", "unknown-user", "unknown-product", "idempotency-key-reused"}),
        (429, {"rate-limited"}),
        (431, {"headers-too-large"}),
        (500, {"internal-error"}),
        (501, {"unsupported-transfer-coding"}),
        (503, {"dependency-unavailable", "overloaded"}),
        (504, {"deadline-exceeded"}),
    ],
)
def test_every_code_of_the_contract_has_its_status(status: int, codes: set[str]) -> None:
    import product_service.models
    import user_service.models

    assert product_service.models, user_service.models
    known = {code: cls.status for code, cls in errors.all_problems().items()}
    assert {code for code in codes if known.get(code) == status} == codes


def test_a_stored_problem_is_told_as_it_was() -> None:
    document = errors.Overloaded("Busy.").document("/api/v1/orders", "first-request")
    again = errors.StoredProblem(document, replayed=True)
    assert again.status == 503
    assert again.document("/elsewhere", "second-request") == document
    assert again.headers == {"Retry-After": "1", "Idempotent-Replayed": "true"}


@pytest.mark.parametrize(
    "problem",
    [errors.DependencyUnavailable(), errors.Overloaded(), errors.DeadlineExceeded(), errors.InvalidTransition()],
)
def test_a_stored_problem_has_the_headers_of_the_first(problem: errors.Problem) -> None:
    assert errors.StoredProblem(problem.document("/", "r")).headers == problem.headers


def test_a_stored_problem_of_an_older_version_may_have_a_code_that_is_gone() -> None:
    document = {**errors.NotFound().document("/", "r"), "code": "gone"}
    assert errors.StoredProblem(document).headers == {}
