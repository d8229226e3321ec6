"""The rules of a user, without a database."""

from user_service.models import NewPassword, User, hash_password

PASSWORD = "correct horse battery"


def a_user(password: str | None = None) -> User:
    return User.new("Ada@Example.com", "Ada", "customer", NewPassword(password) if password else None)


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
    user = a_user(PASSWORD)
    assert user.change("New@example.com", "New", "staff", "suspended")
    assert (user.email_key, user.name, user.role, user.status) == ("new@example.com", "New", "staff", "suspended")
    assert (user.has_password(PASSWORD), user.version) == (True, 2)
    assert user.change("new@example.com", "New", "staff", "active", NewPassword("another one"))
    assert (user.has_password("another one"), user.version) == (True, 3)


def test_the_same_members_are_no_change_and_a_password_always_is() -> None:
    user = a_user(PASSWORD)
    same, before = ("Ada@Example.com", "Ada", "customer", "active"), user.updated_at
    assert not user.change(*same)
    assert (user.version, user.updated_at) == (1, before)
    assert user.change(*same, NewPassword(PASSWORD))
    assert user.version == 2


def test_an_erased_user_has_nothing_personal_and_counts_for_nothing() -> None:
    user = a_user(PASSWORD)
    assert user.counts() == {"total": 1, "role:customer": 1, "status:active": 1}
    user.erase()
    assert (user.email, user.email_key, user.name, user.password_hash) == ("", None, "", None)
    assert user.deleted_at is not None
    assert user.counts() == {}


def test_a_password_is_checked_against_its_hash() -> None:
    user = a_user(PASSWORD)
    assert user.has_password(PASSWORD)
    assert not user.has_password(PASSWORD.upper())
    assert not a_user().has_password(PASSWORD)
    assert hash_password(PASSWORD) != hash_password(PASSWORD)


def test_a_new_password_is_hashed_once() -> None:
    password = NewPassword(PASSWORD)
    assert not password.is_hashed
    assert password.make() == password.make()
    assert password.is_hashed
