"""The client of the user service, and its fake."""

from typing import Protocol

from libs.common.calls.client import ServiceClient
from libs.common.errors import DependencyUnavailable


class Users(Protocol):
    def exists(self, user_id: str) -> bool:
        """Whether there is such a user; raises DependencyUnavailable when the user service cannot be asked."""


class UserClient:
    def __init__(self, client: ServiceClient):
        self._client = client

    def exists(self, user_id: str) -> bool:
        reply = self._client.get(f"/users/{user_id}")
        if reply.status not in (200, 404):
            raise DependencyUnavailable("The user service gave no useful answer.")
        return reply.status == 200


class FakeUsers:
    def __init__(self, *known: str):
        self.known = set(known)

    def exists(self, user_id: str) -> bool:
        return user_id in self.known
