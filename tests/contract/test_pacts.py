"""The pacts between the services, which both sides are verified against (docs/contracts.md)."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libs.topology import SUBSCRIPTIONS
from tests.conftest import SqliteDatabases
from tests.contract.pacts import documents
from tests.contract.pacts.bugs import BUGS, Bug
from tests.contract.pacts.documents import COMMAND, Arrow, arrows, path_of
from tests.contract.pacts.drafts import Interaction, Place
from tests.contract.pacts.interactions import BY_PACT, INTERACTIONS, tables
from tests.contract.pacts.providers import faults
from tests.contract.pacts.services import Services

ADVICE = f"say what is needed now in tests/contract/pacts, run `{COMMAND}`, and look at the difference"

NAMED = {str(interaction): interaction for interaction in INTERACTIONS}

each_interaction = pytest.mark.parametrize("interaction", INTERACTIONS, ids=str)


@pytest.fixture(scope="session")
def sqlite() -> Iterator[SqliteDatabases]:
    databases = SqliteDatabases(Path(tempfile.mkdtemp(prefix="quintet-")))
    yield databases
    databases.close()


@pytest.fixture
def services(sqlite: SqliteDatabases) -> Iterator[Services]:
    with Services(sqlite) as services:
        yield services


def committed(interaction: Interaction) -> dict[str, Any]:
    return documents.interactions_of(interaction.pact).get(interaction.description, {})


# Consumers -----------------------------------------------------------------------------------------------------------


@each_interaction
def test_a_consumer_does_what_its_pact_says(interaction: Interaction, services: Services) -> None:
    try:
        made = interaction.tried(services)
    except Exception as exc:
        exc.add_note(f"Where the {interaction.consumer} service is right: {ADVICE}.")
        raise

    assert made == committed(interaction), ADVICE


@each_interaction
def test_a_pact_holds_nothing_that_its_consumer_could_do_without(interaction: Interaction, services: Services) -> None:
    for place in members(answer(committed(interaction))):
        assert not passes(interaction, services, place), f"{interaction.consumer} does not read {place}"


def answer(interaction: dict[str, Any]) -> Any:
    """What the consumer gets to read."""
    message = interaction.get("contents") or interaction["response"].get("body") or {}
    return message.get("content")


def members(value: Any, place: Place = ()) -> Iterator[Place]:
    """The path of each member; the first item of a list stands for all."""
    inner = value.items() if isinstance(value, dict) else [*enumerate(value)][:1] if isinstance(value, list) else ()
    for name, member in inner:
        if isinstance(value, dict):
            yield (*place, name)
        yield from members(member, (*place, name))


def passes(interaction: Interaction, services: Services, without: Place) -> bool:
    try:
        interaction.tried(services, without)
    except Exception:
        return False
    return True


# Providers -----------------------------------------------------------------------------------------------------------


@each_interaction
def test_a_provider_does_what_the_pact_says(interaction: Interaction, services: Services) -> None:
    assert faults(path_of(interaction.pact), interaction, services) == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_mistake_of_a_provider_is_noticed(bug: Bug, services: Services) -> None:
    interaction = NAMED[bug.caught_by]

    found = faults(path_of(interaction.pact), interaction, services, bug.install)

    assert [fault for fault in found if bug.shown in fault], found


# The documents -------------------------------------------------------------------------------------------------------


def test_the_pacts_are_those_of_the_services_and_written_in_one_way() -> None:
    assert {path.stem for path in documents.PACTS.iterdir()} == BY_PACT.keys(), ADVICE
    for pact, interactions in BY_PACT.items():
        kept = documents.interactions_of(pact)
        assert kept.keys() == {interaction.description for interaction in interactions}, ADVICE
        assert path_of(pact).read_text(encoding="utf-8") == documents.text_of(pact, kept.values()), ADVICE


def test_no_two_interactions_have_one_name() -> None:
    assert len(NAMED) == len(INTERACTIONS)


def test_every_event_has_a_pact_with_each_service_that_it_goes_to() -> None:
    sent = {(event.split(".")[0], name, event) for event, names in SUBSCRIPTIONS.items() for name in names}

    assert {(name, publisher, event) for publisher, name, event in sent} <= arrows().keys()
    assert {(publisher, name, "POST /api/v1/events") for publisher, name, _ in sent} <= arrows().keys()
    assert {arrow for arrow in arrows() if arrow.what in SUBSCRIPTIONS} <= {
        Arrow(name, publisher, event) for publisher, name, event in sent
    }


def test_the_tables_say_what_the_pacts_say() -> None:
    page = documents.PAGE.read_text(encoding="utf-8")

    assert documents.with_tables(page, **tables()) == page, ADVICE
