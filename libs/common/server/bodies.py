"""How the body of a request arrives: all of it, within bounds of size and time, before the app is called."""

import io
from collections.abc import Callable, Iterable
from typing import Any

import gevent

from libs.common.server.answers import DRAIN, STEP
from libs.common.server.waits import Wait
from libs.common.web.admission import App
from libs.common.web.messages import MAX_BODY, is_coding

BODY_SECONDS = 10.0
"""In this time all of a request's body must have come. Its head has the time of `keepalive` (gunicorn_conf.py)."""


class _Broken:
    """In the place of a body that broke off: whoever reads it learns why."""

    def __init__(self, fault: Exception):
        self._fault = fault

    def read(self, size: int) -> bytes:
        raise self._fault


class BodyFirst:
    """A WSGI middleware: no request goes on before all of its body is there, so that a client who sends slowly takes up
    no more than a connection. Afterwards its length is known, whichever way it came. A body with a Content-Encoding is
    not read: the app refuses the request by its head.
    """

    def __init__(self, app: App):
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        has_body = "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ
        if has_body and not is_coding(environ.get("HTTP_CONTENT_ENCODING", "")):
            environ["wsgi.input"] = body = _received(environ["wsgi.input"])
            if "CONTENT_LENGTH" not in environ and isinstance(body, io.BytesIO):
                del environ["HTTP_TRANSFER_ENCODING"]
                environ["CONTENT_LENGTH"] = str(body.getbuffer().nbytes)
        return self._app(environ, start_response)


def _received(body: Any) -> io.BytesIO | _Broken:
    """The body; of one that is too large a little more than is allowed. Where it does not come in time, StopIteration
    tells gunicorn to close the connection.
    """
    with Wait(BODY_SECONDS):
        try:
            return io.BytesIO(_read(body))
        except Exception as exc:  # gunicorn's own, for a broken chunk
            return _Broken(exc)
    raise StopIteration


def _read(body: Any) -> bytes:
    parts, size, step = [], 0, STEP
    while step == STEP:
        part = body.read(STEP)
        step = len(part)
        size += step
        if size <= MAX_BODY + STEP:
            parts.append(part)
        if size > MAX_BODY + DRAIN:
            body.failed = True  # gunicorn closes the connection after the answer
            break
        if step == STEP:
            gevent.sleep(0)  # a sender who is fast would have the worker for himself
    return b"".join(parts)
