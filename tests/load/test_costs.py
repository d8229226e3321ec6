"""What an order costs has not grown. The bounds are far above what is measured, so that they hold on a busy machine."""

import pytest

from tests.load.costs import Costs, measure_costs

pytestmark = pytest.mark.timeout(300)

PASSES = 6.7
"""Passes of the calibration loop (tests/load/calibration.py) that cost as much CPU as an order; what
`python -m tests.load.costs 10` proposes.
"""
KEYED = 1.25
THREE_LINES = 1.5
TAIL_SECONDS = 1.0


@pytest.fixture(scope="module")
def costs() -> Costs:
    found = measure_costs()
    print(found)
    return found


def test_an_order_costs_no_more_cpu_than_it_did(costs: Costs) -> None:
    assert costs.order <= PASSES, costs


def test_an_idempotency_key_costs_little(costs: Costs) -> None:
    assert costs.keyed <= KEYED, costs


def test_three_lines_cost_little_more_than_one(costs: Costs) -> None:
    assert costs.three_lines <= THREE_LINES, costs


def test_events_and_notifications_keep_up_with_the_orders(costs: Costs) -> None:
    assert max(costs.tails) <= TAIL_SECONDS, costs
