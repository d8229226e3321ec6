"""`make up` itself: its start, its memory, its end, and a second copy beside the first.

These run on the embedded databases, whatever the other tests run on.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.api import Quintet, eventually
from libs.common.config import Settings
from libs.topology import SERVICES
from tests.e2e.conftest import BASE_PORT
from tests.e2e.shop import Shop, answered
from tests.e2e.system import ROOT

pytestmark = pytest.mark.timeout(300)

MEBIBYTES = {1: 400, 2: 500}
"""By the number of workers of a service."""
READY_SECONDS = 10.0
STOP_SECONDS = 30.0


class Copy:
    """One `make up`, in its own session as in its own terminal; "$@" stands for the command in the script."""

    def __init__(self, base_port: int, data_dir: Path, script: str):
        self.base_port, self.data_dir = base_port, data_dir
        self.shop = Shop(Quintet(base_port, "127.0.0.1"))
        data_dir.mkdir(exist_ok=True)
        self._out = data_dir / "make.out"
        with open(self._out, "wb") as out:
            self.process = subprocess.Popen(
                ["sh", "-c", script, "sh", *self._make("up")], env=bare_environment(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._make(target), env=bare_environment(), cwd=ROOT, capture_output=True, text=True, timeout=60
        )

    def printed(self) -> str:
        return self._out.read_text()

    def wait_until_up(self) -> float:
        """Seconds until all five are healthy."""
        started = time.monotonic()
        healthy = self.shop.api.wait_until_healthy(30, still_starting=lambda: self.process.poll() is None)
        assert healthy, self.printed()
        return time.monotonic() - started

    def processes(self) -> list[int]:
        """The processes that were started with this base port and still run."""
        return [pid for pid, variables in environments() if f"BASE_PORT={self.base_port}".encode() in variables]

    def end(self) -> int:
        """Kill the processes that are left, for tests that failed."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        return self.process.wait(STOP_SECONDS)

    def _make(self, target: str) -> list[str]:
        return ["make", "--no-print-directory", target, f"BASE_PORT={self.base_port}", f"DATA_DIR={self.data_dir}"]


def bare_environment() -> dict[str, str]:
    """The environment of a user who has just cloned: without the variables of the services or of these tests."""
    return {name: os.environ[name] for name in ("HOME", "PATH", "TMPDIR", "LANG") if name in os.environ}


def environments() -> Iterator[tuple[int, list[bytes]]]:
    """Process → its environment, for all processes that can be read."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            variables = (directory / "environ").read_bytes().split(b"\0")
            yield int(directory.name), variables
        except OSError:
            continue


@contextmanager
def made_up(base_port: int, data_dir: Path, script: str = 'exec "$@"') -> Iterator[Copy]:
    copy = Copy(base_port, data_dir, script)
    try:
        yield copy
    finally:
        copy.end()


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """The packages, which the first `make up` of a clone installs."""
    subprocess.run(["make", ".venv/.installed"], cwd=ROOT, check=True, timeout=240)


@pytest.fixture(scope="module")
def copy(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """A running copy."""
    with made_up(BASE_PORT + 10, tmp_path_factory.mktemp("copy")) as made:
        made.wait_until_up()
        yield made


def test_all_five_are_healthy_within_ten_seconds_and_the_demo_data_is_there(tmp_path: Path) -> None:
    with made_up(BASE_PORT + 20, tmp_path / "data") as copy:
        assert copy.wait_until_up() < READY_SECONDS
        assert eventually(lambda: "Quintet is up, with demo data" in copy.printed())
        products = copy.shop.get("product", "/products?sort=name")["items"]
        assert [product["name"] for product in products] == ["Keyboard", "Laptop", "Monitor", "Mouse"]
        for service in SERVICES:
            assert copy.shop.api.url(service, "/docs") in copy.printed()


def test_the_metrics_are_those_of_all_workers(copy: Copy) -> None:
    """The launcher imports the metrics library, which must be in its multiprocess mode."""
    for _ in range(20):
        copy.shop.stats()
    series = 'http_requests_total{method="GET",route="/api/v1/orders/stats",status="200"}'
    assert eventually(lambda: series in copy.shop.api.get("order", "/metrics").text)
    assert len(list((copy.data_dir / "run" / "order" / "metrics").glob("*/counter_*.db"))) >= 2


def test_all_processes_together_stay_below_their_limit(copy: Copy) -> None:
    done = copy.make("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    shares = {pid: proportional_kib(pid) for pid in copy.processes()}
    workers = Settings(service="order").workers
    assert len(shares) >= 1 + (1 + workers) * len(SERVICES), "the launcher; a master and its workers of each service"
    assert sum(shares.values()) / 1024 < MEBIBYTES[workers], shares


def proportional_kib(pid: int) -> int:
    """The proportional set size of a process, which counts shared memory in parts."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError as exc:
        pytest.skip(f"the memory of processes cannot be read here ({exc})")
    found = re.search(r"^Pss: +(\d+) kB$", text, re.MULTILINE)
    assert found
    return int(found[1])


def test_a_second_make_up_on_the_same_data_is_refused_and_harms_nobody(copy: Copy) -> None:
    again = copy.make("up")
    assert again.returncode != 0
    assert "Already running" in again.stderr
    assert copy.shop.get("user", "/readyz") == {"status": "healthy"}


def interrupt(copy: Copy) -> None:
    """Ctrl-C: the terminal sends SIGINT to the foreground process group."""
    os.killpg(copy.process.pid, signal.SIGINT)


def make_down(copy: Copy) -> None:
    down = copy.make("down")
    assert (down.returncode, down.stdout.strip()) == (0, "Stopped."), down.stderr


# Make exits after its children; an interrupted make exits by the signal itself.
@pytest.mark.parametrize(("stop", "wanted"), [(interrupt, -signal.SIGINT), (make_down, 0)])
def test_a_copy_beside_the_first_ends_cleanly_and_leaves_nothing(
    copy: Copy, stop: Callable[[Copy], None], wanted: int, tmp_path: Path
) -> None:
    with made_up(BASE_PORT + 30, tmp_path / "data") as second:
        second.wait_until_up()
        user = second.shop.new_user()
        order = answered(second.shop.order(user, second.shop.new_product(25)), 201)
        assert copy.shop.api.get("order", f"/orders/{order['id']}").status_code == 404

        stop(second)
        status = second.process.wait(STOP_SECONDS)
        left = second.processes()

        assert (left, status) == ([], wanted), second.printed()
        assert "did not stop in time" not in second.printed()
        assert "Traceback" not in second.printed()
        assert not any(second.shop.api.is_healthy(service) for service in SERVICES)
    assert all(copy.shop.api.is_healthy(service) for service in SERVICES)


@pytest.mark.parametrize("seconds", [0, 0.2, 1.0])
def test_an_interrupt_while_it_starts_leaves_nothing_and_spoils_nothing(tmp_path: Path, seconds: float) -> None:
    """During the migrations, between them and the services, or during the start of the services."""
    with made_up(BASE_PORT + 40, tmp_path / "data") as copy:
        assert eventually(lambda: (tmp_path / "data" / "order.db").exists(), 30), "it migrates"
        time.sleep(seconds)
        interrupt(copy)
        assert copy.process.wait(STOP_SECONDS) == -signal.SIGINT
        assert eventually(lambda: not copy.processes())
        assert "Traceback" not in copy.printed()
    with made_up(BASE_PORT + 40, tmp_path / "data") as again:
        again.wait_until_up()


# A shell without job control, and so a script, ignores SIGINT in what it starts in the background.
BACKGROUND = '"$@" & wait'


@pytest.mark.parametrize("script", ['exec "$@"', BACKGROUND])
def test_an_interrupt_before_anything_is_started_ends_it(tmp_path: Path, script: str) -> None:
    with made_up(BASE_PORT + 40, tmp_path / "data", script) as copy:
        assert eventually(lambda: launcher(copy).startswith("python"))
        time.sleep(0.2)  # Python starts, and then imports modules for a second
        interrupt(copy)
        assert eventually(lambda: not copy.processes())
        assert not (tmp_path / "data" / "order.db").exists()
        assert "Traceback" not in copy.printed()


def launcher(copy: Copy) -> str:
    """The command line of the process that `make up` has become."""
    try:
        pid = (copy.data_dir / "quintet.pid").read_text().strip()
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def tell_the_script(copy: Copy) -> None:
    copy.process.send_signal(signal.SIGUSR1)


def terminate(copy: Copy) -> None:
    os.killpg(copy.process.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    ("script", "stop"),
    [
        (BACKGROUND, interrupt),
        (f"trap 'kill $!' USR1; {BACKGROUND}; wait", tell_the_script),
        (f"trap '' INT TERM; {BACKGROUND}", interrupt),
        (f"trap '' INT TERM; {BACKGROUND}", terminate),
    ],
)
def test_in_the_background_of_a_script_it_ends_as_cleanly(
    script: str, stop: Callable[[Copy], None], tmp_path: Path
) -> None:
    with made_up(BASE_PORT + 40, tmp_path / "data", script) as copy:
        copy.wait_until_up()
        stop(copy)
        copy.process.wait(STOP_SECONDS)
        assert eventually(lambda: not copy.processes()), copy.printed()
        assert "did not stop in time" not in copy.printed()
        assert "Traceback" not in copy.printed()


@pytest.mark.skipif(sys.platform != "linux", reason="the launcher can bind its children to its own life on Linux only")
def test_a_launcher_that_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    with made_up(BASE_PORT + 40, tmp_path / "data") as copy:
        copy.wait_until_up()
        os.kill(int((tmp_path / "data" / "quintet.pid").read_text()), signal.SIGKILL)
        assert copy.process.wait(STOP_SECONDS)
        assert eventually(lambda: not copy.processes()), copy.printed()
    with made_up(BASE_PORT + 40, tmp_path / "data") as again:
        again.wait_until_up()


def test_what_was_stored_is_there_after_the_next_start(tmp_path: Path) -> None:
    with made_up(BASE_PORT + 40, tmp_path / "data") as first:
        first.wait_until_up()
        user = first.shop.new_user()
        order = answered(first.shop.order(user, first.shop.new_product(25)), 201)
        make_down(first)
    with made_up(BASE_PORT + 40, tmp_path / "data") as second:
        second.wait_until_up()
        assert second.shop.get("order", f"/orders/{order['id']}") == order
        assert eventually(lambda: [one["status"] for one in second.shop.notifications(order)] == ["sent"])
