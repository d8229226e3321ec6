"""The AsyncAPI document: valid, up to date, and compatible with the published one."""

import copy
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libs.common.events import broker
from libs.topology import SERVICES, SUBSCRIPTIONS
from tests.cloudevents import faults
from tests.contract import asyncapi
from tests.contract.additive import breaches
from tests.contract.asyncapi import RELEASED, breaks, document, read, schemas, text
from tests.events import ASYNCAPI
from tests.programs import node_modules, program

Json = dict[str, Any]

PARSE = """
const { Parser } = require("@asyncapi/parser");
(async () => {
  const found = [];
  for (const document of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
    const { diagnostics } = await new Parser().parse(document);
    found.push(diagnostics.map(({ code, severity, message, path }) => ({ code, severity, message, path })));
  }
  console.log(JSON.stringify(found));
})();
"""
WARNING = 1
"""Severity 0 is an error. Lower severities are advice, such as to use 3.1, which fewer tools can read."""


def parsed(*documents: Json) -> list[list[str]]:
    """The errors and warnings of AsyncAPI's own parser, for each document."""
    ran = subprocess.run(
        [program("node"), "-e", PARSE], input=json.dumps(documents), capture_output=True, text=True, timeout=60,
        env={**os.environ, "NODE_PATH": str(node_modules())},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return [[f"{each['code']}: {each['message']} at {each['path']}" for each in found if each["severity"] <= WARNING]
            for found in json.loads(ran.stdout)]  # fmt: skip


def committed() -> Json:
    return read(ASYNCAPI)


def changed(change: Callable[[Json], Any]) -> Json:
    made = copy.deepcopy(committed())
    change(made)
    return made


def test_the_committed_document_is_the_generated_one() -> None:
    assert text(document()) == ASYNCAPI.read_text(encoding="utf-8"), "run `python -m tests.contract.asyncapi`"


def test_the_parser_of_asyncapi_finds_neither_errors_nor_warnings_where_there_are_none() -> None:
    spoiled = changed(lambda made: made["channels"]["order.queue"]["bindings"]["amqp"].update({"is": "pipe"}))

    found, found_in_the_spoiled = parsed(committed(), spoiled)

    assert found == []
    assert found_in_the_spoiled


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [found for each in value.values() for found in references(each)]
    return [found for each in value for found in references(each)] if isinstance(value, list) else []


def test_every_reference_leads_somewhere() -> None:
    made = committed()

    for reference in references(made):
        place = made
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


# What it says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_type", SUBSCRIPTIONS)
def test_the_example_of_a_message_is_an_event(event_type: str) -> None:
    [example] = committed()["components"]["messages"][event_type]["examples"]

    assert faults(example["payload"]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "1.1"},
        {"id": ""},
        {"id": "x" * 65},
        {"source": "/user_service"},
        {"type": "order.shipped.v2"},
        {"subject": ""},
        {"subject": "0198c0de-0000-7000-8000-0000000000fe"},
        {"time": "yesterday"},
        {"time": None},
        {"datacontenttype": "text/plain"},
        {"dataschema": "/schemas/order.shipped.v1.json"},
        {"dataschema": "urn:quintet:event:order.shipped.v2"},
        {"correlationid": ""},
        {"correlationid": None},
        {"traceparent": "00-a-b-01"},
        {"data": {}},
        {"data": None},
        {"not_a_name": "x"},
        {"extension": {"of": "an object"}},
    ],
    ids=str,
)
def test_an_event_that_is_none_is_found_out(change: Json) -> None:
    [example] = committed()["components"]["messages"]["order.shipped.v1"]["examples"]

    assert faults({**example["payload"], **change})
    for name in change.keys() & example["payload"].keys() - {"traceparent"}:
        assert faults({other: value for other, value in example["payload"].items() if other != name})


def names(references: list[Json]) -> set[str]:
    return {reference["$ref"].rpartition("/")[2] for reference in references}


def operations(made: Json, action: str, service: str, protocol: str) -> list[Json]:
    return [each for each in made["operations"].values()
            if each["action"] == action and each["tags"] == [{"name": service}] and protocol in each["bindings"]]  # fmt: skip


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_sends_and_receives_over_both_transports_what_the_map_says(service: str) -> None:
    made = committed()
    messages = made["components"]["messages"]
    own = {event for event in SUBSCRIPTIONS if event.startswith(f"{service}.")}
    told = {event for event, subscribers in SUBSCRIPTIONS.items() if service in subscribers}

    def over_http(action: str) -> set[str]:
        batches = [name for each in operations(made, action, service, "http") for name in names(each["messages"])]
        return {each["$ref"].split("/")[3] for name in batches for each in messages[name]["payload"]["items"]["oneOf"]}

    def over_amqp(action: str) -> set[str]:
        return {name for each in operations(made, action, service, "amqp") for name in names(each["messages"])}

    assert over_http("send") == {event for event in own if SUBSCRIPTIONS[event]}
    assert over_amqp("send") == own
    assert over_http("receive") == over_amqp("receive") == told


@pytest.mark.parametrize("service", [name for name in SERVICES if f"{name}.queue" in committed()["channels"]])
def test_a_queue_is_bound_to_what_it_carries_and_declared_as_the_transport_does(service: str) -> None:
    channel, queue = committed()["channels"][f"{service}.queue"], broker.queues(service)[0]

    assert {bound["routingKey"] for bound in channel["x-bindings"]} == set(channel["messages"])
    assert channel["address"] == channel["bindings"]["amqp"]["queue"]["name"] == queue.name
    assert channel["x-arguments"] == queue.queue_arguments


# Compatibility -----------------------------------------------------------------------------------------------------


def test_no_schema_breaks_with_what_was_published() -> None:
    assert breaks(document()) == []


@pytest.mark.parametrize("name", schemas(read(RELEASED)))
def test_a_break_with_what_was_published_is_noticed(name: str) -> None:
    made = read(RELEASED)
    members = schemas(made)[name]["properties"]
    member = min(members)
    members["another_name"] = members.pop(member)

    assert breaks(made) == [f"{name}.{member}: is gone"]


PUBLISHED: Json = {
    "type": "object",
    "description": "A parcel has left.",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "weight": {"type": ["integer", "null"], "minimum": 0},
        "carrier": {"enum": ["road", "rail"]},
        "items": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        },
    },
    "required": ["id", "weight"],
    "additionalProperties": True,
}


def proposed(change: Callable[[Json, Json], Any]) -> Json:
    made = copy.deepcopy(PUBLISHED)
    change(made, made["properties"])
    return made


ADDITIVE: dict[str, Callable[[Json, Json], Any]] = {
    "nothing": lambda schema, members: None,
    "an optional member": lambda schema, members: members.update(colour={"type": "string"}),
    "an optional member of a member": lambda schema, members: members["items"]["items"]["properties"].update(size={}),
    "other words": lambda schema, members: members["id"].update(description="Whose?", examples=["x"], title="Id"),
    "another order": lambda schema, members: schema.update(required=["weight", "id"]),
    "another order of an enumeration": lambda schema, members: members["carrier"].update(enum=["rail", "road"]),
}
BREAKING: dict[str, tuple[Callable[[Json, Json], Any], str]] = {
    "a member less": (lambda schema, members: members.pop("carrier"), "parcel.v1.carrier: is gone"),
    "a member renamed": (lambda schema, members: members.update(by=members.pop("carrier")), "parcel.v1.carrier: is gone"),
    "a required member more": (
        lambda schema, members: (members.update(to={}), schema["required"].append("to")),
        "parcel.v1: required was ['id', 'weight'], is ['id', 'weight', 'to']",
    ),
    "a member that becomes required": (
        lambda schema, members: schema["required"].append("carrier"),
        "parcel.v1: required was ['id', 'weight'], is ['id', 'weight', 'carrier']",
    ),
    "a member that becomes optional": (
        lambda schema, members: schema["required"].remove("id"),
        "parcel.v1: required was ['id', 'weight'], is ['weight']",
    ),
    "another type": (
        lambda schema, members: members["id"].update(type="integer"), "parcel.v1.id: type was string, is integer",
    ),
    "null no more": (
        lambda schema, members: members["weight"].update(type="integer"),
        "parcel.v1.weight: type was ['integer', 'null'], is integer",
    ),
    "null as well": (
        lambda schema, members: members["id"].update(type=["string", "null"]),
        "parcel.v1.id: type was string, is ['string', 'null']",
    ),
    "a narrower enumeration": (
        lambda schema, members: members["carrier"].update(enum=["road"]),
        "parcel.v1.carrier: enum was ['road', 'rail'], is ['road']",
    ),
    "a wider enumeration": (
        lambda schema, members: members["carrier"]["enum"].append("air"),
        "parcel.v1.carrier: enum was ['road', 'rail'], is ['road', 'rail', 'air']",
    ),
    "an enumeration where there was none": (
        lambda schema, members: members["id"].update(enum=["x"]), "parcel.v1.id: enum was None, is ['x']",
    ),
    "another limit": (
        lambda schema, members: members["weight"].update(minimum=1), "parcel.v1.weight: minimum was 0, is 1",
    ),
    "another format": (
        lambda schema, members: members["id"].pop("format"), "parcel.v1.id: format was uuid, is None",
    ),
    "a member less of a member": (
        lambda schema, members: members["items"]["items"]["properties"].pop("name"), "parcel.v1.items[].name: is gone",
    ),
    "a closed object": (
        lambda schema, members: schema.update(additionalProperties=False),
        "parcel.v1: additionalProperties was True, is False",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", ADDITIVE.values(), ids=ADDITIVE)
def test_what_is_only_added_breaks_nothing(change: Callable[[Json, Json], Any]) -> None:
    assert breaches({"parcel.v1": PUBLISHED}, {"parcel.v1": proposed(change)}) == []


@pytest.mark.parametrize(("change", "told"), BREAKING.values(), ids=BREAKING)
def test_every_other_change_breaks(change: Callable[[Json, Json], Any], told: str) -> None:
    assert breaches({"parcel.v1": PUBLISHED}, {"parcel.v1": proposed(change)}) == [told]


def test_a_type_may_only_go_when_its_successor_is_there() -> None:
    known = {"parcel.v1": PUBLISHED}

    assert breaches(known, {**known, "parcel.v2": {}, "crate.v1": {}}) == []
    assert breaches(known, {"parcel.v2": {}}) == []
    for others in ({}, {"crate.v2": {}}, {"parcel.v0": {}}):
        assert breaches(known, others) == ["parcel.v1: is gone and has no successor"]


def test_the_command_refuses_a_break_even_if_the_document_has_it_already(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = changed(lambda made: schemas(made)["order.shipped.v1"]["properties"].pop("shipped_at"))
    written = tmp_path / "asyncapi.json"
    written.write_text(text(broken), encoding="utf-8")
    monkeypatch.setattr(asyncapi, "ASYNCAPI", written)
    monkeypatch.setattr(asyncapi, "document", lambda: {**broken, "id": "urn:another"})

    with pytest.raises(SystemExit, match=r"order\.shipped\.v1\.shipped_at: is gone"):
        asyncapi.main()

    assert read(written) == broken
    sound = changed(lambda made: made["info"].update(version="2"))
    monkeypatch.setattr(asyncapi, "document", lambda: sound)
    asyncapi.main()
    assert read(written) == sound
