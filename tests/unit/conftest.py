import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import responses

from libs.common.calls import client
from tests.network import Provider, network
from tests.programs import program


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new certificate of localhost, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    options = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(
        [program("openssl"), *options.split(), "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


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
