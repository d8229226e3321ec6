from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.data import idempotency
from libs.common.data.database import Database
from libs.common.data.idempotency import Key, StoredAnswer, keys
from libs.common.errors import RequestInFlight
from tests.integration.libs import tables

KEY = Key("name", "fingerprint")


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    tables.create(made)
    with made.write() as session:
        assert idempotency.claim(session, KEY) is None
        idempotency.store(session, KEY, StoredAnswer(201, {}, b'{"id":"1","name":"Ada"}'), "1")
    yield made
    made.dispose()


def erase_at_conflicts(db: Database, times: int) -> None:
    """Delete the row of the key concurrently, each time that the claim has found it taken."""
    seen: list[int] = []

    def erase(connection: sa.Connection, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT INTO idempotency_keys") and len(seen) < times:
            seen.append(1)
            connection.exec_driver_sql("DELETE FROM idempotency_keys")

    sa.event.listen(db.engine, "after_cursor_execute", erase)


def test_a_key_that_an_erasure_frees_during_the_claim_is_claimed(db: Database) -> None:
    with db.write() as session:
        erase_at_conflicts(db, times=1)
        assert idempotency.claim(session, KEY) is None
        idempotency.store(session, KEY, StoredAnswer(201, {}, b"{}"))
    with db.read() as connection:
        assert connection.scalar(sa.select(keys.c.status)) == 201


def test_a_claim_that_never_settles_is_refused_as_in_flight(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "CLAIM_ATTEMPTS", 0)
    with db.write() as session, pytest.raises(RequestInFlight):
        idempotency.claim(session, KEY)


def test_a_redacted_answer_keeps_its_key_and_loses_its_members(db: Database) -> None:
    with db.write() as session:
        idempotency.redact(session, ["1", "2"], ["name"])
    with db.write() as session:
        assert idempotency.claim(session, KEY) == StoredAnswer(201, {}, b'{"id":"1","name":null}')
