"""Let counters exceed 64 bits, and let PostgreSQL use the index for name prefixes whatever the database's collation."""

import sqlalchemy as sa
from alembic import op

from libs.common.data.columns import Text

revision = "common_0002"
down_revision = "common_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("counters", sa.Column("value_carry", sa.BigInteger(), server_default="0", nullable=False))
    if op.get_bind().dialect.name == "postgresql":
        # Only the collation changes and there are few rows, so the lock is held only while the index is rebuilt.
        op.alter_column("counters", "name", type_=Text(100))
