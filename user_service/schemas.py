"""The HTTP shapes of the user service."""

from typing import Any

from marshmallow import fields, validate

from libs.common.fields import Id, IdList, Integer, Schema, String, Timestamp
from user_service.models import ROLES, STATUSES, hash_password


class Email(String):
    """An address as people write it; whether mail arrives there, only mail can tell."""

    def __init__(self, **kwargs: Any):
        pattern = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})+$"
        metadata = {"examples": ["ada@example.com"], **kwargs.pop("metadata", {})}
        super().__init__(min=3, max=254, pattern=pattern, metadata=metadata, **kwargs)


class _Hash(str):
    """The hash of a password, which a patch brings to the schema of the whole user."""


class Password(String):
    """What leaves this field is the hash: the plain text goes no further, and no transaction waits for it."""

    made_once = True

    def deserialize(self, value: Any, attr: Any = None, data: Any = None, **kwargs: Any) -> Any:
        if isinstance(value, _Hash):
            return value
        plain = super().deserialize(value, attr, data, **kwargs)
        return _Hash(hash_password(plain)) if isinstance(plain, str) else plain


def _role(**kwargs: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(ROLES), **kwargs)


def _status(**kwargs: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(STATUSES), **kwargs)


class NewUser(Schema):
    email = Email(required=True)
    name = String(min=1, max=200, required=True, metadata={"examples": ["Ada Lovelace"]})
    password = Password(min=12, max=128, load_only=True)
    role = _role(load_default="customer")


class UserChange(NewUser):
    status = _status(load_default="active")


class User(Schema):
    id = Id()
    email = fields.String()
    name = fields.String()
    role = _role()
    status = _status()
    created_at = Timestamp()
    updated_at = Timestamp()
    version = Integer(min=1, max=2**53)


class UserFilters(Schema):
    email = String(max=254)
    role = _role()
    status = _status()
    ids = IdList()


class UserStats(Schema):
    total = fields.Integer()
    by_role = fields.Dict(keys=fields.String(), values=fields.Integer())
    by_status = fields.Dict(keys=fields.String(), values=fields.Integer())
