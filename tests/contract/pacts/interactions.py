"""All interactions of all services."""

import inspect
from itertools import groupby
from pathlib import Path

from tests.contract.pacts import analytics, documents, notification, order, product, relays
from tests.contract.pacts.bugs import BUGS
from tests.contract.pacts.drafts import INTERACTIONS, Interaction

WRITTEN_IN = (analytics, notification, order, product, relays)
"""The modules register their interactions when they are imported."""

INTERACTIONS.sort(key=str)
BY_PACT: dict[str, list[Interaction]] = {
    pact: list(found) for pact, found in groupby(INTERACTIONS, lambda interaction: interaction.pact)
}


def tables() -> dict[str, str]:
    """The tables between the markers of docs/contracts.md."""
    made_by = {str(one): _place_of(one) for one in INTERACTIONS}
    return {
        "arrows": documents.arrow_table(made_by),
        "mistakes": documents.mistake_table((bug.name, bug.caught_by) for bug in BUGS),
    }


def _place_of(interaction: Interaction) -> str:
    path = Path(inspect.getsourcefile(interaction.expect) or "").resolve().relative_to(documents.ROOT)
    return f"{path}#{interaction.expect.__name__}"
