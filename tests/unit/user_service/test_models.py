"""The rules of a user, without a database."""

from user_service.models import User, hash_password

PASSWORD = "correct horse battery"


def a_user(**given: str) -> User:
    return User.new(**{"email": "Ada@Example.com", "name": "Ada", "role": "customer", **given})


def test_a_new_user_is_active_and_found_without_regard_to_case() -> None:
    user = a_user()
    assert (user.email, user.email_key, user.status, user.version) == (
        "Ada@Example.com",
        "ada@example.com",
        "active",
        1,
    )
    assert user.created_at == user.updated_at


def test_a_change_replaces_and_is_a_new_version() -> None:
    user = a_user(password="a hash")
    user.change("New@example.com", "New", "staff", "suspended")
    assert (user.email_key, user.name, user.role, user.status) == ("new@example.com", "New", "staff", "suspended")
    assert (user.password_hash, user.version) == ("a hash", 2)
    user.change("new@example.com", "New", "staff", "active", "another")
    assert (user.password_hash, user.version) == ("another", 3)


def test_an_erased_user_has_nothing_personal_and_counts_for_nothing() -> None:
    user = a_user(password="a hash")
    assert user.counts() == {"total": 1, "role:customer": 1, "status:active": 1}
    user.erase()
    assert (user.email, user.email_key, user.name, user.password_hash) == ("", None, "", None)
    assert user.deleted_at is not None
    assert user.counts() == {}


def test_a_password_is_known_by_its_hash() -> None:
    user = a_user(password=hash_password(PASSWORD))
    assert user.has_password(PASSWORD)
    assert not user.has_password(PASSWORD.upper())
    assert not a_user().has_password(PASSWORD)
    assert hash_password(PASSWORD) != hash_password(PASSWORD)
