"""What every event on the wire must be: a CloudEvent 1.0, valid by its schema and docs/asyncapi.json."""

import json
import re
from functools import cache
from typing import Any

from jsonschema import Draft7Validator, Draft202012Validator, FormatChecker

from tests.events import ASYNCAPI, EVENTS, ROOT, Json, schema_of

FORMATS = FormatChecker()
"""The format checks of jsonschema, and one that it has only with a further package."""


@FORMATS.checks("uri")
def is_uri(value: object) -> bool:
    """Whether it is an absolute URI: a scheme, then visible ASCII (RFC 3986, section 3)."""
    return not isinstance(value, str) or re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", value) is not None


def data_faults(event_type: str, data: Any) -> list[str]:
    return _told(event_type, Draft202012Validator(schema_of(event_type), format_checker=FORMATS), data)


def faults(event: Json) -> list[str]:
    """What is wrong with an event as it is on the wire, its data included."""
    found = _told("CloudEvents 1.0", _cloud_events(), event)
    # The JSON Schema of CloudEvents does not check the names and values of extensions.
    found += [f"CloudEvents 1.0: {name} is no name" for name in event if not re.fullmatch("[a-z0-9]{1,20}", name)]
    found += [f"CloudEvents 1.0: {name} is {value!r}" for name, value in event.items()
              if name != "data" and not isinstance(value, str | int)]  # fmt: skip
    event_type, data = event.get("type"), event.get("data")
    if event_type not in EVENTS:
        found.append(f"{event_type}: no service publishes that")
    if found:
        return found
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
