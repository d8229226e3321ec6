"""Add the states of the channels, and indexes for several filters at once. Run this before the roll-out."""

import sqlalchemy as sa
from alembic import op

revision = "notification_0002"
down_revision = "notification_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "channel_states",
        sa.Column("channel", sa.String(length=10), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("channel", name=op.f("pk_channel_states")),
    )
    for columns in (("status", "channel", "unread"), ("user_id", "status", "channel", "unread")):
        op.create_index(
            op.f(f"ix_notifications_{'_'.join(columns)}_created_at_id"),
            "notifications",
            [*columns, "created_at", "id"],
            unique=False,
            sqlite_where=sa.text("deleted_at IS NULL"),
            postgresql_where=sa.text("deleted_at IS NULL"),
        )
