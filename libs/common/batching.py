"""Natural batching: those who need the same thing at the same moment get it in one call, and no timer delays anyone.

Whoever finds nobody at work leads at once. Those who come meanwhile wait, and are the next batch, led by the first of
them. Alone, a caller waits for nothing; under load a commit or a network call is shared by all who are there.
It works with threads, and with greenlets where gevent has patched the standard library.
"""

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

from libs.common import context
from libs.common.errors import DeadlineExceeded, DependencyUnavailable, Overloaded, Problem, copy_of

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 0.005
"""How long a batch waits for a call that is under way elsewhere: two such calls, when all is well."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Entry(Generic[Item, Result]):
    """One caller: what it brings, until when it waits (None: without end), and what becomes of it."""

    __slots__ = ("deadline", "done", "item", "result", "woken", "work")

    def __init__(self, item: Item, deadline: float | None):
        self.item = item
        self.work = context.current()
        self.deadline = self.work.deadline if deadline is None and self.work else deadline
        self.woken = threading.Event()
        self.done = False
        self.result: Result | BaseException | None = None


class Batcher(Generic[Item, Result]):
    """`flush` gets the items of one batch and returns one result each, in order; a result that is an exception is
    raised to its caller, and a Problem raised by `flush` to all of them. Any other exception of `flush` makes each item
    go alone, so that one that breaks the call fails no neighbour.

    Those who are `feeding` this one with callers come back from their calls together: where such a call is under way, a
    batch waits a moment for it, and two batches become one.

    A caller leaves with DeadlineExceeded at its deadline (a time of `time.monotonic()`, by default that of its
    request): one that still waits takes its item along. More than `max_waiting` callers get Overloaded.

    `flush` runs in the context of its batch, which has the request id of its leader and the latest deadline of its
    members: a caller with little time does not cut its neighbours short. An exception that is raised to several callers
    is raised to each as a copy of its own.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Sequence[Result | Exception]],
        *,
        feeding: "Batcher[Any, Any] | None" = None,
        max_batch: int = 100,
        max_waiting: int = 1000,
    ):
        self._flush, self._max_batch, self._max_waiting = flush, max_batch, max_waiting
        self._feeding = feeding
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._led = False

    def __call__(self, item: Item, deadline: float | None = None) -> Result:
        entry: _Entry[Item, Result] = _Entry(item, deadline)
        with self._lock:
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded("Too many requests wait for the same thing.")
            self._waiting.append(entry)
            leads, self._led = not self._led, True
        if not leads:
            self._wait(entry)
        if not entry.done:
            self._lead(entry)
        if isinstance(entry.result, Exception):
            raise entry.result
        return cast(Result, entry.result)

    def _wait(self, entry: _Entry[Item, Result]) -> None:
        deadline = entry.deadline
        try:
            if entry.woken.wait(None if deadline is None else max(0.0, deadline - time.monotonic())):
                return
            raise DeadlineExceeded()
        except BaseException:
            # Out of time, or killed. If the lead was just handed to this one, somebody else must take it.
            with self._lock:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                    appointed = entry.woken.is_set()
                else:
                    appointed = False
            if appointed:
                self._hand_over()
            raise

    def _lead(self, leader: _Entry[Item, Result]) -> None:
        batch: list[_Entry[Item, Result]] = []
        try:
            self._gather()
            with self._lock:
                while self._waiting and len(batch) < self._max_batch:
                    batch.append(self._waiting.popleft())
            self._idle.clear()
            with context.within(_context_of(leader, batch)):
                results = self._results([entry.item for entry in batch])
            _hand_out(batch, results)
        except Exception as exc:
            _hand_out(batch, [exc] * len(batch))
        except BaseException:
            # Killed, and nobody else with it: before the batch was taken, or while it was under way.
            with self._lock:
                if leader in self._waiting:
                    self._waiting.remove(leader)
            for entry in batch:
                entry.result = DependencyUnavailable("The work was cut off.")
            raise
        finally:
            self._idle.set()
            self._hand_over()
            for entry in batch:
                entry.done = True
                entry.woken.set()

    def _gather(self) -> None:
        """Let those who are ready to run join: calls to SQLite never yield, so without this a batch is always one."""
        time.sleep(0)
        if self._feeding and not self._feeding._idle.is_set():
            self._feeding._idle.wait(PATIENCE_SECONDS)
            time.sleep(0)

    def _results(self, items: list[Item]) -> Sequence[Result | BaseException]:
        try:
            return self._flush(items)
        except Problem:
            raise
        except Exception as exc:
            if len(items) == 1:
                raise
            # One item that breaks the call must not fail its neighbours.
            log.error("batch.failed", extra={"items": len(items)}, exc_info=exc)
            return [self._alone(item) for item in items]

    def _alone(self, item: Item) -> Result | BaseException:
        try:
            return self._flush([item])[0]
        except Exception as exc:
            return exc

    def _hand_over(self) -> None:
        """The first who waits leads next; if nobody does, the next to come leads."""
        with self._lock:
            heir = self._waiting[0] if self._waiting else None
            self._led = heir is not None
            if heir:
                heir.woken.set()


def _context_of(leader: _Entry[Any, Any], batch: Iterable[_Entry[Any, Any]]) -> context.Context | None:
    """That of the leader with the latest deadline of all; none where a member waits without end."""
    deadlines = [math.inf if entry.deadline is None else entry.deadline for entry in batch]
    if leader.work is None or math.inf in deadlines:
        return None
    return replace(leader.work, deadline=max(deadlines))


def _hand_out(batch: Sequence[_Entry[Any, Any]], results: Sequence[Any]) -> None:
    """Give each member its result. Of an exception that is the result of several, each gets a copy: to raise it adds a
    traceback, and its caller may change its members.
    """
    times = Counter(id(result) for result in results)
    for entry, result in zip(batch, results, strict=True):
        shared = isinstance(result, BaseException) and times[id(result)] > 1
        entry.result = copy_of(result) if shared else result
