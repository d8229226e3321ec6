"""CPU time and memory of processes and all that descend from them, read from /proc, so on Linux only."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")


class ProcessTree:
    def __init__(self, roots: Iterable[int]):
        self._roots = list(roots)
        missing = [pid for pid in self._roots if not (PROC / str(pid) / "stat").exists()]
        if missing:
            raise ProcessLookupError(f"There are no processes {missing}.")

    def cpu_seconds(self) -> float:
        """User and system time since their start, with that of children that have ended."""
        return sum(map(_ticks, self.pids())) / os.sysconf("SC_CLK_TCK")

    def pss_mib(self) -> float:
        """The proportional set size, which counts shared memory in parts."""
        return sum(map(_pss_kib, self.pids())) / 1024

    def pids(self) -> list[int]:
        parents = dict(_parents())
        found = {pid for pid in self._roots if pid in parents}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)


def listener(port: int) -> int:
    """The process that listens on a TCP port of this machine, and the oldest if there are several. Raises
    ProcessLookupError.
    """
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:  # 0A is LISTEN
                inodes.add(f"socket:[{fields[9]}]")
    pids = [pid for pid, _ in _parents() if inodes & set(_open_files(pid))]
    if not pids:
        raise ProcessLookupError(f"No process listens on port {port}.")
    return min(pids, key=_started)


def _parents() -> Iterator[tuple[int, int]]:
    for directory in PROC.glob("[0-9]*"):
        if fields := _stat(int(directory.name)):
            yield int(directory.name), int(fields[1])


def _stat(pid: int) -> list[str]:
    """The fields after the name, of which the state is the first; empty if the process has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _ticks(pid: int) -> int:
    return sum(map(int, _stat(pid)[11:15]))


def _started(pid: int) -> int:
    return int((_stat(pid) or ["0"] * 20)[19])


def _pss_kib(pid: int) -> int:
    try:
        found = re.search(r"^Pss: +(\d+) kB$", (PROC / str(pid) / "smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _open_files(pid: int) -> Iterator[str]:
    try:
        for path in (PROC / str(pid) / "fd").iterdir():
            yield os.readlink(path)
    except OSError:
        return
