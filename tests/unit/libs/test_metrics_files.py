"""The metrics folder of a master, and the figures of its dead workers; in processes, as the library requires."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common.server import metrics_files

WORK = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from libs.common import metrics
metrics.count_request("GET", "/x", 200, 0.003)
metrics.count_request("GET", f"/{sys.argv[2]}", 200, 0.3)
metrics.DEAD_LETTERS.set(int(sys.argv[2]))
metrics.IN_PROGRESS.inc()
"""
ADD_UP = """
import os, sys
from pathlib import Path
from libs.common.server import metrics_files
metrics_files.merge_dead(Path(sys.argv[1]), ())
"""
SCRAPE = """
import os, sys
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from libs.common import metrics
sys.stdout.buffer.write(metrics.exposition())
"""
WATCH = """
import os, sys, time
os.environ["PROMETHEUS_MULTIPROC_DIR"] = sys.argv[1]
from libs.common import metrics
seen = set()
print("watching", flush=True)
while not os.path.exists(sys.argv[1] + "/over"):
    lines = metrics.exposition().decode().splitlines()
    seen.add(sum(float(line.split()[1]) for line in lines if line.startswith("http_requests_total{")))
    time.sleep(0.002)
print(sorted(seen))
"""


def run(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield metrics_files.make_folder(tmp_path / "metrics")
    while metrics_files._held:
        os.close(metrics_files._held.pop())


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.db")}


def figures(folder: Path) -> set[str]:
    """Every figure but those of live processes only."""
    lines = run(SCRAPE, folder).splitlines()
    return {line for line in lines if not line.startswith(("#", "requests_in_progress")) and not line.endswith(" 0.0")}


def test_the_figures_of_dead_workers_are_kept_in_one_file_of_each_kind(folder: Path) -> None:
    for number in range(3):
        run(WORK, folder, number)
    before = figures(folder)
    assert 'http_requests_total{method="GET",route="/x",status="200"} 3.0' in before
    assert "dead_letters 2.0" in before
    for _ in range(2):
        run(ADD_UP, folder)
        assert figures(folder) == before
        assert {name for name in files(folder) if "dead" in name} >= {"counter_dead.db", "histogram_dead.db"}
        assert not [name for name in files(folder) if "livesum" in name and "dead" in name]
    run(WORK, folder, 3)
    run(ADD_UP, folder)
    after = figures(folder)
    assert 'http_requests_total{method="GET",route="/x",status="200"} 4.0' in after
    assert "dead_letters 3.0" in after


def test_the_files_of_the_living_are_left_alone(folder: Path) -> None:
    run(WORK, folder, 1)
    (pid,) = {int(name.removesuffix(".db").rpartition("_")[2]) for name in files(folder)}
    before = files(folder)
    metrics_files.merge_dead(folder, {pid})
    assert files(folder) == before


def test_a_scrape_meanwhile_misses_nothing_and_counts_nothing_twice(folder: Path) -> None:
    for number in range(5):
        run(WORK, folder, number)
    watching = subprocess.Popen([sys.executable, "-c", WATCH, folder], stdout=subprocess.PIPE, text=True)
    assert watching.stdout
    assert watching.stdout.readline() == "watching\n"
    give_up = time.monotonic() + 30
    while len([name for name in files(folder) if not name.endswith("_dead.db")]) > 8 and time.monotonic() < give_up:
        metrics_files.merge_dead(folder, ())  # does nothing while a scrape is under way
        time.sleep(0.001)
    time.sleep(0.2)
    (folder / "over").touch()
    assert watching.communicate(timeout=30)[0] == "[10.0]\n"
    assert "counter_dead.db" in files(folder)


def test_a_file_that_is_damaged_is_lost_and_nothing_else(folder: Path) -> None:
    run(WORK, folder, 1)
    before = figures(folder)
    (folder / "counter_999999.db").write_bytes(b"\xff\x00\x01")
    run(ADD_UP, folder)
    assert figures(folder) == before
    assert "counter_999999.db" not in files(folder)


def test_a_second_master_leaves_the_folder_of_the_first_alone(folder: Path) -> None:
    (folder / "counter_1.db").touch()
    made = Path(
        run(f"from libs.common.server.metrics_files import *; print(make_folder(Path({str(folder.parent)!r})))")[:-1]
    )
    assert made != folder
    assert files(folder) == {"counter_1.db"}


def test_the_folders_of_masters_that_are_gone_are_removed(folder: Path) -> None:
    gone = Path(
        run(f"from libs.common.server.metrics_files import *; print(make_folder(Path({str(folder.parent)!r})))")[:-1]
    )
    assert gone.exists()
    third = metrics_files.make_folder(folder.parent)
    assert sorted(path for path in folder.parent.iterdir() if path.is_dir()) == sorted([folder, third])
