"""Every query of the user service."""

import sqlalchemy as sa

from libs.common.data.database import Reader, Session
from libs.common.data.paging import Filter, Listing, Page, PageQuery
from libs.common.data.prepared import Prepared
from libs.common.errors import NotFound
from user_service.models import EmailTaken, User, UserFilters, UserRow, users

SORTS = {"created_at": users.c.created_at, "name": users.c.name, "email": users.c.email_key}

_alive = sa.select(users).where(users.c.deleted_at.is_(None))
_users = Listing(_alive, SORTS, users.c.id)
_find = Prepared(_alive.where(users.c.id == sa.bindparam("id")))


def find(session: Reader, user_id: str) -> UserRow:
    """The user's row; raises NotFound, also for a deleted user."""
    row = _find.one(session, id=user_id)
    if row is None:
        raise NotFound("There is no such user.")
    return row


def lock(session: Session, user_id: str) -> User:
    """The user, locked until the transaction ends; raises NotFound."""
    user = session.get(User, user_id, with_for_update=True)
    if user is None or user.deleted_at:
        raise NotFound("There is no such user.")
    return user


def save(session: Session, user: User) -> None:
    """Write a new or changed user; raises EmailTaken."""
    session.add(user)
    try:
        session.flush()
    except sa.exc.IntegrityError as exc:
        raise EmailTaken() from exc


def is_taken(session: Reader, email: str) -> bool:
    """Whether a user has this e-mail now. Another user may get it before `save`, which checks again."""
    return bool(session.scalar(sa.select(sa.exists().where(users.c.email_key == email.lower()))))


def find_page(session: Reader, filters: UserFilters, asked: PageQuery) -> Page:
    """A page of the users that match every filter, deleted ones excluded; raises MalformedRequest for a bad cursor."""
    return _users.page(session, asked, _conditions(filters))


def _conditions(filters: UserFilters) -> list[Filter]:
    found: list[Filter] = []
    if "email" in filters:
        found.append(Filter(users.c.email_key == filters["email"].lower()))
    if "ids" in filters:
        found.append(Filter(users.c.id.in_(filters["ids"])))
    if "role" in filters:
        found.append(Filter(users.c.role == filters["role"], leads=True))
    if "status" in filters:
        found.append(Filter(users.c.status == filters["status"], leads=True))
    return found
