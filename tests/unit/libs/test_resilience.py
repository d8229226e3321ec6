import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import pytest

from libs.common.calls.resilience import Breaker, Bulkhead, BulkheadFull, CircuitOpen, RetryBudget
from libs.common.errors import DeadlineExceeded
from tests.processes import beside, in_threads


class Failure(Exception):
    """A failure of the dependency."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Dependency:
    """A dependency that is called through a breaker, which opens at 5 failures in 10 seconds and probes after 2."""

    def __init__(self, failures: int = 5) -> None:
        self.clock, self.changes, self.sent = Clock(), list[bool](), 0
        self.breaker = Breaker(
            failures, 10.0, 2.0,
            is_failure=lambda exc: isinstance(exc, Failure), on_change=self.changes.append, clock=self.clock,
        )  # fmt: skip

    def call(self, outcome: Any = "answer") -> Any:
        return self.breaker.call(self._work, outcome)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            with pytest.raises(Failure):
                self.call(Failure())

    def refuses(self) -> bool:
        """Whether the next call is refused; one that is not does not count as an outcome."""
        try:
            self.call(KeyError())
        except CircuitOpen:
            return True
        except KeyError:
            return False
        raise AssertionError

    def _work(self, outcome: Any) -> Any:
        self.sent += 1
        if callable(outcome):
            outcome = outcome()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def dependency() -> Dependency:
    return Dependency()


@pytest.fixture
def opened(dependency: Dependency) -> Dependency:
    """A breaker that has just opened."""
    dependency.fail(5)
    assert dependency.refuses()
    return dependency


@pytest.fixture
def half_open(opened: Dependency) -> Dependency:
    """A breaker that is half-open."""
    opened.clock.now += 2.0
    return opened


# Closed ------------------------------------------------------------------------------------------------------------


def test_a_closed_breaker_is_not_noticed(dependency: Dependency) -> None:
    assert dependency.call("answer") == "answer"
    with pytest.raises(KeyError):
        dependency.call(KeyError())
    assert dependency.breaker.call(lambda a, *, b: (a, b), 1, b=2) == (1, 2)


@pytest.mark.parametrize("failures", [1, 2, 5])
def test_so_many_failures_open_it_and_no_fewer(failures: int) -> None:
    dependency = Dependency(failures)
    dependency.fail(failures - 1)
    assert not dependency.refuses()
    assert dependency.breaker.closed
    dependency.fail()
    assert dependency.refuses()
    assert not dependency.breaker.closed


def test_successes_between_the_failures_change_nothing(dependency: Dependency) -> None:
    for _ in range(4):
        dependency.fail()
        dependency.call()
    dependency.fail()
    assert dependency.refuses()


def test_what_says_nothing_of_the_dependency_never_opens_it(dependency: Dependency) -> None:
    for fault in (KeyError(), DeadlineExceeded(), gevent.Timeout(), gevent.GreenletExit(), KeyboardInterrupt()) * 3:
        with pytest.raises(type(fault)):
            dependency.call(fault)
    assert not dependency.refuses()


def test_failures_count_together_only_within_the_window(dependency: Dependency) -> None:
    for _ in range(20):
        dependency.fail()
        dependency.clock.now += 2.6  # the fifth is 10.4 seconds after the first
    assert dependency.changes == []


def test_the_window_slides(dependency: Dependency) -> None:
    for pause in (9, 3, 3, 1, 1):
        dependency.fail()
        dependency.clock.now += pause
    assert dependency.changes == []
    dependency.fail()
    assert dependency.refuses()


def test_calls_run_side_by_side(dependency: Dependency) -> None:
    """A lock that was held during a call would serialise them."""
    all_inside = threading.Barrier(8)
    in_threads(8, lambda _: dependency.call(lambda: all_inside.wait(10)))


# Open --------------------------------------------------------------------------------------------------------------


def test_an_open_breaker_calls_nobody_and_says_when_it_will(opened: Dependency) -> None:
    sent = opened.sent
    for passed, left in ((0.0, 2.0), (0.5, 1.5), (1.25, 0.25)):
        opened.clock.now += passed
        with pytest.raises(CircuitOpen) as refused:
            opened.call()
        assert refused.value.seconds == left
    assert opened.sent == sent


def test_a_probe_that_succeeds_closes_it(half_open: Dependency) -> None:
    assert half_open.call() == "answer"
    # Earlier failures no longer count.
    half_open.fail(4)
    assert not half_open.refuses()
    half_open.fail()
    assert half_open.refuses()


def test_a_probe_that_fails_opens_it_for_the_whole_time_again(half_open: Dependency) -> None:
    for _ in range(3):
        half_open.fail()
        half_open.clock.now += 1.9
        assert half_open.refuses()
        half_open.clock.now += 0.1
    assert half_open.call() == "answer"
    assert not half_open.refuses()


def test_fifty_at_once_are_one_probe(half_open: Dependency) -> None:
    refused = threading.Semaphore(0)

    def probe() -> str:
        assert all(refused.acquire(timeout=10) for _ in range(49))
        return "answer"

    def ask(_: int) -> Any:
        try:
            return half_open.call(probe)
        except CircuitOpen as exc:
            refused.release()
            return exc.seconds

    assert Counter(in_threads(50, ask)) == {"answer": 1, 0.0: 49}
    assert not half_open.refuses()


NOBODYS_FAULT = [KeyError(), DeadlineExceeded(), gevent.Timeout(), gevent.GreenletExit(), KeyboardInterrupt()]


@pytest.mark.parametrize("fault", NOBODYS_FAULT, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("outcome", ["answer", Failure()], ids=["up", "down"])
def test_a_probe_that_says_nothing_leaves_its_place_to_the_next(
    half_open: Dependency, fault: BaseException, outcome: Any
) -> None:
    for _ in range(3):
        with pytest.raises(type(fault)):
            half_open.call(fault)
    if outcome == "answer":
        half_open.call()
        half_open.fail(4)
        assert not half_open.refuses()
    else:
        half_open.fail()
        assert half_open.refuses()


def test_a_greenlet_that_is_killed_while_it_probes_leaves_its_place(half_open: Dependency) -> None:
    probing = gevent.spawn(half_open.call, lambda: gevent.sleep(60))
    gevent.sleep(0)
    assert half_open.refuses()
    probing.kill()
    assert half_open.call() == "answer"


def test_its_changes_are_told_once_each(dependency: Dependency) -> None:
    dependency.fail(5)
    for _ in range(3):
        assert dependency.refuses()
        dependency.clock.now += 2.0
        dependency.fail()
    assert dependency.changes == [True]
    dependency.clock.now += 2.0
    dependency.call()
    dependency.call()
    assert dependency.changes == [True, False]


# Late results ------------------------------------------------------------------------------------------------------


def late(dependency: Dependency, outcome: Any, meanwhile: Callable[[], Any]) -> None:
    """A call that begins now and ends with `outcome` after `meanwhile`."""

    def work() -> Any:
        meanwhile()
        return outcome

    with suppress(Failure):
        dependency.call(work)


@pytest.mark.parametrize("outcome", ["answer", Failure()], ids=["success", "failure"])
def test_what_ends_while_it_is_open_changes_nothing(dependency: Dependency, outcome: Any) -> None:
    def meanwhile() -> None:
        dependency.fail(5)
        dependency.clock.now += 1.0

    late(dependency, outcome, meanwhile)
    with pytest.raises(CircuitOpen) as refused:
        dependency.call()
    assert refused.value.seconds == 1.0
    assert dependency.changes == [True]


@pytest.mark.parametrize("outcome", ["answer", Failure()], ids=["success", "failure"])
@pytest.mark.parametrize("probe", ["answer", Failure()], ids=["up", "down"])
def test_what_ends_during_a_probe_does_not_disturb_it(dependency: Dependency, outcome: Any, probe: Any) -> None:
    begun, probing, over = threading.Event(), threading.Event(), threading.Event()

    def old_call() -> None:
        late(dependency, outcome, lambda: (begun.set(), probing.wait(10)))
        over.set()

    def answer_the_probe() -> Any:
        probing.set()
        assert over.wait(10)
        assert dependency.refuses()
        return probe

    with beside(old_call):
        assert begun.wait(10)
        dependency.fail(5)
        dependency.clock.now += 2.0
        with suppress(Failure):
            dependency.call(answer_the_probe)
    assert dependency.refuses() is isinstance(probe, Failure)


def test_what_fails_after_it_has_closed_again_is_forgotten(dependency: Dependency) -> None:
    def meanwhile() -> None:
        dependency.fail(5)
        dependency.clock.now += 2.0
        dependency.call()
        dependency.fail(4)

    late(dependency, Failure(), meanwhile)
    assert not dependency.refuses()
    dependency.fail()
    assert dependency.refuses()


# The bulkhead ------------------------------------------------------------------------------------------------------


def test_so_many_may_be_inside_at_once_and_no_more() -> None:
    bulkhead, let_go = Bulkhead(3), threading.Event()
    refused = threading.Semaphore(0)

    def enter(_: int) -> bool:
        try:
            with bulkhead:
                return let_go.wait(10)
        except BulkheadFull:
            refused.release()
            return False

    with beside(lambda: all(refused.acquire(timeout=10) for _ in range(17)) and let_go.set()):
        assert Counter(in_threads(20, enter)) == {True: 3, False: 17}


@pytest.mark.parametrize("fault", [KeyError(), gevent.GreenletExit()], ids=lambda fault: type(fault).__name__)
def test_every_place_is_given_back(fault: BaseException) -> None:
    bulkhead = Bulkhead(2)
    for _ in range(10):
        with pytest.raises(type(fault)), bulkhead:
            raise fault
    with bulkhead, bulkhead, pytest.raises(BulkheadFull), bulkhead:
        pass
    with bulkhead, bulkhead:
        pass


# The retry budget --------------------------------------------------------------------------------------------------


def drained(budget: RetryBudget) -> int:
    """How many retries it allowed until it was empty."""
    allowed = 0
    while budget.withdraw():
        allowed += 1
    return allowed


def test_a_new_budget_has_a_few_tokens() -> None:
    assert drained(RetryBudget(0.1)) == 5


@pytest.mark.parametrize(
    ("share", "calls", "retries"), [(0.1, 9, 0), (0.1, 10, 1), (0.1, 99, 9), (0.3, 10, 3), (2.0, 3, 6)]
)
def test_first_attempts_earn_retries(share: float, calls: int, retries: int) -> None:
    budget = RetryBudget(share)
    drained(budget)
    for _ in range(calls):
        budget.deposit()
    assert drained(budget) == retries


def test_a_budget_saves_no_more_than_it_holds() -> None:
    budget = RetryBudget(0.1)
    for _ in range(100_000):
        budget.deposit()
    assert drained(budget) == RetryBudget.CAPACITY == 10


def test_in_the_long_run_retries_add_their_share_and_no_more() -> None:
    budget, retries = RetryBudget(0.1), 0
    for _ in range(1000):
        budget.deposit()
        retries += drained(budget)
    assert retries == 100 + 5


def test_no_token_is_lost_or_found_between_threads() -> None:
    budget = RetryBudget(0.1)
    drained(budget)

    def work(_: int) -> int:
        taken = 0
        for _ in range(2000):
            budget.deposit()
            taken += budget.withdraw()
            time.sleep(0)
        return taken

    assert sum(in_threads(8, work)) + drained(budget) == 1600
