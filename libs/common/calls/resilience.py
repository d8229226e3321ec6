"""What keeps a dependency that fails from taking its callers down with it, and its callers from keeping it down.

There is one of each for every dependency in every process: each process protects itself, and no answer's truth depends
on them. They know nothing of what is called; what a failure is, the client says (client.py). They are safe to share
between threads or greenlets, and hold no lock while a call is under way.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class CircuitOpen(Exception):
    """The call was not made. The next probe is due in `seconds`; 0 while one is under way."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds


class BulkheadFull(Exception):
    """The call was not made."""


class Breaker:
    """A circuit breaker (Nygard, "Release It!", chapter 5).

        state      lets through            and becomes
        closed     every call              open, at the last of `failures` within `window_seconds`
        open       none                    half-open, after `reset_seconds`
        half-open  one at a time, a probe  closed, if it succeeds; open, if it fails

    A call that returns succeeds; one that raises fails where `is_failure` says so. Any other exception says nothing of
    the dependency, as when the caller was killed: the state stays, and the next call may be the probe.

    What began while it was closed and ends after that counts no more. `on_change` is told True when it leaves closed,
    and False when it closes again.
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
        # What lets a call through is its pass. All calls of one time of being closed share one, and each probe has its
        # own; so a pass that is neither of these two is from before, and its result is late.
        self._closed: object | None = object()
        self._probe: object | None = None
        self._probe_at = 0.0

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def call(self, work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """What `work` returns or raises; CircuitOpen where it is not let through."""
        given = self._closed or self._begin_probe()
        try:
            result = work(*args, **kwargs)
        except BaseException as exc:
            self._raised(given, self._is_failure(exc))
            raise
        if given is not self._closed:
            self._returned(given)
        return result

    def _begin_probe(self) -> object:
        with self._lock:
            if self._closed:  # since a moment ago
                return self._closed
            seconds = max(0.0, self._probe_at - self._clock())
            if self._probe or seconds:
                raise CircuitOpen(seconds)
            self._probe = object()
            return self._probe

    def _returned(self, given: object) -> None:
        with self._lock:
            if given is not self._probe:
                return
            self._probe, self._closed = None, object()
        self._on_change(False)

    def _raised(self, given: object, failed: bool) -> None:
        with self._lock:
            if given is self._probe:
                self._probe = None
                if failed:
                    self._probe_at = self._clock() + self._reset
                return
            if given is not self._closed or not failed or not self._too_many(now := self._clock()):
                return
            self._recent.clear()
            self._closed, self._probe_at = None, now + self._reset
        self._on_change(True)

    def _too_many(self, now: float) -> bool:
        """Whether one more failure is one too many."""
        self._recent.append(now)
        return len(self._recent) == self._recent.maxlen and now - self._recent[0] <= self._window


class Bulkhead:
    """At most so many calls at once: a dependency that is slow must not take every greenlet of a process. `with` takes
    a place and gives it back; it raises BulkheadFull where there is none.
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
    """A token bucket, as Finagle has it (https://finagle.github.io/blog/2016/02/08/retry-budgets): every first attempt
    puts `share` of a token in, every retry takes one out. While all goes wrong, retries add that share to the load and
    no more.

    It holds few tokens, since what a quiet hour has saved would be spent in the first second of an outage. It begins
    half full: a process that has just started often meets others that have, and has earned nothing yet. Left out are
    Finagle's minimum of retries a second, which every process would add, and the age of tokens, of which there are few.
    """

    CAPACITY = 10

    def __init__(self, share: float):
        # In thousandths, since ten times 0.1 is less than 1.
        self._deposit, self._full = round(share * 1000), self.CAPACITY * 1000
        self._tokens = self._full // 2
        self._lock = threading.Lock()

    def deposit(self) -> None:
        with self._lock:
            self._tokens = min(self._tokens + self._deposit, self._full)

    def withdraw(self) -> bool:
        """Whether there was a token to take."""
        with self._lock:
            if self._tokens < 1000:
                return False
            self._tokens -= 1000
            return True
