from collections.abc import Callable, Iterator

import pytest

from tests.unit.libs.tcp import Server, Talk


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(talk: Talk) -> Server:
        servers.append(Server(talk))
        return servers[-1]

    yield make
    for server in servers:
        server.close()
