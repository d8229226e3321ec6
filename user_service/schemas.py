"""The HTTP shapes of the user service."""

from collections.abc import Mapping

from libs.common.ids import example_id
from libs.common.web.fields import Answer, Choice, Count, Dict, Id, IdList, Schema, String, Timestamp, Version
from user_service.models import ROLES, STATUSES, NewPassword


class Email(String):
    """An e-mail address; only its form is checked."""

    def __init__(self, *, doc: str, required: bool = False):
        atom, label = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}", r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
        pattern = rf"^{atom}(\.{atom})*@{label}(\.{label})+$"
        super().__init__(min=3, max=254, pattern=pattern, example="ada@example.com", doc=doc, required=required)


class Password(String):
    """Loads a password to be hashed, once the rest of the body is known to be valid."""

    made_once = True

    def deserialize(
        self, value: object, attr: str | None = None, data: Mapping[str, object] | None = None, **kwargs: object
    ) -> NewPassword | None:
        if isinstance(value, NewPassword):  # which a patch brings to the schema of the whole user
            return value
        plain = super().deserialize(value, attr, data, **kwargs)
        return NewPassword(plain) if isinstance(plain, str) else plain


class UserRole(Choice):
    """What a user is to the shop."""

    words = ROLES


class UserStatus(Choice):
    """A user who is suspended cannot order."""

    words = STATUSES


class NewUser(Schema):
    """A user to register."""

    email = Email(required=True, doc="Unique among all users, without regard to case.")
    name = String(min=1, max=200, required=True, doc="As the user is to be called.", example="Ada Lovelace")
    password = Password(min=12, max=128, load_only=True, doc="Only its hash is kept.", example="correct horse battery")
    role = UserRole(load_default="customer")


class UserChange(NewUser):
    """All that a client may set of a user."""

    status = UserStatus(load_default="active", example="active")


class User(Answer):
    """A user."""

    id = Id(doc="The id of the user.")
    email = Email(doc="The e-mail address, as it was given.")
    name = String(max=200, doc="As the user is to be called.", example="Ada Lovelace")
    role = UserRole()
    status = UserStatus()
    created_at = Timestamp(doc="When the user was registered.")
    updated_at = Timestamp(doc="When the user last changed; at first `created_at`.")
    version = Version(example=1)


class UserFilters(Schema):
    """What users may be looked for by."""

    email = String(max=254, doc="Only the user with this e-mail, without regard to case.", example="ada@example.com")
    role = UserRole(doc="Only those with this role.", example="customer")
    status = UserStatus(doc="Only those with this status.", example="active")
    ids = IdList(example=example_id("user_id"))


class UserStats(Answer):
    """How many users there are."""

    total = Count(doc="All users, without those that were deleted.", example=1)
    by_role = Dict(keys=UserRole(), values=Count(), doc="How many of them have each role.", example={"customer": 1})
    by_status = Dict(keys=UserStatus(), values=Count(), doc="How many of them have each status.", example={"active": 1})
