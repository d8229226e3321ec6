"""What the faults and the crash points of the tests replace exists, and is looked up where they replace it."""

import ast
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from libs.topology import SERVICES
from tests.chaos.points import POINTS
from tests.e2e.faults import FAULTS

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r'"((?:libs|\w+_service)[\w.]*:[A-Za-z_][\w.]*)"')
"""`module:name` or `module:Class.name`, in the code of a test."""


def named() -> set[str]:
    """The targets that stand in the code of the tests that replace functions, and those of the points."""
    texts = [
        path.read_text()
        for folder in ("e2e", "chaos", "engines", "load")
        for path in (ROOT / "tests" / folder).glob("*.py")
    ]
    points = {target for point in POINTS.values() for target in (point.target, point.inside) if target}
    return points | {target for text in texts for target in NAMED.findall(text)}


TARGETS = sorted(named())
OURS = [target for target in TARGETS if not target.startswith("sqlalchemy") and "__" not in target]


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the library and the services, by its full name."""
    paths = [
        path for folder in ("libs", *(f"{one}_service" for one in SERVICES)) for path in (ROOT / folder).rglob("*.py")
    ]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text()) for path in paths}


def run_later(tree: ast.Module) -> Iterator[ast.AST]:
    """What is evaluated when a function is called, and not when the module is imported."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                yield from ast.walk(statement)
        elif isinstance(function, ast.Lambda):
            yield from ast.walk(function.body)


@cache
def looked_up() -> set[tuple[str, str]]:
    """Where each name is found when a function runs: in its own module, or in what the name before the point is."""
    found = set()
    for home, tree in modules().items():
        for node in run_later(tree):
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    found.add((home, name))
                case ast.Attribute(value=ast.Name(id=holder), attr=name):
                    found.add((holder, name))
                case ast.Attribute(attr=name):
                    found.add(("", name))
    return found


def copies(tree: ast.Module, module: str, name: str) -> bool:
    """Whether a module imports the name itself, which a replacement in `module` does not reach."""
    return any(
        isinstance(node, ast.ImportFrom) and node.module == module and name in (alias.name for alias in node.names)
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_to_be_replaced_exists(target: str) -> None:
    assert callable(pkgutil.resolve_name(target))


@pytest.mark.parametrize("target", OURS)
def test_what_is_replaced_is_looked_up_when_it_is_called(target: str) -> None:
    module, _, path = target.partition(":")
    owner, _, name = path.rpartition(".")
    if owner:
        assert any(attribute == name for _, attribute in looked_up())
    else:
        assert looked_up() & {(module, name), (module.rpartition(".")[2], name)}


@pytest.mark.parametrize("fault", FAULTS)
def test_nobody_holds_a_copy_of_what_a_fault_replaces(fault: str) -> None:
    module, _, path = FAULTS[fault].target.partition(":")
    if "." not in path:  # a method is looked up in its class, whoever imports that
        assert [home for home, tree in modules().items() if copies(tree, module, path)] == []
