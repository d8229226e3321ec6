import json
import logging
import os
import random
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from libs.common.data.database import Database
from libs.common.data.engines import StatementTimeout
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, InvalidTransition, NotFound, Overloaded
from libs.common.events import dead_letters, inbox
from libs.common.events.event import RefusedEvent
from libs.common.events.inbox import Inbox
from libs.common.ids import new_id
from tests.factories import a_cloud_event
from tests.integration.libs.events import Confirmed, Delivered
from tests.integration.libs.tables import balance
from tests.integration.libs.test_db import deposit
from tests.processes import Workers, in_threads

ORDER = new_id()
LONG = bool(os.environ.get("LONG"))
MONSTERS: list[Any] = [
    None, [], "", 1, True, {}, {"specversion": "1.0"}, {"id": "x"}, {"type": []}, {"type": {}, "id": {}},
    {"specversion": "1.0", "id": [], "type": "order.confirmed.v1"},
    {"specversion": "1.0", "id": Decimal("1.5"), "type": "order.confirmed.v1", "data": {"order_id": ORDER}},
    {"specversion": "1.0", "id": "", "type": "order.confirmed.v1", "data": {"order_id": ORDER}},
    {"specversion": "1.0", "id": "x" * 65, "type": "order.confirmed.v1", "data": {"order_id": ORDER}},
    {"specversion": "1.0", "id": "a\x00b", "type": "order.confirmed.v1", "data": {"order_id": ORDER}},
    {"specversion": "1.0", "id": "\ud800", "type": "order.confirmed.v1", "data": {"order_id": ORDER}},
    {"specversion": "1.0", "id": "ok-1", "type": "\ud800\x00", "data": {"order_id": ORDER}},
    {"specversion": "1.0", "id": "ok-2", "type": "x" * 500, "data": {"order_id": ORDER}},
    {"specversion": "0.3", "id": "ok-3", "type": "order.confirmed.v1", "data": {"order_id": ORDER}},
    {"specversion": "1.0", "id": "ok-4", "type": "order.confirmed.v1"},
    {"specversion": "1.0", "id": "ok-5", "type": "order.confirmed.v1", "data": {"number": Decimal("0.1")}},
    {"specversion": "1.0", "id": "ok-6", "type": "order.confirmed.v1", "data": {"number": 2**200}},
    {"specversion": "1.0", "id": "ok-7", "type": "order.confirmed.v1", "data": {"x": "\ud800\x00"}, "correlationid": {}},
    {"specversion": "1.0", "id": "ok-8", "type": "order.confirmed.v1", "data": "\ud800", "traceparent": [1]},
]  # fmt: skip


def an_event(**given: Any) -> dict[str, Any]:
    return a_cloud_event("order.confirmed.v1", {"order_id": ORDER, "number": 1}, **given)


def count(session: Session, events: list[Confirmed]) -> None:
    """Adds the number of each event to the account; a number below zero is a bug."""
    for event in events:
        deposit(session, event.number)
        if event.number < 0:
            raise ValueError("a bug")


def outcomes(db: Database, *events: Any, handler: Callable[..., None] = count) -> list[str]:
    return [told["outcome"] for told in Inbox(db, {Confirmed: handler}).receive(events)]


def bad(**given: Any) -> dict[str, Any]:
    return a_cloud_event("order.confirmed.v1", {"order_id": ORDER, "number": -1}, **given)


def failures(db: Database) -> list[Any]:
    with db.read() as connection:
        return list(connection.execute(sa.select(dead_letters.failures)).mappings())


# Once --------------------------------------------------------------------------------------------------------------


def test_twice_is_once(db: Database) -> None:
    event = an_event()
    assert outcomes(db, event) == ["done"]
    assert outcomes(db, event) == ["duplicate"]
    assert balance(db) == 1


def test_twice_in_one_batch_is_once(db: Database) -> None:
    event, other = an_event(), an_event()
    assert outcomes(db, event, other, event) == ["done", "done", "duplicate"]
    assert balance(db) == 2


def test_the_answers_are_in_the_order_of_the_events(db: Database) -> None:
    events = [an_event() for _ in range(20)]
    random.Random(1).shuffle(events)
    told = Inbox(db, {Confirmed: count}).receive(events)
    assert [one["id"] for one in told] == [event["id"] for event in events]


def test_each_handler_gets_its_events_together_and_in_order(db: Database) -> None:
    seen: list[Any] = []
    handlers: Any = {
        Confirmed: lambda session, events: seen.append([event.number for event in events]),
        Delivered: lambda session, events: seen.append([type(event).__name__ for event in events]),
    }
    events = [a_cloud_event("order.confirmed.v1", {"order_id": ORDER, "number": n}) for n in (3, 1, 2)]
    events.insert(1, a_cloud_event("order.delivered.v1", {"order_id": ORDER}))
    Inbox(db, handlers).receive(events)
    assert seen == [[3, 1, 2], ["Delivered"]]


def test_a_handler_of_several_types_gets_all_of_their_events_at_once(db: Database) -> None:
    calls: list[list[str]] = []

    def handle(session: Session, events: list[Any]) -> None:
        calls.append([type(event).__name__ for event in events])

    events = [an_event(), a_cloud_event("order.delivered.v1", {"order_id": ORDER}), an_event()]
    Inbox(db, {Confirmed: handle, Delivered: handle}).receive(events)
    assert calls == [["Confirmed", "Delivered", "Confirmed"]]


def deliver(url: str, events: list[dict[str, Any]], seed: int) -> int:
    """Deliver all events, in batches of a random order; returns how many were handled."""
    db = Database(url)

    def work(number: int) -> int:
        mine = list(events)
        random.Random(seed * 10 + number).shuffle(mine)
        done = 0
        for start in range(0, len(mine), 7):
            told = outcomes(db, *mine[start : start + 7])
            assert set(told) <= {"done", "duplicate"}
            done += told.count("done")
        return done

    done = in_threads(2, work)
    db.dispose()
    return sum(done)


def test_an_event_that_reaches_several_processes_at_once_is_handled_once(
    db: Database, database_url: str, workers: Workers
) -> None:
    events = [an_event() for _ in range(60)]
    done = workers.race(deliver, *[(database_url, events, seed) for seed in range(3)])
    assert sum(done) == 60
    assert balance(db) == 60


# Failures ----------------------------------------------------------------------------------------------------------


def test_a_bad_event_fails_no_neighbour(db: Database) -> None:
    assert outcomes(db, an_event(), bad(), an_event()) == ["done", "retry", "done"]
    assert balance(db) == 2


def test_what_keeps_failing_is_dead_after_five_attempts(db: Database) -> None:
    event = bad()
    assert [outcomes(db, event)[0] for _ in range(5)] == ["retry", "retry", "retry", "retry", "dead"]
    (row,) = failures(db)
    assert (row["event_id"], row["type"], row["attempts"], row["dead"]) == (event["id"], event["type"], 5, True)
    assert row["error"] == "ValueError: a bug"
    assert json.loads(row["body"]) == event
    assert balance(db) == 0


def test_attempts_count_for_one_event_and_not_for_its_neighbours(db: Database) -> None:
    first, second = bad(), bad()
    for _ in range(4):
        assert outcomes(db, first, second) == ["retry", "retry"]
    assert outcomes(db, first) == ["dead"]
    assert outcomes(db, second) == ["dead"]
    assert len(failures(db)) == 2


def test_an_event_that_succeeds_in_the_end_is_no_dead_letter(db: Database) -> None:
    event = bad()
    assert outcomes(db, event) == ["retry"]
    assert outcomes(db, event, handler=lambda session, events: None) == ["done"]
    with db.read() as connection:
        assert dead_letters.find_all(connection) == []


def test_what_can_never_be_handled_is_dead_at_once(db: Database) -> None:
    def refuse(session: Session, events: list[Any]) -> None:
        raise RefusedEvent("no such thing")

    assert outcomes(db, an_event(), handler=refuse) == ["dead"]
    assert failures(db)[0]["error"] == "RefusedEvent: no such thing"


def test_an_event_that_nobody_subscribed_to_is_dead_at_once(db: Database) -> None:
    assert outcomes(db, a_cloud_event("user.deleted.v1", {"user_id": "u"}), an_event()) == ["dead", "done"]


def test_no_monster_fails_its_neighbours(db: Database) -> None:
    for number, monster in enumerate(MONSTERS, 1):
        good = an_event()
        told = Inbox(db, {Confirmed: count}).receive([good, monster, an_event()])
        assert [one["outcome"] for one in told] == ["done", "dead", "done"], monster
        assert told[0]["id"] == good["id"]
        assert balance(db) == 2 * number
    # Each is stored, can be shown, and stays dead.
    with db.read() as connection:
        letters = dead_letters.find_all(connection)
    assert len(letters) == len(MONSTERS)
    for letter in letters:
        dead_letters.read_body(letter["body"])
        assert Inbox(db, {Confirmed: count}).replay(letter["event_id"]) == "dead", letter["body"]


@pytest.mark.parametrize("fault", [DependencyUnavailable, Overloaded, DeadlineExceeded])
def test_a_transient_error_counts_for_nothing(db: Database, fault: type[Exception]) -> None:
    def fail(session: Session, events: list[Any]) -> None:
        raise fault()

    for _ in range(6):
        with pytest.raises(fault):
            outcomes(db, an_event(), an_event(), handler=fail)
    assert failures(db) == []
    assert balance(db) == 0


@pytest.mark.parametrize("fault", [InvalidTransition, NotFound])
def test_a_refusal_on_the_merits_fails_no_neighbour(db: Database, fault: type[Exception]) -> None:
    """A Problem that a handler raises for one event concerns only this event."""

    def judge(session: Session, events: list[Confirmed]) -> None:
        count(session, [event for event in events if event.number > 0])
        if any(event.number < 0 for event in events):
            raise fault()

    assert outcomes(db, an_event(), bad(), an_event(), handler=judge) == ["done", "retry", "done"]
    assert balance(db) == 2


def test_a_dependency_that_fails_for_one_event_leaves_the_others_done(db: Database) -> None:
    def judge(session: Session, events: list[Confirmed]) -> None:
        if len(events) > 1:
            raise ValueError("one by one, please")
        if events[0].number < 0:
            raise DependencyUnavailable()
        count(session, events)

    assert outcomes(db, an_event(), bad(), an_event(), handler=judge) == ["done", "retry", "done"]
    assert balance(db) == 2
    assert failures(db) == []


def test_what_was_given_up_elsewhere_is_kept(db: Database) -> None:
    event = an_event()
    Inbox(db, {Confirmed: count}).give_up(event, "given up by the broker")
    (row,) = failures(db)
    assert (row["event_id"], row["dead"], row["error"]) == (event["id"], True, "RefusedEvent: given up by the broker")


def test_what_was_given_up_elsewhere_and_cannot_be_kept_is_told(db: Database, open_database: Any) -> None:
    with pytest.raises(DependencyUnavailable):
        Inbox(open_database("sqlite:////nowhere/x.db"), {Confirmed: count}).give_up(
            an_event(), "given up by the broker"
        )


def test_a_failure_that_cannot_be_counted_is_wanted_again(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database becomes unavailable between the handling and the counting."""
    write = db.write

    def fail(session: Session, events: list[Any]) -> None:
        monkeypatch.setattr(db, "write", gone)
        raise ValueError("a bug")

    def gone(**options: Any) -> Any:
        raise DependencyUnavailable()

    assert outcomes(db, an_event(), handler=fail) == ["retry"]
    monkeypatch.setattr(db, "write", write)
    assert failures(db) == []


def test_an_event_nested_beyond_measure_is_dead_at_once(db: Database) -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    event = {**an_event(), "data": deep}
    assert outcomes(db, event, an_event()) == ["dead", "done"]


# Statements that take too long ---------------------------------------------------------------------------------------


def test_an_event_whose_statement_takes_too_long_fails_itself_and_no_neighbour(db: Database) -> None:
    """It does not count as an outage: the event and its batch would be retried for ever."""

    def slow(session: Session, events: list[Confirmed]) -> None:
        count(session, [event for event in events if event.number > 0])
        if any(event.number < 0 for event in events):
            raise StatementTimeout()

    good, slow_one = an_event(), bad()
    assert outcomes(db, good, slow_one, handler=slow) == ["done", "retry"]
    assert [outcomes(db, slow_one, handler=slow) for _ in range(4)] == [["retry"]] * 3 + [["dead"]]
    assert balance(db) == 1


def test_an_event_that_failed_before_does_not_fail_the_next_batch(db: Database) -> None:
    event, calls = bad(), []

    def judge(session: Session, events: list[Confirmed]) -> None:
        calls.append(len(events))
        count(session, events)

    assert outcomes(db, event, handler=judge) == ["retry"]
    assert outcomes(db, an_event(), event, an_event(), handler=judge) == ["done", "retry", "done"]
    assert calls == [1, 2, 1]


def test_a_dead_letter_that_is_delivered_again_is_dead_at_once(db: Database) -> None:
    """The sender may have timed out before the answer, as when a statement took too long."""
    event = dead_one(db)
    assert outcomes(db, an_event(), event, handler=lambda session, events: None) == ["done", "dead"]
    assert failures(db)[0]["attempts"] == 5


def test_handlers_are_called_in_their_order_however_the_events_arrive(db: Database) -> None:
    """Otherwise two batches could lock the rows of two tables in different orders, and wait for each other."""
    called: list[str] = []
    handlers = {
        Confirmed: lambda session, events: called.append("confirmed"),
        Delivered: lambda session, events: called.append("delivered"),
    }
    delivered, confirmed = an_event(type=Delivered.TYPE), an_event()
    for batch in ([confirmed, delivered], [delivered, confirmed]):
        Inbox(db, handlers).receive([{**event, "id": new_id()} for event in batch])
    assert called == ["confirmed", "delivered"] * 2


# What is logged ----------------------------------------------------------------------------------------------------


def logged(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    """The lines of the inbox with this name."""
    return [vars(record) for record in caplog.records if record.getMessage() == name]


def test_a_batch_is_one_line_with_the_requests_that_caused_it(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    cause = {"correlationid": "req-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    first, second, third = an_event(**cause), an_event(**cause), an_event(correlationid="req-2")
    with caplog.at_level(logging.INFO, "libs.common.events.inbox"):
        outcomes(db, first, second, first, third)
    [line] = logged(caplog, "events")
    assert {name: line[name] for name in ("outcomes", "event_ids", "request_ids", "trace_ids")} == {
        "outcomes": {"order.confirmed.v1": {"done": 3, "duplicate": 1}},
        "event_ids": [event["id"] for event in (first, second, first, third)],
        "request_ids": ["req-1", "req-2"],
        "trace_ids": [trace],
    }
    assert line["latency_ms"] >= 0
    assert logged(caplog, "event") == []


def test_an_event_without_effect_has_a_line_of_its_own(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    faulty, odd = bad(correlationid="req-1"), an_event(type="order.lost.v1")
    with caplog.at_level(logging.INFO, "libs.common.events.inbox"):
        outcomes(db, an_event(), faulty, odd, 5)
    [line] = logged(caplog, "events")
    assert line["outcomes"] == {"order.confirmed.v1": {"done": 1, "retry": 1}, "unknown": {"dead": 2}}
    told = [[line[name] for name in ("event_id", "type", "outcome", "request_id")] for line in logged(caplog, "event")]
    assert told == [
        [faulty["id"], "order.confirmed.v1", "retry", "req-1"],
        [odd["id"], "unknown", "dead", None],
        [None, "unknown", "dead", None],
    ]


def test_a_failure_is_logged_with_its_traceback(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    event = bad()
    outcomes(db, event)
    (record,) = (record for record in caplog.records if record.getMessage() == "event.failed")
    assert record.exc_info
    assert vars(record)["event_id"] == event["id"]


# Trimming ----------------------------------------------------------------------------------------------------------


def test_ids_older_than_any_retry_are_forgotten(db: Database) -> None:
    old, young = an_event(), an_event()
    outcomes(db, old, young)
    with db.write() as session:
        mine = sa.update(inbox.inbox).where(inbox.inbox.c.event_id == old["id"])
        session.execute(mine.values(handled_at=time.time() - inbox.KEEP_SECONDS - 1))
    assert inbox.trim(db) == 1
    assert inbox.trim(db) == 0
    assert outcomes(db, old, young) == ["done", "duplicate"]


def test_a_trim_is_bounded(db: Database) -> None:
    with db.write() as session:
        session.execute(sa.insert(inbox.inbox), [{"event_id": new_id(), "handled_at": 0.0} for _ in range(600)])
    assert [inbox.trim(db), inbox.trim(db), inbox.trim(db)] == [500, 100, 0]


@pytest.mark.skipif(not LONG, reason="with LONG=1")
def test_no_step_of_trimming_a_million_ids_takes_long(db: Database) -> None:
    with db.write() as session:
        for _ in range(20):
            rows = [{"event_id": new_id(), "handled_at": 0.0} for _ in range(50_000)]
            session.execute(sa.insert(inbox.inbox), rows)
    steps, trimmed = [], 1
    while trimmed:
        began = time.monotonic()
        trimmed = inbox.trim(db)
        steps.append(time.monotonic() - began)
    assert len(steps) == 1_000_000 // inbox.TRIM_ROWS + 1
    steps.sort()
    assert steps[len(steps) * 99 // 100] < 0.1
    assert steps[-1] < 1.0


def test_on_sqlite_an_id_is_stored_once(db: Database) -> None:
    if not db.is_sqlite:
        pytest.skip("PostgreSQL has no such choice")
    with db.read() as connection:
        table = connection.scalar(sa.text("SELECT sql FROM sqlite_schema WHERE name = 'inbox'"))
    assert table.rstrip().endswith("WITHOUT ROWID")


def test_failures_that_are_over_are_forgotten_and_dead_letters_never(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, dead = bad(), {**an_event(), "data": None}
    assert outcomes(db, over, dead) == ["retry", "dead"]
    inbox.trim(db)
    assert len(failures(db)) == 2
    monkeypatch.setattr(inbox, "KEEP_SECONDS", -1)
    inbox.trim(db)
    assert [row["event_id"] for row in failures(db)] == [dead["id"]]


# Dead letters ------------------------------------------------------------------------------------------------------


def dead_one(db: Database) -> dict[str, Any]:
    event = bad()
    for _ in range(5):
        outcomes(db, event)
    return event


def test_a_dead_letter_is_handled_again_when_it_is_replayed(db: Database) -> None:
    event = dead_one(db)
    assert Inbox(db, {Confirmed: lambda session, events: deposit(session)}).replay(event["id"]) == "done"
    assert balance(db) == 1
    assert failures(db) == []


def test_a_dead_letter_that_still_fails_stays_dead(db: Database) -> None:
    event = dead_one(db)
    assert Inbox(db, {Confirmed: count}).replay(event["id"]) == "dead"
    assert failures(db)[0]["attempts"] == 6


def test_a_dead_letter_that_was_refused_stays_dead_whatever_a_replay_brings(db: Database) -> None:
    """Otherwise it would be neither retried nor listed."""
    event = {**an_event(), "data": None}
    assert outcomes(db, event) == ["dead"]
    with db.write() as session:
        session.execute(sa.update(dead_letters.failures).values(body=json.dumps({**event, **bad(id=event["id"])})))
    assert Inbox(db, {Confirmed: count}).replay(event["id"]) == "dead"
    with db.read() as connection:
        assert dead_letters.count(connection) == 1


@pytest.mark.parametrize("event", [{}, {"id": ""}, {"id": 1.5}, {"id": Decimal("1.50")}, None, {"id": "x" * 65}])
def test_a_dead_letter_without_an_id_stays_one_when_it_is_replayed_or_comes_again(db: Database, event: Any) -> None:
    for _ in range(2):
        assert outcomes(db, event) == ["dead"]
        (row,) = failures(db)
        assert Inbox(db, {Confirmed: count}).replay(row["event_id"]) == "dead"
    assert [row["attempts"] for row in failures(db)] == [4]


def test_what_finds_no_room_among_the_dead_letters_stays_with_its_sender(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_FAILURES", 2)
    first, second, third = ({**an_event(), "data": None} for _ in range(3))
    assert outcomes(db, first, second, third) == ["dead", "dead", "retry"]
    # One that is already stored needs no further space.
    assert outcomes(db, {**first, "type": "x"}) == ["dead"]
    assert dead_letters.discard(db, first["id"])
    assert outcomes(db, third) == ["dead"]


def test_dead_letters_have_a_bound_of_bytes(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MAX_BYTES_KEPT", 3000)
    events = [{**an_event(), "data": "x" * 2000} for _ in range(3)]
    assert outcomes(db, *events) == ["dead", "dead", "retry"]


def test_of_a_letter_that_is_larger_than_any_event_the_beginning_is_kept(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "MAX_BYTES", 3000)
    event = {**an_event(), "data": "x" * 5000}
    assert outcomes(db, event) == ["dead"]
    (row,) = failures(db)
    assert len(row["body"]) < 3000
    assert Inbox(db, {Confirmed: count}).replay(row["event_id"]) == "dead"
    assert len(failures(db)) == 1


def test_a_replay_of_what_was_done_meanwhile_changes_nothing(db: Database) -> None:
    event = dead_one(db)
    with db.write() as session:
        session.execute(sa.insert(inbox.inbox).values(event_id=event["id"], handled_at=time.time()))
        deposit(session)
    assert Inbox(db, {Confirmed: lambda session, events: deposit(session)}).replay(event["id"]) == "duplicate"
    assert balance(db) == 1
    assert failures(db) == []


def test_what_is_no_dead_letter_is_neither_replayed_nor_discarded(db: Database) -> None:
    event = bad()
    outcomes(db, event)
    assert Inbox(db, {Confirmed: count}).replay(event["id"]) is None
    assert dead_letters.discard(db, event["id"]) is False
    assert Inbox(db, {Confirmed: count}).replay("none") is None


def test_a_discarded_letter_is_gone(db: Database) -> None:
    event = dead_one(db)
    with db.read() as connection:
        assert dead_letters.count(connection) == 1
    assert dead_letters.discard(db, event["id"]) is True
    with db.read() as connection:
        assert dead_letters.count(connection) == 0
