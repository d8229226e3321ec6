"""Servers on loopback that talk bytes, for tests of what goes over the wire."""

import socket
import threading
from collections.abc import Callable
from typing import Any

from libs.common.calls.client import ServiceClient
from libs.common.config import Settings

Talk = Callable[[socket.socket, int], object]


class Server:
    """A server on loopback. `talk` gets each connection and its number, in a thread of its own."""

    def __init__(self, talk: Talk, port: int = 0):
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._talk, self.connections = talk, 0
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def client(self, **given: Any) -> ServiceClient:
        url = f"http://127.0.0.1:{self.port}"
        return ServiceClient("product", Settings(service="order", product_service_url=url, **given))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._run, args=(connection, self.connections), daemon=True).start()

    def _run(self, connection: socket.socket, number: int) -> None:
        try:
            self._talk(connection, number)
        except OSError:
            pass
        finally:
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self._open:
            connection.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def one_request(connection: socket.socket) -> bool:
    """Read a request without a body; False when the client has closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return False
        data += chunk
    return True


def keep_alive(connection: socket.socket, number: int) -> None:
    while one_request(connection):
        connection.sendall(OK)
