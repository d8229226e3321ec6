"""The pacts in docs/pacts, and the tables of docs/contracts.md that are made of them."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[3]
PACTS = ROOT / "docs/pacts"
PAGE = ROOT / "docs/contracts.md"
COMMAND = ".tox/contract/bin/python -m tests.contract.pacts"

_uuid = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Arrow(NamedTuple):
    """One dependency of a service on another: an operation, such as `GET /api/v1/users/{id}`, or an event type."""

    consumer: str
    provider: str
    what: str


def path_of(pact: str) -> Path:
    return PACTS / f"{pact}.json"


def text_of(pact: str, interactions: Iterable[dict[str, Any]]) -> str:
    """The text of a pact file, without the metadata of the tools that wrote it."""
    consumer, _, provider = pact.partition("-")
    document = {
        "consumer": {"name": consumer},
        "provider": {"name": provider},
        "interactions": sorted(interactions, key=lambda interaction: interaction["description"]),
        "metadata": {"pactSpecification": {"version": "4.0"}},
    }
    return _pretty(document) + "\n"


def _pretty(value: Any, indent: str = "") -> str:
    """JSON that keeps on one line what fits on one, so that a changed matcher is a changed line."""
    line = json.dumps(value, sort_keys=True, ensure_ascii=False)
    if len(indent + line) <= 100 or not value or not isinstance(value, dict | list):
        return line
    inner = indent + "  "
    if isinstance(value, list):
        members = [_pretty(item, inner) for item in value]
    else:
        members = [f"{json.dumps(name)}: {_pretty(value[name], inner)}" for name in sorted(value)]
    begin, end = "[]" if isinstance(value, list) else "{}"
    return begin + "".join(f"\n{inner}{member}," for member in members).rstrip(",") + f"\n{indent}{end}"


def interactions_of(pact: str) -> dict[str, dict[str, Any]]:
    """Description → the committed interaction."""
    if not path_of(pact).exists():
        return {}
    interactions = json.loads(path_of(pact).read_text(encoding="utf-8"))["interactions"]
    return {interaction["description"]: interaction for interaction in interactions}


def what(interaction: dict[str, Any]) -> str:
    if "contents" in interaction:
        return str(interaction["contents"]["content"]["type"])
    request = interaction["request"]
    return operation(request["method"], request["path"])


def operation(method: str, path: str) -> str:
    """`path` is that of a request, or a route such as `/users/<id:user_id>`."""
    return f"{method} {_uuid.sub('{id}', re.sub('<id:[^>]*>', '{id}', path))}"


def arrows() -> dict[Arrow, list[str]]:
    """Every arrow of the committed pacts, with the descriptions of its interactions."""
    found: dict[Arrow, list[str]] = {}
    for path in sorted(PACTS.glob("*.json")):
        consumer, _, provider = path.stem.partition("-")
        for description, interaction in interactions_of(path.stem).items():
            found.setdefault(Arrow(consumer, provider, what(interaction)), []).append(description)
    return found


# The tables of docs/contracts.md -------------------------------------------------------------------------------------


def arrow_table(made_by: Mapping[str, str]) -> str:
    """`made_by`: an interaction, as `order-user: an active user` → where the test of its consumer is."""
    rows = [
        "| Consumer | Provider | What it needs | Interactions, each with its test | Pact |",
        "|---|---|---|---|---|",
    ]
    for arrow, descriptions in sorted(arrows().items()):
        pact = f"{arrow.consumer}-{arrow.provider}"
        tests = [f"[{told}](../{made_by[f'{pact}: {told}']})" for told in descriptions]
        rows.append(
            f"| {arrow.consumer} | {arrow.provider} | `{arrow.what}` | {', '.join(tests)} | "
            f"[{pact}](pacts/{pact}.json) |"
        )
    return "\n".join(rows)


def mistake_table(mistakes: Iterable[tuple[str, str]]) -> str:
    """`bugs`: (the mistake, the interaction that detects it)."""
    rows = ["| Mistake of a provider | Noticed by |", "|---|---|"]
    for name, interaction in mistakes:
        pact, _, description = interaction.partition(": ")
        rows.append(f"| {name} | [{pact}](pacts/{pact}.json): {description} |")
    return "\n".join(rows)


def with_tables(page: str, **tables: str) -> str:
    """The page with each table between its markers, `<!-- name -->` and `<!-- /name -->`."""
    for name, table in tables.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        page = f"{before}{begin}\n{table}\n\n{end}{after}"
    return page
