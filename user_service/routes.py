"""The URLs of the user service."""

from typing import Any

from libs.common.api import Routes
from user_service import repository, schemas, use_cases
from user_service.repository import EmailTaken

routes = Routes()


@routes.post("/users", body=schemas.NewUser, returns=schemas.User, status=201, refuses=[EmailTaken], idempotent=True)
def create_user(session: Any, body: Any) -> Any:
    """Register a user."""
    return use_cases.create_user(session, body)


@routes.list("/users", query=schemas.UserFilters, sorts=("created_at", "name", "email"), returns=schemas.User)
def list_users(session: Any, query: Any, page: Any) -> Any:
    """List users."""
    return repository.find_page(session, query, page)


@routes.get("/users/stats", returns=schemas.UserStats)
def user_stats(session: Any) -> Any:
    """Count users by role and by status."""
    return use_cases.user_stats(session)


@routes.get("/users/<id:user_id>", returns=schemas.User)
def get_user(session: Any, user_id: str) -> Any:
    """Get a user."""
    return repository.find(session, user_id)


@routes.put("/users/<id:user_id>", body=schemas.UserChange, returns=schemas.User, refuses=[EmailTaken])
def replace_user(session: Any, user_id: str, body: Any, match: Any) -> Any:
    """Replace a user."""
    return use_cases.change_user(session, user_id, body, match)


@routes.patch("/users/<id:user_id>", body=schemas.UserChange, returns=schemas.User, refuses=[EmailTaken])
def update_user(session: Any, user_id: str, body: Any, match: Any) -> Any:
    """Change some members of a user."""
    return use_cases.change_user(session, user_id, body, match)


@routes.delete("/users/<id:user_id>")
def delete_user(session: Any, user_id: str, match: Any) -> None:
    """Delete a user: personal data is erased, the e-mail is free again."""
    use_cases.delete_user(session, user_id, match)
