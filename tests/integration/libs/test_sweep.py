"""Work is found although nobody has woken the loop that does it."""

from collections.abc import Callable

from flask import Flask

from libs.common.data.database import Database
from libs.common.data.sweep import Sweep
from libs.common.events import outbox
from libs.common.events.outbox import find_relays
from tests.integration.libs.events import Confirmed, Delivered


def test_the_relays_that_have_rows_are_woken(db: Database) -> None:
    woken: list[str] = []
    db.owner.loops = {
        f"relay to {name}": lambda name=name: woken.append(name) for name in ("notification", "analytics")
    }
    sweep = Sweep(db)
    sweep.add(find_relays(["analytics", "notification"]))
    assert sweep.step() == 0
    assert woken == []
    for event, expected in (
        (Delivered(order_id="1"), ["analytics"]), (Confirmed(order_id="2"), ["analytics", "notification"]),
    ):  # fmt: skip
        with db.write() as session:
            outbox.add(session, event)
        # As if the process had been killed after its commit.
        woken.clear()
        sweep.step()
        assert woken == expected


def test_a_service_sweeps_for_its_relays(make_service: Callable[..., Flask]) -> None:
    service = make_service("user").extensions["quintet"]
    loops = {loop.name: loop for loop in service.loops}
    with service.db.write() as session:
        outbox.add(session, Confirmed(order_id="1"))  # goes to notification
    loops["relay to notification"]._woken.clear()
    loops["sweep"]._step()
    assert loops["relay to notification"]._woken.is_set()
    assert not loops["relay to order"]._woken.is_set()


def test_a_service_without_anything_to_find_does_not_sweep(make_service: Callable[..., Flask]) -> None:
    loops = make_service("product", users=None).extensions["quintet"].loops
    assert "sweep" not in [loop.name for loop in loops]
