"""The running system, shared by the tests.

The tests run in any order, so each creates its own users and products, compares figures before and after, and leaves
the five services running.
"""

import os
from collections.abc import Iterator

import pytest

from tests.contract.pacts.documents import arrows
from tests.e2e.arrows import seen
from tests.e2e.shop import Shop
from tests.e2e.system import UNHURRIED, System

# Each process of pytest-xdist has its own system.
BASE_PORT = int(os.environ.get("TEST_E2E_BASE_PORT") or 18800) + 500 * int(
    os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]
)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with System(BASE_PORT, tmp_path_factory.mktemp("quintet"), **UNHURRIED) as system:
        yield system
        assert seen(system) - arrows().keys() == set(), "without a pact: see docs/contracts.md"


@pytest.fixture
def system(running: System) -> Iterator[System]:
    """Services that the test leaves stopped are started again."""
    yield running
    running.restore()


@pytest.fixture
def shop(system: System) -> Shop:
    return Shop(system.api)
