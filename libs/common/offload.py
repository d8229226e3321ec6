"""Work that keeps the CPU busy for long, beside the event loop: in a few threads, so that other requests go on."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from gevent import monkey
from gevent.threadpool import ThreadPool

from libs.common import context
from libs.common.errors import DeadlineExceeded

Result = TypeVar("Result")


class Offload:
    """`Offload(2)(function, argument)`: at most two run at a time in this process. Who waits for its turn leaves with
    DeadlineExceeded at the deadline of its request, and its work is not begun.

    Without gevent the caller is a thread already, and does it by itself.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._free = threading.BoundedSemaphore(threads)
        self._pool: ThreadPool | None = None

    def __call__(self, function: Callable[..., Result], *arguments: Any) -> Result:
        work = context.current()
        if not self._free.acquire(timeout=max(0.0, work.deadline - time.monotonic()) if work else None):
            raise DeadlineExceeded()
        try:
            if not monkey.is_module_patched("threading"):
                return function(*arguments)
            # Not before: the threads of a process are not those of the process that it was forked from.
            self._pool = self._pool or ThreadPool(self._threads)
            result: Result = self._pool.apply(function, arguments)
            return result
        finally:
            self._free.release()
