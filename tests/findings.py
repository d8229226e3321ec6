"""Runs schemathesis against a service, and reports where it differs from its OpenAPI document, apart from rules that no
schema can express.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from schemathesis.engine import events, from_schema
from schemathesis.openapi.checks import RejectedPositiveData, UseAfterFree

# The reasons for which a schema-valid request may be refused, since no schema can express them. The service must accept
# everything else that the schema allows.
NOT_IN_A_SCHEMA = {
    "precondition-failed": "which version is the current one",
    "idempotency-key-reused": "what was sent with the key before",
    "unknown-user": "which users there are",
    "unknown-product": "which products there are",
}
RULES = {
    "/price": ("More digits than", "Must be an amount"),  # a number may have any digits, and a currency has its own
    "/delta": ("At most",),  # units of stock, the present ones included
    "/recipient": ("Give a user or a recipient.", "Must be a"),  # number or an address, as the channel needs it
    "/body": ("Give either a body or a template.", "Must not be blank."),  # it is documented without a pattern
    "/data": ("The template", "Numbers", "At most"),  # needs more or cannot use it; and what is deep inside
    "/from": ("At most", "Must be in 1970 or later."),  # and not too far from `to`
    "/to": ("Must be later than `from`.", "Must be in 1970 or later."),
}

GENERATION: dict[str, Any] = {
    "deterministic": True,
    "database": "none",
    # NUL is refused in every text. The schemas say so, except for the texts in objects that may hold anything; that it
    # is refused, tests/integration/libs/test_bad_input.py shows.
    "allow-x00": False,
}
"""The same requests in every run."""


FOUND = (200, 201, 204, 304, 409, 412)
"""The answers to a request that was understood."""


@dataclass
class Findings:
    """The requests that were sent, and the faults of their answers."""

    answers: dict[str, dict[str, Counter[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Counter))
    )
    """Phase → operation, such as `GET /users` → status → how many answers had it."""
    reached: set[str] = field(default_factory=set)
    """Operations that succeeded with a value of an earlier answer."""
    checked: int = 0
    faults: list[str] = field(default_factory=list)

    def succeeded(self, phase: str) -> set[str]:
        """The operations that succeeded."""
        return {name for name, statuses in self.answers[phase].items() if any(200 <= s < 300 for s in statuses)}


def labels(schema: Any) -> set[str]:
    """Every operation of the document, such as `GET /users`."""
    return {operation.ok().label for operation in schema.get_all_operations()}


def with_examples(schema: Any) -> set[str]:
    """The operations with parameters or a body, which have examples."""
    operations = [operation.ok() for operation in schema.get_all_operations()]
    return {each.label for each in operations if list(each.iter_parameters()) or each.body}


def find(schema: Any) -> Findings:
    """Run every phase that the schema's configuration enables. Raises AssertionError when schemathesis itself fails,
    or gets no answer.
    """
    # Excused failures are dropped before schemathesis records them: it keeps only the first failure for a status of an
    # operation, and generates no more.
    schema.hook(filter_failure)
    findings = Findings()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            raise AssertionError(getattr(event, "info", None) or event.exception)
        if isinstance(event, events.ScenarioFinished):
            _add(findings, str(event.phase.value), event.recorder)
    return findings


def _add(findings: Findings, phase: str, recorder: Any) -> None:
    for case_id, checks in recorder.checks.items():
        node, response = recorder.cases[case_id], recorder.interactions[case_id].response
        label = node.value.operation.label
        findings.answers[phase][label][response.status_code] += 1
        if node.is_transition_applied and response.status_code in FOUND:
            findings.reached.add(label)
        findings.checked += len(checks)
        findings.faults += [_told(check, response) for check in checks if check.status.name == "FAILURE"]


def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether it is one; schemathesis knows the hook by its name."""
    if response.status_code in (414, 431):
        return False  # The web server limits the size of the head, and refuses the request before the service sees it.
    if isinstance(failure, UseAfterFree):
        return "/reservations/" not in case.path  # A reservation that was released is shown as such.
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = response.json()
    code, pointers = problem["code"], {fault["pointer"]: fault["detail"] for fault in problem.get("errors", ())}
    if code == "malformed-request":
        # A cursor is opaque: only issued ones are accepted. Generated bodies are well-formed.
        return "ursor" not in problem["detail"]
    if code == "validation-failed":
        return not all(pointer in RULES and detail.startswith(RULES[pointer]) for pointer, detail in pointers.items())
    if code == "method-not-allowed":
        # Schemathesis takes the last part of `/reservations/batch`, which an answer contains, for an id.
        return case.path_parameters != {"order_id": "batch"}
    return code not in NOT_IN_A_SCHEMA


def _told(check: Any, response: Any) -> str:
    failure = check.failure_info
    answer = f"{response.status_code} {response.content[:500]!r}"
    return f"{check.name}: {failure.failure.message}: {failure.code_sample} answered {answer}"
