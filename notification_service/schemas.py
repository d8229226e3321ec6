"""The HTTP shapes of the notification service."""

from decimal import Decimal
from typing import Any

import marshmallow as ma
from marshmallow import fields, validate

from libs.common.fields import Id, Integer, QueryBoolean, Schema, String, Timestamp
from notification_service.models import CHANNELS, MAX_BODY, MAX_SUBJECT, STATUSES, TEMPLATES, fault_of_recipient

MAX_DEPTH = 10
MAX_NUMBER = 2**53
# Everything that any mail program might take for the end of a line.
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"


class Data(fields.Field):
    """Any JSON object that every engine can store: no NUL, no lone surrogate, and numbers that a double can hold."""

    def __init__(self, **kwargs: Any):
        metadata = {"type": "object", "additionalProperties": True, **kwargs.pop("metadata", {})}
        super().__init__(metadata=metadata, **kwargs)
        self._text = String(max=MAX_BODY)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, dict):
            raise ma.ValidationError("Must be an object.")
        return self._plain(value, MAX_DEPTH)

    def _plain(self, value: Any, depth: int) -> Any:
        if depth == 0:
            raise ma.ValidationError(f"At most {MAX_DEPTH} levels.")
        if isinstance(value, dict):
            return {self._text.deserialize(name): self._plain(member, depth - 1) for name, member in value.items()}
        if isinstance(value, list):
            return [self._plain(member, depth - 1) for member in value]
        if isinstance(value, str):
            return self._text.deserialize(value)
        if isinstance(value, int | Decimal) and not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise ma.ValidationError(f"Numbers must be from -{MAX_NUMBER} to {MAX_NUMBER}.")
        return float(value) if isinstance(value, Decimal) else value


class Flag(fields.Field):
    """True or false; "true" and 1 are neither."""

    def __init__(self, **kwargs: Any):
        super().__init__(metadata={"type": "boolean", **kwargs.pop("metadata", {})}, **kwargs)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ma.ValidationError("Must be true or false.")
        return value


def _channel(**kwargs: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(CHANNELS), **kwargs)


def _status(**kwargs: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(STATUSES), **kwargs)


class NewNotification(Schema):
    user_id = Id(load_default=None, allow_none=True, metadata={"description": "Whether there is one, sending shows."})
    recipient = String(
        min=1, max=2000, load_default=None, allow_none=True,
        metadata={
            "description": "An e-mail address, a telephone number or a URL, as the channel needs it. A user needs none "
                           "for `email`, `push` and `log`; where there is one, it is used.",
            "examples": ["ada@example.com"],
        },
    )  # fmt: skip
    channel = _channel(load_default="email")
    subject = String(
        max=MAX_SUBJECT, pattern=_ONE_LINE, load_default=None, allow_none=True,
        metadata={"description": "With a template, instead of the template's own."},
    )  # fmt: skip
    body = String(
        min=1, max=MAX_BODY, load_default=None, allow_none=True, metadata={"examples": ["Your parcel is on its way."]}
    )
    template = fields.String(validate=validate.OneOf(TEMPLATES), load_default=None, allow_none=True)
    data = Data(load_default=dict, metadata={"description": "What the template needs; a gateway gets it, too."})

    @ma.validates_schema
    def _is_complete(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data["user_id"] is None and data["recipient"] is None:
            raise ma.ValidationError("Give a user or a recipient.", "recipient")
        if (data["body"] is None) == (data["template"] is None):
            raise ma.ValidationError("Give either a body or a template.", "body")
        if fault := fault_of_recipient(data["channel"], data["recipient"]):
            raise ma.ValidationError(fault, "recipient")


class NotificationChange(Schema):
    read = Flag(required=True)


class Notification(Schema):
    id = Id()
    user_id = Id(allow_none=True)
    order_id = Id(allow_none=True)
    channel = _channel()
    recipient = fields.String(
        allow_none=True, metadata={"description": "As it was given: the address of a user is looked up, and not kept."}
    )
    template = fields.String(allow_none=True)
    subject = fields.String(allow_none=True)
    body = fields.String(allow_none=True, metadata={"description": "The text; null once it is erased."})
    status = _status(
        metadata={"description": "`failed`: another attempt will come; `dead`: none will, unless it is asked for."}
    )
    attempts = Integer(min=0, max=2**31)
    last_error = fields.String(allow_none=True)
    read_at = Timestamp(allow_none=True)
    sent_at = Timestamp(allow_none=True)
    created_at = Timestamp()
    version = Integer(min=1, max=2**31)


class NotificationFilters(Schema):
    user_id = Id()
    order_id = Id()
    status = _status()
    channel = _channel()
    unread = QueryBoolean()


class NotificationStats(Schema):
    total = fields.Integer()
    by_status = fields.Dict(keys=fields.String(), values=fields.Integer())
    by_channel = fields.Dict(keys=fields.String(), values=fields.Integer())
