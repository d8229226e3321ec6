"""A system of its own for a measurement: the five services below the launcher, as `make up` starts them, on free ports
and on databases in a temporary folder.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from demo.api import Quintet
from libs.topology import PORT_OFFSETS

ROOT = Path(__file__).resolve().parents[2]
FIRST_PORT, LAST_PORT = 28000, 32000
"""Above those of the tests, and below those that the kernel gives to clients."""
START_SECONDS, STOP_SECONDS = 60.0, 15.0


class Launched(NamedTuple):
    quintet: Quintet
    pid: int
    """Of the launcher, the parent of all other processes."""
    start_seconds: float
    """Until all five services were healthy."""


@contextmanager
def launched(**variables: str) -> Iterator[Launched]:
    """A system with these settings and those of the environment, and none of `.env`, which may name databases that are
    in use.
    """
    quintet = Quintet(_free_base_port())
    with tempfile.TemporaryDirectory(prefix="quintet-load-", ignore_cleanup_errors=True) as folder:
        out = Path(folder, "launcher.out")
        own = {"BASE_PORT": str(quintet.base_port), "DATA_DIR": folder, "LOG_DIR": f"{folder}/log"}
        environ = {name: value for name, value in os.environ.items() if name not in ("PORT", "HOST")}
        started = time.monotonic()
        with open(out, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "libs.launcher"],
                env=environ | own | {"PYTHONPATH": str(ROOT), "FLASK_SKIP_DOTENV": "1"} | variables, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file,
                stderr=file, start_new_session=True,
            )  # fmt: skip
        try:
            if not quintet.wait_until_healthy(START_SECONDS, still_starting=lambda: process.poll() is None):
                raise SystemExit(f"The services did not start:\n{out.read_text(errors='replace')}")
            yield Launched(quintet, process.pid, time.monotonic() - started)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)


def _free_base_port() -> int:
    for base_port in range(FIRST_PORT, LAST_PORT, 10):
        with ExitStack() as stack:
            try:
                for offset in PORT_OFFSETS.values():
                    probe = stack.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", base_port + offset))
            except OSError:
                continue
            return base_port
    raise SystemExit(f"No five free ports in a row were found between {FIRST_PORT} and {LAST_PORT}.")
