"""Random faults for a few seeds: docs/reliability.md has the long runs."""

import pytest

from tests.chaos.conftest import LONG, Start
from tests.chaos.storm import Storm

pytestmark = pytest.mark.timeout(1800)

KILLS = 200 if LONG else 12


@pytest.mark.parametrize("seed", [1, 2, 3] if LONG else [1])
def test_a_storm_breaks_no_promise(start: Start, seed: int) -> None:
    with start() as system:
        assert Storm(system, seed).run(KILLS) == [], f"seed {seed}"
