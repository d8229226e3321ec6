"""The gunicorn worker: a GeventWorker with graceful shutdown and problem documents for refused requests; and the
logger class.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import gevent
from gevent.server import StreamServer
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.workers import ggevent

from libs.common import context, errors, logs, metrics
from libs.common.server.answers import drain, refuse
from libs.common.server.bodies import BodyFirst
from libs.common.server.requests import Refused, Request, Unreadable, seen_of
from libs.common.server.waits import Idle, Wait
from libs.common.web.admission import encode_problem

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.5
"""How long a stopping worker still waits for its clients, since data may be on its way."""
MAX_CONNECTIONS = 800
"""With more, the connection that has waited longest for its client is closed. Gunicorn accepts up to 1000
(gunicorn_conf.py), and a process may usually open 1024 files, so there is always room for a new one.
"""


class Logger(GunicornLogger):  # type: ignore[misc]
    """Uses the handlers of libs.common.logs."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
        self.access_log.propagate = False


class _Listener(StreamServer):
    """Accepts one connection in each iteration of the event loop, so that the workers share connections evenly. A busy
    worker accepts up to 100: its iterations are long, and refusals and health checks must not wait for them.
    """

    is_busy: ClassVar[Callable[[], bool]]

    @property
    def max_accept(self) -> int:
        return 100 if _Listener.is_busy() else 1

    @max_accept.setter
    def max_accept(self, value: int) -> None:
        """Ignore the value that gunicorn sets, which is always 1."""


ggevent.StreamServer = _Listener


class Worker(ggevent.GeventWorker):  # type: ignore[misc]
    """On SIGTERM: report not ready, stop accepting, finish the requests in progress, release the leases, exit 0.

    It closes connections that only wait for their client. The stock worker waits for them until the master kills it,
    and the leases would delay events until they expire.
    """

    connections = 0

    def init_process(self) -> None:
        logs.start_batching()
        metrics.start_batching()
        # Gunicorn looks settings up in a table, twenty times per request; attributes are found before that.
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
        metrics.flush()
        logs.flush()

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        service = self.app.callable.extensions["quintet"]
        service.ready.drain()
        # Start to stop the loops now: after the last request there may be no time left.
        gevent.spawn(service.stop)
        Wait.longest = LINGER_SECONDS
        gevent.spawn_later(LINGER_SECONDS, Wait.end_all)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection."""
        self.connections += 1
        if self.connections > MAX_CONNECTIONS:
            Wait.end_oldest()
        try:
            super().handle(listener, client, addr)
        finally:
            self.connections -= 1

    def timeout_ctx(self) -> Wait:
        """The context manager around the wait for a request."""
        return Idle(self.cfg.keepalive)

    def handle_request(self, listener_name: Any, req: Request | Refused, sock: Any, addr: Any) -> None:
        if not isinstance(req, Refused):
            self._answer(listener_name, req, sock, addr)
            return
        headers, body = self.cfg.admission.refusal(req.seen.path, req.seen.request_id)
        refuse(sock, errors.Overloaded.status, "keep-alive" if self.alive else "close", headers, body)
        if not self.alive:
            raise StopIteration

    def _answer(self, listener_name: Any, req: Request, sock: Any, addr: Any) -> None:
        try:
            super().handle_request(listener_name, req, sock, addr)
        except StopIteration:
            if req.is_coded:
                drain(sock)
            raise

    def handle_error(self, req: Request | None, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer with a problem document instead of gunicorn's HTML. The caller closes the connection."""
        if isinstance(exc, Unreadable):
            problem, seen = exc.problem, exc.seen
        else:
            problem, seen = exc if isinstance(exc, errors.Problem) else errors.InternalError(), seen_of(req)
        request_id = context.request_id_of(seen.request_id)
        extra = {"status": problem.status, "request_id": request_id}
        if isinstance(exc, Unreadable):
            log.info("request.unreadable", extra=extra)
        elif isinstance(exc, errors.Overloaded):
            metrics.SHED.inc()
        else:
            log.error("request.failed", exc_info=exc, extra=extra)
        headers, body = encode_problem(problem, seen.path, request_id)
        with suppress(OSError):  # the client may have disconnected
            refuse(client, problem.status, "close", headers, b"" if seen.is_head else body)
            drain(client)
