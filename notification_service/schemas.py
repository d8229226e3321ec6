"""The HTTP shapes of the notification service."""

from decimal import Decimal
from typing import Any, ClassVar  # noqa: TID251 - what a client sends, before it is checked

import marshmallow as ma

from libs.common.ids import example_id
from libs.common.web.fields import (
    Answer,
    Choice,
    Count,
    Dict,
    Documented,
    Id,
    Integer,
    QueryBoolean,
    Schema,
    String,
    Timestamp,
    Version,
)
from notification_service.models import CHANNELS, MAX_BODY, MAX_SUBJECT, STATUSES, TEMPLATES, fault_of_recipient

MAX_DEPTH = 10
MAX_VALUES = 2_000
"""Members and items of `data`, at all levels: an order of a hundred lines has a third of that."""
MAX_NUMBER = 2**53
# Everything that any mail program might take for the end of a line.
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"


class Data(Documented):
    """Any JSON object that every engine can store: no NUL, no lone surrogate, and numbers that a double can hold. Its
    values are counted before they are converted, since a small body can hold very many.
    """

    keywords: ClassVar = {"type": "object", "additionalProperties": True}

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._text = String(max=MAX_BODY)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, dict):
            raise ma.ValidationError("Must be an object.")
        _check_size(value)
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


def _check_size(data: dict[str, Any]) -> None:
    """Raises ValidationError as soon as there are more than MAX_VALUES."""
    count = 0
    containers: list[dict[str, Any] | list[Any]] = [data]
    while containers:
        container = containers.pop()
        count += len(container)
        if count > MAX_VALUES:
            raise ma.ValidationError(f"At most {MAX_VALUES} values.")
        values = container.values() if isinstance(container, dict) else container
        containers += [value for value in values if isinstance(value, dict | list)]


class Flag(Documented):
    """True or false; "true" and 1 are neither."""

    keywords: ClassVar = {"type": "boolean"}

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ma.ValidationError("Must be true or false.")
        return value


class LongText(String):
    """Without a pattern in the document: on a text as long as this, it keeps whoever generates requests busy."""

    keywords: ClassVar = {"format": "text"}


class NotificationChannel(Choice):
    """The way that a notification goes."""

    words = CHANNELS


class NotificationStatus(Choice):
    """`failed`: another attempt will come; `dead`: none will, unless it is asked for."""

    words = STATUSES


class NewNotification(Schema):
    """A notification to send: to a user or a recipient, with a body or a template."""

    user_id = Id(
        load_default=None, allow_none=True, doc="Whether there is one, sending shows.", example=example_id("user_id")
    )
    recipient = String(
        min=1, max=2000, load_default=None, allow_none=True, example="ada@example.com",
        doc="An e-mail address, a telephone number or a URL, as the channel needs it. A user needs none for `email`, "
            "`push` and `log`; where there is one, it is used.",
    )  # fmt: skip
    channel = NotificationChannel(load_default="email", example="email")
    subject = String(
        max=MAX_SUBJECT, pattern=_ONE_LINE, load_default=None, allow_none=True,
        doc="With a template, instead of the template's own.", example="Your parcel",
    )  # fmt: skip
    body = LongText(
        min=1, max=MAX_BODY, load_default=None, allow_none=True, doc="The text.", example="Your parcel is on its way."
    )
    template = Choice(TEMPLATES, load_default=None, allow_none=True, doc="The text is made from it and `data`.")
    data = Data(
        load_default=dict,
        doc="What the template needs; a gateway gets it, too. At most 2000 values, at all levels together.",
    )

    @ma.validates_schema
    def _is_complete(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data["user_id"] is None and data["recipient"] is None:
            raise ma.ValidationError("Give a user or a recipient.", "recipient")
        if (data["body"] is None) == (data["template"] is None):
            raise ma.ValidationError("Give either a body or a template.", "body")
        if fault := fault_of_recipient(data["channel"], data["recipient"]):
            raise ma.ValidationError(fault, "recipient")


class NotificationChange(Schema):
    """All that a client may set of a notification."""

    read = Flag(required=True, doc="Whether it was read.", example=True)


class Notification(Answer):
    """A notification."""

    id = Id(doc="The id of the notification.")
    user_id = Id(
        allow_none=True, doc="The user that it is for; null where only a recipient was given.",
        example=example_id("user_id"),
    )  # fmt: skip
    order_id = Id(allow_none=True, doc="The order that it tells of.")
    channel = NotificationChannel()
    recipient = String(
        max=2000, allow_none=True, doc="As it was given: the address of a user is looked up, and not kept.",
        example="ada@example.com",
    )  # fmt: skip
    template = String(max=64, allow_none=True, doc="What its text was made from; null where the text was given.")
    subject = String(
        max=MAX_SUBJECT, allow_none=True, doc="Null where there is none, and once it is erased.", example="Your parcel"
    )
    body = LongText(
        max=MAX_BODY, allow_none=True, doc="The text; null once it is erased.", example="Your parcel is on its way."
    )
    status = NotificationStatus()
    attempts = Integer(min=0, max=2**31 - 1, doc="How often sending was tried.", example=0)
    last_error = String(max=200, allow_none=True, doc="Why the last attempt failed.")
    read_at = Timestamp(allow_none=True, doc="When it was marked as read; null while it is unread.")
    sent_at = Timestamp(allow_none=True, doc="Null until it is sent.")
    created_at = Timestamp(doc="When it was made.")
    version = Version(example=1)


class NotificationFilters(Schema):
    """What notifications may be looked for by."""

    user_id = Id(doc="Only those to this user.", example=example_id("user_id"))
    order_id = Id(doc="Only those that tell of this order.")
    status = NotificationStatus(doc="Only those with this status.", example="queued")
    channel = NotificationChannel(doc="Only those that go this way.", example="email")
    unread = QueryBoolean(doc="Only those that were not read, or only those that were.", example=True)


class NotificationStats(Answer):
    """How many notifications there are."""

    total = Count(doc="All notifications, without those that were deleted.", example=1)
    by_status = Dict(
        keys=NotificationStatus(), values=Count(), doc="How many of them have each status.", example={"queued": 1}
    )
    by_channel = Dict(
        keys=NotificationChannel(), values=Count(), doc="How many of them go each way.", example={"email": 1}
    )
