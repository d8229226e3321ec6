import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from libs.common import background, context
from libs.common.background import Loop
from libs.common.errors import DependencyUnavailable


@pytest.fixture
def start() -> Iterator[Callable[..., Loop]]:
    """Start a loop, and stop it when the test is over."""
    loops: list[Loop] = []

    def make(step: Callable[[], bool], interval_seconds: float | None = 60, **options: float) -> Loop:
        loops.append(Loop("test", step, interval_seconds=interval_seconds, **options))
        loops[-1].start()
        return loops[-1]

    yield make
    for loop in loops:
        loop.stop()
        loop.join(5)


class Steps:
    """Counts its calls; `reached(n)` waits for the nth."""

    def __init__(self, outcome: Callable[[int], bool] = lambda count: False):
        self.count, self._outcome, self._changed = 0, outcome, threading.Condition()

    def __call__(self) -> bool:
        with self._changed:
            self.count += 1
            self._changed.notify_all()
        return self._outcome(self.count)

    def reached(self, count: int, seconds: float = 10) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.count >= count, seconds)


def test_a_step_that_has_more_to_do_is_called_again_at_once(start: Callable[..., Loop]) -> None:
    steps = Steps(lambda count: count < 50)
    start(steps)
    assert steps.reached(50)
    assert not steps.reached(51, seconds=0.1)


def test_a_wake_ends_the_wait(start: Callable[..., Loop]) -> None:
    steps = Steps()
    loop = start(steps)
    assert steps.reached(1)
    loop.wake()
    assert steps.reached(2)
    # And it waits again.
    assert not steps.reached(3, seconds=0.1)


def test_a_wake_during_a_step_is_not_lost(start: Callable[..., Loop]) -> None:
    loops: list[Loop] = []
    ready = threading.Event()

    def outcome(count: int) -> bool:
        assert ready.wait(5)
        if count == 1:
            loops[0].wake()
        return False

    steps = Steps(outcome)
    loops.append(start(steps))
    ready.set()
    assert steps.reached(2)


def test_without_an_interval_only_a_wake_ends_the_wait(start: Callable[..., Loop]) -> None:
    steps = Steps()
    loop = start(steps, interval_seconds=None)
    assert steps.reached(1)
    assert not steps.reached(2, seconds=0.1)
    loop.wake()
    assert steps.reached(2)


def test_without_a_wake_the_interval_ends_the_wait(start: Callable[..., Loop]) -> None:
    steps = Steps()
    start(steps, interval_seconds=0.01)
    assert steps.reached(3)


def test_each_step_has_a_deadline_and_a_request_id_of_its_own(start: Callable[..., Loop]) -> None:
    seen: list[tuple[str, float]] = []

    def outcome(count: int) -> bool:
        work = context.current()
        assert work
        seen.append((work.request_id, work.seconds_left()))
        return count < 2

    steps = Steps(outcome)
    start(steps, deadline_seconds=3)
    assert steps.reached(2)
    assert seen[0][0] != seen[1][0]
    assert all(2 < left <= 3 for _, left in seen)


@pytest.mark.parametrize("fault", [DependencyUnavailable(), ValueError("a bug")])
def test_a_step_that_fails_is_tried_again(
    start: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(background, "MAX_PAUSE_SECONDS", 0.01)

    def outcome(count: int) -> bool:
        if count < 4:
            raise fault
        return False

    steps = Steps(outcome)
    start(steps)
    assert steps.reached(4)


def test_an_outage_of_days_does_not_end_the_loop(start: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    """2000 failures, five seconds apart, are three hours."""
    monkeypatch.setattr(background, "MAX_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(background.log, "disabled", True)

    def outcome(count: int) -> bool:
        if count < 2000:
            raise DependencyUnavailable()
        return False

    steps = Steps(outcome)
    start(steps)
    assert steps.reached(2000)


def test_pauses_double_up_to_a_bound(start: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(background.random, "uniform", lambda low, high: high)

    def outcome(count: int) -> bool:
        raise DependencyUnavailable()

    loop = Loop("test", Steps(outcome), interval_seconds=1)

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 8:
            loop.stop()
        return True

    monkeypatch.setattr(loop._stopping, "wait", wait)
    loop._run()
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def test_a_fault_of_ours_is_logged_with_its_traceback_and_a_dependency_without(
    start: Callable[..., Loop], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MAX_PAUSE_SECONDS", 0.01)
    faults = iter([DependencyUnavailable(), ValueError("a bug")])

    def outcome(count: int) -> bool:
        for fault in faults:
            raise fault
        return False

    steps = Steps(outcome)
    with caplog.at_level(logging.WARNING):
        start(steps)
        assert steps.reached(3)
    first, second = (record for record in caplog.records if record.getMessage() == "background.failed")
    assert (first.levelno, bool(first.exc_info)) == (logging.WARNING, False)
    assert (second.levelno, bool(second.exc_info)) == (logging.ERROR, True)


def test_stop_ends_a_wait_at_once(start: Callable[..., Loop]) -> None:
    steps = Steps()
    loop = start(steps)
    assert steps.reached(1)
    loop.stop()
    loop.join(5)
    assert loop._thread
    assert not loop._thread.is_alive()


def test_stop_lets_the_step_that_runs_finish(start: Callable[..., Loop]) -> None:
    entered, gate, finished = threading.Event(), threading.Event(), threading.Event()

    def step() -> bool:
        entered.set()
        assert gate.wait(5)
        finished.set()
        return True

    loop = start(step)
    assert entered.wait(5)
    loop.stop()
    gate.set()
    loop.join(5)
    assert finished.is_set()


def test_joining_a_loop_that_was_never_started_is_harmless() -> None:
    Loop("test", lambda: False, interval_seconds=1).join(1)


def test_a_loop_may_rest_before_each_step_so_that_more_work_shares_it(start: Callable[..., Loop]) -> None:
    times: list[float] = []

    def outcome(count: int) -> bool:
        times.append(time.monotonic())
        return count < 4

    steps = Steps(outcome)
    start(steps, linger_seconds=0.05)
    assert steps.reached(4)
    assert all(later - earlier >= 0.05 for earlier, later in zip(times, times[1:], strict=False))


def test_a_loop_does_not_rest_after_a_full_step(start: Callable[..., Loop]) -> None:
    done = [100, 100, 99, 0]
    times: list[float] = []

    def outcome(count: int) -> int:
        times.append(time.monotonic())
        return done[count - 1] if count <= len(done) else 0

    steps = Steps(outcome)
    start(steps, linger_seconds=0.3, full=100)
    assert steps.reached(4)
    pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert max(pauses[:2]) < 0.3 <= pauses[2]


def test_a_loop_that_rests_stops_at_once(start: Callable[..., Loop]) -> None:
    steps = Steps(lambda count: True)
    loop = start(steps, linger_seconds=60)
    assert steps.reached(1)
    loop.stop()
    loop.join(5)
    assert loop._thread
    assert not loop._thread.is_alive()


@pytest.mark.parametrize("fails", [False, True])
def test_at_the_end_a_loop_finishes_once(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_PAUSE_SECONDS", 0.01)
    ended: list[int] = []

    def outcome(count: int) -> bool:
        if fails:
            raise DependencyUnavailable()
        return False

    steps = Steps(outcome)
    loop = Loop("test", steps, interval_seconds=60, finish=lambda: ended.append(1))
    loop.start()
    assert steps.reached(1)
    assert ended == []
    loop.stop()
    loop.join(5)
    assert ended == [1]
