"""Index words that Python has folded, so that no server decides what a search finds. Run this before the roll-out.

The index of the first schema stays for the code that still runs; a later migration drops it.
"""

import sqlalchemy as sa
from alembic import op

from product_service.words import words_of

revision = "product_0002"
down_revision = "product_0001"
branch_labels = None
depends_on = None

PAGE = 1000


def upgrade() -> None:
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "product_words",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("words", text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_product_words")),
    )
    if op.get_bind().dialect.name == "postgresql":
        _on_postgresql()
    else:
        _on_sqlite()
    _fill()


def _on_postgresql() -> None:
    op.execute("CREATE INDEX ix_product_words_search ON product_words USING gin (string_to_array(words, ' '))")
    # Old code changes texts without their words, and a deleted product is found no more.
    op.execute(
        "CREATE FUNCTION forget_product_words() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN DELETE FROM product_words WHERE seq = new.seq; RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER product_words_forget AFTER UPDATE OF name, description, deleted_at ON products FOR EACH ROW "
        "EXECUTE FUNCTION forget_product_words()"
    )


def _on_sqlite() -> None:
    # To this tokenizer every character beyond ASCII is a part of a word.
    op.execute(
        "CREATE VIRTUAL TABLE product_words_fts USING "
        "fts5(words, content='product_words', content_rowid='seq', tokenize='ascii')"
    )
    add = "INSERT INTO product_words_fts(rowid, words) VALUES (new.seq, new.words); "
    remove = "INSERT INTO product_words_fts(product_words_fts, rowid, words) VALUES ('delete', old.seq, old.words); "
    op.execute(f"CREATE TRIGGER product_words_insert AFTER INSERT ON product_words BEGIN {add} END")
    op.execute(f"CREATE TRIGGER product_words_update AFTER UPDATE ON product_words BEGIN {remove} {add} END")
    op.execute(f"CREATE TRIGGER product_words_delete AFTER DELETE ON product_words BEGIN {remove} END")
    op.execute(
        "CREATE TRIGGER product_words_forget AFTER UPDATE OF name, description, deleted_at ON products BEGIN "
        "DELETE FROM product_words WHERE seq = new.seq; END"
    )


def _fill() -> None:
    products = sa.table(
        "products", sa.column("seq"), sa.column("name"), sa.column("description"), sa.column("deleted_at")
    )
    product_words = sa.table("product_words", sa.column("seq"), sa.column("words"))
    connection, after = op.get_bind(), 0
    alive = sa.select(products).where(products.c.deleted_at.is_(None))
    page = alive.where(products.c.seq > sa.bindparam("after")).order_by(products.c.seq).limit(PAGE)
    while rows := connection.execute(page, {"after": after}).all():
        filled = [{"seq": row.seq, "words": " ".join(words_of(f"{row.name} {row.description}"))} for row in rows]
        connection.execute(sa.insert(product_words), filled)
        after = rows[-1].seq
