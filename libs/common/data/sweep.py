"""The sweep: wakes background loops that have something to do although nobody has woken them, because a process was
killed after its commit or because a time has come. It is one read for all loops of a process; when each polled on its
own, with the transaction that claims the work, polling was most of what a service at rest cost.
"""

from collections.abc import Callable, Iterable

from libs.common.data.database import Database, Reader

Find = Callable[[Reader], Iterable[str]]
"""Returns the names of the loops that have something to do."""


class Sweep:
    """`step` is the work of a background loop."""

    def __init__(self, db: Database):
        self._db = db
        self._finds: list[Find] = []

    def add(self, find: Find) -> None:
        self._finds.append(find)

    @property
    def is_needed(self) -> bool:
        return bool(self._finds)

    def step(self) -> int:
        """Wake the loops of this process that have something to do; returns 0, since the rest is theirs."""
        with self._db.read() as session:
            found = [name for find in self._finds for name in find(session)]
        for name in found:
            self._db.owner.loops[name]()
        return 0
