from typing import Any

import pytest

from libs.common.errors import DependencyUnavailable
from libs.common.ids import new_id
from libs.common.web.messages import MAX_REQUEST_LINE
from notification_service.clients import FakeUsers, UserClient, Users
from notification_service.models import Address
from tests.network import Provider


def a_user(user: Provider, user_id: str, email: str, version: int = 1) -> Any:
    return user.body("GET", f"/users/{user_id}", id=user_id, email=email, version=version)


def test_many_addresses_take_one_call(user: Provider) -> None:
    ada, bob = sorted((new_id(), new_id()))
    call = user.answers("GET", "/users", items=[a_user(user, ada, "ada@example.com", 7)], next_cursor=None)
    assert UserClient(user.client).addresses([bob, ada, bob]) == {ada: Address("ada@example.com", 7)}
    [sent] = call.calls
    assert sent.request.path_url == f"/api/v1/users?ids={ada},{bob}&limit=200"


def test_a_full_batch_fits_into_one_request_line(user: Provider) -> None:
    call = user.answers("GET", "/users", items=[], next_cursor=None)
    UserClient(user.client).addresses(new_id() for _ in range(100))
    assert len(f"GET {call.calls[0].request.path_url} HTTP/1.1") <= MAX_REQUEST_LINE


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_is_not_taken_for_unknown_users(user: Provider, status: int) -> None:
    user.answers("GET", "/users", status)
    with pytest.raises(DependencyUnavailable):
        UserClient(user.client).addresses([new_id()])


def test_nor_is_an_answer_from_elsewhere(user: Provider) -> None:
    user.misbehaves("GET", "/users", because="a proxy knows no such path", status=404, json={})
    with pytest.raises(DependencyUnavailable):
        UserClient(user.client).addresses([new_id()])


def check_addresses(users: Users, known: str) -> None:
    assert users.addresses({known, new_id()}) == {known: Address("ada@example.com", 1)}


def test_the_fake_answers_as_the_client_does(user: Provider) -> None:
    known = new_id()
    user.answers("GET", "/users", items=[a_user(user, known, "ada@example.com")], next_cursor=None)
    check_addresses(UserClient(user.client), known)
    check_addresses(FakeUsers({known: "ada@example.com"}), known)


def test_the_fake_can_be_down() -> None:
    users = FakeUsers()
    users.down = True
    with pytest.raises(DependencyUnavailable):
        users.addresses(["a"])
