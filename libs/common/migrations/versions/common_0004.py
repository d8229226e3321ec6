"""Add the table of users whose rows are still to be erased."""

import sqlalchemy as sa
from alembic import op

from libs.common.data.columns import Id

revision = "common_0004"
down_revision = "common_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("user_id", Id, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_erasures")),
    )
