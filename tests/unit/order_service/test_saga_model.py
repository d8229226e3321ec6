"""The rules of docs/saga.md keep every promise, and each of them is needed."""

import pkgutil
import re

import pytest

from tests.unit.docs.pages import page
from tests.unit.order_service.saga_model import MISTAKES, RULES, search

GUIDE = page("docs/saga.md")
KEPT_BY = [(number, name) for number, rule in RULES.items() for name in rule.kept_by]


def test_no_run_breaks_a_promise() -> None:
    found = search()

    assert found.violation is None, found.run
    assert found.states == 136_542  # another number means that the model has changed: review it


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_breaks_a_promise(mistake: str) -> None:
    found = search(mistake)

    assert found.violation is not None
    assert found.run


def test_there_are_seven_rules_and_each_is_needed() -> None:
    assert list(RULES) == [1, 2, 3, 4, 5, 6, 7]
    assert all(rule.broken_by for rule in RULES.values())
    assert sorted(mistake for rule in RULES.values() for mistake in rule.broken_by) == sorted(MISTAKES)


@pytest.mark.parametrize(("number", "name"), KEPT_BY, ids=[f"rule {number}: {name}" for number, name in KEPT_BY])
def test_each_rule_is_kept_by_a_function_that_exists(number: int, name: str) -> None:
    assert callable(pkgutil.resolve_name(name))


@pytest.mark.parametrize("number", RULES)
def test_the_guide_names_who_keeps_each_rule_and_the_tests_that_prove_it(number: int) -> None:
    """The targets of the links are tested with all other links."""
    _, _, kept_by, proved_by = next(row for row in GUIDE.table("The seven rules") if row[0] == str(number))

    for name in RULES[number].kept_by:
        module, _, function = name.rpartition(".")
        path = re.sub(r"\.(ProductClient|Checkout)$", "", module).replace(".", "/")
        assert f"(../{path}.py#{function})" in kept_by
    assert "#test_" in proved_by


def test_the_guide_shows_what_the_model_prints() -> None:
    found = search("no-tombstone")

    shown = f"no-tombstone: {found.states} states, {found.violation}\n" + "".join(f"    {step}\n" for step in found.run)
    assert shown in GUIDE.path.read_text(encoding="utf-8")
