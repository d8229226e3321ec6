"""Background loops of a worker process: relays, senders, recovery jobs."""

import logging
import math
import random
import threading
from collections.abc import Callable

from libs.common import context
from libs.common.errors import Problem

log = logging.getLogger(__name__)

MAX_PAUSE_SECONDS = 5.0


class Loop:
    """Calls `step`, which returns how much it did, until that is nothing; then waits for `wake` or about
    `interval_seconds`, or only for `wake` if that is None.

    A step that raises is retried without limit, after a pause that doubles up to MAX_PAUSE_SECONDS. Each step has
    `deadline_seconds` for its calls of other services. Between steps the loop pauses for `linger_seconds`, so that a
    step gets more work at once, but not after a step that did `full` or more: a backlog would grow. `finish` is called
    when the loop ends.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], int],
        *,
        interval_seconds: float | None,
        linger_seconds: float = 0.0,
        full: float = math.inf,
        deadline_seconds: float = 5.0,
        finish: Callable[[], None] = lambda: None,
    ):
        self.name, self._step, self._finish = name, step, finish
        self._interval, self._linger, self._deadline = interval_seconds, linger_seconds, deadline_seconds
        self._full = full
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        """Tell the loop to end after its current step; does not wait for that."""
        self._stopping.set()
        self._woken.set()

    def join(self, seconds: float) -> None:
        if self._thread:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._repeat()
        finally:
            self._finish()

    def _repeat(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._woken.clear()
            context.begin(self._deadline)
            try:
                done = self._step()
                failures = 0
            except Exception as exc:
                failures += 1
                known = isinstance(exc, Problem)
                level = logging.WARNING if known else logging.ERROR
                log.log(level, "background.failed", extra={"loop": self.name, "failures": failures}, exc_info=not known)
                pause = min(0.1 * 2 ** min(failures, 10), MAX_PAUSE_SECONDS)
                self._stopping.wait(pause * random.uniform(0.5, 1.0))
                continue
            finally:
                context.end()
            if not done:
                # Jitter, so that the workers of a service do not poll at the same time.
                self._woken.wait(self._interval and self._interval * random.uniform(0.75, 1.25))
            if self._linger and done < self._full:
                self._stopping.wait(self._linger)
