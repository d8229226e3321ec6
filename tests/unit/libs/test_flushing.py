import subprocess
import sys
import threading
import time

import pytest

from demo.api import eventually
from libs.common import flushing
from libs.common.flushing import Flusher


class Store:
    """Takes changes, as log lines and metrics do, and writes them when it is flushed."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        self.written: list[int] = []
        self.flushes = 0
        self.fault: Exception | None = None
        self.flusher = Flusher(self.flush)

    def add(self, value: int) -> None:
        self.waiting.append(value)
        if not self.flusher.is_due:
            self.flusher.changed()

    def flush(self) -> None:
        self.flushes += 1
        if self.fault:
            raise self.fault
        while self.waiting:
            self.written.append(self.waiting.pop(0))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(flushing.atexit, "register", lambda flush: None)
    return Store()


def test_until_it_is_started_every_change_is_written_at_once(store: Store) -> None:
    for number in range(3):
        store.add(number)
    assert (store.written, store.flushes) == ([0, 1, 2], 3)


def test_changes_of_one_moment_are_written_together(store: Store) -> None:
    store.flusher.start()
    for number in range(100):
        store.add(number)
    assert store.flushes == 0
    assert eventually(lambda: store.written == list(range(100)))
    assert store.flushes == 1


def test_while_nothing_changes_nothing_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = time.sleep

    def noted(seconds: float) -> None:
        if seconds == flushing.DELAY_SECONDS:
            pauses.append(seconds)
        sleep(min(seconds, 0.01))

    monkeypatch.setattr(time, "sleep", noted)
    store.flusher.start()
    sleep(0.05)
    assert (len(pauses), store.flushes) == (0, 0)
    for number in range(3):
        store.add(number)
        assert eventually(lambda done=number: store.flushes == done + 1)
    sleep(0.05)
    assert (len(pauses), store.flushes) == (3, 3)


def test_a_flush_that_fails_does_not_end_the_later_ones(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.fault = OSError("the disk is full")
    store.flusher.start()
    store.add(1)
    assert eventually(lambda: "flush.failed" in caplog.messages)
    store.fault = None
    store.add(2)
    assert eventually(lambda: store.written == [1, 2])


def test_no_change_stays_behind_however_it_meets_a_flush(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flushing, "DELAY_SECONDS", 0.0)
    store.flusher.start()

    def add(first: int) -> None:
        for number in range(first, first + 2000):
            store.add(number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=add, args=(10_000 * n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert eventually(lambda: len(store.written) == 6000)
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise RuntimeError"])
def test_what_waits_is_written_at_exit(end: str) -> None:
    program = (
        "import sys; from libs.common.flushing import Flusher; f = Flusher(lambda: print('flushed')); f.start(); "
        f"f.changed(); print('changed'); {end}"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert ran.stdout.split() == ["changed", "flushed"]
