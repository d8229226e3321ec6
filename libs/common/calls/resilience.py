"""Circuit breaker, bulkhead and retry budget, which keep the failure of a dependency from spreading to its callers.

Each process has its own for every dependency; correctness does not depend on them. They are independent of what is
called; client.py decides what counts as a failure. They are safe to share between threads or greenlets, and hold no
lock during a call.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class CircuitOpen(Exception):
    """The breaker refused the call. The next probe is due in `seconds`; 0 while one is under way."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds


class BulkheadFull(Exception):
    """The bulkhead refused the call."""


class Breaker:
    """A circuit breaker (Nygard, "Release It!", chapter 5).

        state      admits                  next state
        closed     every call              open, after `failures` failures within `window_seconds`
        open       none                    half-open, after `reset_seconds`
        half-open  one call, the probe     closed if it succeeds, open if it fails

    A call that returns is a success; one that raises is a failure if `is_failure` says so. Any other exception, such as
    the one that kills the caller's greenlet, says nothing about the dependency: the state stays, and the next call may
    be the probe.

    A call that was admitted in an earlier state does not count. `on_change(True)` is called when the breaker opens,
    `on_change(False)` when it closes again.
    """

    def __init__(
        self,
        failures: int,
        window_seconds: float,
        reset_seconds: float,
        *,
        is_failure: Callable[[BaseException], bool],
        on_change: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._window, self._reset = window_seconds, reset_seconds
        self._is_failure, self._on_change, self._clock = is_failure, on_change, clock
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=failures)
        # Each admitted call holds a permit, shared by all calls of a closed period; each probe has its own. A
        # permit that is neither `_closed` nor `_probe` is from an earlier state, and its result does not count.
        self._closed: object | None = object()
        self._probe: object | None = None
        self._probe_at = 0.0

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def call(self, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """Call `work` and return its result. Raises CircuitOpen if the call is not admitted."""
        permit = self._closed or self._begin_probe()
        try:
            result = work(*args, **kwargs)
        except BaseException as exc:
            self._raised(permit, self._is_failure(exc))
            raise
        if permit is not self._closed:
            self._returned(permit)
        return result

    def _begin_probe(self) -> object:
        with self._lock:
            if self._closed:  # another call has just closed it
                return self._closed
            seconds = max(0.0, self._probe_at - self._clock())
            if self._probe or seconds:
                raise CircuitOpen(seconds)
            self._probe = object()
            return self._probe

    def _returned(self, permit: object) -> None:
        with self._lock:
            if permit is not self._probe:
                return
            self._probe, self._closed = None, object()
        self._on_change(False)

    def _raised(self, permit: object, failed: bool) -> None:
        with self._lock:
            if permit is self._probe:
                self._probe = None
                if failed:
                    self._probe_at = self._clock() + self._reset
                return
            if permit is not self._closed or not failed or not self._too_many(now := self._clock()):
                return
            self._recent.clear()
            self._closed, self._probe_at = None, now + self._reset
        self._on_change(True)

    def _too_many(self, now: float) -> bool:
        """Record a failure; returns whether the breaker must open."""
        self._recent.append(now)
        return len(self._recent) == self._recent.maxlen and now - self._recent[0] <= self._window


class Bulkhead:
    """Limits the number of concurrent calls, so that a slow dependency does not occupy every greenlet of a process. Use
    it with `with`, which raises BulkheadFull if no place is free.
    """

    def __init__(self, places: int):
        # Both ends of a deque are thread-safe by themselves.
        self._free = deque([None] * places)

    def __enter__(self) -> None:
        try:
            self._free.pop()
        except IndexError:
            raise BulkheadFull from None

    def __exit__(self, *exc: object) -> None:
        self._free.append(None)


class RetryBudget:
    """A token bucket, as in Finagle (https://finagle.github.io/blog/2016/02/08/retry-budgets): every first attempt
    deposits `share` of a token, every retry withdraws one. During an outage, retries add at most that share to the
    load.

    The capacity is small, since saved tokens would all be spent in the first second of an outage. The bucket starts
    half full, since a new process often calls services that are still starting. Finagle's minimum of retries per second
    is left out, since every process would add it; so is the expiry of tokens, since there are few.
    """

    CAPACITY = 10

    def __init__(self, share: float):
        # In integers of thousandths: ten deposits of 0.1 would add up to less than 1.
        self._deposit, self._full = round(share * 1000), self.CAPACITY * 1000
        self._tokens = self._full // 2
        self._lock = threading.Lock()

    def deposit(self) -> None:
        if self._tokens == self._full:  # as usual, and the lock costs more than the rest
            return
        with self._lock:
            self._tokens = min(self._tokens + self._deposit, self._full)

    def withdraw(self) -> bool:
        """Take a token; returns False if there is none."""
        with self._lock:
            if self._tokens < 1000:
                return False
            self._tokens -= 1000
            return True
