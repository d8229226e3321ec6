"""Work that goes on beside the requests of a worker: relays, senders, recovery jobs."""

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
    """Calls `step`, which returns how much it did, until there is nothing to do; then waits for `wake` or
    `interval_seconds`.

    A step that raises is tried again after a pause that doubles up to five seconds, without limit: a dependency that
    is down comes back some day. Each step has `deadline_seconds` for its calls of other services. Before a step the
    loop rests for `linger_seconds`: where nobody waits for an answer, more work shares each step. After a step that did
    `full` or more it does not rest, since work would pile up. `finish` runs at the end.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], int],
        *,
        interval_seconds: float,
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
        """Ask it to end after the step that runs."""
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
                # Spread out, so that the workers of a service do not sweep in step.
                self._woken.wait(self._interval * random.uniform(0.75, 1.25))
            if self._linger and done < self._full:
                self._stopping.wait(self._linger)
