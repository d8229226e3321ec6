"""Races of several processes, which find faults that a lock within one process would hide."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from typing import Any

from libs.common.config import Settings
from libs.common.data import engines
from tests.conftest import SECRET

PROCESSES = 3

_barrier: Barrier


class Workers:
    """Processes that are kept for all tests, since each takes a second to start."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(PROCESSES, spawn, _share, (spawn.Barrier(PROCESSES),))

    def race(self, function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
        """Call `function` at the same time with each of the arguments, each in its own process; returns the results in
        order. An exception in one is raised here.
        """
        assert len(arguments) <= PROCESSES
        running = [self._pool.submit(_at_once, function, given) for given in arguments]
        others = [self._pool.submit(together) for _ in range(PROCESSES - len(arguments))]
        return [task.result(60) for task in [*running, *others]][: len(arguments)]

    def close(self) -> None:
        self._pool.shutdown()


def _share(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def together() -> None:
    """Wait until all processes have reached this barrier."""
    _barrier.wait(60)


def _at_once(function: Callable[..., Any], given: Sequence[Any]) -> Any:
    # Long timeouts: the result of a race must not depend on the load of the machine.
    engines.LOCK_WAIT_SECONDS = 50.0
    together()
    return function(*given)


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(0)` to `work(count - 1)` concurrently; returns the results in order. An exception in one is raised
    here.
    """
    results: list[Any] = [None] * count
    faults: list[BaseException] = []
    together = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            together.wait(30)
            results[number] = work(number)
        except BaseException as exc:
            faults.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if faults:
        raise faults[0]
    return results


@contextmanager
def beside(work: Callable[[], None]) -> Iterator[threading.Thread]:
    """Run `work` in a thread; what it raised is raised at the end of the block."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            faults.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()
    if faults:
        raise faults[0]


def patient(service: str, database_url: str) -> Settings:
    """Settings of a service in a race: no request is refused because the machine is busy."""
    return Settings(
        service=service, database_url=database_url, secret_key=SECRET, log_level="ERROR", request_deadline_seconds=50.0
    )
