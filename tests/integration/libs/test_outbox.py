import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import orjson
import pytest
import sqlalchemy as sa

from libs.common import context
from libs.common.data.database import Database, Owner
from libs.common.data.statements import epoch
from libs.common.events import outbox
from libs.common.events.event import MAX_BYTES
from libs.common.events.outbox import Claimed, EventTooLarge, Relay, pending, targets
from tests.integration.libs.events import Confirmed, Created, Delivered
from tests.processes import Workers, together

rows = outbox.outbox


@pytest.fixture(autouse=True)
def owner(db: Database) -> Owner:
    db.owner.service = "order"
    return db.owner


def publish(db: Database, *events: Any) -> None:
    with db.write() as session:
        outbox.add(session, *events)


def contents(claimed: list[Claimed]) -> list[tuple[str, int]]:
    """The subject and the number of each event."""
    data = [orjson.loads(row.body)["data"] for row in claimed]
    return [(d["order_id"], d["number"]) for d in data]


def sent(relay: Relay, claimed: list[Claimed]) -> list[Claimed]:
    """Mark them as sent, and claim the next ones."""
    return relay.exchange(sent=[row.seq for row in claimed])


def stored(db: Database) -> list[Any]:
    with db.read() as connection:
        return list(connection.execute(sa.select(rows).order_by(rows.c.seq)).mappings())


def change(db: Database, **values: Any) -> None:
    with db.write() as session:
        session.execute(sa.update(rows).values(**values))


# Storing -----------------------------------------------------------------------------------------------------------


def test_an_event_is_stored_for_each_of_its_subscribers(db: Database) -> None:
    context.begin(1, request_id="req-1")
    publish(db, Confirmed(order_id="o-1"), Delivered(order_id="o-1"))
    assert [(r["subscriber"], r["subject"]) for r in stored(db)] == [
        ("notification", "o-1"),
        ("analytics", "o-1"),
        ("analytics", "o-1"),
    ]
    first, second, _ = (orjson.loads(row["body"]) for row in stored(db))
    # The same event for both, so that its id means the same to everyone.
    assert first == second
    assert (first["type"], first["source"], first["correlationid"]) == ("order.confirmed.v1", "/order_service", "req-1")


def test_an_event_that_nobody_reads_is_not_stored(db: Database, owner: Owner) -> None:
    woken: list[int] = []
    owner.loops = {"relay to order": lambda: woken.append(1)}
    publish(db, Created(order_id="p-1"))
    assert stored(db) == []
    assert woken == []


def test_an_event_of_a_transaction_that_failed_was_never_there(db: Database, owner: Owner) -> None:
    woken: list[int] = []
    owner.loops = {"relay to analytics": lambda: woken.append(1)}
    with pytest.raises(ValueError, match="stop"), db.write() as session:
        outbox.add(session, Confirmed(order_id="o-1"))
        raise ValueError("stop")
    assert stored(db) == []
    assert woken == []


def test_a_commit_wakes_the_relays_that_it_concerns_once(db: Database, owner: Owner) -> None:
    woken: list[str] = []
    for name in ("analytics", "notification", "product"):
        owner.loops[f"relay to {name}"] = partial(woken.append, name)
    with db.write() as session:
        outbox.add(session, Confirmed(order_id="o-1"))
        outbox.add(session, Delivered(order_id="o-1"))
        assert woken == []
    assert sorted(woken) == ["analytics", "notification"]


def test_an_event_that_no_request_takes_is_refused_with_its_change(db: Database) -> None:
    """It would block its subject for ever."""
    publish(db, Delivered(order_id="a"))
    spare = MAX_BYTES - len(stored(db)[0]["body"]) - 2
    publish(db, Delivered(order_id="a", note="x" * spare))
    with pytest.raises(EventTooLarge):
        publish(db, Delivered(order_id="b"), Delivered(order_id="a", note="x" * (spare + 1)))
    assert len(stored(db)) == 2


# Claiming ----------------------------------------------------------------------------------------------------------


def test_the_rows_of_a_subject_are_claimed_together_and_in_order(db: Database) -> None:
    publish(db, *[Delivered(order_id=order_id, number=n) for n in (1, 2) for order_id in ("a", "b", "c")])
    relay = Relay(db, "analytics")
    assert contents(relay.exchange()) == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("c", 2)]
    assert relay.exchange() == []


def test_a_row_is_not_claimed_without_the_older_rows_of_its_subject(db: Database) -> None:
    publish(db, *[Delivered(order_id=order_id, number=n) for n in (1, 2, 3) for order_id in ("a", "b")])
    first, second = Relay(db, "analytics"), Relay(db, "analytics")
    mine = first.exchange(limit=3)
    assert contents(mine) == [("a", 1), ("b", 1), ("a", 2)]
    # A relay that overtakes another would claim the last rows of both.
    assert second.exchange() == []
    assert contents(sent(first, mine)) == [("b", 2), ("a", 3), ("b", 3)]


def test_a_claim_is_bounded(db: Database) -> None:
    publish(db, *[Delivered(order_id=str(n), number=n) for n in range(10)])
    relay = Relay(db, "analytics")
    batch = relay.exchange(limit=3)
    seen = []
    while batch:
        assert len(batch) <= 3
        seen += contents(batch)
        batch = relay.exchange(sent=[row.seq for row in batch], limit=3)
    assert seen == [(str(n), n) for n in range(10)]


def test_what_another_relay_holds_is_not_claimed(db: Database) -> None:
    publish(db, Delivered(order_id="a", number=1), Delivered(order_id="a", number=2), Delivered(order_id="b"))
    first, second = Relay(db, "analytics"), Relay(db, "analytics")
    mine = first.exchange(limit=1)
    assert contents(mine) == [("a", 1)]
    # Nothing of "a", although its second event is free: it would overtake the first.
    assert contents(second.exchange()) == [("b", 0)]
    assert sent(first, mine) != []


def test_a_subscriber_that_is_down_holds_up_nobody_else(db: Database) -> None:
    publish(db, *[Confirmed(order_id="a", number=n) for n in range(3)])
    down, up = Relay(db, "notification"), Relay(db, "analytics")
    assert down.exchange()
    batch, seen = up.exchange(), []
    while batch:
        seen += contents(batch)
        batch = sent(up, batch)
    assert seen == [("a", 0), ("a", 1), ("a", 2)]


def test_what_was_sent_is_gone(db: Database) -> None:
    publish(db, Delivered(order_id="a"))
    relay = Relay(db, "analytics")
    assert sent(relay, relay.exchange()) == []
    assert stored(db) == []


def test_what_was_given_back_can_be_claimed_at_once(db: Database) -> None:
    publish(db, Delivered(order_id="a"))
    first, second = Relay(db, "analytics"), Relay(db, "analytics")
    assert first.exchange(back=[row.seq for row in first.exchange()], limit=0) == []
    assert contents(second.exchange()) == [("a", 0)]


# A long backlog ----------------------------------------------------------------------------------------------------

LONG_SUBJECT = 20_000
CLAIM_SECONDS = 4.0
"""Seconds. The statement timeout of PostgreSQL is five; a claim takes some milliseconds."""


def fill(db: Database, subjects: Iterable[str], **values: Any) -> None:
    """Rows for one subscriber; the number of each is its place."""
    bodies = [
        (subject, orjson.dumps({"data": {"order_id": subject, "number": n}}).decode())
        for n, subject in enumerate(subjects)
    ]
    given = {"subscriber": "analytics", "created_at": 0.0, **values}
    with db.write() as session:
        session.execute(sa.insert(rows), [{"subject": subject, "body": body, **given} for subject, body in bodies])


def drained(db: Database) -> list[tuple[str, int]]:
    """Send everything; checks that every claim takes a full batch, and in time."""
    relay = Relay(db, "analytics")
    seen: list[tuple[str, int]] = []
    batch = relay.exchange(limit=0)
    while len(seen) < LONG_SUBJECT:
        began = time.monotonic()
        batch = sent(relay, batch)
        assert time.monotonic() - began < CLAIM_SECONDS, f"after {len(seen)} rows"
        assert len(batch) == 100, f"after {len(seen)} rows"
        seen += contents(batch)
    assert sent(relay, batch) == []
    return seen


def test_a_subject_with_many_rows_is_drained_in_order_and_in_time(db: Database) -> None:
    fill(db, ["a"] * LONG_SUBJECT)
    assert drained(db) == [("a", n) for n in range(LONG_SUBJECT)]


def test_a_subject_with_many_rows_among_others_is_drained_in_order_and_in_time(db: Database) -> None:
    subjects = ["a" if n % 4 else f"o-{n % 1000}" for n in range(LONG_SUBJECT)]
    fill(db, subjects)
    assert drained(db) == [(subject, n) for n, subject in enumerate(subjects)]


def test_a_long_subject_that_waits_holds_up_no_other(db: Database) -> None:
    fill(db, ["a"] * (3 * outbox.WINDOW))
    fill(db, ["b", "a", "b"])
    relay = Relay(db, "analytics")
    first = relay.exchange(limit=1)
    relay.exchange(again=first, limit=0)
    assert contents(relay.exchange()) == [("b", 0), ("b", 2)]


# Leases ------------------------------------------------------------------------------------------------------------


def test_the_lease_of_a_relay_that_died_runs_out(db: Database) -> None:
    publish(db, Delivered(order_id="a"))
    dead, alive = Relay(db, "analytics"), Relay(db, "analytics")
    assert dead.exchange()
    assert alive.exchange() == []
    change(db, lease_until=epoch() - 0.001)
    assert contents(alive.exchange()) == [("a", 0)]


def test_a_lease_lasts_its_time_by_the_clock_of_the_database(db: Database) -> None:
    publish(db, Delivered(order_id="a"))
    assert Relay(db, "analytics").exchange()
    assert 29 < stored(db)[0]["lease_until"] - time.time() < 31


@pytest.mark.parametrize("mark", ["sent", "again", "back"])
def test_a_relay_that_was_away_too_long_cannot_mark_what_another_has_taken_over(db: Database, mark: str) -> None:
    publish(db, Delivered(order_id="a"))
    slow, other = Relay(db, "analytics"), Relay(db, "analytics")
    (row,) = slow.exchange()
    change(db, lease_until=0.0)
    assert other.exchange()
    before = stored(db)
    slow.exchange(**{mark: [row] if mark == "again" else [row.seq]}, limit=0)
    assert stored(db) == before


@pytest.mark.parametrize("column", ["lease_until", "due_at"])
def test_a_clock_that_was_set_back_holds_nothing_up(db: Database, column: str) -> None:
    """Times far ahead were written before the clock was set back."""
    publish(db, Delivered(order_id="a"))
    change(db, **{column: epoch() + 3600.0})
    assert contents(Relay(db, "analytics").exchange()) == [("a", 0)]


# Trying again ------------------------------------------------------------------------------------------------------


def test_what_the_subscriber_wants_again_waits_longer_each_time(db: Database) -> None:
    publish(db, Delivered(order_id="a"))
    relay = Relay(db, "analytics")
    delays = []
    for attempt in range(12):
        (row,) = relay.exchange()
        assert row.attempts == attempt
        assert relay.exchange(again=[row]) == []
        delays.append(round(stored(db)[0]["due_at"] - time.time(), 1))
        change(db, due_at=0.0)
    expected = [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]
    assert all(abs(delay - about) < 0.9 for delay, about in zip(delays, expected, strict=True))


def test_what_waits_to_be_tried_again_holds_up_its_subject_and_no_other(db: Database) -> None:
    publish(db, *[Delivered(order_id=order_id, number=n) for n in (1, 2) for order_id in ("a", "b")])
    relay = Relay(db, "analytics")
    bad, good = relay.exchange(limit=2)
    assert contents(relay.exchange(sent=[good.seq], again=[bad])) == [("b", 2)]
    change(db, due_at=0.0)
    assert contents(Relay(db, "analytics").exchange()) == [("a", 1), ("a", 2)]


def test_what_waits_is_free_and_not_leased(db: Database) -> None:
    publish(db, Delivered(order_id="a"))
    relay = Relay(db, "analytics")
    relay.exchange(again=relay.exchange(), limit=0)
    (row,) = stored(db)
    assert (row["lease_token"], row["lease_until"], row["attempts"]) == (None, 0.0, 1)


# Several relays ----------------------------------------------------------------------------------------------------


def drain(url: str) -> list[tuple[str, int, float, float]]:
    """Send until nothing is left; returns subject, number, and start and end of the send."""
    db = Database(url)
    relay = Relay(db, "analytics")
    log: list[tuple[str, int, float, float]] = []
    # Connecting takes longer than sending all of them.
    relay.exchange(limit=0)
    together()
    batch = relay.exchange(limit=7)
    while True:
        began = time.monotonic()
        time.sleep(0.001)
        ended = time.monotonic()
        log += [(subject, number, began, ended) for subject, number in contents(batch)]
        batch = relay.exchange(sent=[row.seq for row in batch], limit=7)
        if not batch:
            with db.read() as connection:
                if not pending(connection):
                    db.dispose()
                    return log


def is_in_turn(entries: list[tuple[str, int, float, float]]) -> bool:
    """Whether each event was sent in one batch with the one before it, or after the send of that one had ended."""
    return all(
        earlier[2:] == later[2:] or earlier[3] <= later[2] for earlier, later in zip(entries, entries[1:], strict=False)
    )


def test_relays_of_several_processes_share_the_rows_and_never_overtake(
    db: Database, database_url: str, workers: Workers
) -> None:
    for number in range(5):
        publish(db, *[Delivered(order_id=f"o-{n}", number=number) for n in range(30)])
    logs = workers.race(drain, *[(database_url,)] * 3)
    everything = sorted((entry for log in logs for entry in log), key=lambda entry: entry[2])
    assert sorted(entry[:2] for entry in everything) == sorted(
        (f"o-{n}", number) for n in range(30) for number in range(5)
    )
    for n in range(30):
        mine = [entry for entry in everything if entry[0] == f"o-{n}"]
        assert [entry[1] for entry in mine] == list(range(5))
        assert is_in_turn(mine)
    # Without a race one process would do it all.
    assert len([log for log in logs if log]) > 1


def test_relays_that_split_the_rows_of_a_subject_never_overtake(
    db: Database, database_url: str, workers: Workers
) -> None:
    publish(db, *[Delivered(order_id=f"o-{n % 10}", number=n // 10) for n in range(400)])
    logs = workers.race(drain, *[(database_url,)] * 3)
    everything = sorted((entry for log in logs for entry in log), key=lambda entry: entry[2])
    for n in range(10):
        mine = [entry for entry in everything if entry[0] == f"o-{n}"]
        assert [entry[1] for entry in mine] == list(range(40))
        assert is_in_turn(mine)
    assert len([log for log in logs if log]) > 1


# What people are shown ---------------------------------------------------------------------------------------------


def test_pending_tells_how_many_wait_and_how_long_the_oldest_has(db: Database) -> None:
    publish(db, Confirmed(order_id="a"), Delivered(order_id="a"))
    with db.write() as session:
        session.execute(sa.update(rows).where(rows.c.subscriber == "analytics").values(created_at=epoch() - 100.0))
    with db.read() as connection:
        found = pending(connection)
    assert {name: count for name, (count, _) in found.items()} == {"analytics": 2, "notification": 1}
    assert 99 < found["analytics"][1] < 110
    assert 0 <= found["notification"][1] < 10


def test_without_rows_nothing_is_pending(db: Database) -> None:
    with db.read() as connection:
        assert pending(connection) == {}


def test_a_service_sends_to_those_who_read_what_it_publishes() -> None:
    assert targets("order", has_broker=False) == ["analytics", "notification", "product"]
    assert targets("user", has_broker=False) == ["notification", "order"]
    assert targets("product", has_broker=False) == []


def test_with_a_broker_only_that_is_sent_to_and_older_rows_still_find_their_way(db: Database, owner: Owner) -> None:
    owner.has_broker = True
    publish(db, Confirmed(order_id="o-1"))
    with db.read() as connection:
        assert pending(connection).keys() == {outbox.BROKER}
    assert targets("order", has_broker=True) == [outbox.BROKER, "analytics", "notification", "product"]
