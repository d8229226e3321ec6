"""`flask --app product_service.app dlq ...`, as an operator uses it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from libs.common.events.event import BATCH_JSON
from libs.common.ids import new_id
from tests.factories import a_cloud_event
from tests.web import Api, answered


@pytest.fixture
def app(make_service: Callable[..., Flask]) -> Flask:
    return make_service("product")


@pytest.fixture
def dlq(app: Flask, command: Callable[..., tuple[int, str]]) -> Callable[..., tuple[int, str]]:
    return lambda *arguments: command(app, "dlq", *arguments)


def kill(app: Flask, **data: Any) -> str:
    """Send an event that cannot be handled; its id."""
    event = a_cloud_event("order.rejected.v1", data)
    told = answered(Api(app).post("/events", [event], content_type=BATCH_JSON))
    assert told["results"] == [{"id": event["id"], "outcome": "dead"}]
    event_id: str = event["id"]
    return event_id


def test_without_dead_letters_the_list_is_empty(dlq: Callable[..., Any]) -> None:
    assert dlq("list") == (0, "")


def test_the_list_has_a_line_for_each(app: Flask, dlq: Callable[..., Any]) -> None:
    first, second = kill(app), kill(app)
    status, told = dlq("list")
    assert status == 0
    assert [line.split("  ")[:3] for line in told.splitlines()] == [
        [event_id, "order.rejected.v1", "1 attempts"] for event_id in (first, second)
    ]
    assert "order_id" in told.splitlines()[0]


def test_a_dead_letter_is_shown_with_its_error(app: Flask, dlq: Callable[..., Any]) -> None:
    event_id = kill(app, why="é\ud83d")
    status, told = dlq("show", event_id)
    assert status == 0
    shown = json.loads(told)
    assert shown["event"]["id"] == event_id
    assert shown["event"]["data"]["why"].startswith("é")
    assert shown["error"].startswith("RefusedEvent")


def test_what_strangers_sent_cannot_command_the_terminal(app: Flask, dlq: Callable[..., Any]) -> None:
    nasty = "\x1b]0;mine\x07\x1b[2J\x9b1m\x7f\u202e\r\nfake"
    event = {**a_cloud_event(f"order{nasty}", {f"why{nasty}": nasty})}
    answered(Api(app).post("/events", [event], content_type=BATCH_JSON))
    listed, shown = dlq("list")[1], dlq("show", event["id"])[1]
    assert len(listed.splitlines()) == 1
    for told in (listed, shown):
        assert all(char.isprintable() for line in told.split("\n") for char in line)
    assert r"\x1b[2J" in listed
    assert json.loads(shown.replace("\\x7f", "\x7f"))["event"] == event


def test_a_replay_tells_what_became_of_it(app: Flask, dlq: Callable[..., Any]) -> None:
    event_id = kill(app)
    # The event failed again, and so did the command.
    assert dlq("replay", event_id) == (1, f"{event_id}  dead\n")
    assert dlq("list")[1] != ""


def test_all_can_be_replayed_at_once(app: Flask, dlq: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    events = [kill(app), kill(app)]
    # The fault is removed.
    from product_service.events import OrderRejected

    service = app.extensions["quintet"]
    monkeypatch.setattr(OrderRejected, "read", lambda envelope: OrderRejected(order_id=new_id()))
    assert service.handlers
    assert dlq("replay", "--all") == (0, "".join(f"{event_id}  done\n" for event_id in events))
    assert dlq("list") == (0, "")
    assert dlq("replay", "--all") == (0, "")


def test_a_discarded_letter_is_gone(app: Flask, dlq: Callable[..., Any]) -> None:
    event_id = kill(app)
    assert dlq("discard", event_id) == (0, f"{event_id}  discarded\n")
    assert dlq("list") == (0, "")


@pytest.mark.parametrize("arguments", [("show", "x"), ("replay", "x"), ("replay",), ("discard", "x")])
def test_what_is_not_there_is_told_and_fails(dlq: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    status, told = dlq(*arguments)
    assert status == 1
    assert told.startswith("no dead letter with id")
