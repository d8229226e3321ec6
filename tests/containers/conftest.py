"""The images, built once, and the five services in containers, shared by the tests.

Tests that need a container engine are skipped where there is none, also in CI; tests of the files alone run anywhere.
"""

import os
from collections.abc import Iterator

import pytest

from libs.topology import SERVICES
from tests.containers.system import ComposeSystem, docker, image, missing
from tests.e2e.shop import Shop
from tests.e2e.system import ROOT, UNHURRIED

BASE_PORT = int(os.environ.get("TEST_CONTAINERS_BASE_PORT") or 19800)
"""A multiple of 100; the systems of these tests take this plus 1 to 5, and 101 to 105."""


@pytest.fixture(scope="session")
def engine() -> None:
    if missing():
        pytest.skip(missing())


@pytest.fixture(scope="session")
def images(engine: None) -> dict[str, str]:
    """Service → its image, built from the work tree."""
    files = ("compose", "--file", str(ROOT / "compose/compose.yaml"))
    docker(*files, "build", timeout=900)
    return {service: image(service) for service in SERVICES}


@pytest.fixture(scope="session")
def running(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeSystem]:
    with ComposeSystem(BASE_PORT, tmp_path_factory.mktemp("containers"), **UNHURRIED) as system:
        yield system


@pytest.fixture
def system(running: ComposeSystem) -> Iterator[ComposeSystem]:
    """Services that the test leaves stopped are started again."""
    yield running
    running.restore()


@pytest.fixture
def shop(system: ComposeSystem) -> Shop:
    return Shop(system.api)
