"""Waits for a client, with timeouts; all of them end early when the worker stops."""

import math
import time
from types import TracebackType
from typing import Any, ClassVar, Self

import gevent

SWEEP_SECONDS = 0.25
"""How often the waits under way are checked: one timer for all is cheaper than one for each request."""


class Wait(BaseException):
    """A context manager around a wait for a client. It ends the wait silently up to SWEEP_SECONDS after its time, when
    the worker stops, or when there are too many connections.
    """

    longest: ClassVar[float] = math.inf
    _under_way: ClassVar[dict["Wait", Any]] = {}
    """Wait → greenlet, oldest first."""
    _sweeper: ClassVar[Any] = None
    is_ending = False
    _end_at = math.inf

    def __init__(self, seconds: float):
        self._seconds = seconds

    def __enter__(self) -> Self:
        self._end_at = time.monotonic() + min(self._seconds, self.longest)
        self._under_way[self] = gevent.getcurrent()
        if Wait._sweeper is None:
            Wait._sweeper = gevent.get_hub().loop.timer(SWEEP_SECONDS, SWEEP_SECONDS)
            Wait._sweeper.start(Wait._sweep)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> bool:
        self._under_way.pop(self, None)
        return exc is self

    def end(self) -> None:
        self.is_ending = True
        gevent.get_hub().loop.run_callback(self._end)

    @classmethod
    def end_all(cls) -> None:
        for wait in list(cls._under_way):
            wait.end()

    @classmethod
    def end_oldest(cls) -> None:
        """End the oldest wait for a request, or, if there is none, the oldest wait of any kind."""
        waits = [wait for wait in cls._under_way if not wait.is_ending]
        if waits:
            next((wait for wait in waits if isinstance(wait, Idle)), waits[0]).end()

    @classmethod
    def _sweep(cls) -> None:
        """End what is over time. The timer runs only while there are waits."""
        now = time.monotonic()
        for wait in cls._under_way:
            if now >= wait._end_at and not wait.is_ending:
                wait.end()
        if not cls._under_way:
            Wait._sweeper.close()
            Wait._sweeper = None

    def _end(self) -> None:
        if self in self._under_way:  # otherwise it has ended in the meantime
            self._under_way[self].throw(self)


class Idle(Wait):
    """A wait for the next request of a connection."""
