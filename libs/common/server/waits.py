"""Waits for a client: each has an end, and all of them end soon when the worker stops."""

import math
from typing import Any, ClassVar, Self

import gevent


class Wait(gevent.Timeout):
    """A wait for a client. It ends without a word when its time is over, and when the worker stops."""

    longest: ClassVar[float] = math.inf
    _under_way: ClassVar[dict["Wait", Any]] = {}

    def __init__(self, seconds: float):
        super().__init__(min(seconds, self.longest), False)  # type: ignore[arg-type]  # gevent documents False

    def __enter__(self) -> Self:
        self._under_way[self] = gevent.getcurrent()
        return super().__enter__()

    def __exit__(self, *exc: Any) -> Any:
        del self._under_way[self]
        return super().__exit__(*exc)

    @classmethod
    def end_all(cls) -> None:
        for wait in list(cls._under_way):
            gevent.get_hub().loop.run_callback(wait._end)

    def _end(self) -> None:
        if self in self._under_way:  # else what it waited for has come meanwhile
            self._under_way[self].throw(self)
