"""What setup.cfg declares is what the code imports."""

import ast
import configparser
import re
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest

from tests.unit.docs.pages import ROOT


def declared() -> list[str]:
    """The distributions that every installation gets."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return re.findall(r"^([\w-]+)", setup["options"]["install_requires"], re.MULTILINE)


def imported() -> Iterator[str]:
    """The top-level modules that the packages import, also within functions."""
    for package in ("libs", "demo", *(path.name for path in ROOT.glob("*_service"))):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                match node:
                    case ast.Import():
                        yield from (alias.name.partition(".")[0] for alias in node.names)
                    case ast.ImportFrom(module=str(module)):
                        yield module.partition(".")[0]


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


USED = {normal(name) for module in set(imported()) for name in packages_distributions().get(module, ())}


@pytest.mark.parametrize("distribution", declared())
def test_every_declared_dependency_is_imported(distribution: str) -> None:
    assert normal(distribution) in USED
