import pytest

from libs.common.errors import DependencyUnavailable
from libs.common.ids import new_id
from product_service.clients import FakeUsers, UserClient, Users
from tests.network import Provider


@pytest.fixture
def users(user: Provider) -> UserClient:
    return UserClient(user.client)


def test_a_user_exists_or_not(user: Provider, users: UserClient) -> None:
    known, unknown = new_id(), new_id()
    user.answers("GET", f"/users/{known}", id=known)
    user.answers("GET", f"/users/{unknown}", 404)
    assert users.exists(known) is True
    assert users.exists(unknown) is False


@pytest.mark.parametrize("status", [422, 429, 500, 503, 504])
def test_any_other_answer_says_nothing_about_the_user(user: Provider, users: UserClient, status: int) -> None:
    user_id = new_id()
    user.answers("GET", f"/users/{user_id}", status)
    with pytest.raises(DependencyUnavailable):
        users.exists(user_id)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 410])
def test_nor_does_an_answer_that_is_not_the_user_services(user: Provider, users: UserClient, status: int) -> None:
    user_id = new_id()
    user.misbehaves("GET", f"/users/{user_id}", because="a proxy is in between", json={}, status=status)
    with pytest.raises(DependencyUnavailable):
        users.exists(user_id)


def test_the_fake_answers_like_the_real_one() -> None:
    known = new_id()
    fake: Users = FakeUsers(known)
    assert fake.exists(known) is True
    assert fake.exists(new_id()) is False
