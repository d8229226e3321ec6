"""Reads the compose files without a container engine."""

import json
import os
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.e2e.system import ROOT


class _Loader(yaml.SafeLoader):
    """Knows the two tags with which a compose file overrides the file below it."""


_Loader.add_constructor("!reset", lambda loader, node: [])
_Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def load(path: str) -> Any:
    return yaml.load((ROOT / path).read_text(), Loader=_Loader)  # noqa: S506 - it is a SafeLoader


def rendered(*paths: str) -> Any:
    """The files as compose merges them; skips the test where compose is missing."""
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("there is no `docker compose` to read them with")
    files = [word for path in paths for word in ("--file", str(ROOT / path))]
    done = subprocess.run(
        ["docker", "compose", *files, "config", "--format", "json"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "CORS_ORIGINS": "https://shop.example"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
