"""The user: its table, and the rules as methods on it."""

import os
from collections.abc import Mapping
from datetime import datetime
from typing import NotRequired, TypedDict, cast

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from libs.common.data.columns import NAMING, Id, Moment, Text
from libs.common.errors import Problem
from libs.common.ids import new_id
from libs.common.offload import Offload
from libs.common.times import now

metadata = sa.MetaData(naming_convention=NAMING)

ROLES = ("customer", "staff", "admin")
STATUSES = ("active", "suspended")

# Argon2id with the smallest memory that OWASP's password storage cheat sheet recommends: 40 ms; the default takes 200.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Half of the cores: the other requests need the rest. Each hash takes 19 MiB.
_offload = Offload(max(1, (os.cpu_count() or 1) // 2))


class EmailTaken(Problem):
    """Another user has this e-mail; case does not matter."""

    status, code, title = 409, "email-taken", "The e-mail is taken"


class NewUser(TypedDict):
    """A user to register."""

    email: str
    name: str
    role: str
    password: NotRequired["NewPassword"]


class UserFilters(TypedDict, total=False):
    """What users are searched by."""

    email: str
    role: str
    status: str
    ids: list[str]


class UserStats(TypedDict):
    """How many users there are."""

    total: int
    by_role: dict[str, int]
    by_status: dict[str, int]


def hash_password(password: str) -> str:
    """The Argon2id hash; raises DeadlineExceeded when too many others are queued before it."""
    return _offload(_hasher.hash, password)


class NewPassword:
    """A plain password and its hash, which is computed once, by the first call of `make`."""

    def __init__(self, plain: str):
        self._plain = plain
        self._hash: str | None = None

    @property
    def is_hashed(self) -> bool:
        return self._hash is not None

    def make(self) -> str:
        """The hash; the first call computes it, which takes 40 ms."""
        self._hash = self._hash or hash_password(self._plain)
        return self._hash


class Base(DeclarativeBase):
    metadata = metadata


_alive = sa.text("deleted_at IS NULL")


def _index(*columns: str) -> sa.Index:
    """An index of the users that are not deleted, so that a list need not skip tombstones."""
    return sa.Index(None, *columns, sqlite_where=_alive, postgresql_where=_alive)


class User(Base):
    __tablename__ = "users"
    # One for every documented sort, alone and after every documented filter; the id breaks ties.
    __table_args__ = tuple(
        _index(*filters, sort, "id")
        for filters in ((), ("role",), ("status",))
        for sort in ("created_at", "name", "email_key")
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(254))
    email_key: Mapped[str | None] = mapped_column(Text(254), unique=True)
    """The e-mail in lower case; None once the user is deleted, so that the e-mail can be used again."""
    name: Mapped[str] = mapped_column(Text(200))
    role: Mapped[str] = mapped_column(sa.String(10))
    status: Mapped[str] = mapped_column(sa.String(10))
    password_hash: Mapped[str | None] = mapped_column(sa.String(200))
    created_at: Mapped[datetime] = mapped_column(Moment)
    updated_at: Mapped[datetime] = mapped_column(Moment)
    deleted_at: Mapped[datetime | None] = mapped_column(Moment)
    version: Mapped[int]

    @classmethod
    def new(cls, email: str, name: str, role: str, password: NewPassword | None = None) -> "User":
        """A new, active user."""
        moment = now()
        return cls(
            id=new_id(), email=email, email_key=email.lower(), name=name, role=role, status="active",
            password_hash=password.make() if password else None, created_at=moment, updated_at=moment, version=1,
        )  # fmt: skip

    def change(self, email: str, name: str, role: str, status: str, password: NewPassword | None = None) -> bool:
        """Replace the members that a client may set; without a new password the old one stays. Returns whether anything
        changed, which a password always does.
        """
        if not password and (self.email, self.name, self.role, self.status) == (email, name, role, status):
            return False
        self.email, self.email_key, self.name, self.role, self.status = email, email.lower(), name, role, status
        self.password_hash = password.make() if password else self.password_hash
        self._changed()
        return True

    def erase(self) -> None:
        """Remove the personal data; the row stays as a tombstone, since other data refers to its id."""
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


users = cast(sa.Table, User.__table__)
UserRow = Mapping[str, object]
"""The columns of a user, as a query reads them."""
