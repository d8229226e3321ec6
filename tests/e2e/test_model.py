"""Random sequences of operations over all five services get exactly the answers that the model predicts."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from demo.api import Quintet
from tests.cloudevents import faults
from tests.e2e.conftest import BASE_PORT
from tests.e2e.faults import FAULTS, FaultySystem
from tests.e2e.recorder import PUBLISHERS, deliveries_among, events_of, recorded
from tests.e2e.sequences import Walk

LONG = bool(os.environ.get("LONG"))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySystem]:
    """A separate system, whose whole state can be compared, and into which faults can be injected."""
    with FaultySystem(BASE_PORT + 20, tmp_path_factory.mktemp("model")) as system:
        yield system


def walk(api: Quintet, examples: int, steps: int, phases: tuple[Phase, ...] = (Phase.generate,)) -> None:
    """The same sequences in every run."""
    walking = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        phases=phases, suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
    )  # fmt: skip
    # `derandomize` would start differently in each process. With this seed the quick faults are detected soon.
    run_state_machine_as_test(seed(5)(type("Walk", (Walk,), {"api": api})), settings=walking)


@pytest.mark.timeout(3600 if LONG else 300)
def test_the_system_answers_as_the_model_predicts(faulty: FaultySystem) -> None:
    """And every event that they publish meanwhile is valid by its schema."""
    faulty.put_in("")
    with recorded(faulty, PUBLISHERS) as exchanges:
        if LONG:
            walk(faulty.api, 60, 50, tuple(Phase))
        else:
            walk(faulty.api, 12, 30)
    events = [event for delivery in deliveries_among(exchanges) for event in events_of(delivery)]
    assert {"order.confirmed.v1", "notification.sent.v1"} <= {event["type"] for event in events}
    assert [fault for event in events for fault in faults(event)] == []


QUICK = ("a key fits every body", "null does not remove")
"""Faults that are detected within a few seconds."""


@pytest.mark.timeout(900 if LONG else 300)
@pytest.mark.parametrize("fault", FAULTS if LONG else QUICK)
def test_a_fault_is_noticed(faulty: FaultySystem, fault: str) -> None:
    faulty.put_in(fault)
    with pytest.raises(AssertionError):
        walk(faulty.api, 60, 30)
