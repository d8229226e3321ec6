"""Waits for a client: each has an end, and all of them end soon when the worker stops."""

import math
from typing import Any, ClassVar, Self

import gevent


class Wait(gevent.Timeout):
    """A wait for a client. It ends silently when its time is over, when the worker stops, and when there are too many
    connections.
    """

    longest: ClassVar[float] = math.inf
    _under_way: ClassVar[dict["Wait", Any]] = {}
    """Wait → greenlet; those that began first come first."""
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
        """The oldest of the waits for a request, or of all where there is none of these."""
        waits = [wait for wait in cls._under_way if not wait.is_ending]
        if waits:
            next((wait for wait in waits if isinstance(wait, Idle)), waits[0]).end()

    def _end(self) -> None:
        if self in self._under_way:  # else what it waited for has come meanwhile
            self._under_way[self].throw(self)


class Idle(Wait):
    """The wait for a request."""
