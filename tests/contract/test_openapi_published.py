"""The OpenAPI documents in docs/openapi: up to date, without findings of the linters, and without breaking changes."""

import json
import os
import subprocess
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.cli import ScriptInfo

from libs.common import VERSION
from libs.topology import SERVICES
from tests.openapi import DOCUMENTS, read
from tests.programs import ROOT, node_modules, npm_program

HERE = Path(__file__).parent

on_sqlite = pytest.mark.parametrize("databases", ["sqlite"], indirect=True, scope="session")


@on_sqlite
@pytest.mark.parametrize("service", SERVICES)
def test_the_committed_document_is_the_one_that_the_command_prints_and_the_service_serves(
    service: str, make_app: Callable[[str], Flask], capfd: pytest.CaptureFixture[str]
) -> None:
    app = make_app(service)
    app.cli.main(["openapi"], "flask", standalone_mode=False, obj=ScriptInfo(create_app=lambda: app))
    committed = (DOCUMENTS / f"{service}.json").read_text(encoding="utf-8")
    assert capfd.readouterr().out == committed, "run `make openapi`"
    assert app.test_client().get("/openapi.json").json == json.loads(committed)


@pytest.mark.parametrize("service", SERVICES)
def test_a_document_has_the_version_of_the_distribution(service: str) -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert setup["metadata"]["version"] == "attr: libs.common.VERSION"
    assert read(service)["info"]["version"] == VERSION


def says_what_it_is(member: dict[str, Any]) -> bool:
    """Whether it has a description, or refers to, or lists, something that has one."""
    inner = [*member.get("anyOf", ()), member.get("items", {})]
    return bool(member.get("description")) or "$ref" in member or any("$ref" in each for each in inner)


@pytest.mark.parametrize("service", SERVICES)
def test_every_member_of_every_schema_says_what_it_is(service: str) -> None:
    schemas = read(service)["components"]["schemas"].items()
    members = {f"{name}.{key}": each for name, of in schemas for key, each in of.get("properties", {}).items()}
    assert members
    assert [name for name, member in members.items() if not says_what_it_is(member)] == []


# Linters -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """The documents, and one without tags, which a linter must report."""
    spoiled = read("user")
    del spoiled["tags"], spoiled["paths"]["/users"]["get"]["responses"]["429"]
    spoiled["paths"]["/users"]["post"]["requestBody"]["content"]["application/json"]["example"] = {"email": 1}
    (tmp_path / "spoiled.json").write_text(json.dumps(spoiled), encoding="utf-8")
    return [*(str(DOCUMENTS / f"{service}.json") for service in SERVICES), str(tmp_path / "spoiled.json")]


def run(*arguments: str, **environ: str) -> str:
    """The output of a linter, which exits with 1, since there is always a finding."""
    ran = subprocess.run(
        arguments, capture_output=True, text=True, timeout=120, env={**os.environ, **environ}, cwd=HERE
    )
    assert ran.returncode == 1, ran.stderr
    return ran.stdout


def test_spectral_finds_nothing_by_its_own_rules_and_by_those_of_owasp(paths: list[str]) -> None:
    printed = run(
        npm_program("spectral"), "lint", *paths, "--ruleset", str(HERE / "spectral.yaml"), "--format", "json", "--quiet",
        NODE_PATH=str(node_modules()),
    )  # fmt: skip
    found = json.loads(printed)
    spoiled = {each["code"] for each in found if each["source"].endswith("spoiled.json")}
    assert {"operation-tag-defined", "owasp:api4:2023-rate-limit-responses-429"} <= spoiled
    assert [each for each in found if not each["source"].endswith("spoiled.json")] == []


def test_redocly_finds_nothing(paths: list[str]) -> None:
    printed = run(
        npm_program("redocly"), "lint", *paths, "--config", str(HERE / "redocly.yaml"), "--format", "json",
        REDOCLY_TELEMETRY="off", REDOCLY_SUPPRESS_UPDATE_NOTICE="true",
    )  # fmt: skip
    reports = json.loads("[" + printed.replace("\n}{\n", "\n},{\n") + "]")  # one for each document
    found = [problem for report in reports for problem in report["problems"]]
    places = [(each["ruleId"], each["location"][0]["source"]["ref"]) for each in found]
    assert "no-invalid-media-type-examples" in {rule for rule, source in places if source.endswith("spoiled.json")}
    assert [each for each in places if not each[1].endswith("spoiled.json")] == []
