"""Mark deleted users whose orders are still to be erased, so that it can be done in small steps."""

import sqlalchemy as sa
from alembic import op

revision = "order_0002"
down_revision = "order_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A check constraint cannot be added to a table of SQLite, and the type needs none on PostgreSQL.
    op.add_column("users", sa.Column("unerased", sa.Boolean(), server_default=sa.false(), nullable=False))
    unerased = sa.text("unerased")
    op.create_index("ix_users_unerased", "users", ["id"], sqlite_where=unerased, postgresql_where=unerased)
    # The cancellations of deleted users kept the reason that their users gave.
    op.execute("UPDATE users SET unerased = true WHERE status = 'deleted'")
