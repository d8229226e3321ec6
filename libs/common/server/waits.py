"""Waits for a client, with a timeout; all of them end early when the worker stops."""

import math
from typing import Any, ClassVar, Self

import gevent


class Wait(gevent.Timeout):
    """A context manager around a wait for a client. It ends the wait silently after the timeout, when the worker stops,
    or when there are too many connections.
    """

    longest: ClassVar[float] = math.inf
    _under_way: ClassVar[dict["Wait", Any]] = {}
    """Wait → greenlet, oldest first."""
    is_ending = False

    def __init__(self, seconds: float):
        super().__init__(min(seconds, self.longest), False)  # type: ignore[arg-type]  # gevent documents False

    def __enter__(self) -> Self:
        self._under_way[self] = gevent.getcurrent()
        return super().__enter__()

    def __exit__(self, *exc: Any) -> Any:
        self._under_way.pop(self, None)
        return super().__exit__(*exc)

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

    def _end(self) -> None:
        if self in self._under_way:  # otherwise it has ended in the meantime
            self._under_way[self].throw(self)


class Idle(Wait):
    """A wait for the next request of a connection."""
