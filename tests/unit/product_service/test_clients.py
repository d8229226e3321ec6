import pytest
import responses

from libs.common.client import ServiceClient
from libs.common.config import Settings
from libs.common.db import new_id
from libs.common.errors import DependencyUnavailable
from product_service.clients import FakeUsers, UserClient, Users

URL = "http://user.test/api/v1/users"


@pytest.fixture
def users() -> UserClient:
    return UserClient(ServiceClient("user", Settings(service="product", user_service_url="http://user.test")))


def test_a_user_exists_or_not(peer: responses.RequestsMock, users: UserClient) -> None:
    known, unknown = new_id(), new_id()
    peer.get(f"{URL}/{known}", json={"id": known})
    peer.get(f"{URL}/{unknown}", json={"code": "not-found"}, status=404)
    assert users.exists(known) is True
    assert users.exists(unknown) is False


@pytest.mark.parametrize("status", [400, 401, 403, 410, 422, 503])
def test_any_other_answer_says_nothing_about_the_user(
    peer: responses.RequestsMock, users: UserClient, status: int
) -> None:
    user_id = new_id()
    peer.get(f"{URL}/{user_id}", json={}, status=status, headers={"Retry-After": "60"})
    with pytest.raises(DependencyUnavailable):
        users.exists(user_id)


def test_the_fake_answers_like_the_real_one() -> None:
    known = new_id()
    fake: Users = FakeUsers(known)
    assert fake.exists(known) is True
    assert fake.exists(new_id()) is False
