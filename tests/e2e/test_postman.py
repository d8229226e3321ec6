"""The Postman collection: complete, up to date, and green in any order of its folders, on a clean and on a used system."""

import json
import os
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from libs.topology import SERVICES
from tests.e2e.conftest import BASE_PORT
from tests.e2e.shop import Shop
from tests.e2e.system import ROOT, System
from tests.postman.generate import COLLECTION, ENVIRONMENTS, HERE, generated
from tests.postman.table import FOLDERS
from tests.programs import npm_program

LONG = bool(os.environ.get("LONG"))
ORDERS = [random.Random(seed).sample(list(FOLDERS), len(FOLDERS)) for seed in range(20 if LONG else 0)]
MAIN_STATUSES = {200, 201, 204, 304, 400, 404, 409, 412, 415, 422}
"""The other statuses are the same for every operation, or need an overloaded or broken service: they have their own
tests.
"""

Operation = tuple[str, str, str]


def committed() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(COLLECTION.read_text(encoding="utf-8"))
    return document


def script(item: dict[str, Any], listen: str) -> str:
    return "\n".join(line for each in item["event"] if each["listen"] == listen for line in each["script"]["exec"])


def requests() -> Iterator[tuple[Operation, int]]:
    """Service, method and path of each request below /api/v1, and the status that it expects."""
    for folder in committed()["item"]:
        for item in folder["item"]:
            service, _, path = item["request"]["url"].removeprefix("{{").partition("_url}}")
            status = re.search(r"have\.status\((\d+)\)", script(item, "test"))
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


# What is in it -----------------------------------------------------------------------------------------------------


def test_every_operation_is_asked_for_its_success_and_for_each_main_error_and_for_nothing_else(shop: Shop) -> None:
    documented, asked = operations(shop), set(requests())
    assert len(documented) > 30
    wanted = {(one, status) for one, statuses in documented.items() for status in statuses & MAIN_STATUSES}
    # A message to nobody is dead at once, but it is erased, so it cannot be sent again. One that can was refused as often
    # as MAX_ATTEMPTS says, which takes minutes unless a service is told otherwise; test_mail.py does so.
    assert wanted - asked == {(("notification", "POST", "/notifications/{}/retry"), 200)}
    strange = {one for one, status in asked if one not in documented and status not in (404, 405)}
    assert not strange
    undocumented = {(one, status) for one, status in asked if status not in documented.get(one, {status})}
    assert not undocumented


def test_every_error_is_expected_by_its_code() -> None:
    for request in (each for folder in FOLDERS.values() for each in folder):
        assert bool(request.problem) == (request.status >= 400), request.name


def test_a_folder_uses_no_variable_that_it_has_not_set_itself() -> None:
    used = re.compile(r"\{\{(\w+)\}\}|Variables\.get\(['\"](\w+)")
    for folder in committed()["item"]:
        known = {f"{service}_url" for service in SERVICES}
        for item in folder["item"]:
            for part in (script(item, "prerequest"), "\n".join(texts(item["request"])), script(item, "test")):
                known |= set(re.findall(r"Variables\.set\(\"(\w+)", part))
                assert {name for found in used.findall(part) for name in found if name} <= known, item["name"]


def texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts(each)


def test_the_committed_files_are_the_generated_ones() -> None:
    committed = {path: path.read_text(encoding="utf-8") for path in HERE.glob("*.json")}
    assert committed == generated(), "run `python -m tests.postman.generate`"


def test_the_environments_are_those_of_compose_yaml() -> None:
    compose = yaml.safe_load((ROOT / "compose/compose.yaml").read_text(encoding="utf-8"))
    inside = compose["x-service"]["environment"]
    for service in SERVICES:
        assert ENVIRONMENTS["compose"][service] == inside[f"{service.upper()}_SERVICE_URL"]
        (port,) = compose["services"][service]["ports"]
        published = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", port).rpartition(":")[0]
        assert ENVIRONMENTS["local"][service] == f"http://{published}"


# What it finds -----------------------------------------------------------------------------------------------------


def run_collection(system: System, directory: Path, order: Sequence[str] = tuple(FOLDERS), folder: str = "") -> None:
    """Run the collection with its folders in this order, or one folder alone; checks that nothing fails or is skipped."""
    document, report = directory / "collection.json", directory / "report.json"
    folders = {each["name"]: each for each in committed()["item"]}
    document.write_text(json.dumps({**committed(), "item": [folders[name] for name in order]}), encoding="utf-8")
    urls = [word for s in SERVICES for word in ("--env-var", f"{s}_url={system.api.url(s)}")]
    done = subprocess.run(
        [npm_program("newman"), "run", document, "--environment", HERE / "local.postman_environment.json", *urls,
         *(("--folder", folder) if folder else ()), "--color", "off", "--timeout", "110000",
         "--reporters", "cli,json", "--reporter-cli-no-banner", "--reporter-json-export", report],
        capture_output=True, text=True, timeout=115,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    run = json.loads(report.read_text(encoding="utf-8"))["run"]
    assert run["failures"] == []
    ran = [each["item"]["name"] for each in run["executions"]]
    wanted = [each.name for name in ([folder] if folder else order) for each in FOLDERS[name]]
    assert list(dict.fromkeys(ran)) == wanted


@pytest.fixture
def new_system(tmp_path: Path) -> Iterator[System]:
    """A system without data."""
    with System(BASE_PORT + 70, tmp_path / "new") as system:
        yield system


@pytest.mark.timeout(240)
def test_newman_finds_no_fault_on_a_clean_system_nor_when_it_is_used(new_system: System, tmp_path: Path) -> None:
    """Forwards and backwards, so that each folder runs once before each other one."""
    run_collection(new_system, tmp_path)
    run_collection(new_system, tmp_path, tuple(reversed(FOLDERS)))


@pytest.mark.skipif(not LONG, reason="LONG=1 runs each folder alone, and all of them in twenty more orders")
@pytest.mark.parametrize("folder", FOLDERS)
def test_newman_finds_no_fault_in_a_folder_alone(system: System, tmp_path: Path, folder: str) -> None:
    run_collection(system, tmp_path, folder=folder)


@pytest.mark.skipif(not LONG, reason="see above")
@pytest.mark.parametrize("order", ORDERS)
def test_newman_finds_no_fault_in_any_order(system: System, tmp_path: Path, order: list[str]) -> None:
    run_collection(system, tmp_path, order)


@pytest.mark.skipif(not LONG, reason="see above")
@pytest.mark.parametrize("folder", FOLDERS)
def test_newman_finds_no_fault_in_a_folder_on_a_clean_system(new_system: System, tmp_path: Path, folder: str) -> None:
    run_collection(new_system, tmp_path, folder=folder)
