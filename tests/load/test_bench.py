"""`make bench` in the environment of `make up`, on a system of its own and on one that runs."""

import re
import subprocess

import pytest

from libs.topology import SERVICES
from tests.e2e.test_make_up import bare_environment
from tests.load.flows import FLOWS
from tests.load.launched import ROOT, Launched, launched

pytestmark = pytest.mark.timeout(300)

SHORT = ("CONC=2", "ROUNDS=1", "DURATION=0.5")
LINE = re.compile(r"^([\w-]+) +2 +\d+ +[\d.]+ +[\d.]+ +([\d.]+|-) +[\d.]+ +([\d.]+|-) +(\d+|-)$", re.MULTILINE)


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", "bench", *SHORT, *words],
        env=bare_environment(), cwd=ROOT, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip


def test_it_starts_a_system_and_measures_every_flow() -> None:
    done = bench()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = LINE.findall(done.stdout)
    assert [line[0] for line in lines] == list(FLOWS)
    assert all(float(cell) > 0 for line in lines for cell in line[1:])
    assert re.search(r"^\d+ orders were acknowledged; they are there", done.stdout, re.MULTILINE)


def test_it_measures_a_system_that_runs_and_its_processes() -> None:
    with launched(WEB_CONCURRENCY="1") as system:
        urls = ",".join(map(system.quintet.url, SERVICES))
        done = bench("FLOWS=orders,reads", f"URLS={urls}", f"PIDS={system.pid}")
        assert done.returncode == 0, done.stdout + done.stderr
        (orders, reads) = LINE.findall(done.stdout)
        assert (orders[0], orders[2]) == ("orders", "-")
        assert float(orders[1]) > 0
        assert float(reads[3]) > 0
        assert system_is_as_it_was(system)


def system_is_as_it_was(system: Launched) -> bool:
    return all(map(system.quintet.is_healthy, SERVICES))


def test_wrong_answers_are_told_and_fail_it() -> None:
    """A limit of the rate, from which nothing is exempt."""
    with launched(WEB_CONCURRENCY="1", RATE_LIMIT="1300/minute", RATE_LIMIT_EXEMPT="192.0.2.0/24") as system:
        done = bench("FLOWS=reads", "DURATION=2", f"URLS={','.join(map(system.quintet.url, SERVICES))}")
    assert done.returncode != 0
    assert re.search(r"reads with \d+ clients: \d+ x 429 rate-limited", done.stderr), done.stdout + done.stderr
