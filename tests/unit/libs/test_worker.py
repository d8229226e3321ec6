"""The tasks of a worker besides requests, which tests/integration/libs/test_gunicorn.py tests."""

import os
import subprocess
import sys
from pathlib import Path

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
    """Gunicorn may kill the worker while that request still runs, and leases would block events for half a minute."""
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, timeout=60)
    assert done.stdout == "['drain', 'stop'] False\n", done.stderr


TRUSTING = {
    "forwarded_allow_ips", "forwarder_headers", "secure_scheme_headers", "header_map", "protocol", "proxy_protocol",
    "http_protocols", "http2_cleartext",
}  # fmt: skip


def test_no_default_of_gunicorn_trusts_a_client(tmp_path: Path) -> None:
    """Even when FORWARDED_ALLOW_IPS is set in the environment."""
    command = [sys.executable, "-m", "gunicorn", "-c", "python:libs.common.server.gunicorn_conf", "--print-config"]
    environ = {**os.environ, "SERVICE": "product", "DATA_DIR": str(tmp_path), "FORWARDED_ALLOW_IPS": "*"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    found = dict(line.replace(" ", "").split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert {name: found[name] for name in TRUSTING} == {
        "forwarded_allow_ips": "[]", "forwarder_headers": "[]", "secure_scheme_headers": "{}", "header_map": "drop",
        "protocol": "http", "proxy_protocol": "off", "http_protocols": "['h1']", "http2_cleartext": "off",
    }  # fmt: skip
