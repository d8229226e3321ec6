"""How a connection of psycopg waits for PostgreSQL in a process that gevent has patched.

Of its own accord psycopg makes a poll object, a watcher, an event and a timer for each round trip, and wakes up ten
times a second. Waiting is a third of what a statement costs in the process.
"""

from select import POLLIN, POLLOUT
from typing import Any, TypeVar

import psycopg
from gevent import monkey
from gevent.socket import wait_read, wait_readwrite
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

Result = TypeVar("Result")

_poll = monkey.get_original("select", "poll")


class GeventConnection(psycopg.Connection[Any]):
    """Other greenlets run while it waits. How long that takes is bounded by the server's timeouts."""

    def wait(self, gen: PQGen[Result], interval: float = 0.0, timeout: float | None = None) -> Result:
        if timeout is not None:  # only `notifies` and `cancel_safe` have one
            return super().wait(gen, interval, timeout)
        try:
            wanted = next(gen)
            while True:
                if wanted == Wait.R:
                    wait_read(self.pgconn.socket)
                    wanted = gen.send(Ready.R)
                else:
                    wanted = gen.send(_ready_to_write(self.pgconn.socket))
        except StopIteration as done:
            result: Result = done.value
            return result


def _ready_to_write(fileno: int) -> Ready:
    """Wait until the socket can be written or read. Normally it can be written at once."""
    poll = _poll()
    poll.register(fileno, POLLIN | POLLOUT)
    while not (found := poll.poll(0)):
        wait_readwrite(fileno)
    events = found[0][1]
    # An error or a hang-up shows when the driver reads.
    return Ready.RW if events & ~POLLOUT else Ready.W
