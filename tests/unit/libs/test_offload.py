import subprocess
import sys
import threading
import time

import pytest

from libs.common import context
from libs.common.errors import DeadlineExceeded
from libs.common.offload import Offload
from tests.processes import beside, in_threads

GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gevent
from gevent.monkey import get_original
from libs.common.offload import Offload
sleep, ticks = get_original("time", "sleep"), []
offload = Offload(2)
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.01)
gevent.spawn(tick)
work = [gevent.spawn(offload, sleep, 0.2) for _ in range(4)]
gevent.joinall(work, raise_error=True)
print(len(ticks))
"""


def test_it_returns_what_the_function_does_and_raises_what_it_raises() -> None:
    offload = Offload(1)
    assert offload(max, 1, 2) == 2
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            offload(lambda: 1 / 0)
    assert offload(int, "7") == 7


def test_no_more_run_at_a_time_than_there_are_threads() -> None:
    running: list[int] = []
    most: list[int] = []

    def work() -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()

    offload = Offload(2)
    in_threads(8, lambda number: offload(work))
    assert max(most) == 2


def test_who_waits_for_its_turn_leaves_at_its_deadline_and_is_not_begun() -> None:
    offload, held, release, begun = Offload(1), threading.Event(), threading.Event(), []

    def hold() -> None:
        offload(lambda: held.set() or release.wait(10))

    with beside(hold):
        assert held.wait(10)
        context.begin(0.05)
        with pytest.raises(DeadlineExceeded):
            offload(begun.append, 1)
        context.end()
        release.set()
    assert begun == []


def test_other_greenlets_go_on_meanwhile() -> None:
    """In its own process, since gevent patches the standard library permanently."""
    ran = subprocess.run([sys.executable, "-c", GREENLETS], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 10
