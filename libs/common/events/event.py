"""Events: facts that a service publishes, on the wire as CloudEvents 1.0 in JSON (https://cloudevents.io).

A service declares each as a frozen dataclass of JSON values, without personal data:

    @dataclass(frozen=True, kw_only=True)
    class OrderShipped(Event):
        TYPE = "order.shipped.v1"
        SUBJECT = "order_id"
        order_id: str
        shipped_at: str

A consumer declares its own class with the members that it reads; others are ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Self

from libs.common import context
from libs.common.ids import UUID, new_id
from libs.common.times import now, write_time

BATCH_JSON = "application/cloudevents-batch+json"
MAX_EVENTS = 100
MAX_BYTES = 512 * 1024


class RefusedEvent(Exception):
    """The event is invalid: handling it will never succeed, so it is not retried."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an event comes from: its id, and the correlation id and trace of the request that caused it."""

    event_id: str
    correlation_id: str
    traceparent: str

    @classmethod
    def current(cls) -> Self:
        """The current work as the origin; outside of any work, a new correlation id."""
        work = context.current()
        if work is None:
            return cls(event_id="", correlation_id=new_id(), traceparent="")
        return cls(event_id="", correlation_id=work.request_id, traceparent=work.traceparent)


@dataclass(frozen=True, kw_only=True)
class Event:
    TYPE: ClassVar[str]
    SUBJECT: ClassVar[str]
    """The name of the member that is the subject. Events of one subject are sent in order."""

    origin: Origin | None = field(default=None, compare=False)

    @property
    def subject(self) -> str:
        return str(getattr(self, self.SUBJECT))

    def data(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "origin"}

    @classmethod
    def read(cls, envelope: Mapping[str, Any]) -> Self:
        """Parse a CloudEvent. Raises RefusedEvent if a required member is missing, or if the subject or a member whose
        name ends in `_id` is not a UUID.
        """
        data = envelope.get("data")
        if not isinstance(data, dict):
            raise RefusedEvent("data is not an object")
        members, ids = cls._members()
        given = {name: value for name, value in data.items() if name in members}
        for name, optional in ids:
            if name in given:
                given[name] = _uuid(name, given[name], optional=optional)
        try:
            return cls(origin=_origin(envelope), **given)
        except TypeError as exc:
            raise RefusedEvent(str(exc)) from exc

    @classmethod
    @cache
    def _members(cls) -> tuple[frozenset[str], list[tuple[str, bool]]]:
        """The names of the members, and those of ids with whether each may be null."""
        types = {f.name: f.type for f in fields(cls) if f.name != "origin"}
        ids = [(name, kind is not str) for name, kind in types.items() if name == cls.SUBJECT or name.endswith("_id")]
        return frozenset(types), ids


def _uuid(name: str, value: Any, *, optional: bool) -> str | None:
    """The UUID in lower case; raises RefusedEvent."""
    if value is None and optional:
        return None
    if not isinstance(value, str) or not UUID.fullmatch(value):
        raise RefusedEvent(f"{name} is not a UUID")
    return value.lower()


def _origin(envelope: Mapping[str, Any]) -> Origin:
    """Without a valid correlation id, the id of the event is used."""
    return Origin(
        event_id=envelope["id"],
        correlation_id=context.known_request_id(envelope.get("correlationid")) or envelope["id"],
        traceparent=context.known_traceparent(envelope.get("traceparent")) or "",
    )


def envelope(event: Event, service: str) -> dict[str, Any]:
    """The CloudEvent. Its correlation id is that of the event's origin, else the request id of the current work."""
    work = context.current()
    correlation_id, traceparent = (work.request_id, work.traceparent) if work else (None, None)
    if event.origin:
        correlation_id, traceparent = event.origin.correlation_id, event.origin.traceparent
    event_id = new_id()
    wrapped = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/{service}_service",
        "type": event.TYPE,
        "subject": event.subject,
        "time": write_time(now()),
        "datacontenttype": "application/json",
        "dataschema": f"urn:quintet:event:{event.TYPE}",
        "correlationid": correlation_id or event_id,
        "data": event.data(),
    }
    if traceparent:
        wrapped["traceparent"] = traceparent
    return wrapped
