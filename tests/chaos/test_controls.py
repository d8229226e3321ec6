"""Negative controls: the suite must find the mistakes that are injected."""

import pytest

from tests.chaos.bugs import BUGS
from tests.chaos.conftest import LONG, Start
from tests.chaos.customers import Crowd
from tests.chaos.storm import Storm

pytestmark = pytest.mark.timeout(300)

KILLS = 10
BROKEN = {"no-outbox": (2, 3), "no-inbox": (2,), "check-then-take": (2,), "check-then-insert": (1,)}
"""Which promises the mistake breaks."""


@pytest.fixture
def with_bug(start: Start, request: pytest.FixtureRequest) -> Start:
    if "production" in request.node.name and not LONG:
        pytest.skip("on these engines only with LONG=1")
    return start


def test_each_mistake_is_put_in() -> None:
    assert {*BROKEN, "only-no-inbox"} == BUGS.keys()


@pytest.mark.parametrize("bug", BROKEN)
def test_a_classic_mistake_is_noticed(with_bug: Start, bug: str) -> None:
    with with_bug(CHAOS_BUG=bug) as system:
        found = Storm(system, seed=7).run(KILLS)
    assert any(f"promise {number}" in violation for number in BROKEN[bug] for violation in found), found


def test_a_client_that_repeats_a_post_without_a_key_gets_two_orders(with_bug: Start) -> None:
    with with_bug() as system:
        crowd = Crowd(system.base_port, seed=7, keys=False)
        crowd.prepare()
        with crowd.at_work():
            for _ in range(3):
                system.trap.arm("order.after_t2")
                assert system.await_death("order", 20)
                system.bury("order")
        found = system.check(crowd.history)
    assert any("nobody was told of it" in violation for violation in found), found


def test_without_the_inbox_alone_the_effects_still_happen_once(with_bug: Start) -> None:
    with with_bug(CHAOS_BUG="only-no-inbox") as system:
        assert Storm(system, seed=7).run(KILLS) == []
