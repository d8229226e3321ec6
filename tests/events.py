"""What every event must be: a CloudEvent 1.0, and what its schema and docs/asyncapi.json say of it."""

import json
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker

from libs.common.events import Event
from libs.topology import SERVICES

Json = dict[str, Any]

ROOT = Path(__file__).parents[1]
ASYNCAPI = ROOT / "docs/asyncapi.json"

FORMATS = FormatChecker()
"""Those of jsonschema, and one that it knows with a further package only."""


@FORMATS.checks("uri")
def is_uri(value: object) -> bool:
    """An absolute one: a scheme, then visible ASCII (RFC 3986, section 3)."""
    return not isinstance(value, str) or re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", value) is not None


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


def data_faults(event_type: str, data: Any) -> list[str]:
    return _told(event_type, Draft202012Validator(schema_of(event_type), format_checker=FORMATS), data)


def faults(event: Json) -> list[str]:
    """What is wrong with an event as it is on the wire, its data included."""
    found = _told("CloudEvents 1.0", _cloud_events(), event)
    # What the format demands of names and of the values of extensions, its JSON Schema does not say.
    found += [f"CloudEvents 1.0: {name} is no name" for name in event if not re.fullmatch("[a-z0-9]{1,20}", name)]
    found += [f"CloudEvents 1.0: {name} is {value!r}" for name, value in event.items()
              if name != "data" and not isinstance(value, str | int)]  # fmt: skip
    if found:
        return found
    event_type, data = event["type"], event.get("data")
    found = [*data_faults(event_type, data), *_told("AsyncAPI", _message(event_type), event)]
    if not found and event["subject"] != data[EVENTS[event_type].SUBJECT]:  # type: ignore[index]
        found.append(f"{event_type}: the subject is {event['subject']}, of {data}")
    return found


@cache
def _cloud_events() -> Draft7Validator:
    schema = json.loads((ROOT / "tests/cloudevents.json").read_text(encoding="utf-8"))
    return Draft7Validator(schema, format_checker=FORMATS)


@cache
def _message(event_type: str) -> Draft202012Validator:
    components = json.loads(ASYNCAPI.read_text(encoding="utf-8"))["components"]
    payload = components["messages"][event_type]["payload"]
    return Draft202012Validator({**payload, "components": components}, format_checker=FORMATS)


def _told(whose: str, validator: Any, value: Any) -> list[str]:
    return [f"{whose}{error.json_path[1:]}: {error.message}" for error in validator.iter_errors(value)]
