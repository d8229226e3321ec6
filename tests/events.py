"""The events: their schemas, their examples, and the classes of their publishers."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from libs.common.events.event import Event
from libs.topology import SERVICES

Json = dict[str, Any]

ROOT = Path(__file__).parents[1]
ASYNCAPI = ROOT / "docs/asyncapi.json"


def publisher_of(event_type: str) -> str:
    return event_type.split(".")[0]


def schema_of(event_type: str) -> Json:
    path = ROOT / f"{publisher_of(event_type)}_service/event_schemas/{event_type}.json"
    schema: Json = json.loads(path.read_text(encoding="utf-8"))
    return schema


def example_of(event_type: str) -> Json:
    """The data of an event, as its schema shows it."""
    data: Json = schema_of(event_type)["examples"][0]
    return data


def classes_of(service: str) -> list[type[Event]]:
    """The event classes that a service declares, those that it publishes and those that it reads."""
    declared = vars(import_module(f"{service}_service.events")).values()
    return [cls for cls in declared if isinstance(cls, type) and issubclass(cls, Event) and hasattr(cls, "TYPE")]


EVENTS = {cls.TYPE: cls for service in SERVICES for cls in classes_of(service) if publisher_of(cls.TYPE) == service}
"""Type → the class of its publisher."""
