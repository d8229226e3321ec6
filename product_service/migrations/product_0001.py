"""The first schema of the product service."""

import sqlalchemy as sa
from alembic import op

from libs.common.data.columns import Amount, Id, Json, Moment, Text

revision = "product_0001"
down_revision = None
branch_labels = ("product",)
depends_on = "common_0001"


def upgrade() -> None:
    op.create_table(
        "adjustments",
        sa.Column("product_id", Id, nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("delta", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("product_id", "version", name=op.f("pk_adjustments")),
    )
    op.create_table(
        "products",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("id", Id, nullable=False),
        sa.Column("sku", Text(64), nullable=True),
        sa.Column("name", Text(200), nullable=False),
        sa.Column("description", Text(5000), nullable=False),
        sa.Column("category", Text(100), nullable=True),
        sa.Column("price", Amount(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("stock", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("sold", sa.BigInteger(), nullable=False),
        sa.Column("sold_out", sa.Boolean(name="sold_out_is_boolean"), nullable=False),
        sa.Column("seller_id", Id, nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("deleted_at", Moment(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("stock >= 0 AND reserved >= 0 AND sold >= 0", name=op.f("ck_products_units_not_negative")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_products")),
        sa.UniqueConstraint("id", name=op.f("uq_products_id")),
        sa.UniqueConstraint("sku", name=op.f("uq_products_sku")),
    )
    op.create_index(
        op.f("ix_products_category_created_at_id"),
        "products",
        ["category", "created_at", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_category_name_id"),
        "products",
        ["category", "name", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_category_price_id"),
        "products",
        ["category", "price", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_created_at_id"),
        "products",
        ["created_at", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_name_id"),
        "products",
        ["name", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_price_id"),
        "products",
        ["price", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_seller_id_created_at_id"),
        "products",
        ["seller_id", "created_at", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_seller_id_name_id"),
        "products",
        ["seller_id", "name", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_seller_id_price_id"),
        "products",
        ["seller_id", "price", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_sold_out_created_at_id"),
        "products",
        ["sold_out", "created_at", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_sold_out_name_id"),
        "products",
        ["sold_out", "name", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        op.f("ix_products_sold_out_price_id"),
        "products",
        ["sold_out", "price", "id"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "reservations",
        sa.Column("order_id", Id, nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("lines", Json, nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("version", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_reservations")),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE INDEX ix_products_search ON products "
            "USING gin (to_tsvector('simple'::regconfig, name || ' ' || description))"
        )
        return
    op.execute(
        "CREATE VIRTUAL TABLE products_fts USING fts5(name, description, content='products', content_rowid='seq')"
    )
    op.execute(
        "CREATE TRIGGER products_fts_insert AFTER INSERT ON products BEGIN "
        "INSERT INTO products_fts(rowid, name, description) VALUES (new.seq, new.name, new.description); END"
    )
    op.execute(
        "CREATE TRIGGER products_fts_update AFTER UPDATE OF name, description ON products BEGIN "
        "INSERT INTO products_fts(products_fts, rowid, name, description) "
        "VALUES ('delete', old.seq, old.name, old.description); "
        "INSERT INTO products_fts(rowid, name, description) VALUES (new.seq, new.name, new.description); END"
    )
