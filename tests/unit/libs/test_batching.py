import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from libs.common import context
from libs.common.batching import Batcher
from libs.common.data.database import CommitInDoubt
from libs.common.errors import DeadlineExceeded, InvalidTransition, Overloaded, Problem
from tests.unit.libs import batching_greenlets


class Flush:
    """Doubles the items, and records each batch. The first batch waits until the gate opens."""

    def __init__(self, judge: Callable[[list[Any]], Sequence[Any]] | None = None):
        self.batches: list[list[Any]] = []
        self.entered, self.gate = threading.Event(), threading.Event()
        self._judge = judge or (lambda items: [item * 2 for item in items])

    def __call__(self, items: list[Any]) -> Sequence[Any]:
        self.batches.append(items)
        self.entered.set()
        assert self.gate.wait(10)
        return self._judge(items)


class Caller:
    """Calls in its own thread, in a request with a deadline of `seconds`."""

    def __init__(self, batcher: Batcher[Any, Any], item: Any, seconds: float = 10):
        self.outcome: Any = None
        self.work: context.Context
        self._thread = threading.Thread(target=self._call, args=(batcher, item, seconds))
        self._thread.start()

    def _call(self, batcher: Batcher[Any, Any], item: Any, seconds: float) -> None:
        self.work = context.begin(seconds)
        try:
            self.outcome = batcher(item)
        except Exception as exc:
            self.outcome = exc

    def wait(self) -> Any:
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.outcome


def led(batcher: Batcher[Any, Any], flush: Flush, item: Any) -> Caller:
    """A leader that is running its batch."""
    leader = Caller(batcher, item)
    assert flush.entered.wait(10)
    return leader


def queued(batcher: Batcher[Any, Any], items: Sequence[Any], seconds: float = 10) -> list[Caller]:
    """Waiting followers, in the order of the items."""
    callers = []
    for item in items:
        before = len(batcher._waiting)
        callers.append(Caller(batcher, item, seconds))
        give_up = time.monotonic() + 10
        while len(batcher._waiting) == before:
            assert time.monotonic() < give_up
            time.sleep(0.001)
    return callers


def test_alone_a_caller_is_served_at_once() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: [item * 2 for item in items])
    started = time.monotonic()
    assert [batcher(n) for n in range(100)] == [n * 2 for n in range(100)]
    assert time.monotonic() - started < 4


def test_those_who_come_while_one_is_at_work_travel_together() -> None:
    flush = Flush()
    batcher: Batcher[int, int] = Batcher(flush)
    leader = led(batcher, flush, 1)
    followers = queued(batcher, [2, 3, 4])
    flush.gate.set()
    assert [leader.wait(), *(f.wait() for f in followers)] == [2, 4, 6, 8]
    assert flush.batches == [[1], [2, 3, 4]]


def test_a_batch_has_a_bound() -> None:
    flush = Flush()
    batcher: Batcher[int, int] = Batcher(flush, max_batch=2)
    leader = led(batcher, flush, 0)
    followers = queued(batcher, [1, 2, 3, 4, 5])
    flush.gate.set()
    assert [leader.wait(), *(f.wait() for f in followers)] == [0, 2, 4, 6, 8, 10]
    assert flush.batches == [[0], [1, 2], [3, 4], [5]]


def test_the_queue_has_a_bound() -> None:
    flush = Flush()
    batcher: Batcher[int, int] = Batcher(flush, max_waiting=2)
    leader = led(batcher, flush, 0)
    followers = queued(batcher, [1, 2])
    with pytest.raises(Overloaded):
        batcher(3)
    flush.gate.set()
    assert [leader.wait(), *(f.wait() for f in followers)] == [0, 2, 4]
    assert flush.batches == [[0], [1, 2]]
    assert batcher(3) == 6


def test_an_exception_among_the_results_is_raised_to_its_caller_only() -> None:
    refusal = InvalidTransition("no")
    flush = Flush(lambda items: [refusal if item == 2 else item for item in items])
    batcher: Batcher[int, int] = Batcher(flush)
    leader = led(batcher, flush, 0)
    followers = queued(batcher, [1, 2, 3])
    flush.gate.set()
    assert [leader.wait(), *(f.wait() for f in followers)] == [0, 1, refusal, 3]


class Refused(InvalidTransition):
    """A Problem whose constructor takes other arguments than that of its base."""

    def __init__(self, reason: str, pointer: str):
        super().__init__(reason, errors=[{"pointer": pointer, "detail": reason}])


@pytest.mark.parametrize("fault", [Overloaded("down"), Refused("down", "/items/0"), CommitInDoubt()])
def test_a_problem_of_the_call_is_raised_to_all_of_its_batch_and_to_nobody_else(fault: Problem) -> None:
    def judge(items: list[int]) -> list[int]:
        if 2 in items:
            raise fault
        return items

    flush = Flush(judge)
    batcher: Batcher[int, int] = Batcher(flush, max_batch=2)
    leader = led(batcher, flush, 0)
    followers = queued(batcher, [1, 2, 3, 4])
    flush.gate.set()
    outcomes = [leader.wait(), *(f.wait() for f in followers)]
    assert outcomes[:1] + outcomes[3:] == [0, 3, 4]
    assert all(type(problem) is type(fault) for problem in outcomes[1:3])
    told = fault.document("/", "id")
    assert [problem.document("/", "id") for problem in outcomes[1:3]] == [told] * 2


@pytest.mark.parametrize("is_raised", [True, False])
def test_a_fault_that_is_shared_is_raised_as_a_copy_to_each(is_raised: bool) -> None:
    fault = InvalidTransition("no", errors=[{"pointer": "/items/0"}], headers={"Allow": "GET"})

    def judge(items: list[int]) -> Sequence[Any]:
        if is_raised and len(items) > 1:
            raise fault
        return [fault if item else item for item in items]

    flush = Flush(judge)
    batcher: Batcher[int, int] = Batcher(flush)
    leader = led(batcher, flush, 0)
    followers = queued(batcher, [1, 2])
    flush.gate.set()
    leader.wait()
    first, second = (f.wait() for f in followers)
    assert first.__cause__ is second.__cause__ is fault
    first.errors[0]["pointer"] = "/items/7"
    first.headers["Retry-After"] = "1"
    assert (second.errors, second.headers) == ([{"pointer": "/items/0"}], {"Allow": "GET"})
    frames = [list(traceback.walk_tb(problem.__traceback__)) for problem in (first, second)]
    assert not {id(frame) for frame, _ in frames[0]} & {id(frame) for frame, _ in frames[1]}


def test_a_batch_has_the_latest_deadline_of_its_members() -> None:
    """The short deadline of its leader does not cut off the other members."""
    seen: list[context.Context | None] = []
    flush = Flush(lambda items: [seen.append(context.current())] * len(items))
    batcher: Batcher[int, None] = Batcher(flush)
    leader = led(batcher, flush, 0)
    followers = [*queued(batcher, [1], seconds=3), *queued(batcher, [2], seconds=9), *queued(batcher, [3], seconds=5)]
    flush.gate.set()
    assert [caller.wait() for caller in (leader, *followers)] == [None] * 4
    assert flush.batches == [[0], [1, 2, 3]]
    batch = seen[1]
    assert batch is not None
    assert 6 < batch.seconds_left() <= 9
    assert batch.request_id == followers[0].work.request_id


def test_a_deadline_that_was_given_counts_for_the_batch_too() -> None:
    seen: list[float] = []
    batcher: Batcher[int, None] = Batcher(lambda items: [seen.append(left())] * len(items))
    context.begin(1)
    batcher(1, time.monotonic() + 60)
    assert 50 < seen[0] <= 60
    assert left() <= 1


def left() -> float:
    work = context.current()
    assert work
    return work.seconds_left()


def test_a_batch_with_a_member_that_waits_without_end_has_no_deadline() -> None:
    seen: list[context.Context | None] = []
    batcher: Batcher[int, None] = Batcher(lambda items: [seen.append(context.current())] * len(items))
    context.end()
    batcher(1)
    assert seen == [None]


def test_an_item_that_breaks_the_call_fails_no_neighbour() -> None:
    fault = OSError("cannot be written")

    def judge(items: list[int]) -> list[int]:
        if 2 in items:
            raise fault
        return items

    flush = Flush(judge)
    batcher: Batcher[int, int] = Batcher(flush)
    leader = led(batcher, flush, 0)
    followers = queued(batcher, [1, 2, 3])
    flush.gate.set()
    assert [leader.wait(), *(f.wait() for f in followers)] == [0, 1, fault, 3]


@pytest.mark.parametrize("results", [[], [1]])
def test_too_few_results_are_a_fault_for_everyone(results: list[int]) -> None:
    flush = Flush(lambda items: items if items == [0] else results)
    batcher: Batcher[int, int] = Batcher(flush)
    leader = led(batcher, flush, 0)
    followers = queued(batcher, [1, 2])
    flush.gate.set()
    leader.wait()
    assert all(isinstance(f.wait(), ValueError) for f in followers)


def test_none_is_a_result_like_any_other() -> None:
    flush = Flush(lambda items: [None] * len(items))
    batcher: Batcher[int, None] = Batcher(flush)
    callers = [led(batcher, flush, 0), *queued(batcher, [1, 2])]
    flush.gate.set()
    assert [caller.wait() for caller in callers] == [None] * 3
    assert flush.batches == [[0], [1, 2]]


def test_one_that_leaves_at_its_deadline_takes_its_item_along() -> None:
    flush = Flush()
    batcher: Batcher[int, int] = Batcher(flush)
    leader = led(batcher, flush, 0)
    (early,) = queued(batcher, [1], seconds=0.05)
    late = queued(batcher, [2, 3])
    assert isinstance(early.wait(), DeadlineExceeded)
    flush.gate.set()
    assert [leader.wait(), *(f.wait() for f in late)] == [0, 4, 6]
    assert flush.batches == [[0], [2, 3]]


def test_one_whose_item_is_under_way_leaves_at_its_deadline_too() -> None:
    entered, gate = threading.Event(), threading.Event()

    def flush(items: list[int]) -> list[int]:
        entered.set()
        # The first batch is only the way to get two callers into the second.
        if items != [0]:
            assert gate.wait(10)
        return items

    batcher: Batcher[int, int] = Batcher(flush)
    first = Flush()
    batcher._flush = first
    leader = led(batcher, first, 0)
    patient, hasty = *queued(batcher, [1]), *queued(batcher, [2], seconds=0.3)
    batcher._flush = flush
    first.gate.set()
    assert leader.wait() == 0
    assert entered.wait(10)
    assert isinstance(hasty.wait(), DeadlineExceeded)
    gate.set()
    assert patient.wait() == 1


def test_a_given_deadline_counts_instead_of_the_requests() -> None:
    flush = Flush()
    batcher: Batcher[int, int] = Batcher(flush)
    leader = led(batcher, flush, 0)
    context.begin(10)
    with pytest.raises(DeadlineExceeded):
        batcher(1, time.monotonic() + 0.01)
    flush.gate.set()
    assert leader.wait() == 0
    assert flush.batches == [[0]]


def test_a_deadline_that_has_passed_does_not_wait_at_all() -> None:
    flush = Flush()
    batcher: Batcher[int, int] = Batcher(flush)
    leader = led(batcher, flush, 0)
    with pytest.raises(DeadlineExceeded):
        batcher(1, time.monotonic() - 1)
    flush.gate.set()
    leader.wait()


def test_many_callers_each_get_their_own_answer_once() -> None:
    sent: list[int] = []

    def flush(items: list[int]) -> list[int]:
        assert len(items) <= 5
        sent.extend(items)
        time.sleep(0.0002)
        return [item * 2 for item in items]

    batcher: Batcher[int, int] = Batcher(flush, max_batch=5)
    wrong: list[Any] = []

    def work(start: int) -> None:
        # Some leave early: none of them may leave the batch without a leader.
        dice = random.Random(start)
        for item in range(start, start + 200):
            try:
                if batcher(item, time.monotonic() + dice.choice((0.0005, 10))) != item * 2:
                    wrong.append(item)
            except DeadlineExceeded:
                pass

    threads = [threading.Thread(target=work, args=(n * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not wrong
    assert len(sent) == len(set(sent))
    assert batcher(7) == 14


@pytest.mark.parametrize("scenario", batching_greenlets.SCENARIOS)
def test_greenlets_that_are_killed_hold_up_nobody(scenario: str) -> None:
    """In a process of its own, since gevent patches the standard library for good."""
    command = [sys.executable, "-m", "tests.unit.libs.batching_greenlets", scenario]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stdout) == (0, "held\n"), ran.stderr
