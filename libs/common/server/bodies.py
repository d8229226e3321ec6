"""How the body of a request arrives: all of it, within bounds of size and time, before the app is called."""

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
"""In this time all of a request's body must have come. Its head has the time of `keepalive` (gunicorn_conf.py)."""
ROOM = 32 * 1024 * 1024
"""Bytes that the bodies of one process may hold at a time."""

# Gunicorn would read up to a mebibyte ahead, for each connection, and nobody would count it.
SocketUnreader.max_body_chunk = STEP


class _Broken:
    """In the place of a body that broke off: reading it raises the reason."""

    def __init__(self, fault: Exception):
        self._fault = fault

    def read(self, size: int) -> bytes:
        raise self._fault


class _Body:
    """A body that arrives."""

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
    """Counts what the bodies hold, those that arrive and those of requests that are under way. Where there is no more
    room, the body that began to arrive first is given up, and its request refused.

    A body of less than a step is not counted: it holds no more than its connection does.
    """

    def __init__(self, room: int):
        self._room = room
        self._arriving: dict[_Body, None] = {}

    def hold(self, body: _Body, size: int) -> None:
        """Raises Overloaded when it is this body that has to go."""
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
    """A WSGI middleware: no request goes on before all of its body is there, so that a client who sends slowly takes up
    no more than a connection. Afterwards its length is known, whichever way it came. A body with a Content-Encoding is
    not read, and none is kept that is too large: the app refuses the request by its head.
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
        """Put the body in the place of the connection. Where it does not come in time, StopIteration tells gunicorn to
        close the connection.
        """
        with body.wait:
            try:
                self._read(environ["wsgi.input"], body)
            except Overloaded:
                raise
            except Exception as exc:  # gunicorn's own, for a broken chunk
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
                gevent.sleep(0)  # a fast sender would occupy the worker
