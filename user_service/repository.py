"""Every query of the user service."""

from typing import Any

import sqlalchemy as sa

from libs.common.data.database import Reader, Session
from libs.common.data.paging import Page, PageQuery, page
from libs.common.errors import NotFound, Problem
from user_service.models import User, users

SORTS = {"created_at": users.c.created_at, "name": users.c.name, "email": users.c.email_key}


class EmailTaken(Problem):
    """Another user has this e-mail; case does not matter."""

    status, code, title = 409, "email-taken", "The e-mail is taken"


_find = sa.select(users).where(users.c.id == sa.bindparam("id"), users.c.deleted_at.is_(None))


def find(session: Reader, user_id: str) -> sa.RowMapping:
    """The user's row; raises NotFound, also for one that was deleted."""
    row = session.execute(_find, {"id": user_id}).mappings().one_or_none()
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


def find_page(session: Reader, filters: dict[str, Any], asked: PageQuery) -> Page:
    query = sa.select(users).where(users.c.deleted_at.is_(None))
    if "email" in filters:
        query = query.where(users.c.email_key == filters["email"].lower())
    if "ids" in filters:
        query = query.where(users.c.id.in_(filters["ids"]))
    for name in ("role", "status"):
        if name in filters:
            query = query.where(users.c[name] == filters[name])
    return page(session, query, asked, SORTS, users.c.id)
