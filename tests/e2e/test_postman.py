"""The Postman collection: complete, as generated, and green on the running system, twice."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.topology import SERVICES
from tests.e2e.shop import Shop
from tests.e2e.system import System
from tests.postman.generate import COLLECTION, ENVIRONMENT, collection, environment, text
from tests.programs import program

Operation = tuple[str, str, str]


def requests() -> Iterator[tuple[Operation, int]]:
    """Service, method and path of each request below /api/v1, and the status that it expects."""
    for folder in json.loads(COLLECTION.read_text())["item"]:
        for item in folder["item"]:
            url, script = item["request"]["url"], "\n".join(item["event"][-1]["script"]["exec"])
            service, _, path = url.removeprefix("{{").partition("_url}}")
            status = re.search(r"have\.status\((\d+)\)", script)
            assert status, item["name"]
            if path.startswith("/api/v1"):
                named = re.sub(r"\{\{\w+\}\}", "{}", path.removeprefix("/api/v1").partition("?")[0])
                yield (service, item["request"]["method"], named), int(status[1])


def operations(shop: Shop) -> dict[Operation, set[int]]:
    """Every operation of the five documents, and the statuses that it may answer."""
    found = {}
    for service in SERVICES:
        for path, methods in shop.get(service, "/openapi.json")["paths"].items():
            for method, operation in methods.items():
                statuses = {int(status) for status in operation["responses"]}
                found[service, method.upper(), re.sub(r"\{\w+\}", "{}", path)] = statuses
    return found


def test_every_operation_is_covered_with_its_success_and_nothing_else_is_asked(shop: Shop) -> None:
    documented, asked = operations(shop), list(requests())
    assert len(documented) > 30
    succeeding = {operation for operation, status in asked if status < 300}
    # A service answers with 409 alone where only the state of the system can make it succeed.
    assert set(documented) - succeeding == {("notification", "POST", "/notifications/{}/retry")}
    strange = {operation for operation, status in asked if operation not in documented and status not in (404, 405)}
    assert not strange
    undocumented = {
        (operation, status) for operation, status in asked if status not in documented.get(operation, {status})
    }
    assert not undocumented


def test_the_committed_files_are_the_generated_ones() -> None:
    advice = "run `python -m tests.postman.generate`"
    assert text(collection()) == COLLECTION.read_text(encoding="utf-8"), advice
    assert text(environment()) == ENVIRONMENT.read_text(encoding="utf-8"), advice


def run_collection(system: System, report: Path) -> subprocess.CompletedProcess[str]:
    urls = [word for s in SERVICES for word in ("--env-var", f"{s}_url={system.api.url(s)}")]
    return subprocess.run(
        [program("newman"), "run", COLLECTION, "--environment", ENVIRONMENT, *urls, "--color", "off", "--timeout", "110000",
         "--reporters", "cli,json", "--reporter-cli-no-banner", "--reporter-json-export", report],
        capture_output=True, text=True, timeout=115,
    )  # fmt: skip


@pytest.mark.parametrize("time", ["first", "second"])
def test_newman_finds_no_fault_on_a_system_however_used_it_is(system: System, tmp_path: Path, time: str) -> None:
    report = tmp_path / "report.json"
    done = run_collection(system, report)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    run = json.loads(report.read_text())["run"]
    assert run["failures"] == []
    assert run["stats"]["assertions"]["total"] > 600
