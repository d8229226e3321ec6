"""Let counters grow beyond 64 bits, and let PostgreSQL find them by the beginning of their names in any language."""

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
        # The values stay as they are, and there are few: running code waits for the index only.
        op.alter_column("counters", "name", type_=Text(100))
