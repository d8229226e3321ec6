"""The client of the user service, and its fake."""

from collections.abc import Iterable
from typing import Protocol

from libs.common.calls.client import ServiceClient
from libs.common.errors import DependencyUnavailable
from notification_service.models import Address


class Users(Protocol):
    def addresses(self, user_ids: Iterable[str]) -> dict[str, Address]:
        """E-mail addresses by user, of up to 100 users; those who are unknown or deleted are left out. Raises
        DependencyUnavailable when the user service cannot be asked.
        """


class UserClient:
    def __init__(self, client: ServiceClient):
        self._client = client

    def addresses(self, user_ids: Iterable[str]) -> dict[str, Address]:
        answer = self._client.get(f"/users?ids={','.join(sorted(set(user_ids)))}&limit=200")
        if answer.status != 200:
            raise DependencyUnavailable("The user service gave no useful answer.")
        return {user["id"]: Address(user["email"], int(user["version"])) for user in answer.body["items"]}


class FakeUsers:
    """Knows the addresses it is given, each at version 1 or at that in `versions`; `down` makes it unreachable."""

    def __init__(self, known: dict[str, str] | None = None):
        self.known = dict(known or {})
        self.versions: dict[str, int] = {}
        self.down = False
        self.calls = 0

    def addresses(self, user_ids: Iterable[str]) -> dict[str, Address]:
        self.calls += 1
        if self.down:
            raise DependencyUnavailable("The user service is unavailable.")
        versions = self.versions
        return {one: Address(self.known[one], versions.get(one, 1)) for one in user_ids if one in self.known}
