"""The tables of docs/configuration.md, made from the settings that the services declare.

`python -m tests.unit.docs.configuration` prints them.
"""

from dataclasses import Field, fields
from typing import Any

from demo.env_example import CLASSES
from libs.common.config import Settings
from libs.topology import SERVICES


def table(cls: type[Settings]) -> str:
    """The settings that a class adds to those of its base."""
    inherited = {f.name for base in cls.__mro__[1:] if issubclass(base, Settings) for f in fields(base)}
    declared = [f for f in fields(cls) if f.name not in inherited and not f.metadata.get("internal")]
    return "\n".join(["| Variable | Default | Meaning |", "|---|---|---|", *map(_row, declared)])


def names() -> set[str]:
    """Every variable that some service reads, in its plain form."""
    return {f.name.upper() for cls in CLASSES for f in fields(cls) if not f.metadata.get("internal")}


def variants() -> set[str]:
    """The other forms: `X_FILE` of secrets, and `X_ORDER` and so on of settings that may differ by service."""
    declared = {f.name: f.metadata for cls in CLASSES for f in fields(cls) if not f.metadata.get("internal")}
    own = {f"{n}_{s}".upper(): rules for n, rules in declared.items() if rules["per_service"] for s in SERVICES}
    plain = {name.upper(): rules for name, rules in declared.items()}
    return set(own) | {f"{name}_FILE" for name, rules in (plain | own).items() if rules["secret"]}


def _row(declared: Field[Any]) -> str:
    rules = declared.metadata
    default = ",".join(declared.default) if isinstance(declared.default, tuple) else str(declared.default)
    meaning = [rules["doc"]]
    if rules["choices"]:
        meaning.append(f"One of {', '.join(f'`{choice}`' for choice in rules['choices'])}.")
    if rules["minimum"]:
        meaning.append(f"At least {rules['minimum']}.")
    if rules["secret"]:
        meaning.append("Secret.")
    if rules["per_service"]:
        meaning.append("Per service.")
    return f"| `{declared.name.upper()}` | {f'`{default}`' if default else 'empty'} | {' '.join(meaning)} |"


if __name__ == "__main__":
    for cls in CLASSES:
        print(f"{cls.__name__}\n\n{table(cls)}\n")
