"""The gunicorn worker: gevent's, which drains in an orderly way, answers with one system call, waits for no client
without end, refuses what it cannot take at a glance, and what is no request with a problem document; and a logger that
writes our JSON lines.
"""

import errno
import io
import logging
import math
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus
from typing import Any, ClassVar, Self
from urllib.parse import unquote

import gevent
from gevent.server import StreamServer
from gunicorn import SERVER, util
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http import errors as http_errors
from gunicorn.http import wsgi
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.workers import ggevent

from libs.common import context, errors, logs
from libs.common.admission import App, told
from libs.common.api import MAX_BODY
from libs.common.glance import Glance, glance, made_out

log = logging.getLogger(__name__)

BODY_SECONDS = 10.0
"""In this time all of a request's body must have come. Its head has the time of `keepalive` (gunicorn_conf.py)."""
ANSWER_SECONDS = 10.0
"""In this time a client must have read all of an answer, but for what the system holds for it."""
LINGER_SECONDS = 0.5
"""How long a worker that stops waits for a client: what it waits for may be under way already."""
DRAIN = 8 * 1024 * 1024
"""A client that is still sending would see a reset instead of its answer; so much of what is too much is taken."""
STEP = 4 * 1024


class Logger(GunicornLogger):  # type: ignore[misc]
    """Leaves the handlers to libs.common.logs."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
        self.access_log.propagate = False


class _Wait(gevent.Timeout):
    """A wait for a client. It ends without a word when its time is over, and when the worker stops."""

    longest: ClassVar[float] = math.inf
    _under_way: ClassVar[dict["_Wait", Any]] = {}

    def __init__(self, seconds: float):
        super().__init__(min(seconds, self.longest), False)  # type: ignore[arg-type]  # gevent documents False

    def __enter__(self) -> Self:
        self._under_way[self] = gevent.getcurrent()
        return super().__enter__()

    def __exit__(self, *exc: Any) -> Any:
        del self._under_way[self]
        return super().__exit__(*exc)

    @classmethod
    def end_all(cls) -> None:
        for wait in list(cls._under_way):
            gevent.get_hub().loop.run_callback(wait._end)

    def _end(self) -> None:
        if self in self._under_way:  # else what it waited for has come meanwhile
            self._under_way[self].throw(self)


# Answers -----------------------------------------------------------------------------------------------------------


def _send(sock: Any, data: bytes, seconds: float) -> float:
    """Send all of it, and return what is left of the seconds."""
    try:
        sent = sock.send(data, 0, 0.0)
    except BlockingIOError:
        sent = 0
    if sent == len(data):
        return seconds
    give_up = time.monotonic() + seconds
    with _Wait(seconds):
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
            self._seconds = _send(self.sock, data, ANSWER_SECONDS if self._seconds is None else self._seconds)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return f"Date: {util.http_date(second)}"


# The only way to have another class for HTTP/1.1.
wsgi.Response = Response


def _refuse(sock: Any, status: int, connection: str, headers: list[tuple[str, str]], body: bytes) -> None:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Server: {SERVER}", _date(int(time.time()))]
    lines += [f"Connection: {connection}", *[f"{name}: {value}" for name, value in headers], "\r\n"]
    _send(sock, "\r\n".join(lines).encode() + body, ANSWER_SECONDS)


def _let_send(sock: Any) -> None:
    """Read what a client still sends: it would see a reset instead of its answer."""
    sock.shutdown(socket.SHUT_WR)
    left = DRAIN
    with _Wait(BODY_SECONDS):
        while left > 0 and (data := sock.recv(STEP)):
            left -= len(data)
            gevent.sleep(0)


# Requests ----------------------------------------------------------------------------------------------------------


class _Refused:
    """In the place of a request: what was seen of it at a glance."""

    proxy_protocol_info = None
    body = io.BytesIO()

    def __init__(self, seen: Glance):
        self.seen = seen

    def should_close(self) -> bool:
        return False


class _Unreadable(Exception):
    """What came is no request, or none that is taken: the problem, and what was seen."""

    def __init__(self, problem: errors.Problem, seen: Glance):
        super().__init__(problem.code)
        self.problem, self.seen = problem, seen


def _seen(req: Request | None) -> Glance:
    """What a refusal names of a request that failed after it was read."""
    if req is None:
        return Glance("/", None)
    return Glance(unquote(req.path), dict(req.headers).get(context.REQUEST_ID.upper()), req.method == "HEAD")


_PROBLEMS: dict[type[Exception], type[errors.Problem]] = {
    http_errors.ExpectationFailed: errors.ExpectationFailed,
    http_errors.LimitRequestHeaders: errors.HeadersTooLarge,
    http_errors.LimitRequestLine: errors.UriTooLong,
    http_errors.UnsupportedTransferCoding: errors.UnsupportedTransferCoding,
}
"""What is not a malformed request."""


def _message(cfg: Any, unreader: Any, peer: Any, number: int) -> Request | _Refused:
    """The next request of a connection, as soon as some of it is there; raises _Unreadable."""
    data = unreader.read()
    if cfg.admission.is_full() and (seen := glance(data)):
        return _Refused(seen)
    unreader.unread(data)
    try:
        return Request(cfg, unreader, peer, number)
    except http_errors.ParseException as exc:
        raise _Unreadable(_PROBLEMS.get(type(exc), errors.MalformedRequest)(), made_out(data)) from exc


RequestParser.mesg_class = staticmethod(_message)


class _Broken:
    """In the place of a body that broke off: whoever reads it learns why."""

    def __init__(self, fault: Exception):
        self._fault = fault

    def read(self, size: int) -> bytes:
        raise self._fault


class BodyFirst:
    """A WSGI middleware: no request goes on before all of its body is there, so that a client who sends slowly takes up
    no more than a connection.
    """

    def __init__(self, app: App):
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
            environ["wsgi.input"] = _received(environ["wsgi.input"])
        return self._app(environ, start_response)


def _received(body: Any) -> io.BytesIO | _Broken:
    """The body; of one that is too large a little more than is allowed. Where it does not come in time, StopIteration
    tells gunicorn to close the connection.
    """
    with _Wait(BODY_SECONDS):
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


class _Listener(StreamServer):
    """Takes one connection in each turn of the loop, so that workers get like shares of them. A worker without a free
    place takes all there are: its turns are long, and nobody is to wait here to be refused, or to hear of its health.
    """

    is_busy: ClassVar[Callable[[], bool]]

    @property
    def max_accept(self) -> int:
        return 100 if _Listener.is_busy() else 1

    @max_accept.setter
    def max_accept(self, value: int) -> None:
        """Gunicorn's, which is always 1."""


ggevent.StreamServer = _Listener


class Worker(ggevent.GeventWorker):  # type: ignore[misc]
    """On SIGTERM: not ready, stop accepting, finish what runs, hand back leases, exit 0.

    Connections that only wait for their client are closed. The stock worker waits for them until the master kills it,
    and its leases would hold up events until they expire.
    """

    def init_process(self) -> None:
        logs.start_batching()
        # Gunicorn looks each setting up in a table, twenty times a request; an attribute is found first.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.cfg.__dict__["admission"] = admission = self.app.callable.wsgi_app
        _Listener.is_busy = admission.is_busy
        self.wsgi = BodyFirst(self.app.callable)

    def run(self) -> None:
        super().run()
        self.app.callable.extensions["quintet"].stop()
        log.info("worker.stopped", extra={"pid": self.pid})
        logs.flush()

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        service = self.app.callable.extensions["quintet"]
        service.ready.drain()
        # Now, and not after the last request, which may leave them no time.
        gevent.spawn(service.stop)
        _Wait.longest = LINGER_SECONDS
        gevent.spawn_later(LINGER_SECONDS, _Wait.end_all)

    def timeout_ctx(self) -> _Wait:
        """Around the wait for a request."""
        return _Wait(self.cfg.keepalive)

    def handle_request(self, listener_name: Any, req: Request | _Refused, sock: Any, addr: Any) -> None:
        if not isinstance(req, _Refused):
            super().handle_request(listener_name, req, sock, addr)
            return
        headers, body = self.cfg.admission.refusal(req.seen.path, req.seen.request_id)
        _refuse(sock, errors.Overloaded.status, "keep-alive" if self.alive else "close", headers, body)
        if not self.alive:
            raise StopIteration

    def handle_error(self, req: Request | None, client: Any, addr: Any, exc: BaseException) -> None:
        """Gunicorn's answer is HTML. It closes the connection afterwards."""
        problem, seen = (
            (exc.problem, exc.seen) if isinstance(exc, _Unreadable) else (errors.InternalError(), _seen(req))
        )
        request_id = context.request_id_of(seen.request_id)
        extra = {"status": problem.status, "request_id": request_id}
        if isinstance(exc, _Unreadable):
            log.info("request.unreadable", extra=extra)
        else:
            log.error("request.failed", exc_info=exc, extra=extra)
        headers, body = told(problem, seen.path, request_id)
        with suppress(OSError):  # the client has gone
            _refuse(client, problem.status, "close", headers, b"" if seen.is_head else body)
            _let_send(client)
