"""The gunicorn worker: gevent's, which drains in an orderly way and answers with one system call, and a logger that
writes our JSON lines.
"""

import logging
import time
from functools import lru_cache
from typing import Any, Self

import gevent
from gunicorn import util
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http import wsgi
from gunicorn.workers.ggevent import GeventWorker

from libs.common import logs

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.5
"""How long a worker that stops waits for the next request of a connection: it may be under way already."""


class Logger(GunicornLogger):  # type: ignore[misc]
    """Leaves the handlers to libs.common.logs."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
        self.access_log.propagate = False


class Response(wsgi.Response):  # type: ignore[misc]
    """Sends the head of an answer together with its body."""

    headers_sent: bool
    _head = b""

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
        if self.chunked:
            self._flush()
            super()._emit_body(data)
        else:
            self._flush(data)

    def close(self) -> None:
        self.send_headers()
        self._flush()
        super().close()

    def _flush(self, body: bytes = b"") -> None:
        if data := self._head + body:
            self._head = b""
            util.write(self.sock, data)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return f"Date: {util.http_date(second)}"


# The only way to have another class for HTTP/1.1.
wsgi.Response = Response


class _Wait(gevent.Timeout):
    """A wait for a request, listed while it lasts."""

    def __init__(self, waits: dict[gevent.Timeout, Any], seconds: float):
        super().__init__(seconds, False)  # type: ignore[arg-type]  # gevent documents False
        self._waits = waits

    def __enter__(self) -> Self:
        self._waits[self] = gevent.getcurrent()
        return super().__enter__()

    def __exit__(self, *exc: Any) -> Any:
        del self._waits[self]
        return super().__exit__(*exc)


class Worker(GeventWorker):  # type: ignore[misc]
    """On SIGTERM: not ready, stop accepting, finish what runs, hand back leases, exit 0.

    Connections that only wait for a next request are closed. The stock worker waits for them until the master kills
    it, and its leases would hold up events until they expire.
    """

    def init_process(self) -> None:
        self._waits: dict[gevent.Timeout, Any] = {}
        logs.start_batching()
        # Gunicorn looks each setting up in a table, twenty times a request; an attribute is found first.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        super().init_process()

    def run(self) -> None:
        super().run()
        self.app.callable.extensions["quintet"].stop()
        log.info("worker.stopped", extra={"pid": self.pid})
        logs.flush()

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        self.app.callable.extensions["quintet"].ready.drain()
        gevent.spawn_later(LINGER_SECONDS, self._end_waits)

    def timeout_ctx(self) -> "_Wait":
        """Around the wait for a request; silently ends it when the time is over."""
        return _Wait(self._waits, self.cfg.keepalive if self.alive else LINGER_SECONDS)

    def _end_waits(self) -> None:
        for wait in list(self._waits):
            gevent.get_hub().loop.run_callback(self._end_wait, wait)

    def _end_wait(self, wait: gevent.Timeout) -> None:
        if wait in self._waits:  # else a request has come meanwhile
            self._waits[wait].throw(wait)
