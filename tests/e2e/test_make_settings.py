"""`make` with settings as people write them: valid ones work, and invalid ones end with a message that names them.

Each test has its own checkout, made of links into this one, so that it can have a `.env`.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.api import Quintet, eventually
from libs.topology import SERVICES
from tests.e2e.conftest import BASE_PORT
from tests.e2e.shop import Shop, answered
from tests.e2e.system import ROOT
from tests.e2e.test_make_up import bare_environment

pytestmark = pytest.mark.timeout(300)

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Checkout:
    def __init__(self, path: Path):
        self.path = path
        path.mkdir()
        for child in ROOT.iterdir():
            if child.name not in (".env", ".git", "build", "var"):
                (path / child.name).symlink_to(child)
        self._out = path / "make.out"

    def write_env(self, *lines: str) -> None:
        """As an editor on Windows does: with a byte order mark, and CR LF at the end of lines."""
        (self.path / ".env").write_bytes(b"\xef\xbb\xbf" + "".join(f"{line}\r\n" for line in lines).encode())

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--no-print-directory", *words], env=bare_environment(), cwd=self.path,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def printed(self) -> str:
        return self._out.read_text()

    @contextmanager
    def up(self, *words: str, **given: str) -> Iterator[None]:
        with open(self._out, "wb") as out:
            process = subprocess.Popen(
                ["make", "--no-print-directory", "up", *words], env={**bare_environment(), **given}, cwd=self.path,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        try:
            eventually(lambda: "Quintet is up" in self.printed() or process.poll() is not None, START_SECONDS)
            assert "Quintet is up" in self.printed(), self.printed()
            yield
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait(STOP_SECONDS)


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Installs the packages, as the first `make up` of a clone does."""
    subprocess.run(["make", ".venv/.installed"], env=bare_environment(), cwd=ROOT, check=True, timeout=240)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "100% größe #1")


@pytest.fixture
def no_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as exc:
        pytest.skip(f"this machine has no IPv6 ({exc})")


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The error message, without that of make."""
    assert done.returncode != 0, done.stdout
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    return line


def test_a_system_on_ipv6_whose_folders_have_unusual_names_works_from_a_pasted_env_file(
    checkout: Checkout, no_ipv6: None
) -> None:
    checkout.write_env(
        "# Where it is", f'export BASE_PORT="{BASE_PORT + 60}"', "HOST = [::1] # as in a URL",
        "DATA_DIR='50% of a?b #1 größe'", "LOG_DIR=logs of 50%?#1",
    )  # fmt: skip
    # The seed must use its own system, whatever DEMO_HOST says; and PORT is often set for another program.
    with checkout.up(DEMO_HOST="192.0.2.1", PORT="3000"):
        shop = Shop(Quintet(BASE_PORT + 60, "::1"))
        for service in SERVICES:
            assert shop.api.url(service, "/docs") in checkout.printed()
            assert (checkout.path / "50% of a?b #1 größe" / f"{service}.db").exists()
            assert (checkout.path / "logs of 50%?#1" / f"{service}.log").exists()
        assert shop.get("product", "/products?sort=name")["items"][0]["name"] == "Keyboard"
        answered(shop.order(shop.new_user(), shop.new_product()), 201)

        demo = checkout.make("demo")
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert checkout.make("down").stdout == "Stopped.\n"
    assert "Traceback" not in checkout.printed()
    assert checkout.make("clean").returncode == 0
    assert not (checkout.path / "50% of a?b #1 größe").exists()


def test_what_is_set_wins_over_the_env_file(checkout: Checkout) -> None:
    checkout.write_env("DATA_DIR=from the file")
    assert checkout.make("down").stdout == "Nothing is running on from the file.\n"
    assert checkout.make("down", "DATA_DIR=given").stdout == "Nothing is running on given.\n"


@pytest.mark.parametrize("target", ["up", "demo", "down", "clean", "compose-up"])
def test_a_line_of_the_env_file_that_is_not_understood_is_named_and_nothing_is_done(
    checkout: Checkout, target: str
) -> None:
    checkout.write_env("BASE_PORT=18100", "DATA_DIR='hunter2")
    line = refused(checkout.make(target))
    assert line.startswith(".env, line 2: DATA_DIR: ")
    assert "hunter2" not in line
    assert (checkout.path / ".venv").exists()
    assert not (checkout.path / "var").exists()


@pytest.mark.parametrize("target", ["up", "demo"])
@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("BASE_PORT=http", "BASE_PORT: 'http' is not a whole number"),
        ("BASE_PORT=0", "BASE_PORT: '0' is less than 1"),
        ("BASE_PORT=-1", "BASE_PORT: '-1' is less than 1"),
        ("BASE_PORT=70000", "BASE_PORT: '70000' is more than 65530"),
        ("HOST=localhost:80", "HOST: 'localhost:80' is not an IP address or a host name"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(checkout: Checkout, target: str, wrong: str, line: str) -> None:
    assert refused(checkout.make(target, wrong)) == line


def test_an_address_that_is_not_of_this_machine_is_named_in_one_line(checkout: Checkout) -> None:
    line = refused(checkout.make("up", "HOST=192.0.2.1", f"BASE_PORT={BASE_PORT + 60}"))
    assert line.startswith(f"HOST: 192.0.2.1:{BASE_PORT + 61} cannot be listened on")


def test_a_port_that_is_taken_is_named_before_anything_is_started(checkout: Checkout) -> None:
    with socket.create_server(("127.0.0.1", BASE_PORT + 65)) as other:
        line = refused(checkout.make("up", f"BASE_PORT={BASE_PORT + 60}"))
        assert line == f"BASE_PORT: port {BASE_PORT + 65}, which the analytics service needs, is taken"
        assert not list((checkout.path / "var").glob("*.db"))
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_a_second_copy_on_the_same_ports_is_refused_and_the_first_hears_nothing_of_it(
    checkout: Checkout, tmp_path: Path
) -> None:
    second = Checkout(tmp_path / "second")
    with checkout.up(f"BASE_PORT={BASE_PORT + 60}"):
        log = checkout.path / "var" / "log" / "user.log"
        assert eventually(lambda: log.read_text().count('"POST"') == 3), "its own demo data"
        line = refused(second.make("up", f"BASE_PORT={BASE_PORT + 60}"))
        assert line == f"BASE_PORT: port {BASE_PORT + 61}, which the user service needs, is taken"
        assert log.read_text().count('"POST"') == 3
        assert all(Quintet(BASE_PORT + 60).is_healthy(service) for service in SERVICES)
