"""The user: its table, and the rules as methods on it."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from libs.common.data.columns import NAMING, Id, Moment, Text
from libs.common.ids import new_id
from libs.common.times import now

metadata = sa.MetaData(naming_convention=NAMING)

ROLES = ("customer", "staff", "admin")
STATUSES = ("active", "suspended")

# Argon2id with the least memory that OWASP's password storage cheat sheet names: 40 ms, where the default takes 200.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def hash_password(password: str) -> str:
    return _hasher.hash(password)


class Base(DeclarativeBase):
    metadata = metadata


_alive = sa.text("deleted_at IS NULL")


def _index(*columns: str) -> sa.Index:
    """An index of the users that are not deleted: tombstones cost a list nothing."""
    return sa.Index(None, *columns, sqlite_where=_alive, postgresql_where=_alive)


class User(Base):
    __tablename__ = "users"
    # Every documented sort, alone and behind every documented filter; the id settles ties.
    __table_args__ = tuple(
        _index(*filters, sort, "id")
        for filters in ((), ("role",), ("status",))
        for sort in ("created_at", "name", "email_key")
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(254))
    email_key: Mapped[str | None] = mapped_column(Text(254), unique=True)
    """The e-mail without regard to case; None once the user is deleted, so that it is free again."""
    name: Mapped[str] = mapped_column(Text(200))
    role: Mapped[str] = mapped_column(sa.String(10))
    status: Mapped[str] = mapped_column(sa.String(10))
    password_hash: Mapped[str | None] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(Moment)
    updated_at: Mapped[datetime] = mapped_column(Moment)
    deleted_at: Mapped[datetime | None] = mapped_column(Moment)
    version: Mapped[int]

    @classmethod
    def register(cls, email: str, name: str, role: str, password: str | None = None) -> "User":
        """A new, active user; `password` is its hash."""
        moment = now()
        return cls(
            id=new_id(), email=email, email_key=email.lower(), name=name, role=role, status="active",
            password_hash=password, created_at=moment, updated_at=moment, version=1,
        )  # fmt: skip

    def change(self, email: str, name: str, role: str, status: str, password: str | None = None) -> None:
        """Replace the members that a client may set; without a new password the old one stays."""
        self.email, self.email_key, self.name, self.role, self.status = email, email.lower(), name, role, status
        self.password_hash = password or self.password_hash
        self._changed()

    def erase(self) -> None:
        """Remove the personal data; the id stays as a tombstone for what refers to it."""
        self.email, self.email_key, self.name, self.password_hash = "", None, "", None
        self.deleted_at = now()
        self._changed()

    def has_password(self, password: str) -> bool:
        try:
            return self.password_hash is not None and _hasher.verify(self.password_hash, password)
        except VerificationError:
            return False

    def counts(self) -> dict[str, int]:
        """What this user adds to the totals."""
        if self.deleted_at:
            return {}
        return {"total": 1, f"role:{self.role}": 1, f"status:{self.status}": 1}

    def _changed(self) -> None:
        self.updated_at, self.version = now(), self.version + 1


users: Any = User.__table__
