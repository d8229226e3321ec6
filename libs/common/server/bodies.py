"""Reading of request bodies: completely, within limits of size and time, before the app is called."""

import io
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gunicorn.http.unreader import SocketUnreader

from libs.common.errors import Overloaded
from libs.common.server.answers import DRAIN, STEP
from libs.common.server.waits import Wait
from libs.common.web.admission import App
from libs.common.web.messages import MAX_BODY, is_coding

BODY_SECONDS = 10.0
"""The time in which a request's body must have arrived; for the head it is `keepalive` (gunicorn_conf.py)."""
ROOM = 32 * 1024 * 1024
"""Bytes that the bodies of one process may occupy at a time."""

# By default Gunicorn reads up to a mebibyte ahead on each connection, which would not be counted.
SocketUnreader.max_body_chunk = STEP


class _Broken:
    """Replaces a body that could not be read: `read` raises the error."""

    def __init__(self, fault: Exception):
        self._fault = fault

    def read(self, size: int) -> bytes:
        raise self._fault


class _Body:
    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = self.held = 0
        self.is_given_up = False
        self.wait = Wait(BODY_SECONDS)

    def give_up(self) -> None:
        self.is_given_up = True
        self.parts.clear()
        self.wait.end()


class Bodies:
    """Counts the memory of bodies, both of those that are arriving and of requests in progress. When it exceeds `room`,
    the body that began to arrive first is given up, and its request is refused.

    A body smaller than STEP is not counted: it takes no more memory than its connection.
    """

    def __init__(self, room: int):
        self._room = room
        self._arriving: dict[_Body, None] = {}

    def hold(self, body: _Body, size: int) -> None:
        """Count `size` more bytes of the body. Raises Overloaded if this body is given up."""
        self._arriving.setdefault(body)
        body.held += size
        self._room -= size
        while self._room < 0:
            oldest = next(iter(self._arriving))
            self.release(oldest)
            oldest.give_up()
        if body.is_given_up:
            self.release(body)
            raise Overloaded

    def has_arrived(self, body: _Body) -> None:
        self._arriving.pop(body, None)

    def release(self, body: _Body) -> None:
        self._arriving.pop(body, None)
        self._room += body.held
        body.held = 0


class BodyFirst:
    """A WSGI middleware that reads the whole body before it calls the app, so that a slow client occupies only a
    connection. It sets CONTENT_LENGTH for chunked bodies too. A body with a Content-Encoding is not read, and one that
    is too large is discarded: the app refuses such requests by their heads.
    """

    def __init__(self, app: App):
        self._app = app
        self._bodies = Bodies(ROOM)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        has_body = "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ
        if not has_body or is_coding(environ.get("HTTP_CONTENT_ENCODING", "")):
            return self._app(environ, start_response)
        body = _Body()
        try:
            self._receive(environ, body)
            return self._app(environ, start_response)
        finally:
            self._bodies.release(body)

    def _receive(self, environ: dict[str, Any], body: _Body) -> None:
        """Replace `wsgi.input` by the complete body. Raises Overloaded if the body is given up, and StopIteration,
        which makes gunicorn close the connection, if it does not arrive in time.
        """
        with body.wait:
            try:
                self._read(environ["wsgi.input"], body)
            except Overloaded:
                raise
            except Exception as exc:  # gunicorn's exceptions for a malformed chunk
                environ["wsgi.input"] = _Broken(exc)
                return
            self._bodies.has_arrived(body)
            environ["wsgi.input"] = io.BytesIO(b"".join(body.parts))
            body.parts.clear()
            if "CONTENT_LENGTH" not in environ:
                del environ["HTTP_TRANSFER_ENCODING"]
                environ["CONTENT_LENGTH"] = str(body.size)
            return
        raise Overloaded if body.is_given_up else StopIteration

    def _read(self, stream: Any, body: _Body) -> None:
        step = STEP
        while step == STEP:
            part = stream.read(STEP)
            step = len(part)
            body.size += step
            if body.size <= MAX_BODY:
                body.parts.append(part)
                if body.size >= STEP:
                    self._bodies.hold(body, step)
            else:
                body.parts.clear()
                self._bodies.release(body)
            if body.size > MAX_BODY + DRAIN:
                stream.failed = True  # gunicorn closes the connection after the answer
                break
            if step == STEP:
                gevent.sleep(0)  # let others run: a fast sender would otherwise occupy the worker
