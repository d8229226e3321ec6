"""The gunicorn worker: a GeventWorker with graceful shutdown and problem documents for refused requests; and the
logger class.
"""

import logging
from contextlib import suppress
from typing import Any, ClassVar

import gevent
from gevent.server import StreamServer
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.workers import ggevent

from libs.common import context, errors, logs, metrics
from libs.common.server.answers import ANSWER_SECONDS, drain, encode, send
from libs.common.server.bodies import BodyFirst
from libs.common.server.lane import Lane, Plain
from libs.common.server.requests import Request, Unreadable, seen_of
from libs.common.server.waits import Idle, Wait
from libs.common.web.admission import Admission, encode_problem

log = logging.getLogger(__name__)

LINGER_SECONDS = 0.5
"""How long a stopping worker still waits for its clients, since data may be on its way."""
MAX_CONNECTIONS = 800
"""With more, the connection that has waited longest for its client is closed. Gunicorn accepts up to 1000
(gunicorn_conf.py), and a process may usually open 1024 files, so there is always room for a new one.
"""
MAX_ACCEPTED = 8
"""Connections that a worker accepts in one iteration of its event loop, unless it is busy."""


class Logger(GunicornLogger):  # type: ignore[misc]
    """Uses the handlers of libs.common.logs."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
        self.access_log.propagate = False


class _Listener(StreamServer):
    """Accepts few connections in each iteration of the event loop, so that the workers share them evenly: half as many
    as its worker has, since an iteration with many takes long, and new ones must not wait for many iterations. A busy
    worker accepts up to 100: refusals and health checks must not wait at all.
    """

    worker: ClassVar["Worker"]

    @property
    def max_accept(self) -> int:
        worker = _Listener.worker
        return 100 if worker.admission.is_busy() else min(1 + worker.connections // 2, MAX_ACCEPTED)

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
        self.use(self.app.callable)

    def use(self, app: Any) -> None:
        """Serve the Flask app of a service by both adapters."""
        service = app.extensions["quintet"]
        self.admission: Admission = app.wsgi_app
        self._lane = Lane(service.operations, service.frame, self.admission)
        # Where requests are read (requests.py).
        self.cfg.__dict__["lane"] = self._lane if service.settings.fast_lane else None
        self.wsgi = BodyFirst(app)
        _Listener.worker = self

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

    def handle_request(self, listener_name: Any, req: Request | Plain, sock: Any, addr: Any) -> None:
        if not isinstance(req, Plain):
            self._answer(listener_name, req, sock, addr)
            return
        peer = addr[0] if isinstance(addr, tuple) else ""  # nothing for a Unix socket
        # Decided once: a client that was told that the connection remains may send its next request.
        remains = self.alive
        send(sock, self._lane.answer(req, peer, "keep-alive" if remains else "close"), ANSWER_SECONDS)
        if not remains:
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
            send(client, encode(problem.status, "close", headers, b"" if seen.is_head else body), ANSWER_SECONDS)
            drain(client)
