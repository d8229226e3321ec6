"""A running service: gunicorn with several workers, in its own processes."""

import os
import signal
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[1]
# Each process of pytest-xdist has its own range: a port that is free when it is checked may be taken before it is used.
_ports = count(18500 + 250 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), 10)


def free_base_port() -> int:
    """A BASE_PORT whose five ports nobody listens on."""
    for base in _ports:
        if all(_is_free(base + offset) for offset in range(1, 6)):
            return base
    raise AssertionError("no port is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Running:
    """`with Running("product", url, directory) as product: requests.get(product.url + "/users")`."""

    def __init__(self, service: str, database_url: str, directory: Path, **environ: str):
        self.service, self._directory = service, directory
        self.base_port = free_base_port()
        self.port = self.base_port + ("user", "product", "order", "notification", "analytics").index(service) + 1
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/api/v1"
        self._environ = {
            **os.environ, "SERVICE": service, "BASE_PORT": str(self.base_port), "DATABASE_URL": database_url,
            "DATA_DIR": str(directory), "LOG_DIR": str(directory), "WEB_CONCURRENCY": "2", "PYTHONPATH": str(ROOT), **environ,
        }  # fmt: skip

    def __enter__(self) -> "Running":
        app = f"{self.service}_service.app:create_app()"
        command = [sys.executable, "-m", "gunicorn", "-c", "python:libs.common.server.gunicorn_conf", app]
        self._out = open(self._directory / f"{self.service}.out", "wb")
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=self._environ, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._out,
            start_new_session=True,
        )  # fmt: skip
        give_up = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < give_up, self.printed()
            time.sleep(0.05)
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> int:
        """SIGTERM, as an operator stops a service; the status that it ends with."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self._out.close()

    def printed(self) -> str:
        return (self._directory / f"{self.service}.out").read_text(errors="replace")

    def logged(self) -> list[str]:
        return (self._directory / f"{self.service}.log").read_text().splitlines()

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.root}/livez", timeout=1).status_code == 200
        except requests.RequestException:
            return False
