"""How answers leave: head and body in one system call, to a client that must read them in time."""

import errno
import socket
import struct
import time
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import gevent
from gunicorn import SERVER, util
from gunicorn.http import wsgi

from libs.common.server.waits import Wait

ANSWER_SECONDS = 10.0
"""In this time a client must have read all of an answer, but for what the system holds for it."""
DRAIN = 8 * 1024 * 1024
"""A client that is still sending would see a reset instead of its answer; so much of what is too much is taken."""
DRAIN_SECONDS = 10.0
STEP = 4 * 1024


def send(sock: Any, data: bytes, seconds: float) -> float:
    """Send all of it, and return what is left of the seconds."""
    try:
        sent = sock.send(data, 0, 0.0)
    except BlockingIOError:
        sent = 0
    if sent == len(data):
        return seconds
    give_up = time.monotonic() + seconds
    with Wait(seconds):
        sock.sendall(memoryview(data)[sent:])
        return give_up - time.monotonic()
    # At once, or the system would keep for minutes what nobody reads.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise BrokenPipeError(errno.EPIPE, "The client does not read.")


class Response(wsgi.Response):  # type: ignore[misc]
    """Sends the head of an answer together with its body."""

    headers_sent: bool
    _head = b""
    _seconds: float | None = None

    def default_headers(self) -> list[str]:
        connection = "close" if self.should_close() else "keep-alive"
        major, minor = self.req.version
        status, server = f"HTTP/{major}.{minor} {self.status}", f"Server: {self.version}"
        lines = [status, server, _date(int(time.time())), f"Connection: {connection}"]
        return [f"{line}\r\n" for line in ([*lines, "Transfer-Encoding: chunked"] if self.chunked else lines)]

    def send_headers(self) -> None:
        if not self.headers_sent:
            own = [f"{name}: {value}\r\n" for name, value in self.headers]
            self._head = "".join([*self.default_headers(), *own, "\r\n"]).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        self._flush(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)

    def close(self) -> None:
        self.send_headers()
        self._flush(b"0\r\n\r\n" if self.chunked else b"")

    def _flush(self, body: bytes) -> None:
        if data := self._head + body:
            self._head = b""
            self._seconds = send(self.sock, data, ANSWER_SECONDS if self._seconds is None else self._seconds)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return f"Date: {util.http_date(second)}"


# The only way to have another class for HTTP/1.1.
wsgi.Response = Response


def refuse(sock: Any, status: int, connection: str, headers: list[tuple[str, str]], body: bytes) -> None:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Server: {SERVER}", _date(int(time.time()))]
    lines += [f"Connection: {connection}", *[f"{name}: {value}" for name, value in headers], "\r\n"]
    send(sock, "\r\n".join(lines).encode() + body, ANSWER_SECONDS)


def let_send(sock: Any) -> None:
    """Read what a client still sends: it would see a reset instead of its answer."""
    sock.shutdown(socket.SHUT_WR)
    left = DRAIN
    with Wait(DRAIN_SECONDS):
        while left > 0 and (data := sock.recv(STEP)):
            left -= len(data)
            gevent.sleep(0)
