"""What a worker does beside requests. How it takes and answers them, tests/integration/libs/test_gunicorn.py shows."""

import subprocess
import sys

RUN = """
from types import SimpleNamespace
from gevent import monkey
monkey.patch_all()
import time
from libs.common.server.worker import Worker

told = []
service = SimpleNamespace(ready=SimpleNamespace(drain=lambda: told.append("drain")), stop=lambda: told.append("stop"))
worker = object.__new__(Worker)
worker.alive, worker.app = True, SimpleNamespace(callable=SimpleNamespace(extensions={"quintet": service}))
worker.handle_exit(15, None)
time.sleep(0.1)
print(told, worker.alive)
"""


def test_the_loops_are_told_to_stop_when_the_signal_comes_and_not_after_the_last_request() -> None:
    """Gunicorn may end the worker while that one still runs, and leases would hold up events for half a minute."""
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=60)
    assert done.stdout == "['drain', 'stop'] False\n", done.stderr
