"""Events over a real RabbitMQ: each published event arrives and takes effect once, and a failing one blocks no others."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import amqp
import orjson
import pytest
import sqlalchemy as sa
from amqp import Message
from flask import Flask

from demo.api import eventually
from libs.common.app import Service
from libs.common.config import Settings
from libs.common.data.database import Database
from libs.common.errors import DependencyUnavailable, Overloaded
from libs.common.events import broker, dead_letters, inbox, outbox
from libs.common.events.broker import EVENT_JSON, Broker
from libs.common.events.courier import Courier
from libs.common.events.event import Event, envelope
from libs.common.events.outbox import BROKER, Relay
from libs.common.ids import new_id
from libs.common.web.routes import Routes
from libs.topology import SERVICES, SUBSCRIPTIONS
from tests.engines import consumers
from tests.engines.consumers import Ping, Seen, channel, consumer, count, publish, relay, running, waiting
from tests.engines.servers import RabbitMQ
from tests.integration.libs.events import Confirmed

pytestmark = [pytest.mark.rabbitmq, pytest.mark.postgres]


@pytest.fixture
def url(rabbitmq: RabbitMQ) -> Iterator[str]:
    consumers.empty(rabbitmq.url)
    yield rabbitmq.url


def a_ping(number: int, subject: str = "") -> Ping:
    return Ping(subject_id=subject or subject_of(number), number=number)


def subject_of(number: int) -> str:
    return str(UUID(int=number))


def put(url: str, event: Event, **given: Any) -> str:
    """Put an event into the order service's queue as a publisher would; its id."""
    wrapped = {**envelope(event, "user"), **given}
    with channel(url) as opened:
        message = Message(orjson.dumps(wrapped).decode(), content_type=EVENT_JSON, delivery_mode=2)
        opened.basic_publish(message, exchange="quintet.events", routing_key=event.TYPE)
    return str(wrapped["id"])


# Publishing --------------------------------------------------------------------------------------------------------


def test_an_event_reaches_the_queue_of_each_subscriber_and_no_other(db: Database, url: str) -> None:
    publish(db, Confirmed(order_id=new_id()), service="order")
    with relay(db, url):
        assert eventually(lambda: waiting(db) == 0, 10)
    found = {service: count(url, service) for service in SERVICES}
    assert found == {service: int(service in SUBSCRIPTIONS["order.confirmed.v1"]) for service in SERVICES}


def test_a_message_is_a_cloud_event_in_structured_mode_and_durable(db: Database, url: str) -> None:
    publish(db, a_ping(1))
    with relay(db, url):
        assert eventually(lambda: waiting(db) == 0, 10)
    with channel(url) as opened:
        message = opened.basic_get("order", no_ack=True)
    assert message.properties["content_type"] == "application/cloudevents+json"
    assert message.properties["delivery_mode"] == 2
    event = orjson.loads(message.body)
    assert (event["specversion"], event["type"], event["subject"]) == ("1.0", "user.created.v1", subject_of(1))


def test_an_event_that_no_queue_takes_comes_back_and_stays_in_the_outbox(db: Database, url: str) -> None:
    publish(db, a_ping(1), Confirmed(order_id=new_id()))
    publisher, leases = Broker(url, "user", None), Relay(db, BROKER)
    publisher.send([])
    with channel(url) as opened:
        opened.queue_unbind("order", "quintet.events", Ping.TYPE)
    sent, again = publisher.send(leases.exchange())
    publisher.close()
    leases.exchange(sent, again, limit=0)
    assert [orjson.loads(each.body)["type"] for each in again] == [Ping.TYPE]
    with db.write() as session:
        [row] = session.execute(sa.select(outbox.outbox)).all()
        assert (row.subject, row.attempts) == (subject_of(1), 1)
        session.execute(sa.update(outbox.outbox).values(due_at=0.0))  # without the pause
    with relay(db, url):  # it declares the binding again
        assert eventually(lambda: (waiting(db), count(url, "order")) == (0, 1))


def test_every_queue_is_there_before_its_consumer_has_ever_started(db: Database, rabbitmq: RabbitMQ) -> None:
    consumers.wipe(rabbitmq.url)
    publish(db, a_ping(1))
    with relay(db, rabbitmq.url):
        assert eventually(lambda: waiting(db) == 0, 20)
    assert count(rabbitmq.url, "order") == 1
    assert [count(rabbitmq.url, queue) for queue in consumers.all_queues() if queue != "order"] == [0] * 29
    seen = Seen()
    with consumer(db, rabbitmq.url, seen):
        assert eventually(lambda: seen.numbers == [1], 10)


def test_a_process_has_one_connection_however_many_threads_use_it(
    db: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    connect = amqp.Connection.connect
    monkeypatch.setattr(amqp.Connection, "connect", lambda self, *a: (opened.append(1), connect(self, *a))[1])
    publish(db, *[a_ping(n) for n in range(300)])
    seen = Seen()
    service = Broker(url, "order", inbox.Inbox(db, {Ping: lambda session, events: seen(events)}))
    with running(service, *[Courier(Relay(db, BROKER), service.send) for _ in range(3)]):
        assert eventually(lambda: set(seen.numbers) == set(range(300)), 20), len(set(seen.numbers))
    assert len(opened) == 1


def test_many_relays_share_the_work_and_keep_the_order_of_each_subject(db: Database, url: str) -> None:
    subjects, each = 400, 3
    shares: Counter[int] = Counter()
    with ExitStack() as relays:
        for number in range(4):
            _count_sent(relays.enter_context(relay(db, url)), number, shares)
        publish(db, *[a_ping(n, subject_of(s)) for n in range(each) for s in range(subjects)])
        assert eventually(lambda: waiting(db) == 0, 30)
    arrived: dict[str, list[int]] = {}
    with channel(url) as opened:
        while message := opened.basic_get("order", no_ack=True):
            data = orjson.loads(message.body)["data"]
            arrived.setdefault(data["subject_id"], []).append(data["number"])
    assert arrived == {subject_of(s): list(range(each)) for s in range(subjects)}
    assert len([share for share in shares.values() if share]) >= 2


def _count_sent(one: Broker, number: int, shares: Counter[int]) -> None:
    """Count the publications of this process from now on."""
    with one._lock:
        link = one._open()
    plain = link.publish

    def counted(*arguments: Any) -> int:
        shares[number] += 1
        return plain(*arguments)

    link.publish = counted  # type: ignore[method-assign]


# Consuming ---------------------------------------------------------------------------------------------------------


def test_events_are_handled_in_batches_and_acknowledged_after_their_effect(db: Database, url: str) -> None:
    publish(db, *[a_ping(n) for n in range(100)])
    with relay(db, url):
        assert eventually(lambda: waiting(db) == 0, 10)
    release, held = threading.Event(), threading.Event()

    def hold(event: Ping) -> None:
        held.set()
        assert release.wait(20)

    seen = Seen(hold)
    with consumer(db, url, seen) as broken:
        assert held.wait(10)
        broken._link._amqp.sock.shutdown(2)  # type: ignore[union-attr]  # as when the worker dies before its commit
        release.set()
        assert eventually(lambda: len(set(seen.numbers)) == 100, 20)
        assert eventually(lambda: count(url, "order") == 0, 10)
    assert len(seen.batches) < 20
    with db.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(inbox.inbox)) == 100


def test_what_is_delivered_twice_is_in_effect_once(db: Database, url: str) -> None:
    seen = Seen()
    with consumer(db, url, seen):
        event_id = put(url, a_ping(1))
        assert eventually(lambda: seen.numbers == [1], 10)
        put(url, a_ping(1), id=event_id)
        put(url, a_ping(2))
        assert eventually(lambda: 2 in seen.numbers, 10)
        assert eventually(lambda: count(url, "order") == 0, 10)
    assert sorted(seen.numbers) == [1, 2]


def test_what_fails_waits_longer_each_time_and_holds_up_nobody(db: Database, url: str) -> None:
    tries: list[float] = []

    def fail_twice(event: Ping) -> None:
        if event.number == 0:
            tries.append(time.monotonic())
            if len(tries) < 4:  # the first try was in the batch, the second alone
                raise ValueError("not yet")

    seen = Seen(fail_twice)
    publish(db, *[a_ping(n) for n in range(20)])
    started = time.monotonic()
    with relay(db, url), consumer(db, url, seen):
        assert eventually(lambda: set(range(1, 20)) <= set(seen.numbers), 10)
        neighbours = time.monotonic() - started
        assert 0 not in seen.numbers
        assert eventually(lambda: 0 in seen.numbers, 15)
    pauses = [round(later - earlier, 2) for earlier, later in zip(tries, tries[1:], strict=False)]
    assert max(pauses) >= 3.5
    assert sorted(pauses)[-2] >= 0.9
    assert neighbours < 5
    assert Counter(seen.numbers) == Counter(range(20))


def test_an_outage_of_the_database_counts_no_delivery_and_loses_nothing(
    db: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter([Overloaded(), DependencyUnavailable(), *[Overloaded() for _ in range(2)]])
    receive = inbox.Inbox.receive

    def fail(self: inbox.Inbox, envelopes: Any) -> Any:
        for fault in faults:
            raise fault
        return receive(self, envelopes)

    monkeypatch.setattr(inbox.Inbox, "receive", fail)
    monkeypatch.setattr("libs.common.background.MAX_PAUSE_SECONDS", 0.1)
    connections: set[int] = set()
    seen = Seen()
    put(url, a_ping(1))
    with consumer(db, url, seen) as kept:
        assert eventually(lambda: connections.add(id(kept._link)) or seen.numbers == [1], 20)
    assert len(connections - {id(None)}) == 1
    assert count(url, "order") == 0


def test_what_is_no_event_is_a_dead_letter_at_once(db: Database, url: str) -> None:
    with channel(url) as opened:
        for body in (b"\xff\xfe", b"nonsense", b"[1]"):
            opened.basic_publish(Message(body), exchange="quintet.events", routing_key=Ping.TYPE)
    seen = Seen()
    with consumer(db, url, seen):
        put(url, a_ping(1))
        assert eventually(lambda: seen.numbers == [1], 10)
        assert eventually(lambda: _dead(db) == 3, 10)


def _dead(db: Database) -> int:
    with db.read() as session:
        return dead_letters.count(session)


# Dead letters ------------------------------------------------------------------------------------------------------


class Shop:
    """A service with one handler, whose fault can be removed."""

    def __init__(self, settings: Settings):
        self.broken = True
        self.seen = Seen(self._effect)
        self.service = Service(settings, "order_service")
        self.service.handle({Ping: lambda session, events: self.seen(events)})
        self.app = self.service.serve(Routes(), description="A trial.")

    def _effect(self, event: Ping) -> None:
        if self.broken and event.number == 13:
            raise ZeroDivisionError("a fault of ours")


def test_a_poison_message_is_retried_dead_shown_replayed_after_the_fix_and_stops_no_neighbour(
    new_database: Callable[..., str], url: str, make_settings: Callable[..., Settings],
    run_app: Callable[[Flask], Flask], command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(broker, "RETRY_SECONDS", (1,))
    database = new_database("order_service")
    shop = Shop(make_settings("order", database_url=database, broker_url=url))
    app = run_app(shop.app)
    shop.service.start()
    poison, spoiled = put(url, a_ping(13)), put(url, a_ping(13))
    for number in (1, 2, 3):
        put(url, a_ping(number))
    assert eventually(lambda: sorted(shop.seen.numbers) == [1, 2, 3])
    assert eventually(lambda: _dead(shop.service.db) == 2, 20)

    status, listed = command(app, "dlq", "list")
    assert status == 0
    assert sorted(line.split("  ")[:3] for line in listed.splitlines()) == sorted(
        [each, Ping.TYPE, "5 attempts"] for each in (poison, spoiled)
    )
    assert "ZeroDivisionError" in command(app, "dlq", "show", poison)[1]
    health = app.test_client().get("/health").get_json()
    assert (health["status"], health["checks"]["events"]["dead_letters"]) == ("degraded", 2)
    assert b"\ndead_letters 2.0" in app.test_client().get("/metrics").data

    assert command(app, "dlq", "replay", poison)[0] == 1
    shop.broken = False
    assert command(app, "dlq", "replay", poison) == (0, f"{poison}  done\n")
    assert command(app, "dlq", "discard", spoiled) == (0, f"{spoiled}  discarded\n")
    assert command(app, "dlq", "list") == (0, "")
    assert sorted(shop.seen.numbers) == [1, 2, 3, 13]


def test_an_event_that_kills_its_consumer_is_given_up_and_its_neighbours_are_not(
    db: Database, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "DELIVERY_LIMIT", consumers.DELIVERY_LIMIT)
    consumers.wipe(rabbitmq.url)
    consumers.empty(rabbitmq.url)
    deadly = put(rabbitmq.url, a_ping(13))
    for number in (1, 2, 3):
        put(rabbitmq.url, a_ping(number))
    database = db.url.render_as_string(hide_password=False)
    victims = [sys.executable, "-m", "tests.engines.victim", rabbitmq.url, database]
    killed = int(subprocess.run(victims, check=True, capture_output=True, text=True, timeout=60).stdout)
    seen = Seen()
    with consumer(db, rabbitmq.url, seen):
        put(rabbitmq.url, a_ping(4))
        assert eventually(lambda: 4 in seen.numbers, 10)
    with db.read() as session:
        [letter] = dead_letters.find_all(session)
        assert session.scalar(sa.select(sa.func.count()).select_from(inbox.inbox)) == 4
    assert letter.event_id == deadly
    assert "given up by the broker" in letter.error
    assert killed == consumers.DELIVERY_LIMIT + 1
    consumers.wipe(rabbitmq.url)  # its queues have another delivery limit


# Outages -----------------------------------------------------------------------------------------------------------


def test_when_rabbitmq_is_killed_nothing_is_lost_and_both_sides_come_back_by_themselves(
    db: Database, url: str, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    with relay(db, url), relay(db, url), consumer(db, url, seen), consumer(db, url, seen):
        for number in range(200):
            publish(db, a_ping(number, subject_of(number % 7)))
        assert eventually(lambda: len(seen.numbers) > 20, 20)
        rabbitmq.kill()
        for number in range(200, 400):
            publish(db, a_ping(number, subject_of(number % 7)))
        rabbitmq.start()
        assert eventually(lambda: set(seen.numbers) == set(range(400)), 60)
        assert eventually(lambda: waiting(db) == 0, 10)
    with db.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(inbox.inbox)) == 400
    failed = [record for record in caplog.records if record.message == "background.failed"]
    assert 1 < len(failed) < 100  # with growing pauses
