"""How `make test` installs the npm packages of the tests, with a fake npm."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.programs import ROOT

TARGET = ".tox/npm/.installed"
WORKS = "sleep 0.2; mkdir -p .tox/npm/node_modules"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The Makefile and what it installs from, with nothing installed."""
    shutil.copytree(ROOT / "tests/npm", tmp_path / "tests/npm")
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def start(clone: Path, npm: str, node: str = "exit 0") -> subprocess.Popen[str]:
    """Start `make` with a fake npm that runs this script, and a fake node that accepts its version or not."""
    directory = clone / "bin"
    directory.mkdir(exist_ok=True)
    for name, lines in (("npm", npm), ("node", node)):
        (directory / name).write_text(f'#!/bin/sh\necho "{name} $*"\n{lines}\n')
        (directory / name).chmod(0o755)
    return subprocess.Popen(
        ["make", TARGET], cwd=clone, env={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def installations(*running: subprocess.Popen[str]) -> int:
    """Run make, which must succeed; returns how often npm was started."""
    printed = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * len(running), printed
    return sum(out.count("npm ci --prefix .tox/npm\n") for out, _ in printed)


def test_they_are_installed_when_the_lock_has_changed(clone: Path) -> None:
    assert installations(start(clone, WORKS)) == 1
    assert installations(start(clone, WORKS)) == 0

    changed = time.time() + 1
    os.utime(clone / "tests/npm/package-lock.json", (changed, changed))
    assert installations(start(clone, WORKS)) == 1


def test_two_at_once_install_them_once(clone: Path) -> None:
    assert installations(start(clone, WORKS), start(clone, WORKS)) == 1


def test_where_they_cannot_be_installed_the_tests_run_all_the_same_and_the_next_time_tries_again(clone: Path) -> None:
    assert installations(start(clone, "exit 1")) == 1
    assert not (clone / TARGET).exists()

    assert installations(start(clone, WORKS, node="exit 1")) == 0
    assert not (clone / TARGET).exists()

    assert installations(start(clone, WORKS)) == 1
    assert (clone / TARGET).exists()


def test_the_lock_names_no_registry() -> None:
    packages = json.loads((ROOT / "tests/npm/package-lock.json").read_text(encoding="utf-8"))["packages"]

    assert [name for name, locked in packages.items() if "resolved" in locked] == []
    assert [name for name, locked in packages.items() if name and "integrity" not in locked] == []
