from typing import Any

import pytest

from libs.common.client import Answer
from libs.common.db import new_id
from libs.common.errors import DependencyUnavailable
from notification_service.clients import FakeUsers, UserClient, Users

LONGEST_REQUEST_LINE = 4094
"""What gunicorn takes by default."""


class Client:
    """Answers every call alike."""

    def __init__(self, status: int, body: Any):
        self._answer = Answer(status, body, {})
        self.paths: list[str] = []

    def get(self, path: str) -> Answer:
        self.paths.append(path)
        return self._answer


def client(client: Client) -> UserClient:
    return UserClient(client)  # type: ignore[arg-type]


def test_many_addresses_take_one_call() -> None:
    ada, bob = sorted((new_id(), new_id()))
    service = Client(200, {"items": [{"id": ada, "email": "ada@example.com", "name": "Ada"}], "next_cursor": None})
    assert client(service).addresses([bob, ada, bob]) == {ada: "ada@example.com"}
    assert service.paths == [f"/users?ids={ada},{bob}&limit=200"]


def test_a_full_batch_fits_into_one_request_line() -> None:
    service = Client(200, {"items": []})
    client(service).addresses(new_id() for _ in range(100))
    assert len(f"GET /api/v1{service.paths[0]} HTTP/1.1\r\n") < LONGEST_REQUEST_LINE


@pytest.mark.parametrize("status", [400, 404, 422])
def test_an_answer_that_is_none_is_not_taken_for_unknown_users(status: int) -> None:
    with pytest.raises(DependencyUnavailable):
        client(Client(status, {})).addresses([new_id()])


@pytest.mark.parametrize(
    "users",
    [client(Client(200, {"items": [{"id": "a", "email": "a@example.com"}]})), FakeUsers({"a": "a@example.com"})],
    ids=lambda users: type(users).__name__,
)
def test_the_fake_answers_as_the_client_does(users: Users) -> None:
    assert users.addresses({"a", "b"}) == {"a": "a@example.com"}


def test_the_fake_can_be_down() -> None:
    users = FakeUsers()
    users.down = True
    with pytest.raises(DependencyUnavailable):
        users.addresses(["a"])
