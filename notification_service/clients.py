"""The client of the user service, and its fake."""

from collections.abc import Iterable
from typing import Protocol

from libs.common.calls.client import ServiceClient
from libs.common.errors import DependencyUnavailable


class Users(Protocol):
    def addresses(self, user_ids: Iterable[str]) -> dict[str, str]:
        """E-mail addresses by user, of up to 100 users; those who are unknown or deleted are left out. Raises
        DependencyUnavailable when the user service cannot be asked.
        """


class UserClient:
    def __init__(self, client: ServiceClient):
        self._client = client

    def addresses(self, user_ids: Iterable[str]) -> dict[str, str]:
        answer = self._client.get(f"/users?ids={','.join(sorted(set(user_ids)))}&limit=200")
        if answer.status != 200:
            raise DependencyUnavailable("The user service gave no useful answer.")
        return {user["id"]: user["email"] for user in answer.body["items"]}


class FakeUsers:
    """Knows the addresses it is given; `down` makes it unreachable."""

    def __init__(self, known: dict[str, str] | None = None):
        self.known = dict(known or {})
        self.down = False
        self.calls = 0

    def addresses(self, user_ids: Iterable[str]) -> dict[str, str]:
        self.calls += 1
        if self.down:
            raise DependencyUnavailable("The user service is unavailable.")
        return {user_id: self.known[user_id] for user_id in user_ids if user_id in self.known}
