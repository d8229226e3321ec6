"""Writes the pacts in docs/pacts and the tables of docs/contracts.md again: `.tox/contract/bin/python -m tests.contract.pacts`."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.conftest import SqliteDatabases
from tests.contract.pacts import documents
from tests.contract.pacts.drafts import Interaction
from tests.contract.pacts.interactions import BY_PACT, tables
from tests.contract.pacts.services import Services


def main() -> None:
    databases = SqliteDatabases(Path(mkdtemp(prefix="quintet-")))
    texts = {pact: documents.text_of(pact, tried(interactions, databases)) for pact, interactions in BY_PACT.items()}
    databases.close()
    for path in documents.PACTS.glob("*.json"):
        path.unlink()
    for pact, text in texts.items():
        documents.path_of(pact).write_text(text, encoding="utf-8")
    page = documents.PAGE.read_text(encoding="utf-8")
    documents.PAGE.write_text(documents.with_tables(page, **tables()), encoding="utf-8")


def tried(interactions: Iterable[Interaction], databases: SqliteDatabases) -> list[dict[str, Any]]:
    found = []
    for interaction in interactions:
        with Services(databases) as services:
            found.append(interaction.tried(services))
    return found


if __name__ == "__main__":
    main()
