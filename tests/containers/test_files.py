"""The files in compose/, checked without a container engine: the linters, and the promises of the production file."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compose.write_secrets import main as write_secrets
from libs.common import VERSION
from libs.topology import SERVICES
from tests.containers.files import load, rendered
from tests.e2e.system import ROOT

DEVELOPMENT, PRODUCTION = "compose/compose.yaml", "compose/compose.production.yaml"
ENGINES = ("postgres", "rabbitmq", "redis")
WORKERS = tuple(f"{service}-worker" for service in SERVICES)
MIGRATIONS = tuple(f"{service}-migration" for service in SERVICES)


def run(program: str, *words: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / program, *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_no_fault() -> None:
    run("hadolint", "compose/Dockerfile")


@pytest.mark.parametrize("path", [DEVELOPMENT, PRODUCTION])
def test_each_file_fits_the_schema_of_compose(path: str, tmp_path: Path) -> None:
    plain = tmp_path / "plain.json"  # without the two tags, which the schema does not have
    plain.write_text(json.dumps(load(path)))
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(plain))


@pytest.mark.parametrize("files", [[DEVELOPMENT], [DEVELOPMENT, PRODUCTION]])
def test_compose_reads_them(files: list[str], tmp_path: Path) -> None:
    told = tmp_path / "rendered.json"
    told.write_text(json.dumps(rendered(*files)))
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(told))


def test_what_is_built_without_a_tag_has_the_version_of_the_code() -> None:
    text = "".join((ROOT / path).read_text() for path in (DEVELOPMENT, PRODUCTION, "compose/Dockerfile"))
    assert set(re.findall(r"TAG:-([^}]+)}|ARG VERSION=(.+)", text)) == {(VERSION, ""), ("", VERSION)}


def test_every_image_that_is_not_built_here_is_named_by_its_version_and_digest() -> None:
    bases = re.findall(r"^ARG BASE=(.+)$", (ROOT / "compose/Dockerfile").read_text(), re.MULTILINE)
    assert len(bases) == 1
    for image in (*bases, *(load(PRODUCTION)["services"][name]["image"] for name in ENGINES)):
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?-alpine(\d+\.\d+)?@sha256:[0-9a-f]{64}", image), image


def test_the_environment_may_name_another_base_and_else_the_dockerfile_does() -> None:
    for service in SERVICES:
        assert load(DEVELOPMENT)["services"][service]["build"]["args"].get("BASE", "missing") is None


# Production --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def production() -> dict[str, Any]:
    found: dict[str, Any] = rendered(DEVELOPMENT, PRODUCTION)
    return found


def test_every_container_is_there(production: dict[str, Any]) -> None:
    assert production["services"].keys() == {*SERVICES, *WORKERS, *MIGRATIONS, *ENGINES}


def test_there_are_two_of_each_service_and_none_keeps_anything(production: dict[str, Any]) -> None:
    for name in (*SERVICES, *WORKERS):
        assert production["services"][name]["deploy"]["replicas"] == 2
        assert not production["services"][name].get("volumes")


def test_nothing_starts_before_its_database_is_migrated(production: dict[str, Any]) -> None:
    def waits(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in production["services"][name].get("depends_on", {}).items()}

    for service in SERVICES:
        job = f"{service}-migration"
        assert waits(job) == {"postgres": "service_healthy"}
        assert production["services"][job]["command"] == ["flask", "db", "upgrade"]
        for name in (service, f"{service}-worker"):
            assert waits(name)[job] == "service_completed_successfully"


def test_everything_is_bounded_confined_and_started_again(production: dict[str, Any]) -> None:
    for name, given in production["services"].items():
        assert given["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        assert (given["read_only"], given["cap_drop"]) == (True, ["ALL"]), name
        assert given["security_opt"] == ["no-new-privileges:true"], name
        assert given["restart"] == ("no" if name in MIGRATIONS else "unless-stopped"), name
        assert given["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert re.fullmatch(r"[a-z-]+:\d+\.\d+(\.\d+)?(-\w+@sha256:[0-9a-f]{64})?", given["image"]), name
        assert name in MIGRATIONS or name in (*SERVICES, *WORKERS) or given["user"] not in ("", "root"), name


def test_relays_and_consumers_are_processes_of_their_own(production: dict[str, Any]) -> None:
    roles = {name: given["environment"].get("ROLE") for name, given in production["services"].items()
             if "environment" in given}  # fmt: skip
    assert {name for name, role in roles.items() if role == "web"} == set(SERVICES)
    assert {name for name, role in roles.items() if role == "worker"} == set(WORKERS)


CALLS = {
    "product": {"user"}, "order": {"user", "product"}, "notification-worker": {"user"},
    "analytics": {"user", "product", "order", "notification"},
}  # fmt: skip
"""Whom each calls, as the picture in the README says."""


def test_each_container_shares_a_network_only_with_those_that_it_talks_to(production: dict[str, Any]) -> None:
    members = {name: set(given["networks"]) for name, given in production["services"].items()}
    together = {frozenset(pair) for pair in itertools.combinations(members, 2) if members[pair[0]] & members[pair[1]]}
    # Workers accept no calls, so they may share a network with the broker.
    together -= {frozenset(pair) for pair in itertools.combinations(WORKERS, 2)}
    wanted = {frozenset((caller, called)) for caller, names in CALLS.items() for called in names}
    for service in SERVICES:
        own = (service, f"{service}-worker", f"{service}-migration")
        wanted |= {frozenset(pair) for pair in itertools.combinations((*own, "postgres"), 2)}
        wanted |= {frozenset((service, "redis")), frozenset((f"{service}-worker", "rabbitmq"))}
    assert together == wanted


def test_only_the_services_are_published_and_only_the_sender_of_mail_gets_out(production: dict[str, Any]) -> None:
    assert {name for name, given in production["services"].items() if given.get("ports")} == set(SERVICES)
    for name, network in production["networks"].items():
        masked = network.get("driver_opts", {}).get("com.docker.network.bridge.enable_ip_masquerade") == "false"
        assert network.get("internal", False) or masked or name == "mail", name
    assert [name for name, given in production["services"].items() if "mail" in given["networks"]] == [
        "notification-worker"
    ]


def test_nobody_can_talk_to_a_worker(production: dict[str, Any]) -> None:
    assert {production["services"][name]["environment"]["HOST"] for name in WORKERS} == {"127.0.0.1"}


def test_each_gets_the_secrets_that_it_needs_and_none_in_a_variable(production: dict[str, Any]) -> None:
    for name, given in production["services"].items():
        told = {one["source"] for one in given.get("secrets", [])}
        service = name.partition("-")[0]
        if name in MIGRATIONS:
            assert told == {f"{service}_owner_url"}
        elif service in SERVICES:
            assert {f"{service}_app_url", f"{service}_secret_key"} <= told
            assert not {one for one in told if one.endswith(("owner_url", "_app_url")) and service not in one}
        for variable, value in (given.get("environment") or {}).items():
            assert variable.endswith("_FILE") or not re.search(r"SECRET|PASSWORD|DATABASE_URL", variable), name
            assert not re.search(r"//[^/]*:[^/]*@", str(value)), f"{name}: {variable}"


def test_the_secrets_are_written_once_and_readable_by_those_who_get_them(tmp_path: Path) -> None:
    write_secrets(tmp_path / "secrets")
    written = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert written.keys() == load(PRODUCTION)["secrets"].keys()
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o444}

    write_secrets(tmp_path / "secrets")
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == written
