"""The files by which any worker of a master answers for the metrics of all of them.

Each master has a folder of its own, which it holds by a lock, and removes those of masters that are gone: two of them
may run on one DATA_DIR, as when one hands its socket to a successor. The figures of workers that have died are added up
in one file of each kind, so that a scrape does not take longer with every restart.
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
"""In the name of a file, where that of a worker has its process id."""

log = logging.getLogger(__name__)

_held: list[int] = []
"""Locks that end with the process, and with those that are forked from it."""


def make_folder(parent: Path) -> Path:
    """A new folder for the process that calls, and for its workers."""
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
    """The descriptor by which this process holds the folder; None while another one does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def bury(folder: Path, alive: Container[int]) -> None:
    """Add up what processes have left behind that are not `alive`. While a worker reads the files nothing is done: the
    next time is early enough.
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
    except Exception:  # of a file that is damaged; the master must not die of it
        log.exception("metrics.lost", extra={"file": path.name})
    path.unlink(missing_ok=True)
