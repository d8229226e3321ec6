"""The first schema of the analytics service."""

import sqlalchemy as sa
from alembic import op

from libs.common.data.columns import Amount, Id, Json, Moment

revision = "analytics_0001"
down_revision = None
branch_labels = ("analytics",)
depends_on = "common_0001"


def upgrade() -> None:
    op.create_table(
        "delivery_totals",
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("day", Moment(), nullable=False),
        sa.Column("channel", sa.String(length=40), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.Column("dead", sa.BigInteger(), nullable=False),
        sa.Column("milliseconds", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("generation", "day", "channel", name=op.f("pk_delivery_totals")),
    )
    op.create_table(
        "generations",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("live", sa.Integer(), nullable=False),
        sa.Column("building", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_generations")),
    )
    op.create_table(
        "notifications",
        sa.Column("id", Id, nullable=False),
        sa.Column("channel", sa.String(length=40), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("sent_at", Moment(), nullable=True),
        sa.Column("dead_at", Moment(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
    )
    op.create_index(op.f("ix_notifications_generation"), "notifications", ["generation"], unique=False)
    op.create_table(
        "order_buckets",
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("interval", sa.String(length=4), nullable=False),
        sa.Column("start", Moment(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("orders", sa.BigInteger(), nullable=False),
        sa.Column("cancelled", sa.BigInteger(), nullable=False),
        sa.Column("revenue", Amount(), nullable=False),
        sa.PrimaryKeyConstraint("generation", "interval", "start", "currency", name=op.f("pk_order_buckets")),
    )
    op.create_table(
        "orders",
        sa.Column("id", Id, nullable=False),
        sa.Column("confirmed_at", Moment(), nullable=True),
        sa.Column("rejected_at", Moment(), nullable=True),
        sa.Column("cancelled_at", Moment(), nullable=True),
        sa.Column("shipped_at", Moment(), nullable=True),
        sa.Column("delivered_at", Moment(), nullable=True),
        sa.Column("total", Amount(), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("lines", Json, nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
    )
    op.create_index(op.f("ix_orders_generation"), "orders", ["generation"], unique=False)
    op.create_table(
        "product_names",
        sa.Column("product_id", Id, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("named_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("product_id", name=op.f("pk_product_names")),
    )
    op.create_table(
        "product_totals",
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("product_id", Id, nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("revenue", Amount(), nullable=False),
        sa.PrimaryKeyConstraint("generation", "product_id", "currency", name=op.f("pk_product_totals")),
    )
    op.create_index(
        op.f("ix_product_totals_generation_currency_revenue_product_id"),
        "product_totals",
        ["generation", "currency", "revenue", "product_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_product_totals_generation_currency_units_product_id"),
        "product_totals",
        ["generation", "currency", "units", "product_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_product_totals_generation_units_product_id"),
        "product_totals",
        ["generation", "units", "product_id"],
        unique=False,
    )
    op.create_table(
        "snapshots",
        sa.Column("service", sa.String(length=20), nullable=False),
        sa.Column("figures", Json, nullable=False),
        sa.Column("as_of", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("service", name=op.f("pk_snapshots")),
    )

    op.execute("INSERT INTO generations (id, live) VALUES (1, 1)")
