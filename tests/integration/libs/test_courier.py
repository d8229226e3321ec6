"""How events leave the outbox, independent of the transport."""

import threading
import time
from collections.abc import Callable

import orjson
import pytest

from libs.common import context
from libs.common.background import Loop
from libs.common.data.database import Database
from libs.common.errors import DependencyUnavailable
from libs.common.events import outbox
from libs.common.events.courier import Courier
from libs.common.events.event import MAX_BYTES, MAX_EVENTS
from libs.common.events.outbox import Claimed, Relay
from tests.integration.libs.events import Delivered


@pytest.fixture(autouse=True)
def owner(db: Database) -> None:
    db.owner.service = "order"


def publish(db: Database, count: int) -> None:
    """Events of as many subjects, of one length each."""
    with db.write() as session:
        outbox.add(session, *[Delivered(order_id=f"{n:04}") for n in range(count)])


class Sender:
    """Accepts every event, unless a test configures it otherwise."""

    def __init__(self, judge: Callable[[list[Claimed]], tuple[list[int], list[Claimed]]] | None = None):
        self.batches: list[list[str]] = []
        self._judge = judge or (lambda batch: ([row.seq for row in batch], []))

    def __call__(self, batch: list[Claimed]) -> tuple[list[int], list[Claimed]]:
        self.batches.append([orjson.loads(row.body)["subject"] for row in batch])
        return self._judge(batch)


def run(courier: Courier) -> None:
    """Call the step of the loop until there is nothing more to do."""
    while courier.step():
        pass


def left(db: Database) -> int:
    with db.read() as connection:
        return outbox.pending(connection).get("analytics", (0, 0.0))[0]


def test_everything_that_is_due_is_sent_in_order(db: Database) -> None:
    publish(db, 250)
    sender = Sender()
    run(Courier(Relay(db, "analytics"), sender))
    assert [subject for batch in sender.batches for subject in batch] == [f"{n:04}" for n in range(250)]
    assert max(len(batch) for batch in sender.batches) == MAX_EVENTS
    assert left(db) == 0


def test_with_nothing_to_send_nobody_is_called(db: Database) -> None:
    sender = Sender()
    assert Courier(Relay(db, "analytics"), sender).step() == 0
    assert sender.batches == []


def test_what_is_too_much_for_one_request_goes_in_several(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(db, 10)
    relay = Relay(db, "analytics")
    (row,) = relay.exchange(limit=1)
    relay.exchange(back=[row.seq], limit=0)
    monkeypatch.setattr("libs.common.events.courier.MAX_BYTES", 3 * (len(row.body) + 1) + 2)
    sender = Sender()
    run(Courier(relay, sender))
    assert [len(batch) for batch in sender.batches] == [3, 3, 3, 1]
    assert left(db) == 0


def test_an_event_that_is_too_large_by_itself_goes_alone(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(db, 3)
    monkeypatch.setattr("libs.common.events.courier.MAX_BYTES", 10)
    sender = Sender()
    run(Courier(Relay(db, "analytics"), sender))
    assert [len(batch) for batch in sender.batches] == [1, 1, 1]
    assert MAX_BYTES == 512 * 1024


def test_what_is_wanted_again_stays_and_the_rest_goes(db: Database) -> None:
    publish(db, 3)
    sender = Sender(lambda batch: ([row.seq for row in batch[1:]], batch[:1]))
    run(Courier(Relay(db, "analytics"), sender))
    assert sender.batches == [["0000", "0001", "0002"]]
    assert left(db) == 1


@pytest.mark.parametrize("fault", [DependencyUnavailable, ValueError, KeyboardInterrupt])
def test_when_the_sending_fails_everything_is_given_back_at_once(db: Database, fault: type[BaseException]) -> None:
    publish(db, 150)

    def fail(batch: list[Claimed]) -> tuple[list[int], list[Claimed]]:
        raise fault

    with pytest.raises(fault):
        Courier(Relay(db, "analytics"), Sender(fail)).step()
    assert len(Relay(db, "analytics").exchange(limit=200)) == 150


def test_a_backlog_of_hours_is_not_cut_short_by_one_deadline(db: Database) -> None:
    """Each send has the whole deadline of a step, however many went before it."""
    publish(db, 1500)
    times: list[float] = []
    done = threading.Event()

    def slowly(batch: list[Claimed]) -> tuple[list[int], list[Claimed]]:
        work = context.current()
        assert work
        times.append(work.seconds_left())
        time.sleep(0.1)
        if len(times) == 15:
            done.set()
        return [row.seq for row in batch], []

    loop = Loop("relay", Courier(Relay(db, "analytics"), slowly).step, interval_seconds=60, deadline_seconds=1.0)
    loop.start()
    assert done.wait(20)
    loop.stop()
    loop.join(5)
    assert min(times) > 0


def test_a_loop_that_is_stopped_within_a_backlog_stops_and_hands_back_its_leases(db: Database) -> None:
    publish(db, 1000)
    sending, go_on = threading.Event(), threading.Event()

    def slowly(batch: list[Claimed]) -> tuple[list[int], list[Claimed]]:
        sending.set()
        assert go_on.wait(10)
        return [row.seq for row in batch], []

    courier = Courier(Relay(db, "analytics"), slowly)
    loop = Loop("relay", courier.step, interval_seconds=60, finish=courier.finish)
    loop.start()
    assert sending.wait(10)
    loop.stop()
    go_on.set()
    loop.join(5)
    # The events of the one send are done, and all others are released.
    assert left(db) == 900
    other = Relay(db, "analytics")
    assert sum(len(claimed) for claimed in iter(other.exchange, [])) == 900
