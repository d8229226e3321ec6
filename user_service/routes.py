"""The URLs of the user service."""

from typing import Any

from libs.common.web.routes import Routes
from user_service import repository, schemas, use_cases
from user_service.repository import EmailTaken

routes = Routes(users="People who buy, people who sell, and those who look after the shop.")


@routes.post("/users", body=schemas.NewUser, returns=schemas.User, status=201, refuses=[EmailTaken], idempotent=True)
def create_user(session: Any, body: Any) -> Any:
    """Register a user.

    The e-mail must be free. A password, where one is given, is kept as a hash (Argon2id) and never shown.
    """
    return use_cases.create_user(session, body)


@routes.list("/users", query=schemas.UserFilters, sorts=("created_at", "name", "email"), returns=schemas.User)
def list_users(session: Any, query: Any, page: Any) -> Any:
    """List users.

    The newest come first, unless `sort` says otherwise. Deleted users are not among them.
    """
    return repository.find_page(session, query, page)


@routes.get("/users/stats", returns=schemas.UserStats)
def user_stats(session: Any) -> Any:
    """Count users by role and by status.

    The figures are maintained with every change, so they cost the same however many users there are.
    """
    return use_cases.user_stats(session)


@routes.get("/users/<id:user_id>", returns=schemas.User)
def get_user(session: Any, user_id: str) -> Any:
    """Get a user.

    A user who was deleted is not found.
    """
    return repository.find(session, user_id)


@routes.put(
    "/users/<id:user_id>", body=schemas.UserChange, returns=schemas.User, refuses=[EmailTaken], shows={"version": 2}
)
def replace_user(session: Any, user_id: str, body: Any, match: Any) -> Any:
    """Replace a user.

    What is left out falls back to its default: `role` to `customer`, `status` to `active`. The password alone stays
    when it is left out.
    """
    return use_cases.change_user(session, user_id, body, match)


@routes.patch(
    "/users/<id:user_id>", body=schemas.UserChange, returns=schemas.User, refuses=[EmailTaken],
    example={"status": "suspended"}, shows={"status": "suspended", "version": 2},
)  # fmt: skip
def update_user(session: Any, user_id: str, body: Any, match: Any) -> Any:
    """Change some members of a user.

    The body is a merge patch (RFC 7396): what is left out stays, and null stands for the default.
    """
    return use_cases.change_user(session, user_id, body, match)


@routes.delete("/users/<id:user_id>")
def delete_user(session: Any, user_id: str, match: Any) -> None:
    """Delete a user.

    Personal data is erased, here and soon in the other services, and the e-mail is free again. The id is never used
    for another one.
    """
    use_cases.delete_user(session, user_id, match)
