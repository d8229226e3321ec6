"""The events that the user service publishes. It consumes none."""

from dataclasses import dataclass

from libs.common.events.event import Event


@dataclass(frozen=True, kw_only=True)
class UserCreated(Event):
    TYPE = "user.created.v1"
    SUBJECT = "user_id"

    user_id: str
    role: str
    status: str
    version: int


@dataclass(frozen=True, kw_only=True)
class UserUpdated(UserCreated):
    TYPE = "user.updated.v1"


@dataclass(frozen=True, kw_only=True)
class UserDeleted(Event):
    TYPE = "user.deleted.v1"
    SUBJECT = "user_id"

    user_id: str
    deleted_at: str
    version: int
