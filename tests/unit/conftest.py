from collections.abc import Callable, Iterator

import pytest
import responses

from libs.common.calls import client
from tests.network import Provider, network


@pytest.fixture
def peer() -> Iterator[responses.RequestsMock]:
    """A mock of any peer, for tests of the client itself. Tests of a service use `provider`."""
    with network() as mock:
        yield mock


@pytest.fixture
def provider(peer: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Provider]:
    """`provider("user")`: a service that answers as its document says, with its client, which retries at once."""
    monkeypatch.setattr(client.random, "uniform", lambda low, high: 0.0)
    return lambda service: Provider(service, peer)


@pytest.fixture
def user(provider: Callable[[str], Provider]) -> Provider:
    return provider("user")


@pytest.fixture
def product(provider: Callable[[str], Provider]) -> Provider:
    return provider("product")
