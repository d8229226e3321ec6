"""A rebuild makes the totals of the `World`, whatever happens meanwhile, and readers do not notice it."""

import random
import threading
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

import pytest
import sqlalchemy as sa
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_service import models, repository, use_cases
from analytics_service.clients import FakeServices
from analytics_service.events import FactEvent
from analytics_service.models import Superseded
from libs.common.data.database import Database
from libs.common.errors import DependencyUnavailable
from libs.common.events.inbox import Inbox
from tests.integration.analytics_service.world import (
    LIVES,
    World,
    empty,
    live,
    live_totals,
    notification_strategy,
    order_strategy,
)
from tests.web import Api, answered

Deliver = Callable[..., list[str]]


class BusyServices(FakeServices):
    """Calls a function while a page is in transit, so that the page is outdated when it arrives."""

    def __init__(self, world: World, meanwhile: Callable[[int], None]):
        super().__init__()
        self.items = {"order": world.orders, "notification": world.notifications}
        self.meanwhile, self.pages = meanwhile, 0

    def page(self, service: str, cursor: str | None) -> tuple[list[FactEvent], str | None]:
        found = super().page(service, cursor)
        self.pages += 1
        self.meanwhile(self.pages)
        return found


class Clock:
    """Stands in for the module `time`: a sleep advances the clock and returns at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


def rebuild(db: Database, services: FakeServices) -> list[str]:
    lines: list[str] = []
    use_cases.rebuild(db, services, lines.append)
    return lines


def generations_in_use(db: Database) -> set[int]:
    """The generations of all rows and totals, and those in `generations`."""
    with db.read() as connection:
        tables = (*models.TOTALS.values(), models.orders, models.notifications)
        found = {g for table in tables for g in connection.scalars(sa.select(table.c.generation).distinct())}
        return found | {g for g in connection.execute(sa.select(models.generations)).one()[1:] if g}


def a_world_with_all_lives(world: World) -> None:
    live(world, [(life, (1, 0, 2), "EUR") for life in LIVES] * 2, [("sent", 10, "email"), ("dead", 0, "log")] * 3)


def test_an_empty_database_is_filled(world: World, db: Database, services: FakeServices) -> None:
    a_world_with_all_lives(world)
    assert rebuild(db, services)
    assert live_totals(db) == world.expected()
    assert len(generations_in_use(db)) == 1


def test_totals_that_went_wrong_are_made_right(
    world: World, db: Database, services: FakeServices, deliver: Deliver
) -> None:
    a_world_with_all_lives(world)
    deliver()
    with db.write() as session:
        session.execute(sa.update(models.order_buckets).values(orders=7, revenue=Decimal(1)))
        session.execute(sa.delete(models.product_totals))
    rebuild(db, services)
    assert live_totals(db) == world.expected()


def test_what_its_service_does_not_know_any_more_is_gone(
    world: World, db: Database, services: FakeServices, deliver: Deliver, api: Api
) -> None:
    a_world_with_all_lives(world)
    deliver()
    del world.orders[::2], world.notifications[::2]
    lines = rebuild(db, services)
    assert live_totals(db) == world.expected()
    with db.read() as connection:
        kept = set(connection.scalars(sa.select(models.orders.c.id)))
    assert kept == {order["id"] for order in world.orders if order["status"] != "pending"}
    assert "outdated rows deleted" in lines[-1]


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_events_that_arrive_meanwhile_count_once(data: st.DataObject, db: Database, deliver: Deliver) -> None:
    """Some are delivered before, some while a page is in transit, some after; some pages are older than the event."""
    empty(db)
    world = World()

    def happen() -> None:
        live(
            world,
            data.draw(st.lists(order_strategy, max_size=3)),
            data.draw(st.lists(notification_strategy, max_size=2)),
        )
        for order in data.draw(st.lists(st.sampled_from(world.orders), max_size=2)) if world.orders else ():
            if order["status"] == "confirmed":
                world.step(order, data.draw(st.sampled_from(("cancelled", "shipped"))))
        world.events = data.draw(st.permutations(world.events))
        waiting = data.draw(st.integers(0, len(world.events)))
        deliver(world.events[waiting:])
        del world.events[waiting:]

    def meanwhile(page: int) -> None:
        if page < 5:
            happen()

    happen()
    rebuild(db, BusyServices(world, meanwhile))
    deliver(world.take_events())
    assert live_totals(db) == world.expected()
    assert len(generations_in_use(db)) == 1


def test_a_killed_rebuild_is_begun_anew(world: World, db: Database, deliver: Deliver) -> None:
    a_world_with_all_lives(world)
    deliver(world.events[::2])

    def kill(page: int) -> None:
        if page == 3:
            deliver()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(db, BusyServices(world, kill))
    assert live_totals(db) == world.expected()
    world.step(world.confirmed(3), "cancelled")
    deliver()
    assert live_totals(db) == world.expected()
    rebuild(db, BusyServices(world, lambda page: None))
    assert live_totals(db) == world.expected()
    assert len(generations_in_use(db)) == 1


def test_of_two_rebuilds_the_newest_one_counts(world: World, db: Database, deliver: Deliver) -> None:
    a_world_with_all_lives(world)
    deliver(world.events[::2])

    def begin_another(page: int) -> None:
        if page == 2:
            rebuild(db, BusyServices(world, lambda page: None))

    overtaken = BusyServices(world, begin_another)
    with pytest.raises(Superseded):
        rebuild(db, overtaken)
    assert overtaken.pages == 2
    deliver()
    assert live_totals(db) == world.expected()
    assert len(generations_in_use(db)) == 1


def test_one_that_was_overtaken_at_its_end_does_not_go_live(world: World, db: Database) -> None:
    world.confirmed(1)

    def begin_another(page: int) -> None:
        with db.write() as session:
            repository.open_generation(session)

    with pytest.raises(Superseded):
        rebuild(db, BusyServices(world, begin_another))
    with pytest.raises(Superseded), db.write() as session:
        repository.switch(session, 2)


def test_a_service_that_comes_back_is_waited_for(world: World, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    a_world_with_all_lives(world)
    monkeypatch.setattr(use_cases, "time", Clock())

    def be_away(page: int) -> None:
        if page in (2, 3):
            raise DependencyUnavailable

    rebuild(db, BusyServices(world, be_away))
    assert live_totals(db) == world.expected()


def test_one_that_stays_away_ends_it_and_changes_nothing(
    world: World, db: Database, deliver: Deliver, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_world_with_all_lives(world)
    deliver()
    services.down.add("notification")
    monkeypatch.setattr(use_cases, "time", Clock())
    with pytest.raises(DependencyUnavailable):
        rebuild(db, services)
    assert live_totals(db) == world.expected()


def test_the_pauses_become_longer_up_to_five_seconds_and_end_after_a_minute(
    db: Database, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.down.add("order")
    clock = Clock()
    monkeypatch.setattr(use_cases, "time", clock)
    monkeypatch.setattr(use_cases, "random", random.Random(1))
    with pytest.raises(DependencyUnavailable):
        rebuild(db, services)
    limits = [0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * len(clock.pauses)]
    assert all(0 <= pause <= limit for pause, limit in zip(clock.pauses, limits, strict=False))
    assert max(clock.pauses) > 3.2
    assert 60 <= clock.now < 65


def test_a_fault_that_is_no_problem_of_others_ends_it_at_once(
    world: World, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_world_with_all_lives(world)
    monkeypatch.setattr(use_cases, "time", clock := Clock())

    def fail(page: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rebuild(db, BusyServices(world, fail))
    assert clock.pauses == []


def test_much_is_deleted_in_small_transactions(
    world: World, db: Database, services: FakeServices, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_world_with_all_lives(world)
    deliver()
    world.orders.clear()
    monkeypatch.setattr(use_cases, "SWEEP_ROWS", 1)
    rebuild(db, services)
    assert live_totals(db) == world.expected()
    assert len(generations_in_use(db)) == 1


@pytest.mark.timeout(60)
def test_readers_and_writers_in_other_processes_notice_nothing(
    world: World, make_app: Callable[..., Flask], db: Database
) -> None:
    live(world, [(life, (1, 2, 0), "EUR") for life in LIVES] * 12, [("sent", 10, "email")] * 12)
    events = world.take_events()
    Inbox(db, use_cases.HANDLERS).receive(events[:60])
    over, faults = threading.Event(), []

    def at_work(work: Callable[[Database], None]) -> threading.Thread:
        service = make_app().extensions["quintet"]

        def run() -> None:
            try:
                work(service.db)
            except Exception as exc:
                faults.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def write(db: Database) -> None:
        mine = random.Random(1).sample(events, len(events))
        for start in range(0, len(mine), 3):
            outcomes = Inbox(db, use_cases.HANDLERS).receive(mine[start : start + 3])
            assert {one["outcome"] for one in outcomes} <= {"done", "duplicate"}

    def read(db: Database) -> None:
        most = 0
        while not over.is_set():
            with db.read() as connection:
                rows = repository.find_buckets(connection, "day", world_begins, models.bucket_start("day", world_ends))
            found = sum(row.orders for row in rows)
            assert found >= most
            most = found

    moments = [datetime.fromisoformat(order["created_at"]) for order in world.orders]
    world_begins, world_ends = models.bucket_start("day", min(moments)), max(moments)
    reader, writers = at_work(read), [at_work(write), at_work(write)]
    for _ in range(3):
        rebuild(db, BusyServices(world, lambda page: None))
    for thread in writers:
        thread.join()
    over.set()
    reader.join()
    assert not faults
    assert live_totals(db) == world.expected()


# The command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_its_progress(world: World, app: Flask, db: Database) -> None:
    a_world_with_all_lives(world)
    result = app.test_cli_runner().invoke(args=["rebuild"])
    assert result.exit_code == 0, result.output
    assert "orders: 8 after" in result.output
    assert "a second" in result.output
    assert "the new totals are live" in result.output
    assert live_totals(db) == world.expected()


def test_the_command_fails_plainly(app: Flask, services: FakeServices, monkeypatch: pytest.MonkeyPatch) -> None:
    services.down.add("order")
    monkeypatch.setattr(use_cases, "time", Clock())
    result = app.test_cli_runner().invoke(args=["rebuild"])
    assert result.exit_code == 1
    assert "Error: The order service is unavailable." in result.output


def test_the_totals_are_read_while_it_runs(world: World, api: Api, db: Database, deliver: Deliver) -> None:
    world.confirmed(1)
    deliver()
    seen: list[int] = []

    def look(page: int) -> None:
        seen.append(answered(api.get("/analytics/products/top"))["items"][0]["units"])

    rebuild(db, BusyServices(world, look))
    assert set(seen) == {1}
