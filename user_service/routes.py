"""The routes of the user service."""

from libs.common.data.changes import Changes, VersionCheck
from libs.common.data.database import Reader, Session
from libs.common.data.paging import Page, PageQuery
from libs.common.errors import NO_STORE
from libs.common.web.routes import Routes
from user_service import repository, schemas, use_cases
from user_service.models import EmailTaken, NewUser, User, UserFilters, UserRow, UserStats

routes = Routes(users="People who buy, people who sell, and those who look after the shop.")


@routes.post(
    "/users", body=schemas.NewUser, returns=schemas.User, status=201, refuses=[EmailTaken], idempotent=True,
    before=use_cases.hash_ahead,
)  # fmt: skip
def create_user(session: Session, body: NewUser) -> User:
    """Register a user.

    The e-mail must be free. A password, where one is given, is kept as a hash (Argon2id) and never shown.
    """
    return use_cases.create_user(session, body)


@routes.list("/users", query=schemas.UserFilters, sorts=("created_at", "name", "email"), returns=schemas.User)
def list_users(session: Reader, query: UserFilters, page: PageQuery) -> Page:
    """List users.

    The newest come first, unless `sort` says otherwise. Deleted users are not among them.
    """
    return repository.find_page(session, query, page)


@routes.get("/users/stats", returns=schemas.UserStats)
def user_stats(session: Reader) -> UserStats:
    """Count users by role and by status.

    The figures are maintained with every change, so they cost the same however many users there are.
    """
    return use_cases.user_stats(session)


@routes.get("/users/<id:user_id>", returns=schemas.User, cache=NO_STORE)
def get_user(session: Reader, user_id: str) -> UserRow:
    """Get a user.

    A user who was deleted is not found.
    """
    return repository.find(session, user_id)


@routes.put(
    "/users/<id:user_id>", body=schemas.UserChange, returns=schemas.User, refuses=[EmailTaken], shows={"version": 2}
)
def replace_user(session: Session, user_id: str, body: Changes[User], match: VersionCheck) -> User:
    """Replace a user.

    What is left out falls back to its default: `role` to `customer`, `status` to `active`. The password alone stays
    when it is left out.
    """
    return use_cases.change_user(session, user_id, body, match)


@routes.patch(
    "/users/<id:user_id>", body=schemas.UserChange, returns=schemas.User, refuses=[EmailTaken],
    example={"status": "suspended"}, shows={"status": "suspended", "version": 2},
)  # fmt: skip
def update_user(session: Session, user_id: str, body: Changes[User], match: VersionCheck) -> User:
    """Change some members of a user.

    The body is a merge patch (RFC 7396): what is left out stays, and null stands for the default.
    """
    return use_cases.change_user(session, user_id, body, match)


@routes.delete("/users/<id:user_id>")
def delete_user(session: Session, user_id: str, match: VersionCheck) -> None:
    """Delete a user.

    Personal data is erased, here and soon in the other services, and the e-mail is free again. The id is never used
    for another one.
    """
    use_cases.delete_user(session, user_id, match)
