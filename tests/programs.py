"""Programs that are no Python packages, which a test needs and a machine may lack."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NODE_MODULES = ROOT / ".tox/npm/node_modules"
"""Where CONTRIBUTING.md has those of `tests/npm/package.json` installed."""


def program(*names: str | Path) -> str:
    """The first of these programs that is there; skips the test where none is, and fails it in CI."""
    for name in names:
        if found := shutil.which(name) or shutil.which(name, path=NODE_MODULES / ".bin"):
            return found
    reason = f"{names[0]} is not installed"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
