"""The statements that a service executes, by whichever way."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa

from libs.common.data import prepared
from libs.common.data.database import Database

Statement = tuple[str, Any]
"""The SQL and its parameters."""


@contextmanager
def recorded(db: Database) -> Iterator[list[Statement]]:
    """The statements of the block, through SQLAlchemy or prepared."""
    seen: list[Statement] = []
    run = prepared._run

    def remember(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        seen.append((statement, parameters))

    def remember_prepared(connection: Any, sql: str, parameters: Any, **options: Any) -> Any:
        seen.append((sql, tuple(parameters) if isinstance(parameters, list) else parameters))
        return run(connection, sql, parameters, **options)

    sa.event.listen(db.engine, "before_cursor_execute", remember)
    try:
        with patch.object(prepared, "_run", remember_prepared):
            yield seen
    finally:
        sa.event.remove(db.engine, "before_cursor_execute", remember)
