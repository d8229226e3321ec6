"""The first schema of the order service."""

import sqlalchemy as sa
from alembic import op

from libs.common.data.columns import Amount, Id, Json, Moment, Text

revision = "order_0001"
down_revision = None
branch_labels = ("order",)
depends_on = "common_0001"


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", Id, nullable=False),
        sa.Column("user_id", Id, nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("lines", Json, nullable=False),
        sa.Column("total", Amount(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=True),
        sa.Column("note", Text(1000), nullable=True),
        sa.Column("rejection", Json, nullable=True),
        sa.Column("cancel_reason", Text(200), nullable=True),
        sa.Column("idempotency_key", sa.String(length=64), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("drive_until", sa.Double(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("confirmed_at", Moment(), nullable=True),
        sa.Column("rejected_at", Moment(), nullable=True),
        sa.Column("cancelled_at", Moment(), nullable=True),
        sa.Column("shipped_at", Moment(), nullable=True),
        sa.Column("delivered_at", Moment(), nullable=True),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_orders_idempotency_key")),
    )
    op.create_index(op.f("ix_orders_created_at_id"), "orders", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_orders_pending",
        "orders",
        ["drive_until"],
        unique=False,
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(op.f("ix_orders_status_created_at_id"), "orders", ["status", "created_at", "id"], unique=False)
    op.create_index(op.f("ix_orders_status_total_id"), "orders", ["status", "total", "id"], unique=False)
    op.create_index(op.f("ix_orders_total_id"), "orders", ["total", "id"], unique=False)
    op.create_index(op.f("ix_orders_user_id_created_at_id"), "orders", ["user_id", "created_at", "id"], unique=False)
    op.create_index(op.f("ix_orders_user_id_total_id"), "orders", ["user_id", "total", "id"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", Id, nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
