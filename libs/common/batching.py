"""Natural batching: concurrent callers share one call (a commit, a network call), without a timer that delays them.

A caller that finds no batch in progress becomes the leader at once. Callers that come during a batch form the next
one, led by the first of them. So a single caller never waits, and under load the cost of a call is shared. It works
with threads, and with greenlets if gevent has patched the standard library.
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
"""How long a batch waits for a call of the Batcher that feeds it; normally such a call takes half of that."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Entry(Generic[Item, Result]):
    """One caller: its item, its deadline (None: it waits for ever) and its result."""

    __slots__ = ("deadline", "done", "item", "result", "woken", "work")

    def __init__(self, item: Item, deadline: float | None):
        self.item = item
        self.work = context.current()
        self.deadline = self.work.deadline if deadline is None and self.work else deadline
        self.woken = threading.Event()
        self.done = False
        self.result: Result | BaseException | None = None


class Batcher(Generic[Item, Result]):
    """`flush` gets the items of one batch and returns one result for each, in order. A result that is an exception is
    raised to its caller; a Problem raised by `flush` is raised to all callers. After any other exception of `flush`
    each item is flushed alone, so that a bad item does not fail the others.

    `feeding` is a Batcher whose callers call this one next, all at once when their batch is done. While one of its
    batches is under way, a batch here waits up to PATIENCE_SECONDS for them, so that two batches become one. `goes_on`
    says which items' callers call it next: these get their results first, so that their call is under way while the
    other callers use the processor.

    A caller whose deadline passes (a time of `time.monotonic()`, by default that of its request) while it waits gets
    DeadlineExceeded, and its item is not flushed. Beyond `max_waiting` waiting callers the next one gets Overloaded.

    `flush` runs in a context with the request id of the leader and the latest deadline of the batch, so that a caller
    with little time does not shorten the others' deadline. An exception for several callers is copied for each.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Sequence[Result | Exception]],
        *,
        feeding: "Batcher[Any, Any] | None" = None,
        goes_on: Callable[[Item], bool] | None = None,
        max_batch: int = 100,
        max_waiting: int = 1000,
    ):
        self._flush, self._max_batch, self._max_waiting = flush, max_batch, max_waiting
        self._feeding, self._goes_on = feeding, goes_on
        self._idle = threading.Event()
        self._idle.set()
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._has_leader = False

    def __call__(self, item: Item, deadline: float | None = None) -> Result:
        entry: _Entry[Item, Result] = _Entry(item, deadline)
        with self._lock:
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded("Too many requests wait for the same thing.")
            self._waiting.append(entry)
            leads, self._has_leader = not self._has_leader, True
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
            # The deadline has passed, or the greenlet was killed. If this entry was just made leader, appoint another.
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
        self._idle.clear()
        try:
            self._gather()
            with self._lock:
                while self._waiting and len(batch) < self._max_batch:
                    batch.append(self._waiting.popleft())
            with context.within(_context_of(leader, batch)):
                results = self._results([entry.item for entry in batch])
            _hand_out(batch, results)
        except Exception as exc:
            _hand_out(batch, [exc] * len(batch))
        except BaseException:
            # The leader's greenlet was killed, before or after it took the batch; the other callers must get a result.
            with self._lock:
                if leader in self._waiting:
                    self._waiting.remove(leader)
            for entry in batch:
                entry.result = DependencyUnavailable("The work was cut off.")
            raise
        finally:
            self._idle.set()
            self._hand_over()
            self._wake(leader, batch)

    def _wake(self, leader: _Entry[Item, Result], batch: Sequence[_Entry[Item, Result]]) -> None:
        for entry in batch:
            entry.done = True
        try:
            if self._goes_on:
                ahead = [entry for entry in batch if self._goes_on(entry.item)]
                for entry in ahead:
                    entry.woken.set()
                if 0 < len(ahead) < len(batch):
                    time.sleep(0)  # they join the next call,
                    if leader not in ahead:
                        time.sleep(0)  # and it is sent, before the leader itself uses the processor
        finally:  # also if the greenlet of the leader is killed
            for entry in batch:
                entry.woken.set()

    def _gather(self) -> None:
        """Yield, so that callers that are ready to run can join: SQLite calls never yield, and without this every batch
        would have one item.
        """
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
            log.error("batch.failed", extra={"items": len(items)}, exc_info=exc)
            return [self._alone(item) for item in items]

    def _alone(self, item: Item) -> Result | BaseException:
        try:
            return self._flush([item])[0]
        except Exception as exc:
            return exc

    def _hand_over(self) -> None:
        """Make the first waiting entry the leader; if there is none, the next caller will be."""
        with self._lock:
            successor = self._waiting[0] if self._waiting else None
            self._has_leader = successor is not None
            if successor:
                successor.woken.set()


def _context_of(leader: _Entry[Any, Any], batch: Iterable[_Entry[Any, Any]]) -> context.Context | None:
    """The leader's context with the latest deadline of the batch; None if a member has no deadline."""
    latest = max((math.inf if entry.deadline is None else entry.deadline for entry in batch), default=math.inf)
    if leader.work is None or latest == math.inf:
        return None
    return leader.work if latest == leader.work.deadline else replace(leader.work, deadline=latest)


def _hand_out(batch: Sequence[_Entry[Any, Any]], results: Sequence[Any]) -> None:
    """Give each entry its result. An exception that several entries share is copied for each, since raising it adds a
    traceback, and the caller may modify it.
    """
    times = Counter(id(result) for result in results if isinstance(result, BaseException))
    for entry, result in zip(batch, results, strict=True):
        entry.result = copy_of(result) if times and times[id(result)] > 1 else result
