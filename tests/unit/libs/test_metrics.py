"""Metrics whose changes are put off; in processes, as the multiprocess mode of the library requires."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from demo.api import eventually
from libs.common import metrics

START = """
import os, signal, sys, time
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from libs.common import metrics
"""
COUNT = """
for n in range(50):
    metrics.IN_PROGRESS.inc()
    metrics.QUEUED.inc()
    metrics.QUEUED.dec()
    metrics.count_request("GET", f"/{n % 3}", 200 + n % 2, (2**-10, 0.25, 0.375, 7.0, 0.0)[n % 5])
    metrics.count_call("product", "answered")
    if n % 2:
        metrics.IN_PROGRESS.dec()
metrics.SHED.inc()
metrics.count_retry("product", "made")
metrics.count_open_breaker("product", 0)
metrics.count_open_breaker("user", 1)
metrics.count_event("order.confirmed.v1", "done")
metrics.count_stalled("sender")
"""
SCRAPE = "sys.stdout.buffer.write(metrics.exposition())\n"
BATCHING = "metrics.start_batching()\n"
REQUESTS = 'http_requests_total{method="GET",route="/x",status="200"}'
ONE = 'metrics.count_request("GET", "/x", 200, 0.003)\n'


def start(folder: Path, program: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", START + program, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(folder: Path, program: str) -> str:
    folder.mkdir(exist_ok=True)
    with start(folder, program) as process:
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return printed


def figure(folder: Path, name: str = REQUESTS) -> float:
    """The figure that another process sees."""
    return sum(float(line.split()[-1]) for line in run(folder, SCRAPE).splitlines() if line.startswith(name))


def test_figures_that_are_written_together_are_those_that_are_written_one_by_one(tmp_path: Path) -> None:
    single, batched = (run(tmp_path / name, program + COUNT + SCRAPE) for name, program in
                       (("single", ""), ("batched", BATCHING)))  # fmt: skip
    # The order of the metrics is that of the files in their folder.
    assert sorted(batched.splitlines()) == sorted(single.splitlines())
    assert 'service_calls_total{outcome="answered",service="product"} 50.0' in single
    assert "requests_in_progress 25.0" in single


def test_a_histogram_takes_many_values_as_it_takes_each() -> None:
    def written(observe: Any) -> list[str]:
        registry = CollectorRegistry()
        histogram = Histogram("x", "X.", buckets=metrics.BOUNDS, registry=registry)
        observe(histogram)
        return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]

    # In eighths the sum does not depend on the order. Each bound belongs to its bucket.
    values = [*metrics.BOUNDS, 0, 0.125, 0.375, 5.125, 100, 0.125]
    assert written(lambda histogram: metrics._observe_all(histogram, values)) == written(
        lambda histogram: [histogram.observe(value) for value in values]
    )


def test_a_scrape_shows_what_its_process_has_just_counted(tmp_path: Path) -> None:
    assert f"{REQUESTS} 2.0\n" in run(tmp_path, BATCHING + ONE * 2 + SCRAPE)


def test_changes_wait_and_are_written_soon_without_further_changes(tmp_path: Path) -> None:
    with start(tmp_path, BATCHING + ONE + "print(flush=True)\nsys.stdin.read()\n") as process:
        assert process.stdout
        process.stdout.readline()
        assert eventually(lambda: figure(tmp_path) == 1.0)
        process.communicate(timeout=10)


@pytest.mark.parametrize("end", ["", "sys.exit()"])
def test_nothing_is_lost_at_exit(tmp_path: Path, end: str) -> None:
    run(tmp_path, BATCHING + ONE * 3 + end)
    assert figure(tmp_path) == 3.0


def test_a_process_that_is_killed_loses_only_what_it_has_just_counted(tmp_path: Path) -> None:
    kill = "os.kill(os.getpid(), signal.SIGKILL)\n"
    with start(tmp_path, BATCHING + ONE * 5 + "time.sleep(0.5)\n" + ONE * 7 + kill) as process:
        process.communicate(timeout=60)
    assert process.returncode == -9
    assert figure(tmp_path) == 5.0


def test_a_process_counts_for_itself_after_a_fork(tmp_path: Path) -> None:
    """The app is loaded, and some series made, before the workers are forked."""
    fork = "pid = os.fork()\n" + BATCHING + ONE + "if pid: os.waitpid(pid, 0)\n"
    run(tmp_path, ONE + fork)
    assert figure(tmp_path) == 3.0


def test_threads_that_count_and_flush_at_once_lose_nothing(tmp_path: Path) -> None:
    program = """
import threading
sys.setswitchinterval(1e-6)
def count():
    for _ in range(2000):
        metrics.count_request("GET", "/x", 200, 0.003)
        metrics.SHED.inc()
threads = [threading.Thread(target=count) for _ in range(3)]
for thread in threads: thread.start()
while any(thread.is_alive() for thread in threads): metrics.flush()
"""
    printed = run(tmp_path, BATCHING + program + SCRAPE)
    assert f"{REQUESTS} 6000.0\n" in printed
    assert 'http_request_duration_seconds_count{route="/x"} 6000.0\n' in printed
    assert "requests_shed_total 6000.0\n" in printed
