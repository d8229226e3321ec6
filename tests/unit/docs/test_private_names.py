"""The table of ADR 13 lists every private name of a library that the code uses or replaces, and a test for each."""

import ast
import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import pytest

from libs.topology import PACKAGES
from tests.unit.docs.pages import ROOT, page, spans

ROWS = page("docs/adr/0013-the-hot-path-below-the-libraries.md").table("Private names")
OURS = {"libs", *PACKAGES.values()}
MODULES = [path for package in sorted(OURS) for path in sorted((ROOT / package).rglob("*.py"))]
DOCUMENTED = {"_exit", "_mapping"}
"""Of `os` and of SQLAlchemy's Row, which are public in spite of the underscore."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def bound(tree: ast.AST) -> set[str]:
    """The private names that this code gives to something of its own."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                found.add(name)
    return {name for name in found if is_private(name)}


def read(tree: ast.AST) -> set[str]:
    """The private names that this code asks of any object, or imports."""
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    imported = {
        alias.name for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] not in OURS
        for alias in node.names
    }  # fmt: skip
    return {name for name in attributes | imported if is_private(name)}


def replaced(module: ModuleType, tree: ast.Module) -> Iterator[str]:
    """The private names that a class has in common with a base of a library."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.bases:
            bases = [base for base in getattr(module, node.name).__mro__ if is_foreign(base)]
            yield from (name for name in bound(node) if any(has(base, name) for base in bases))


def is_foreign(cls: type) -> bool:
    return cls.__module__.partition(".")[0] not in OURS | {"abc", "builtins", "typing"}


def has(owner: Any, name: str) -> bool:
    """Whether a module or a class has it; of what only its instances have, its methods and annotations tell."""
    classes = owner.__mro__[:-1] if inspect.isclass(owner) else ()
    return hasattr(owner, name) or any(name in names_in(cls) for cls in classes)


@cache
def names_in(cls: type) -> frozenset[str]:
    functions = [member for member in vars(cls).values() if inspect.isfunction(member)]
    return frozenset(inspect.get_annotations(cls)).union(*(inspect.unwrap(f).__code__.co_names for f in functions))


def used(path: Path) -> set[str]:
    """The private names of libraries in one module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    foreign = read(tree) - bound(tree)
    if any(isinstance(node, ast.ClassDef) and node.bases for node in tree.body):
        module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        foreign |= set(replaced(module, tree))
    return foreign


def test_every_private_name_that_the_code_uses_is_in_the_table_and_no_other() -> None:
    listed = {name for _, names, _ in ROWS for name in spans(names) if is_private(name)}

    assert set().union(*map(used, MODULES)) - DOCUMENTED == listed


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(spans(row[0] + row[1])))
def test_every_name_is_there_in_the_installed_version(row: list[str]) -> None:
    (owner,), names = spans(row[0]), spans(row[1])
    found = resolve_name(owner)

    assert names
    assert [name for name in names if not has(found, name)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(spans(row[0] + row[1])))
def test_the_test_of_a_row_exists(row: list[str]) -> None:
    (test,) = spans(row[2])
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))

    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
