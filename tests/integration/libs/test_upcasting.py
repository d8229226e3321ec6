"""Runs the example of docs/events.md: an event of version 1 is read as version 2, the only one that the handler knows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from libs.common.data.database import Database
from libs.common.data.statements import upsert
from libs.common.events.event import Event
from libs.common.events.inbox import Handlers, Inbox
from libs.common.ids import new_id
from tests.factories import a_cloud_event
from tests.integration.libs.tables import things
from tests.unit.docs.pages import page


class Counted:
    """The handler: stores one row for each order, and its arguments."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    def __call__(self, session: Session, events: list[Any]) -> None:
        self.calls.append(events)
        for event in events:
            row = upsert(session, things).values(id=event.order_id, name=event.total["amount"], json=event.total)
            session.execute(row.on_conflict_do_nothing())


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def handlers(counted: Counted) -> Handlers:
    """The handlers that the page declares."""
    [example] = [text for language, text in page("docs/events.md").blocks if language == "python"]
    names = {"Any": Any, "Event": Event, "Mapping": Mapping, "dataclass": dataclass, "count_orders": counted}
    exec(example, names)  # noqa: S102 - the page is our own
    declared: Handlers = names["HANDLERS"]
    return declared


def version_1(order_id: str, **given: Any) -> dict[str, Any]:
    return a_cloud_event("order.confirmed.v1", {"order_id": order_id, "total": "20.00", "currency": "EUR"}, **given)


def version_2(order_id: str) -> dict[str, Any]:
    total = {"amount": "30.00", "currency": "EUR"}
    return a_cloud_event("order.confirmed.v2", {"order_id": order_id, "total": total})


def outcomes(db: Database, handlers: Handlers, *events: Any) -> list[str]:
    return [told["outcome"] for told in Inbox(db, handlers).receive(events)]


def orders(db: Database) -> dict[str, Any]:
    with db.read() as session:
        return {str(row.id): row.json for row in session.execute(sa.select(things))}


def test_the_handler_gets_both_versions_as_the_second_in_one_call_and_in_order(
    db: Database, handlers: Handlers, counted: Counted
) -> None:
    old, new = new_id(), new_id()
    first = version_1(old, correlationid="a-request")

    assert outcomes(db, handlers, first, version_2(new)) == ["done", "done"]

    [events] = counted.calls
    assert [(type(event).TYPE, event.order_id) for event in events] == [("order.confirmed.v2", id) for id in (old, new)]
    assert (events[0].origin.event_id, events[0].origin.correlation_id) == (first["id"], "a-request")
    assert orders(db) == {old: {"amount": "20.00", "currency": "EUR"}, new: {"amount": "30.00", "currency": "EUR"}}


def test_a_fact_that_is_told_in_both_versions_or_twice_counts_once(db: Database, handlers: Handlers) -> None:
    order_id = new_id()
    old = version_1(order_id)

    assert outcomes(db, handlers, old, version_2(order_id), old) == ["done", "done", "duplicate"]

    assert orders(db) == {order_id: {"amount": "20.00", "currency": "EUR"}}


def test_an_old_event_without_what_its_version_promised_is_refused_and_fails_no_neighbour(
    db: Database, handlers: Handlers
) -> None:
    order_id = new_id()
    broken = a_cloud_event("order.confirmed.v1", {"order_id": new_id(), "total": "20.00"})

    assert outcomes(db, handlers, broken, version_2(order_id)) == ["dead", "done"]
    assert list(orders(db)) == [order_id]


def test_a_dead_letter_of_version_1_is_replayed_as_version_2(
    db: Database, handlers: Handlers, counted: Counted
) -> None:
    old = version_1(new_id())
    assert outcomes(db, {}, old) == ["dead"]

    assert Inbox(db, handlers).replay(old["id"]) == "done"

    assert [[type(event).TYPE for event in events] for events in counted.calls] == [["order.confirmed.v2"]]
