"""Erasure of a deleted user's data in small steps, since it may span hundreds of thousands of rows, too many for one
transaction.

The handler of the deletion adds the user; a background loop then erases one page of rows per transaction. If it is
killed, it starts again from the first row; erasing a row twice does no harm.
"""

from collections.abc import Callable, Iterable, Sequence

import sqlalchemy as sa

from libs.common.data.columns import Id, shared
from libs.common.data.database import Database, Reader, Session
from libs.common.data.paging import Position
from libs.common.data.statements import Upsert

LOOP = "erasure"
"""The name of the background loop."""
PAGE = 200
"""Rows per transaction."""

erasures = sa.Table("erasures", shared, sa.Column("user_id", Id, primary_key=True))

_add = Upsert(erasures, lambda insert: insert.on_conflict_do_nothing())


def add(session: Session, user_ids: Iterable[str]) -> None:
    """Have the background loop erase what these users wrote, once the caller's transaction has committed."""
    rows = [{"user_id": user_id} for user_id in sorted(user_ids)]
    if rows:
        session.connection().execute(_add(session), rows)
        session.wake(LOOP)


class Erasure:
    """`walk` returns the next rows of a user, oldest first, after a position and up to a limit; `erase` erases what the
    user wrote in the rows with these ids. `step` is the work of a background loop.
    """

    def __init__(
        self,
        db: Database,
        walk: Callable[[Reader, str, Position | None, int], Sequence[Position]],
        erase: Callable[[Session, Sequence[str]], None],
    ):
        self._db, self._walk, self._erase = db, walk, erase
        self._user_id: str | None = None
        self._after: Position | None = None

    def step(self) -> bool:
        """Erase one page; returns whether there may be more."""
        with self._db.read() as session:
            user_id = session.scalar(sa.select(erasures.c.user_id).order_by(erasures.c.user_id).limit(1))
            if user_id is None:
                return False
            after = self._after if user_id == self._user_id else None
            page = self._walk(session, user_id, after, PAGE)
        with self._db.write() as session:
            if len(page) < PAGE:
                session.execute(sa.delete(erasures).where(erasures.c.user_id == user_id))
            if page:
                self._erase(session, [row_id for _, row_id in page])
        self._user_id, self._after = user_id, page[-1] if page else None
        return True
