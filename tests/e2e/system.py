"""The five services as separate processes, started by the commands of the Procfile.

`make up` runs them below a launcher, which ends all of them when one ends. Here each can be stopped, killed and
restarted alone. The rest is the same: migrations first, the same variables, gunicorn with two workers or more.

TEST_E2E_ENV_FILE may name a file of further variables for the services, written as in `.env`: with DATABASE_URL_USER
and the others, BROKER_URL and REDIS_URL in it, the same tests run on the engines of production.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.api import Quintet, eventually
from libs.env_file import read_env_file
from libs.topology import SERVICES

ROOT = Path(__file__).resolve().parents[2]
UNHURRIED = {"REQUEST_DEADLINE_SECONDS": "20", "READ_TIMEOUT_SECONDS": "8", "SUMMARY_DEADLINE_SECONDS": "5"}
"""Two systems, or twenty workers, that share two cores would exceed the default deadline with 500 orders at once."""
START_SECONDS = 30.0
STOP_SECONDS = 10.0


def commands() -> dict[str, str]:
    """Service → its command in the Procfile."""
    lines = (line.partition(":") for line in (ROOT / "Procfile").read_text().splitlines() if line)
    return {name: command.strip() for name, _, command in lines}


def environment(base_port: int, data_dir: Path, **given: str) -> dict[str, str]:
    """What `make up BASE_PORT=... DATA_DIR=...` would give to the services, and what the env file says."""
    found = {"WEB_CONCURRENCY": "2", **os.environ}
    if env_file := os.environ.get("TEST_E2E_ENV_FILE"):
        found |= read_env_file(Path(env_file))
    found |= {"BASE_PORT": str(base_port), "DATA_DIR": str(data_dir), "LOG_DIR": str(data_dir / "log"), **given}
    # The programs of this environment first, also when its python was called by path.
    found["PATH"] = f"{Path(sys.executable).parent}:{found['PATH']}"
    return found | {"PYTHONPATH": str(ROOT), "FLASK_SKIP_DOTENV": "1"}


class System:
    """`with System(18800, directory) as system: ...` migrates, starts and in the end stops everything."""

    def __init__(self, base_port: int, data_dir: Path, **variables: str):
        self.base_port, self.data_dir = base_port, data_dir
        self._environment = environment(base_port, data_dir, **variables)
        self.api = Quintet(base_port, "127.0.0.1")
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "System":
        self.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._migrate()
            self.start(*SERVICES)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for service in list(self.running):
            self._signal(service, signal.SIGTERM)
        for service in list(self.running):
            self._await_end(service)

    @property
    def workers(self) -> int:
        """Of each service."""
        return int(self._environment["WEB_CONCURRENCY"])

    @property
    def log_dir(self) -> Path:
        return self.data_dir / "log"

    def metrics_dir(self, service: str) -> Path:
        """The metrics files of a service, in a folder for each of its masters, one file for each worker and kind."""
        return self.data_dir / "run" / service / "metrics"

    def command(self, service: str) -> str:
        return commands()[service]

    def printed(self, service: str) -> str:
        """The standard output and standard error of the service."""
        path = self.data_dir / f"{service}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, *services: str, **given: str) -> None:
        """Start the services, with further variables, and wait until they are healthy."""
        for service in services:
            assert service not in self.running
            with open(self.data_dir / f"{service}.out", "ab") as out:
                self.running[service] = subprocess.Popen(
                    ["sh", "-c", self.command(service)],
                    env={**self._environment, **given},
                    cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                )  # fmt: skip
        for service in services:
            self._await_health(service)

    def stop(self, *services: str) -> None:
        """SIGTERM, as an operator stops a service; it must end by itself, with status 0."""
        for service in services:
            self._signal(service, signal.SIGTERM)
        for service in services:
            assert self._await_end(service) == 0, self.printed(service)[-5000:]

    def kill(self, *services: str) -> None:
        """SIGKILL, for the master and its workers."""
        for service in services:
            self._signal(service, signal.SIGKILL)
            self._await_end(service)

    @contextmanager
    def without(self, service: str) -> Iterator[None]:
        """The service is stopped inside the block, and healthy again afterwards."""
        self.stop(service)
        yield
        self.start(service)

    def restore(self) -> None:
        """Start the services that do not run."""
        self.start(*(set(SERVICES) - set(self.running)))

    def _migrate(self) -> None:
        """Migrate all databases in one process, as `make up` does, which loads the library once."""
        migrations = f"from libs.launcher import migrate; [migrate(service) for service in {SERVICES}]"
        subprocess.run([sys.executable, "-c", migrations], env=self._environment, cwd=ROOT, check=True, timeout=60)

    def _await_health(self, service: str) -> None:
        process = self.running[service]
        eventually(lambda: self.api.is_healthy(service) or process.poll() is not None, START_SECONDS)
        assert self.api.is_healthy(service), f"{service} did not start:\n{self.printed(service)[-5000:]}"

    def _signal(self, service: str, number: signal.Signals) -> None:
        process = self.running[service]
        if process.poll() is None:
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)

    def _await_end(self, service: str) -> int:
        process = self.running.pop(service)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return -signal.SIGKILL
