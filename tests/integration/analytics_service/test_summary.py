"""The summary says for every service whether its figures are live, and no dead or slow service fails or delays it."""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from analytics_service import models, repository
from analytics_service.clients import FIGURES, FakeServices, Figures
from analytics_service.use_cases import KEEP_EVERY, Keeper
from libs.common import context
from libs.common.data.database import Database
from libs.common.errors import DependencyUnavailable
from tests.web import Api, answered

PARTS = {
    "users": {"total"},
    "products": {"total", "stock_units"},
    "orders": {"total", "by_status", "revenue"},
    "notifications": {"total", "by_status"},
}


def summary(api: Api, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = answered(api.get("/analytics/summary", **options))
    assert set(found) == {"generated_at", "degraded", *PARTS}
    for name, figures in PARTS.items():
        assert set(found[name]) == {"state", "as_of", *figures}
    assert found["degraded"] is any(found[name]["state"] != "live" for name in PARTS)
    return found


def age(found: dict[str, Any]) -> float:
    """Seconds from `as_of` to the answer."""
    generated = datetime.fromisoformat(found["generated_at"])
    return min((generated - datetime.fromisoformat(found[name]["as_of"])).total_seconds() for name in PARTS)


def test_what_is_asked_now_is_live(api: Api) -> None:
    found = summary(api)
    assert found["degraded"] is False
    assert {found[name]["state"] for name in PARTS} == {"live"}
    assert found["users"]["total"] == 3
    assert (found["products"]["total"], found["products"]["stock_units"]) == (2, 40)
    assert found["orders"]["by_status"] == {"confirmed": 1}
    assert found["orders"]["revenue"] == [{"currency": "EUR", "amount": "9.50"}]
    assert found["notifications"]["by_status"] == {"sent": 1}
    assert 0 <= age(found) < 0.4


@pytest.mark.parametrize("service", FIGURES)
def test_a_dead_service_is_unavailable_and_never_a_zero(service: str, api: Api, services: FakeServices) -> None:
    services.down.add(service)
    found = summary(api)
    dead = found.pop(f"{service}s")
    assert dead == {"state": "unavailable", "as_of": None, **dict.fromkeys(PARTS[f"{service}s"])}
    assert {found[name]["state"] for name in found.keys() & PARTS.keys()} == {"live"}


@pytest.mark.parametrize("service", FIGURES)
def test_a_service_that_dies_is_shown_as_it_was(service: str, api: Api, services: FakeServices) -> None:
    before = summary(api)[f"{service}s"]
    services.down.add(service)
    services.stats[service] = {**services.stats[service], "total": 99}
    assert summary(api)[f"{service}s"] == {**before, "state": "stale"}
    services.down.clear()
    after = summary(api)[f"{service}s"]
    assert (after["state"], after["total"]) == ("live", 99)


def test_other_processes_know_the_last_figures_too(
    make_app: Callable[..., Flask], api: Api, services: FakeServices, db: Database
) -> None:
    summary(api)
    services.down |= set(FIGURES)
    wait_for(lambda: len(snapshots(db)) == 4)
    found = summary(Api(make_app()))
    assert {found[name]["state"] for name in PARTS} == {"stale"}
    assert found["orders"]["revenue"] == [{"currency": "EUR", "amount": "9.50"}]


def test_a_slow_service_does_not_delay_the_answer(api: Api, services: FakeServices) -> None:
    services.slow["order"] = 6.0
    started = time.monotonic()
    found = summary(api)
    assert 0.5 <= time.monotonic() - started < 4
    assert found["orders"]["state"] == "unavailable"
    assert found["users"]["state"] == "live"


def test_the_caller_may_wait_less_than_that(make_app: Callable[..., Flask], services: FakeServices) -> None:
    api = Api(make_app(summary_deadline_seconds=5))
    services.slow["order"] = 6.0
    started = time.monotonic()
    found = summary(api, headers={context.TIMEOUT_MS: "300"})
    assert time.monotonic() - started < 4
    assert found["orders"]["state"] == "unavailable"
    assert found["users"]["state"] == "live"


def test_who_comes_during_a_slow_call_waits_no_longer(api: Api, app: Flask, services: FakeServices) -> None:
    """A slow service does not delay the calls of the healthy ones."""
    services.slow["order"] = 6.0
    first = threading.Thread(target=summary, args=(Api(app),))
    first.start()
    time.sleep(0.3)
    started = time.monotonic()
    found = summary(api)
    assert time.monotonic() - started < 4
    assert found["orders"]["state"] == "unavailable"
    assert {found[name]["state"] for name in PARTS.keys() - {"orders"}} == {"live"}
    first.join()


def test_many_at_once_share_the_calls(app: Flask, services: FakeServices) -> None:
    services.slow = dict.fromkeys(FIGURES, 0.1)
    found: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: found.append(summary(Api(app)))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["degraded"] for one in found] == [False] * 20
    # One call for the first callers, and one for all others; a slow machine may need one more.
    assert 2 * len(FIGURES) <= len(services.asked) <= 3 * len(FIGURES)


def test_no_answer_is_older_than_the_question(api: Api, app: Flask, services: FakeServices) -> None:
    """A call that started before the request is not shared, although it ends after."""
    services.slow["user"] = 0.2
    first = threading.Thread(target=summary, args=(Api(app),))
    first.start()
    time.sleep(0.1)
    services.stats["user"] = {"total": 4}
    assert summary(api)["users"]["total"] == 4
    first.join()


def test_snapshots_are_written_at_most_once_a_second(api: Api, db: Database) -> None:
    summary(api)
    wait_for(lambda: len(snapshots(db)) == 4)
    first = snapshots(db)
    for _ in range(5):
        summary(api)
    assert snapshots(db) == first
    time.sleep(KEEP_EVERY.total_seconds())
    summary(api)
    wait_for(lambda: all(as_of > first[service] for service, as_of in snapshots(db).items()))


def test_figures_that_are_not_to_be_kept_do_not_cost_a_look_into_the_database(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**options: Any) -> Any:
        raise DependencyUnavailable

    noon = datetime.fromisoformat("2026-01-31T12:00:00Z")
    keeper = Keeper(db)
    keeper.keep("user", Figures({"total": 1}, noon))
    monkeypatch.setattr(db, "read", fail)
    monkeypatch.setattr(db, "write", fail)
    keeper.keep("user", Figures({"total": 2}, noon + timedelta(seconds=0.9)))
    with pytest.raises(DependencyUnavailable):
        keeper.keep("user", Figures({"total": 3}, noon + timedelta(seconds=1)))
    # Nor does a database that is down, more than once a second.
    keeper.keep("user", Figures({"total": 4}, noon + timedelta(seconds=1.9)))


@pytest.mark.parametrize(
    ("seconds", "is_kept"), [(-60, False), (-0.5, False), (0, False), (0.9, False), (1, True), (60, True)]
)
def test_figures_replace_those_that_are_older_by_a_second_and_never_newer_ones(
    db: Database, seconds: float, is_kept: bool
) -> None:
    """As when two processes ask, and the first answer arrives last."""
    noon = datetime.fromisoformat("2026-01-31T12:00:00Z")
    for total, as_of in ((1, noon), (2, noon + timedelta(seconds=seconds))):
        with db.write() as session:
            repository.write_snapshot(session, "user", {"total": total}, as_of, KEEP_EVERY)

    with db.read() as connection:
        found = repository.find_snapshots(connection)["user"]

    expected = (2, noon + timedelta(seconds=seconds)) if is_kept else (1, noon)
    assert (found["figures"]["total"], found["as_of"]) == expected


def test_figures_of_one_service_leave_the_others_alone(db: Database) -> None:
    noon = datetime.fromisoformat("2026-01-31T12:00:00Z")
    keeper = Keeper(db)
    for service in ("user", "order"):
        keeper.keep(service, Figures({"total": 1}, noon))
    keeper.keep("user", Figures({"total": 2}, noon + timedelta(minutes=1)))
    keeper.keep("user", Figures({"total": 3}, noon))

    with db.read() as connection:
        found = repository.find_snapshots(connection)

    assert {name: row["figures"]["total"] for name, row in found.items()} == {"user": 2, "order": 1}


def test_with_its_own_database_down_it_still_tells_what_is_live(
    api: Api, app: Flask, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise DependencyUnavailable

    services.down.add("user")
    monkeypatch.setattr(app.extensions["quintet"].db, "read", fail)
    found = summary(api)
    assert (found["users"]["state"], found["orders"]["state"]) == ("unavailable", "live")


def snapshots(db: Database) -> dict[str, Any]:
    with db.read() as connection:
        return {row.service: row.as_of for row in connection.execute(sa.select(models.snapshots))}


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


# The health of the services ----------------------------------------------------------------------------------------


def test_every_service_tells_its_health_and_latency(api: Api, services: FakeServices) -> None:
    services.down.add("product")
    found = answered(api.get("/analytics/services"))
    assert found["degraded"] is True
    by_name = {one.pop("service"): one for one in found["services"]}
    assert list(by_name) == ["user", "product", "order", "notification", "analytics"]
    assert by_name["user"] == {"status": "healthy", "latency_ms": 1.5}
    assert by_name["product"] == {"status": "unavailable", "latency_ms": None}
    assert by_name["analytics"]["status"] == "healthy"
    assert by_name["analytics"]["latency_ms"] > 0


def test_its_own_health_is_that_of_its_database(api: Api, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> Any:
        raise DependencyUnavailable

    monkeypatch.setattr(app.extensions["quintet"].db, "read", fail)
    found = answered(api.get("/analytics/services"))
    assert found["services"][-1]["status"] == "unhealthy"
    assert found["degraded"] is True


def test_a_slow_service_does_not_delay_the_health_of_the_others(api: Api, services: FakeServices) -> None:
    services.slow["user"] = 6.0
    started = time.monotonic()
    found = answered(api.get("/analytics/services"))
    assert time.monotonic() - started < 4
    assert [one["status"] for one in found["services"]] == ["unavailable", *["healthy"] * 4]
