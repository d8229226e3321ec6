"""The gunicorn worker: gevent's, which drains in an orderly way, and a logger that writes our JSON lines."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gunicorn.glogging import Logger as GunicornLogger
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


class Worker(GeventWorker):  # type: ignore[misc]
    """On SIGTERM: not ready, stop accepting, finish what runs, hand back leases, exit 0.

    Connections that only wait for a next request are closed. The stock worker waits for them until the master kills
    it, and its leases would hold up events until they expire.
    """

    def init_process(self) -> None:
        self._waits: dict[gevent.Timeout, Any] = {}
        logs.start_batching()
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

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Around the wait for a request; silently ends it when the time is over."""
        seconds = self.cfg.keepalive if self.alive else LINGER_SECONDS
        with gevent.Timeout(seconds, False) as wait:  # type: ignore[arg-type]  # gevent documents False
            self._waits[wait] = gevent.getcurrent()
            try:
                yield
            finally:
                del self._waits[wait]

    def _end_waits(self) -> None:
        for wait in list(self._waits):
            gevent.get_hub().loop.run_callback(self._end_wait, wait)

    def _end_wait(self, wait: gevent.Timeout) -> None:
        if wait in self._waits:  # else a request has come meanwhile
            self._waits[wait].throw(wait)
