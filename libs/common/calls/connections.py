"""A transport adapter for `requests`, for calls between services: HTTP/1.1 over persistent connections.

The stock adapter needs three times the CPU, and its read timeout applies to each packet, so that a peer that sends a
byte now and then can hold its caller for ever. Here the read timeout applies to the whole answer. Redirects, proxies,
cookies and compression are left out, since services do not use them with each other.
"""

import io
import re
import socket
import ssl
import time
import weakref
from collections import deque
from functools import cached_property
from select import POLLIN
from typing import Any
from urllib.parse import urlsplit

import requests
from gevent.monkey import get_original
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from libs.common.calls.names import Name

MAX_IDLE_SECONDS = 10.0
"""Less than the server's `keepalive` (gunicorn_conf.py), so that it does not close a connection that is about to be
used.
"""
MAX_AGE_SECONDS = 60.0
"""Connections are renewed after this time, so that a change of the host's address is noticed."""
MAX_KEPT = 64
MAX_HEAD = 65536

_poll = get_original("select", "poll")
"""The one of the standard library. Gevent's lets other greenlets run, which is not worth its cost where none waits."""
_framing = re.compile(rb"\r\n(content-length|transfer-encoding|connection):(.*?)(?=\r\n|\Z)", re.IGNORECASE | re.DOTALL)
"""The headers that say where an answer ends."""


class Adapter(HTTPAdapter):
    """Sends to one host; safe to share between the threads or greenlets of a process."""

    def __init__(self, base_url: str):
        super().__init__()
        parts = urlsplit(base_url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._name = Name(self._host, self._port)
        self._host_header = parts.netloc.rpartition("@")[2]
        self._kept: deque[_Connection] = deque()
        weakref.finalize(self, _close_all, self._kept)

    def send(  # type: ignore[override]
        self,
        request: requests.PreparedRequest,
        *,
        timeout: tuple[float, float],
        repeatable: bool = False,
        **options: Any,
    ) -> requests.Response:
        """`timeout` is the time to connect and the time for the whole answer, in seconds. A `repeatable` request is
        sent again on a new connection if the peer has closed the reused one. Raises requests.ConnectTimeout,
        requests.ReadTimeout or requests.ConnectionError.
        """
        try:
            response = self._exchange(request, *timeout, repeatable)
        except requests.ConnectTimeout:
            raise
        except TimeoutError as exc:
            raise requests.ReadTimeout("There was no answer in time.") from exc
        except (OSError, ValueError) as exc:
            raise requests.ConnectionError(str(exc)) from exc
        response.request, response.url = request, request.url or ""
        return response

    def close(self) -> None:
        _close_all(self._kept)

    def _exchange(
        self, request: requests.PreparedRequest, connect: float, read: float, repeatable: bool
    ) -> requests.Response:
        kept = self._take()
        connection = kept or self._open(connect)
        connection.begin(time.monotonic() + read)
        try:
            return self._talk(connection, request)
        except ConnectionError:
            # The peer closed the idle connection while the request was sent, which `fresh` cannot rule out; or it died.
            if not kept or kept.heard or not repeatable:
                raise
        fresh = self._open(connect)
        fresh.begin(connection.deadline)
        return self._talk(fresh, request)

    def _talk(self, connection: "_Connection", request: requests.PreparedRequest) -> requests.Response:
        try:
            connection.send(_serialise(request, self._host_header))
            response, reusable = _read_response(connection, request.method == "HEAD")
        except BaseException:
            connection.close()
            raise
        if reusable and len(self._kept) < MAX_KEPT:
            connection.idle_since = time.monotonic()
            self._kept.append(connection)
        else:
            connection.close()
        return response

    def _take(self) -> "_Connection | None":
        """The idle connection that was used last; None if all are closed or too old."""
        while self._kept:
            connection = self._kept.pop()
            if connection.fresh():
                return connection
            connection.close()
        return None

    def _open(self, seconds: float) -> "_Connection":
        try:
            sock = self._connect(time.monotonic() + seconds)
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return _Connection(self._tls.wrap_socket(sock, server_hostname=self._host) if self._tls else sock)
            except BaseException:
                sock.close()
                raise
        except TimeoutError as exc:
            raise requests.ConnectTimeout("There was no connection in time.") from exc

    def _connect(self, deadline: float) -> socket.socket:
        """Connect to the first address of the host that accepts; the remaining addresses share the remaining time."""
        addresses = self._name.addresses(deadline - time.monotonic())
        for place, address in enumerate(addresses, 1):
            left = deadline - time.monotonic()
            try:
                sock = socket.create_connection((address, self._port), max(left, 0.001) / (len(addresses) - place + 1))
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
                return sock
            except OSError:
                if place == len(addresses):
                    raise
        raise OSError("The host has no address.")


class _Response(requests.Response):
    """A response whose body has been read. The base class makes a cookie jar and several mappings, which cost as much
    as all that is done here, and services ask for none of them.
    """

    content = b""  # in the base class a property that reads `raw`

    def __init__(self, status: int, head: bytes, content: bytes):
        vars(self).update(_BLANK)
        self.status_code, self.head, self.content = status, head, content

    @cached_property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        found: CaseInsensitiveDict[str] = CaseInsensitiveDict()
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            found[name] = f"{found[name]}, {value.strip()}" if name in found else value.strip()
        return found

    @cached_property
    def raw(self) -> io.BytesIO:  # type: ignore[override]
        return io.BytesIO(self.content)


_BLANK = {name: value for name, value in vars(requests.Response()).items() if name not in ("headers", "raw")}
"""The attributes of a new response but those that are made when they are needed. Nothing here changes the others."""


class _Connection:
    def __init__(self, sock: socket.socket):
        self._sock = sock
        self._unread = _poll()
        self._unread.register(sock, POLLIN)
        self._buffer = b""
        self._born = self.idle_since = time.monotonic()
        self.deadline = 0.0
        self.heard = False

    def begin(self, deadline: float) -> None:
        """Begin a request and its answer. `heard` becomes true when the first byte of the answer arrives."""
        self.deadline, self.heard = deadline, False

    def fresh(self) -> bool:
        now = time.monotonic()
        if now - self.idle_since > MAX_IDLE_SECONDS or now - self._born > MAX_AGE_SECONDS:
            return False
        if not self._unread.poll(0):
            return True
        # End of file, or unexpected data; but with TLS perhaps only a record of the protocol.
        self._sock.settimeout(0.0)
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def send(self, data: bytes) -> None:
        # Usually one call: `sendall` costs more than `send`, and its timeout would need no less care.
        while data:
            self._sock.settimeout(self._left())
            data = data[self._sock.send(data) :]

    def read_until(self, end: bytes) -> bytes:
        """The bytes before `end`; `end` is consumed."""
        while (found := self._buffer.find(end)) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise ValueError("The head of the answer is too long.")
            self._buffer += self._receive()
        data, self._buffer = self._buffer[:found], self._buffer[found + len(end) :]
        return data

    def read(self, size: int) -> bytes:
        data, missing = self._buffer, size - len(self._buffer)
        if missing > 0:
            chunks = [data]
            while missing > 0:
                chunks.append(self._receive())
                missing -= len(chunks[-1])
            data = b"".join(chunks)
        self._buffer = data[size:]
        return data[:size]

    def read_all(self) -> bytes:
        """All bytes until the peer closes the connection."""
        chunks = [self._buffer]
        while chunk := self._recv():
            chunks.append(chunk)
        return b"".join(chunks)

    def is_clean(self) -> bool:
        return not self._buffer

    def close(self) -> None:
        self._sock.close()

    def _receive(self) -> bytes:
        chunk = self._recv()
        if not chunk:
            raise ConnectionError("The peer closed the connection.")
        return chunk

    def _recv(self) -> bytes:
        self._sock.settimeout(self._left())
        data = self._sock.recv(65536)
        if data:
            self.heard = True
        return data

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _close_all(connections: deque[_Connection]) -> None:
    while connections:
        connections.pop().close()


def _serialise(request: requests.PreparedRequest, host: str) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in request.headers.items()])
    head = f"{request.method} {request.path_url} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n"
    body = request.body or b""
    assert isinstance(body, bytes)
    return head.encode("latin-1") + body


def _read_response(connection: _Connection, no_body: bool) -> tuple[requests.Response, bool]:
    """The answer, and whether the connection can be reused."""
    status = 100
    while status < 200:
        head = connection.read_until(b"\r\n\r\n")
        version, _, code = head[:12].partition(b" ")
        if not version.startswith(b"HTTP/1.") or not code.isdigit():
            raise ValueError("The answer is not HTTP/1.1.")
        status = int(code)
    framing: dict[bytes, bytes] = {}
    for name, value in _framing.findall(head):
        name, value = name.lower(), value.strip()
        framing[name] = framing[name] + b", " + value if name in framing else value
    reusable = version == b"HTTP/1.1" and framing.get(b"connection", b"").lower() != b"close"
    if no_body or status in (204, 304):
        body = b""
    elif framing.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = _read_chunks(connection)
    elif b"content-length" in framing:
        body = connection.read(_size(framing[b"content-length"], 10))
    else:
        body, reusable = connection.read_all(), False
    return _Response(status, head, body), reusable and connection.is_clean()


def _read_chunks(connection: _Connection) -> bytes:
    chunks = []
    while size := _size(connection.read_until(b"\r\n").partition(b";")[0].strip(), 16):
        chunks.append(connection.read(size))
        connection.read_until(b"\r\n")
    while connection.read_until(b"\r\n"):
        pass
    return b"".join(chunks)


def _size(digits: bytes, base: int) -> int:
    if not digits.isalnum():
        raise ValueError("The answer has a body without a size.")
    return int(digits, base)
