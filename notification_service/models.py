"""Notifications: their texts, their tables, and the rules as methods on them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypedDict, cast

import jinja2
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from libs.common.data.columns import NAMING, Id, Json, Moment
from libs.common.errors import InvalidTransition
from libs.common.events.event import Origin
from libs.common.ids import new_id
from libs.common.times import now

metadata = sa.MetaData(naming_convention=NAMING)

JsonObject: TypeAlias = dict[str, object]
DataNeed: TypeAlias = Literal["never", "template", "always"]
"""When a channel needs the `data` of a notification; `template`: when it has a template."""

CHANNELS = ("email", "sms", "push", "webhook", "log")
STATUSES = ("queued", "sent", "failed", "dead")
"""`failed`: the last attempt failed, and another follows. `dead`: none follows, unless a client asks for it."""

FEW_VALUES: dict[str, tuple[object, ...]] = {"status": STATUSES, "channel": CHANNELS, "unread": (True, False)}
"""The filtered columns that have few values → all of their values."""

MAX_SUBJECT, MAX_BODY = 300, 100_000
MAX_BACKOFF_SECONDS = 3600.0

_ATOM, _LABEL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}", r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
EMAIL = rf"{_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})+"
_request_id = re.compile(r"[A-Za-z0-9._-]{1,128}")
_traceparent = re.compile(r"[0-9a-f-]{1,55}")
_ADDRESSES = {
    "email": (re.compile(EMAIL), "an e-mail address"),
    "sms": (re.compile(r"\+[1-9][0-9]{6,14}"), "a telephone number such as +4915112345678"),
    "webhook": (re.compile(r"https?://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?([/?][!-~]*)?"), "an http or https URL"),
}


def fault_of_recipient(channel: str, recipient: str | None) -> str | None:
    """Why this channel cannot reach the recipient, None when it can. Without one, the user's address is looked up:
    users have an e-mail address, and a push gateway or the log takes their id.
    """
    form, name = _ADDRESSES.get(channel, (None, ""))
    if form is None or (recipient is None and channel == "email"):
        return None
    return None if recipient and form.fullmatch(recipient) else f"Must be {name}."


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=jinja2.select_autoescape(["html"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    auto_reload=False,
)
# A template gets its data and nothing else. Jinja would copy its own functions, such as `range`, for every text.
_templates.globals.clear()
_template = cache(_templates.get_template)
_SUBJECT = ".subject.txt"
TEMPLATES = tuple(n.removesuffix(_SUBJECT) for n in _templates.list_templates() if n.endswith(_SUBJECT))
"""A template is three files: `name.subject.txt`, `name.txt` and `name.html`."""


class DoesNotFit(Exception):
    """The data is not what the template needs."""


class NewNotification(TypedDict):
    """A request to send a notification, as the schema has validated it."""

    user_id: str | None
    recipient: str | None
    channel: str
    subject: str | None
    body: str | None
    template: str | None
    data: JsonObject


def text_of(new: NewNotification) -> tuple[str | None, str]:
    """The subject and the text, as given or rendered from the template; raises DoesNotFit."""
    if new["template"] is None:
        return new["subject"], new["body"] or ""
    subject, body = render(new["template"], new["data"])
    return new["subject"] or subject, body


def render(template: str, data: Mapping[str, object]) -> tuple[str, str]:
    """The subject, in one line, and the text; raises DoesNotFit."""
    subject = " ".join(_render(template + _SUBJECT, data).split())
    body = _render(f"{template}.txt", data)
    if len(subject) > MAX_SUBJECT or len(body) > MAX_BODY:
        raise DoesNotFit("The text would be too long.")
    return subject, body


def render_html(template: str, data: Mapping[str, object]) -> str:
    """Raises DoesNotFit."""
    return _render(f"{template}.html", data)


def _render(name: str, data: Mapping[str, object]) -> str:
    try:
        return _template(name).render(data)
    except jinja2.UndefinedError as exc:
        raise DoesNotFit(f"The template needs more: {exc.message}.") from exc
    except Exception as exc:
        # The data may be anything, and a template may raise any exception for a wrong type.
        raise DoesNotFit("The template cannot use this data.") from exc


class NotificationRow(TypedDict):
    """The columns of a new notification; `due_at` is set by the database."""

    id: str
    user_id: str | None
    order_id: str | None
    channel: str
    recipient: str | None
    template: str | None
    subject: str | None
    body: str
    data: JsonObject
    status: str
    attempts: int
    last_error: str | None
    unread: bool
    read_at: datetime | None
    sent_at: datetime | None
    created_at: datetime
    correlation_id: str
    traceparent: str
    version: int


Row: TypeAlias = Mapping[str, object] | NotificationRow
"""The columns of a stored or a new notification."""


class NotificationFilters(TypedDict, total=False):
    """What notifications are searched by; each is a column."""

    user_id: str
    order_id: str
    status: str
    channel: str
    unread: bool


class NotificationStats(TypedDict):
    """How many notifications there are."""

    total: int
    by_status: dict[str, int]
    by_channel: dict[str, int]


class Base(DeclarativeBase):
    metadata = metadata


_alive = sa.text("deleted_at IS NULL")
_unsent = sa.text("due_at IS NOT NULL")


class Notification(Base):
    """One message to one recipient, and its delivery status."""

    __tablename__ = "notifications"
    # An index for the sort after every documented filter; the id breaks ties. `unread` stands for "read_at IS NULL".
    # The unique key serves the filter by order, which has few rows. The erasure of a user's data needs the deleted
    # rows, too. Several filters at once use the two indexes that have all columns with few values.
    __table_args__ = (
        *(
            sa.Index(None, *filters, "created_at", "id", sqlite_where=_alive, postgresql_where=_alive)
            for filters in ((), ("status",), ("channel",), ("unread",), FEW_VALUES, ("user_id", *FEW_VALUES))
        ),
        sa.Index(None, "user_id", "created_at", "id"),
        sa.Index(None, "channel", "due_at", "id", sqlite_where=_unsent, postgresql_where=_unsent),
        sa.UniqueConstraint("order_id", "template"),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str | None] = mapped_column(Id)
    order_id: Mapped[str | None] = mapped_column(Id)
    channel: Mapped[str] = mapped_column(sa.String(10))
    recipient: Mapped[str | None] = mapped_column(sa.String(2000))
    """As it was given; the address of a user is looked up when it is needed."""
    template: Mapped[str | None] = mapped_column(sa.String(64))
    subject: Mapped[str | None] = mapped_column(sa.String(MAX_SUBJECT))
    body: Mapped[str | None] = mapped_column(sa.Text)
    """The text as it is sent; None once it is erased."""
    data: Mapped[JsonObject] = mapped_column(Json)
    status: Mapped[str] = mapped_column(sa.String(10))
    attempts: Mapped[int]
    last_error: Mapped[str | None] = mapped_column(sa.String(200))
    unread: Mapped[bool] = mapped_column(sa.Boolean(name="unread_is_boolean"))
    read_at: Mapped[datetime | None] = mapped_column(Moment)
    sent_at: Mapped[datetime | None] = mapped_column(Moment)
    created_at: Mapped[datetime] = mapped_column(Moment)
    deleted_at: Mapped[datetime | None] = mapped_column(Moment)
    due_at: Mapped[float | None] = mapped_column(sa.Double)
    """When a sender may claim it, by the clock of the database; while it is claimed, the end of the lease. None when
    there is nothing to send.
    """
    lease_token: Mapped[str | None] = mapped_column(sa.String(36))
    correlation_id: Mapped[str] = mapped_column(sa.String(128))
    traceparent: Mapped[str] = mapped_column(sa.String(55))
    version: Mapped[int]

    @classmethod
    def new(
        cls, *, channel: str, body: str, subject: str | None = None, template: str | None = None, data: JsonObject,
        user_id: str | None = None, recipient: str | None = None, order_id: str | None = None,
        cause: Origin | None = None,
    ) -> NotificationRow:  # fmt: skip
        """The row of a new notification. `cause` is the request or the event that asked for it: traces and events
        refer to it.
        """
        notification_id = new_id()
        correlation_id, traceparent = (cause.correlation_id, cause.traceparent) if cause else ("", "")
        return {
            "id": notification_id, "user_id": user_id, "order_id": order_id, "channel": channel,
            "recipient": recipient, "template": template, "subject": subject, "body": body, "data": data,
            "status": "queued", "attempts": 0, "last_error": None, "unread": True, "read_at": None, "sent_at": None,
            "created_at": now(),
            "correlation_id": correlation_id if _request_id.fullmatch(correlation_id) else notification_id,
            "traceparent": traceparent if _traceparent.fullmatch(traceparent) else "", "version": 1,
        }  # fmt: skip

    @property
    def read(self) -> bool:
        return not self.unread

    def mark(self, read: bool) -> None:
        """Mark it as read or unread; a repetition changes nothing."""
        if read == self.unread:
            self.unread, self.read_at = not read, now() if read else None
            self.version += 1

    def retry(self) -> None:
        """Queue a dead notification again, with no attempts counted; raises InvalidTransition."""
        if self.status != "dead":
            raise InvalidTransition(f"Only a dead notification can be sent again; this one is {self.status}.")
        if self.body is None:
            raise InvalidTransition("What it said was erased with its user.")
        self.status, self.attempts, self.due_at = "queued", 0, 0.0
        self.version += 1

    def delete(self) -> None:
        """Erase the content and cancel the sending; the row stays, so that its order gets no second notification."""
        self.recipient, self.subject, self.body, self.data = None, None, None, {}
        self.due_at, self.lease_token, self.deleted_at = None, None, now()
        self.version += 1

    def counts(self) -> dict[str, int]:
        """What this notification adds to the totals."""
        return {} if self.deleted_at else counts(self.channel, self.status)


notifications = cast(sa.Table, Notification.__table__)


class ChannelState(Base):
    """The state of a channel, as found by the process that used it last."""

    __tablename__ = "channel_states"

    channel: Mapped[str] = mapped_column(sa.String(10), primary_key=True)
    state: Mapped[str] = mapped_column(sa.String(10))
    """`healthy` or `down`."""
    since: Mapped[float] = mapped_column(sa.Double)
    """By the clock of the database."""


channel_states = cast(sa.Table, ChannelState.__table__)


class Address(NamedTuple):
    """The address of a user at one version of the user; None after a deletion."""

    email: str | None
    version: int


class KnownAddress(Base):
    """The replica of the address of a user: as the user service gave it, without an address once an event has said that
    it may have changed, and for ever without one after the deletion. The row stays, so that a late answer cannot bring
    an outdated address back.
    """

    __tablename__ = "addresses"

    user_id: Mapped[str] = mapped_column(Id, primary_key=True)
    email: Mapped[str | None] = mapped_column(sa.String(254))
    version: Mapped[int]
    """The version of the user that it belongs to; DELETED after a deletion."""
    learned_at: Mapped[float] = mapped_column(sa.Double)
    """By the clock of the database."""


addresses = cast(sa.Table, KnownAddress.__table__)

DELETED = 2**31 - 1
"""Higher than the version of any user."""


def counts(channel: str, status: str) -> dict[str, int]:
    """What a notification adds to the totals."""
    return {"total": 1, f"status:{status}": 1, f"channel:{channel}": 1}


@dataclass(slots=True)
class Sending:
    """A notification that a sender has claimed. The outcome of its attempt is set here and written with those of
    others.
    """

    id: str
    user_id: str | None
    order_id: str | None
    channel: str
    recipient: str | None
    template: str | None
    status: str
    attempts: int
    last_error: str | None
    sent_at: datetime | None
    created_at: datetime
    due_at: float
    """When it was due, by the clock of the database, before it was claimed."""
    correlation_id: str
    traceparent: str
    version: int

    subject: str | None = None
    body: str = ""
    data: JsonObject = field(default_factory=dict)
    """Empty where the channel does not need it."""
    size: int = 0
    """Characters of its text and its data when it was claimed."""
    previous_status: str = ""
    """The status before the attempt; empty until there is an outcome."""
    pause: float | None = None
    """Seconds until the next attempt; None when there is none, or when it was not tried."""
    erased: bool = False

    def succeed(self) -> None:
        self.attempts, self.sent_at = self.attempts + 1, now()
        self._set_status("sent", None)

    def fail(self, why: str, max_attempts: int, retry_seconds: float) -> None:
        """Count a failed attempt: the next one follows after a pause that doubles; after the last one it is dead."""
        self.attempts += 1
        if self.attempts >= max_attempts:
            self._set_status("dead", why)
        else:
            self._set_status("failed", why)
            self.pause = min(retry_seconds * 2.0 ** min(self.attempts - 1, 30), MAX_BACKOFF_SECONDS)

    def postpone(self, seconds: float) -> None:
        """Try it later, after others; this does not count as an attempt."""
        self.pause = seconds

    def give_up(self, why: str) -> None:
        """Make it dead and erase the content, since its user does not exist."""
        self._set_status("dead", why)
        self.recipient, self.subject, self.data, self.erased = None, None, {}, True

    def _set_status(self, status: str, why: str | None) -> None:
        self.previous_status, self.status, self.last_error = self.status, status, why[:200] if why else None
