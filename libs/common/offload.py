"""Offload: CPU-bound work in a few threads, so that it does not block the event loop."""

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
    """`Offload(2)(function, argument)` calls the function in a thread; at most two calls run at a time in this process.
    Raises DeadlineExceeded if the deadline of the request passes before the call can start.

    Without gevent the caller is a thread itself and makes the call directly.
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
            # Created at first use and so after the fork, which does not copy threads.
            self._pool = self._pool or ThreadPool(self._threads)
            result: Result = self._pool.apply(function, arguments)
            return result
        finally:
            self._free.release()
