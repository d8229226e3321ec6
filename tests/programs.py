"""Programs other than Python packages that a test needs and a machine may lack."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[1]
NPM = ROOT / ".tox/npm"
"""Where `make test` installs the packages of `tests/npm`."""


def missing(reason: str) -> NoReturn:
    """Skip the test, which cannot run here for this reason; in CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(*names: str | Path) -> str:
    """The first of these programs that is installed; skips the test where none is."""
    for name in names:
        if found := shutil.which(name):
            return found
    missing(f"{names[0]} is not installed")


def node_modules() -> Path:
    """The locked packages of npm; skips the test where they, or node to run them with, are not installed."""
    program("node")
    if not (NPM / ".installed").exists():
        missing("the packages of tests/npm are not installed; `make test` installs them, or prints why it cannot")
    return NPM / "node_modules"


def npm_program(name: str) -> str:
    """A program of these packages, whatever version of it may be on PATH."""
    return str(node_modules() / ".bin" / name)
