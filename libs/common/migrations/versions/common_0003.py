"""Store the inbox and the outbox as their use asks for: many rows that come, change and go."""

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
        # Room beside each row for its next version, so that a lease changes no index; and what is gone is cleared away
        # after some thousand rows, however large the table was.
        op.execute(
            "ALTER TABLE outbox SET (fillfactor = 70, autovacuum_vacuum_threshold = 2000,"
            " autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_threshold = 2000,"
            " autovacuum_analyze_scale_factor = 0)"
        )
        op.execute("ALTER TABLE inbox SET (autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_scale_factor = 0.02)")


def _store_ids_once() -> None:
    """With a rowid each id would be in the table and in the index of its key."""
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
