"""Clock steps: all services of a chaos run see the time shifted by the offset in a file.

Python's `time.time` and `datetime.now`, and on SQLite the clock of the database. The clock of a PostgreSQL server
cannot be shifted from here.
"""

import mmap
import struct
import time
from datetime import datetime, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa

from libs.common import times

_julian_epoch = 2440587.5


class Clock:
    """By how many seconds the clocks of the services are ahead of ours."""

    def __init__(self, directory: Path):
        path = directory / "clock"
        if not path.exists():
            path.write_bytes(bytes(8))
        with open(path, "r+b") as page:
            self._page = mmap.mmap(page.fileno(), 8)

    @property
    def ahead(self) -> float:
        return float(struct.unpack("d", self._page[:])[0])

    @ahead.setter
    def ahead(self, seconds: float) -> None:
        self._page[:] = struct.pack("d", seconds)


def install(directory: Path) -> None:
    """Let this process, and the SQLite databases that it opens, use the shifted clock."""
    clock, real = Clock(directory), time.time

    def moved() -> float:
        return real() + clock.ahead

    def now(zone: tzinfo) -> datetime:
        return datetime.fromtimestamp(moved(), zone)

    time.time = moved
    times.datetime = SimpleNamespace(now=now, fromisoformat=datetime.fromisoformat)  # type: ignore[attr-defined]

    @sa.event.listens_for(sa.Engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        if hasattr(connection, "create_function"):
            connection.create_function("julianday", 1, lambda when: moved() / 86400.0 + _julian_epoch)
