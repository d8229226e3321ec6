"""The metrics files of prometheus_client, through which any worker reports the metrics of all workers of its master.

Each master locks a folder of its own and removes those of masters that have ended; two masters may share a DATA_DIR,
for example while one hands its socket to a successor. The metrics of dead workers are merged into one file of each
kind, so that a scrape does not take longer with every restart.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from libs.common.files import make_private_folder, open_private

ADDED_UP = ("counter", "histogram", "summary")
NEWEST = "gauge_mostrecent"
DEAD = "dead"
"""In the name of a merged file, in the place of the process id of a worker."""

log = logging.getLogger(__name__)

_held: list[int] = []
"""Descriptors of the locked folders. They are never closed, so a lock lasts until the master and its workers end."""


def make_folder(parent: Path) -> Path:
    """Create and lock a folder for this process and its workers; removes the folders of masters that have ended."""
    make_private_folder(parent)
    with open(parent / "lock", "w", opener=open_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in parent.iterdir():
            if folder.is_dir() and (descriptor := _hold(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)
        made = Path(tempfile.mkdtemp(dir=parent, prefix=f"{os.getpid()}-"))
        descriptor = _hold(made)
        assert descriptor is not None
        _held.append(descriptor)
    return made


def _hold(folder: Path) -> int | None:
    """Lock the folder; returns the descriptor that holds the lock, or None if another process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def merge_dead(folder: Path, alive: Container[int]) -> None:
    """Merge the files of processes that are not `alive`. Does nothing while a worker reads the files; they are then
    merged the next time.
    """
    with suppress(BlockingIOError), _alone(folder):
        for path in sorted(folder.glob("*.db")):
            kind, _, owner = path.stem.rpartition("_")
            if owner.isdecimal() and int(owner) not in alive:
                _merge(path, kind)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "w", opener=open_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _merge(path: Path, kind: str) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    try:
        if kind in (*ADDED_UP, NEWEST):
            dead = MmapedDict(str(path.with_name(f"{kind}_{DEAD}.db")))
            for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(path)):
                known, known_since = dead.read_value(key)
                if kind in ADDED_UP:
                    dead.write_value(key, known + value, 0.0)
                elif timestamp > known_since:
                    dead.write_value(key, value, timestamp)
            dead.close()
    except Exception:  # the file is damaged; the master must survive that
        log.exception("metrics.lost", extra={"file": path.name})
    path.unlink(missing_ok=True)
