"""Idempotency-Key for operations of one transaction (draft-ietf-httpapi-idempotency-key-header).

The key is claimed by a unique constraint in the transaction of the effect, and the answer is stored with it before
the commit: a second request with the same key waits for the first, or finds its answer. There is no gap between a
check and a write. (An order, which takes two transactions, has its key in its own row.)
"""

import hashlib
import hmac
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
import sqlalchemy as sa

from libs.common.data.columns import shared
from libs.common.data.database import Database, Reader, Session
from libs.common.data.statements import delete_some, upsert
from libs.common.errors import IdempotencyKeyReused, RequestInFlight

KEEP_SECONDS = 24 * 3600
CLAIM_ATTEMPTS = 3
TRIM_ROWS = 500

keys = sa.Table(
    "idempotency_keys",
    shared,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("resource_id", sa.String(36), index=True),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False, index=True),
)


def _number(value: Any) -> orjson.Fragment:
    """A Decimal in canonical JSON: 1.0 becomes 1, and 19.990 becomes 19.99."""
    if not isinstance(value, Decimal):
        raise TypeError(type(value).__name__)
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # JSON has no infinity
    text = "".join(map(str, digits))
    kept = text.rstrip("0")
    exponent += len(text) - len(kept)
    if not kept:
        return orjson.Fragment(b"0")
    number = kept + "0" * exponent if 0 <= exponent <= 20 else f"{kept}e{exponent}"
    return orjson.Fragment(f"{'-' if sign else ''}{number}".encode())


@dataclass(frozen=True)
class Key:
    """A client's key, scoped to the caller and the operation, and the HMAC of the request body. Bodies that differ only
    in the order of members or the notation of numbers have the same fingerprint.
    """

    name: str
    fingerprint: str

    @classmethod
    def of(cls, secret: str, caller: str, operation: str, key: str, body: Any) -> "Key":
        canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS, default=_number)
        name = hashlib.sha256(f"{caller}\n{operation}\n{key}".encode()).hexdigest()
        return cls(name, hmac.digest(secret.encode(), canonical, "sha256").hex())


@dataclass(frozen=True)
class StoredAnswer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Replayed:
    """The answer of an earlier request with the same key; it gets `Idempotent-Replayed: true`."""

    resource: Any


def claim(session: Session, key: Key) -> StoredAnswer | None:
    """Claim the key for this transaction; returns the stored answer if there is one already. Raises
    IdempotencyKeyReused, or RequestInFlight if the row was deleted after each of CLAIM_ATTEMPTS conflicts.
    """
    forgotten = time.time() - KEEP_SECONDS
    session.execute(sa.delete(keys).where(keys.c.key == key.name, keys.c.created_at < forgotten))
    row = {"key": key.name, "fingerprint": key.fingerprint, "created_at": time.time()}
    insert = upsert(session, keys).values(**row, status=0, headers="{}", body="")
    for _ in range(CLAIM_ATTEMPTS):
        if session.scalar(insert.on_conflict_do_nothing().returning(keys.c.key)):
            return None
        # If an erasure has deleted the row between the two statements, the key is free again.
        found = session.execute(sa.select(keys).where(keys.c.key == key.name)).one_or_none()
        if found:
            return _answer(found, key)
    raise RequestInFlight()


def find(session: Reader, key: Key) -> StoredAnswer | None:
    """The stored answer of the key, if it is committed. None does not mean that the key is free: use `claim` for that.
    Raises IdempotencyKeyReused.
    """
    fresh = keys.c.created_at >= time.time() - KEEP_SECONDS
    found = session.execute(sa.select(keys).where(keys.c.key == key.name, fresh)).one_or_none()
    return _answer(found, key) if found else None


def _answer(found: sa.Row[Any], key: Key) -> StoredAnswer:
    if found.fingerprint != key.fingerprint:
        raise IdempotencyKeyReused()
    return StoredAnswer(found.status, orjson.loads(found.headers), found.body.encode())


def store(session: Session, key: Key, answer: StoredAnswer, resource_id: str | None = None) -> None:
    """Store the answer for the key that this transaction has claimed."""
    values = {
        "status": answer.status,
        "headers": orjson.dumps(answer.headers).decode(),
        "body": answer.body.decode(),
        "resource_id": resource_id,
    }
    session.execute(sa.update(keys).where(keys.c.key == key.name).values(values))


def forget(session: Session, *resource_ids: str) -> None:
    """Delete the stored answers that show one of these resources, for example when a user is erased."""
    found = sa.select(keys.c.key).where(keys.c.resource_id.in_(resource_ids)).order_by(keys.c.key).with_for_update()
    if locked := session.scalars(found).all():
        session.execute(sa.delete(keys).where(keys.c.key.in_(locked)))


def redact(session: Session, resource_ids: Sequence[str], members: Iterable[str]) -> None:
    """Set these members to null in the stored answers about these resources. The keys stay, so that a repeated request
    still has no effect.
    """
    nulls = dict.fromkeys(members)
    query = sa.select(keys.c.key, keys.c.body).where(keys.c.resource_id.in_(resource_ids)).order_by(keys.c.key)
    for name, body in session.execute(query.with_for_update()).all():
        redacted = orjson.dumps({**orjson.loads(body), **nulls}).decode()
        session.execute(sa.update(keys).where(keys.c.key == name).values(body=redacted))


def trim(db: Database) -> int:
    """Delete up to `TRIM_ROWS` answers that are older than KEEP_SECONDS; returns how many."""
    with db.write(durable=False) as session:
        return delete_some(session, keys, keys.c.created_at < time.time() - KEEP_SECONDS, TRIM_ROWS)
