"""The five services in containers, as compose/compose.yaml describes them."""

import json
import os
import shutil
import subprocess
import time
from base64 import b64decode
from functools import cache
from pathlib import Path
from typing import Any

from demo.api import Quintet, eventually
from libs.topology import SERVICES
from tests.e2e.system import ROOT, System

TAG = "test"
READ_METRICS = """
import base64, json, pathlib
files = pathlib.Path("/data/run/{}/metrics").rglob("*.db")
print(json.dumps({{path.name: base64.b64encode(path.read_bytes()).decode() for path in files}}))
"""
UP_SECONDS = 120
"""The timeout of a command of docker."""


def docker(*words: str, timeout: float = 300, check: bool = True) -> str:
    """The standard output of the command."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout, env=environment())
    assert not check or done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def environment() -> dict[str, str]:
    """Images of the tests' own; built without a network where the wheelhouse is filled."""
    network = "none" if any((ROOT / "compose/wheelhouse").glob("*.whl")) else "default"
    return {**os.environ, "DOCKER_BUILDKIT": "1", "BUILD_NETWORK": network, "TAG": TAG}


@cache
def missing() -> str:
    """Why there is no container engine here; empty when there is one."""
    if not shutil.which("docker"):
        return "docker is not on PATH"
    for words, why in (
        (("compose", "version"), "docker has no plugin `compose`"),
        (("version",), f"no engine answers at {os.environ.get('DOCKER_HOST') or 'the default socket'}"),
    ):
        done = subprocess.run(["docker", *words], capture_output=True, timeout=30)
        if done.returncode:
            return why
    return ""


def image(service: str) -> str:
    return f"quintet-{service}:{TAG}"


class ComposeSystem(System):
    """`with ComposeSystem(19800, directory) as system: ...`: an e2e System whose services are containers. Variables go
    into all five.
    """

    def __init__(self, base_port: int, data_dir: Path, **variables: str):
        self.base_port, self.data_dir = base_port, data_dir
        self.api = Quintet(base_port, "127.0.0.1")
        self.project = f"quintet-test-{base_port}"
        self.seconds_to_start = 0.0
        self._on_top = data_dir / "compose.json"
        given = {"WEB_CONCURRENCY": "2", **variables}
        self._on_top.write_text(json.dumps({"services": {name: {"environment": given} for name in SERVICES}}))

    @property
    def files(self) -> list[str]:
        """`docker` and these are compose, for this system."""
        return ["compose", "--file", str(ROOT / "compose/compose.yaml"), "--file", str(self._on_top)]

    @property
    def variables(self) -> dict[str, str]:
        published = {"PUBLISH_PREFIX": str(self.base_port // 100), "PUBLISH_HOST": "127.0.0.1"}
        return {**environment(), **published, "COMPOSE_PROJECT_NAME": self.project}

    def compose(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", *self.files, *words], capture_output=True, text=True, timeout=300, env=self.variables
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def __enter__(self) -> "ComposeSystem":
        self.compose("down", "--volumes", "--timeout", "1")
        began = time.monotonic()
        try:
            self.compose("up", "--no-build", "--wait", "--wait-timeout", str(UP_SECONDS))
        except BaseException:
            print(self.compose("logs", "--tail", "20", check=False))
            self.__exit__()
            raise
        self.seconds_to_start = time.monotonic() - began
        return self

    def __exit__(self, *exc: object) -> None:
        self.compose("down", "--volumes", "--timeout", "5")

    def container(self, service: str) -> str:
        return f"{self.project}-{service}-1"

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def run_inside(self, service: str, code: str) -> str:
        """The output of Python code in a running container."""
        return docker("exec", self.container(service), "python", "-c", code)

    def resident_mebibytes(self) -> dict[str, float]:
        """The memory of each container, without the page cache."""
        stats = docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", *map(self.container, SERVICES))
        found = {name: used for name, used, *_ in (line.split() for line in stats.splitlines())}
        units = {"MiB": 1.0, "GiB": 1024.0}
        return {s: float(found[self.container(s)][:-3]) * units[found[self.container(s)][-3:]] for s in SERVICES}

    @property
    def workers(self) -> int:
        return 2

    @property
    def log_dir(self) -> Path:
        """The output of the containers so far, as the files that LOG_DIR would hold."""
        directory = self.data_dir / "log"
        directory.mkdir(parents=True, exist_ok=True)
        for service in SERVICES:
            (directory / f"{service}.log").write_text(self.printed(service))
        return directory

    def metrics_dir(self, service: str) -> Path:
        """The metrics are on a tmpfs, so they are read inside the container."""
        directory = self.data_dir / "metrics" / service
        directory.mkdir(parents=True, exist_ok=True)
        stats: dict[str, str] = json.loads(self.run_inside(service, READ_METRICS.format(service)))
        for name, content in stats.items():
            (directory / name).write_bytes(b64decode(content))
        return directory

    def printed(self, service: str) -> str:
        return docker("logs", self.container(service))

    def start(self, *services: str, **given: str) -> None:
        assert not given, "a container has the variables that it was made with"
        docker("start", *(self.container(service) for service in services))
        for service in services:
            assert eventually(lambda service=service: self.api.is_healthy(service), UP_SECONDS), self.printed(service)  # type: ignore[misc]

    def stop(self, *services: str) -> None:
        self.compose("stop", *services)
        for service in services:
            assert self.inspect(service)["State"]["ExitCode"] == 0, self.printed(service)[-5000:]

    def kill(self, *services: str) -> None:
        self.compose("kill", *services)

    def restore(self) -> None:
        if stopped := [service for service in SERVICES if not self.inspect(service)["State"]["Running"]]:
            self.start(*stopped)
