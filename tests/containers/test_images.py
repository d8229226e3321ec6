"""The contents of the images."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libs.topology import SERVICES
from tests.containers.system import docker, environment
from tests.e2e.system import ROOT

pytestmark = pytest.mark.timeout(600)

MEGABYTES = 130
REBUILD_SECONDS = 5.0
SECRET = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|PRIVATE|_URL=\S*:\S*@", re.IGNORECASE)

each_service = pytest.mark.parametrize("service", SERVICES)


@pytest.fixture(scope="session")
def inspected(images: dict[str, str]) -> dict[str, Any]:
    return dict(zip(images, json.loads(docker("image", "inspect", *images.values())), strict=True))


@pytest.fixture
def run_in(images: dict[str, str]) -> Callable[[str, str], str]:
    """The output of Python code in a new container of a service's image, without a network and read-only."""

    def run(service: str, code: str) -> str:
        return docker("run", "--rm", "--network", "none", "--read-only", images[service], "python", "-c", code)

    return run


@each_service
def test_an_image_is_small(inspected: dict[str, Any], service: str) -> None:
    size = inspected[service]["Size"] / 1e6
    print(f"{service}: {size:.0f} MB")
    assert size < MEGABYTES


@each_service
def test_an_image_holds_its_service_and_the_library_and_nothing_else_of_ours(
    run_in: Callable[[str, str], str], service: str
) -> None:
    told = json.loads(run_in(service, "import json, os; print(json.dumps({d: f for d, _, f in os.walk('/app')}))"))
    top = {path.removeprefix("/app/").split("/")[0] for path in told if path != "/app"}
    assert (top, told["/app"]) == ({"libs", f"{service}_service"}, [])
    kinds = {Path(name).suffix for names in told.values() for name in names}
    assert kinds <= {".py", ".pyc", ".html", ".json", ".mako", ".txt", ".typed"}


@each_service
def test_the_packages_are_those_of_the_lock(run_in: Callable[[str, str], str], service: str) -> None:
    code = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
    found = {name.lower().replace("_", "-").replace(".", "-") for name in run_in(service, code).split()}
    locked = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert {name.partition("==")[0] for name in found} > {"flask", "gevent", "psycopg-binary", "zope-interface"}
    wanted = {f"{name}=={version}".lower().replace("_", "-").replace(".", "-") for name, version in locked}
    base = {name for name in found if name.startswith("pip==")}  # of the base image, and out of reach of the services
    assert found - base <= wanted


def test_there_is_nothing_to_build_with(run_in: Callable[[str, str], str]) -> None:
    code = "import shutil; print([p for p in ('cc', 'gcc', 'clang', 'make', 'cargo') if shutil.which(p)])"
    assert run_in("order", code) == "[]\n"
    with pytest.raises(AssertionError, match="No module named 'pip'"):
        run_in("order", "import pip")


@each_service
def test_an_image_is_run_by_a_number_without_a_shell_and_ends_in_an_orderly_way(
    inspected: dict[str, Any], service: str
) -> None:
    config = inspected[service]["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Cmd"][0] == "gunicorn"
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python"]
    assert not config["Entrypoint"]


@each_service
def test_an_image_says_what_it_is(inspected: dict[str, Any], service: str) -> None:
    labels = inspected[service]["Config"]["Labels"]
    told = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert told["title"] == f"quintet-{service}"
    assert told.keys() >= {"description", "version", "revision", "licenses"}


@each_service
def test_no_secret_is_in_an_image_or_its_history(
    inspected: dict[str, Any], images: dict[str, str], service: str
) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", images[service])
    assert "COPY" in history
    for told in (history, json.dumps(inspected[service]["Config"])):
        assert not SECRET.search(told)


def test_what_is_secret_never_comes_near_a_build(tmp_path: Path) -> None:
    """The builder gets only the files that .dockerignore allows."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    let_in = [line[1:] for line in lines if line.startswith("!")]
    assert let_in == [
        "requirements.txt", "compose/requirements-build.txt", "compose/wheelhouse", "libs", "*_service",
    ]  # fmt: skip


def test_the_bill_of_materials_names_every_package_with_its_version(images: dict[str, str], tmp_path: Path) -> None:
    syft = Path(sys.executable).parent / "syft"
    path = tmp_path / "order.spdx.json"
    words = [syft, "scan", "--quiet", "--output", f"spdx-json={path}", f"docker:{images['order']}"]
    subprocess.run(words, check=True, timeout=120, env={**environment(), "SYFT_CHECK_FOR_APP_UPDATE": "false"})
    named = {(one["name"].lower(), one.get("versionInfo")) for one in json.loads(path.read_text())["packages"]}
    locked = re.findall(r"^(flask|gevent|sqlalchemy|orjson)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.M)
    assert len(locked) == 4
    assert set(locked) <= named
    assert {"musl", "python"} <= {name for name, _ in named}


# Layers ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def context(images: dict[str, str], tmp_path: Path) -> Path:
    """A copy of the build context, to change."""
    for name in (".dockerignore", "requirements.txt"):
        shutil.copy2(ROOT / name, tmp_path / name)
    for name in ("compose", "libs", "order_service"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "secrets"))
    return tmp_path


def build(context: Path) -> list[str]:
    """The layers of the order service's image."""
    arguments = ("--build-arg", "SERVICE=order", "--build-arg", "BASE")
    words = ("--quiet", "--network", environment()["BUILD_NETWORK"], *arguments)
    made = docker("build", *words, "--file", str(context / "compose/Dockerfile"), str(context)).strip()
    layers: list[str] = json.loads(docker("image", "inspect", made))[0]["RootFS"]["Layers"]
    return layers


def add_a_line(path: Path) -> None:
    path.write_text(path.read_text() + "\n# one more line\n")


def test_a_change_of_a_service_costs_its_own_layer_and_less_than_five_seconds(context: Path) -> None:
    before, seconds = build(context), []
    for _ in range(2):  # at least one of them without interference from other programs
        add_a_line(context / "order_service/use_cases.py")
        began = time.monotonic()
        after = build(context)
        seconds.append(time.monotonic() - began)
        assert after[:-1] == before[:-1]
        assert after[-1] != before[-1]
        before = after
    print(f"rebuilt in {min(seconds):.1f} s")
    assert min(seconds) < REBUILD_SECONDS


def test_a_change_of_the_library_leaves_the_packages_as_they_are(context: Path) -> None:
    before = build(context)
    add_a_line(context / "libs/topology.py")
    after = build(context)
    assert after[:-2] == before[:-2]
    assert after[-2] != before[-2]
