"""Let sums of money grow beyond 64 bits."""

import sqlalchemy as sa
from alembic import op

revision = "analytics_0002"
down_revision = "analytics_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("order_buckets", "product_totals"):
        op.add_column(table, sa.Column("revenue_carry", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index(
        op.f("ix_product_totals_generation_currency_revenue_carry_revenue_product_id"),
        "product_totals",
        ["generation", "currency", "revenue_carry", "revenue", "product_id"],
        unique=False,
    )
    op.drop_index(op.f("ix_product_totals_generation_currency_revenue_product_id"), "product_totals")
