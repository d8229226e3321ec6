"""The contents of a database, to check that a request has changed nothing."""

from typing import Any

import sqlalchemy as sa

from libs.common.data.database import Database


def contents(db: Database) -> dict[str, list[Any]]:
    """Table → its complete rows; the repr of a Row is shortened. The shadow tables of a full-text index follow the
    table that they index.
    """
    found = {}
    with db.read() as connection:
        for name in sorted(sa.inspect(connection).get_table_names()):
            if "_fts" not in name:
                found[name] = sorted(repr(tuple(row)) for row in connection.execute(sa.text(f"SELECT * FROM {name}")))
    return found
