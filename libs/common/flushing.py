"""Writes that are put off for a moment, so that many changes share one: log lines, metrics."""

import atexit
import logging
import threading
import time
from collections.abc import Callable

DELAY_SECONDS = 0.2

log = logging.getLogger(__name__)


class Flusher:
    """Calls `flush` DELAY_SECONDS after the first change since the last call, and at exit. While nothing changes,
    nothing runs. Until `start`, and so in a process that never starts it, every change is flushed at once.
    """

    def __init__(self, flush: Callable[[], None]):
        self._flush = flush
        self._wake: threading.Event | None = None
        self.is_due = False
        """Whether a flush will come anyway, so that `changed` need not be called."""

    def start(self) -> None:
        """Put flushes off from now on, in this process: a fork does not inherit the thread."""
        self._wake = threading.Event()
        self.is_due = False
        atexit.register(self._flush)
        threading.Thread(target=self._run, args=(self._wake,), name="flusher", daemon=True).start()

    def changed(self) -> None:
        """To be called after a change, unless a flush `is_due`."""
        if self._wake is None:
            self._flush()
        else:
            self.is_due = True
            self._wake.set()

    def _run(self, wake: threading.Event) -> None:
        while True:
            wake.wait()
            wake.clear()
            time.sleep(DELAY_SECONDS)
            # Before the flush: a change that is too late for this one must bring the next one about.
            self.is_due = False
            try:
                self._flush()
            except Exception:
                log.exception("flush.failed")
