"""A test table, for the features of the library that work with any table."""

import sqlalchemy as sa

from libs.common.data import counters, idempotency, probe
from libs.common.data.columns import Amount, Id, Json, Moment, Text, shared
from libs.common.data.database import Database
from libs.common.events import inbox, outbox

metadata = sa.MetaData()
accounts = sa.Table(
    "accounts", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("balance", sa.Integer)
)
things = sa.Table(
    "things",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", Text(200), unique=True),
    sa.Column("amount", Amount),
    sa.Column("moment", Moment),
    sa.Column("json", Json),
)


def create(db: Database) -> None:
    """Create the tables of this module, one empty account, and the tables that every service has."""
    assert {counters.counters, idempotency.keys, probe.probes, inbox.inbox, outbox.outbox} <= set(
        shared.tables.values()
    )
    with db.write() as session:
        metadata.create_all(session.connection())
        shared.create_all(session.connection())
        session.execute(sa.insert(accounts).values(id=1, balance=0))


def balance(db: Database) -> int:
    with db.read() as connection:
        return connection.scalar(sa.select(accounts.c.balance)) or 0
