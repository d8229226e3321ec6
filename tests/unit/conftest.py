from collections.abc import Iterator

import pytest
import responses

from tests.network import network


@pytest.fixture
def peer() -> Iterator[responses.RequestsMock]:
    """The service that is called."""
    with network() as mock:
        yield mock
