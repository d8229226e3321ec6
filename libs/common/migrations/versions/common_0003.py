"""Tune the storage of the inbox and the outbox for many inserts, updates and deletes."""

import sqlalchemy as sa
from alembic import op

revision = "common_0003"
down_revision = "common_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _store_ids_once()
    else:
        # Leave room in each page for new versions of rows, so that a lease updates no index (HOT); and vacuum after
        # some thousand dead rows, whatever the size of the table.
        op.execute(
            "ALTER TABLE outbox SET (fillfactor = 70, autovacuum_vacuum_threshold = 2000,"
            " autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_threshold = 2000,"
            " autovacuum_analyze_scale_factor = 0)"
        )
        op.execute("ALTER TABLE inbox SET (autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_scale_factor = 0.02)")


def _store_ids_once() -> None:
    """Recreate the inbox WITHOUT ROWID: otherwise each id is stored in the table and in the index of its key."""
    op.create_table(
        "inbox_by_id",
        sa.Column("event_id", sa.String(length=64), nullable=False),
        sa.Column("handled_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_inbox")),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO inbox_by_id SELECT event_id, handled_at FROM inbox")
    op.drop_table("inbox")
    op.rename_table("inbox_by_id", "inbox")
    op.create_index(op.f("ix_inbox_handled_at"), "inbox", ["handled_at"], unique=False)
