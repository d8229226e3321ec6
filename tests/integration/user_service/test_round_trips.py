"""Every member of a user that can be written is read back as it was written."""

import pytest
from argon2 import PasswordHasher

from libs.common.data.database import Database
from tests.factories import a_user
from tests.integration.round_trips import Resource, round_trips
from tests.integration.user_service.test_users import row
from tests.web import Api
from user_service.models import User

LABEL = "a" * 61
EMAILS = ["a@b.co", "X" * 64 + "@example.com", "o'neil+tag@sub.example.co.uk", f"{'a' * 64}@{LABEL}.{LABEL}.{LABEL}.de"]


@pytest.mark.parametrize("method", ["post", "put", "patch"])
def test_every_member_of_a_user_is_read_back(
    api: Api, db: Database, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("user_service.models._hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    users = Resource("user", "/users", a_user, {"email": EMAILS})
    for expected, found in round_trips(api, users, method, role="staff", password="correct horse battery"):
        password = expected.pop("password", None) or ("" if method == "post" else "correct horse battery")
        assert expected.items() <= found.items()
        assert "password" not in found
        stored = User(password_hash=row(db, found["id"])["password_hash"])
        assert stored.has_password(password) is bool(password)
