"""SIGKILL of every container under load, on a separate system whose whole state the checker compares."""

from collections.abc import Iterator

import pytest

from demo.api import eventually
from libs.topology import SERVICES
from tests.chaos import checker
from tests.chaos.customers import Crowd
from tests.chaos.system import _tried
from tests.containers.conftest import BASE_PORT
from tests.containers.system import ComposeSystem

pytestmark = pytest.mark.timeout(600)

QUIET_SECONDS = 120.0
"""Longer than any lease of a killed process."""


@pytest.fixture
def fresh(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeSystem]:
    with ComposeSystem(BASE_PORT + 100, tmp_path_factory.mktemp("mortal")) as system:
        yield system


def test_no_promise_breaks_when_every_container_is_killed_under_load(fresh: ComposeSystem) -> None:
    crowd = Crowd(fresh.base_port, seed=5)
    crowd.prepare()

    def answered() -> int:
        return sum(intent.settled for intent in crowd.history.of("order"))

    with crowd.at_work():
        for victim in SERVICES:
            before = answered()
            assert eventually(lambda before=before: answered() > before + 40, 60), victim  # type: ignore[misc]
            fresh.kill(victim)
            fresh.start(victim)
    assert eventually(lambda: _tried(lambda: checker.is_quiet(fresh.api)), QUIET_SECONDS)
    print(f"{answered()} orders, {len(crowd.history.intents)} wishes")
    assert checker.Check(fresh.api, crowd.history).violations == []
