"""Sending of answers: head and body in one system call, with a timeout for the client to read them."""

import errno
import socket
import struct
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import gevent
from gunicorn import SERVER, util
from gunicorn.http import wsgi

from libs.common.server.waits import Wait
from libs.common.web.exchange import reason

ANSWER_SECONDS = 10.0
"""The time in which a client must have read an answer, except for what fits into the socket buffers."""
DRAIN = 8 * 1024 * 1024
"""Bytes of an unwanted body that are read and discarded: a client that is still sending would get a reset instead of
its answer.
"""
DRAIN_SECONDS = 10.0
STEP = 4 * 1024


def send(sock: Any, data: bytes, seconds: float) -> float:
    """Send all of it; returns the seconds that are left. Raises BrokenPipeError if the client does not read in time."""
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
    # Reset the connection at once; otherwise the kernel would keep the unread data for minutes.
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


# Gunicorn has no setting for the class of its HTTP/1.1 responses.
wsgi.Response = Response


@lru_cache(maxsize=64)
def _beginning(status: int, connection: str, second: int) -> str:
    return f"HTTP/1.1 {reason(status)}\r\nServer: {SERVER}\r\n{_date(second)}\r\nConnection: {connection}\r\n"


def encode(status: int, connection: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """An answer that does not come from the app through WSGI; `connection` is `keep-alive` or `close`."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"{_beginning(status, connection, int(time.time()))}{lines}\r\n".encode("latin-1") + body


def drain(sock: Any) -> None:
    """Read and discard what the client still sends: otherwise it would get a reset instead of its answer."""
    sock.shutdown(socket.SHUT_WR)
    left = DRAIN
    with Wait(DRAIN_SECONDS):
        while left > 0 and (data := sock.recv(STEP)):
            left -= len(data)
            gevent.sleep(0)
