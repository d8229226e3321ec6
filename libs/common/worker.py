"""The gunicorn worker: gevent's, which drains in an orderly way, and a logger that writes our JSON lines."""

import logging
from typing import Any

from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.workers.ggevent import GeventWorker

from libs.common import logs


class Logger(GunicornLogger):  # type: ignore[misc]
    """Leaves the handlers to libs.common.logs."""

    def setup(self, cfg: Any) -> None:
        self.error_log.propagate = True
        self.error_log.setLevel(logging.WARNING)
        self.access_log.propagate = False


class Worker(GeventWorker):  # type: ignore[misc]
    """On SIGTERM: not ready, stop accepting, finish what runs, hand back leases, exit 0."""

    def init_process(self) -> None:
        logs.start_batching()
        super().init_process()

    def run(self) -> None:
        super().run()
        self.app.callable.extensions["quintet"].stop()
        logs.flush()
