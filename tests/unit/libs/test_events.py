from dataclasses import dataclass

import pytest

from libs.common import context
from libs.common.events.event import Event, Origin, RefusedEvent, envelope


@dataclass(frozen=True, kw_only=True)
class Shipped(Event):
    TYPE = "order.shipped.v1"
    SUBJECT = "order_id"

    order_id: str
    shipped_at: str


ORDER = "0f0e0d0c-0b0a-4908-8706-050403020100"
shipped = Shipped(order_id=ORDER, shipped_at="2026-01-31T12:00:00Z")


def test_an_event_is_a_cloud_event_on_the_wire() -> None:
    work = context.begin(1, request_id="req-1")
    wrapped = envelope(shipped, "order")
    assert len(wrapped.pop("id")) == 36
    assert wrapped.pop("time").endswith("Z")
    assert wrapped == {
        "specversion": "1.0",
        "source": "/order_service",
        "type": "order.shipped.v1",
        "subject": ORDER,
        "datacontenttype": "application/json",
        "dataschema": "urn:quintet:event:order.shipped.v1",
        "correlationid": "req-1",
        "traceparent": work.traceparent,
        "data": {"order_id": ORDER, "shipped_at": "2026-01-31T12:00:00Z"},
    }


def test_each_envelope_has_an_id_of_its_own() -> None:
    assert envelope(shipped, "order")["id"] != envelope(shipped, "order")["id"]


def test_an_event_without_a_request_is_its_own_cause() -> None:
    wrapped = envelope(shipped, "order")
    assert wrapped["correlationid"] == wrapped["id"]
    assert "traceparent" not in wrapped


def test_an_event_that_another_caused_names_the_first_request() -> None:
    context.begin(1, request_id="bringer")
    cause = Origin(event_id="e-1", correlation_id="req-1", traceparent="00-a-b-01")
    wrapped = envelope(Shipped(origin=cause, order_id=ORDER, shipped_at="x"), "order")
    assert (wrapped["correlationid"], wrapped["traceparent"]) == ("req-1", "00-a-b-01")


def test_what_is_read_is_what_was_sent() -> None:
    context.begin(1, request_id="req-1")
    wrapped = envelope(shipped, "order")
    found = Shipped.read(wrapped)
    assert found == shipped
    assert found.origin == Origin(event_id=wrapped["id"], correlation_id="req-1", traceparent=wrapped["traceparent"])


def test_a_reader_ignores_the_members_that_it_does_not_know() -> None:
    wrapped = envelope(shipped, "order")
    wrapped["data"] |= {"carrier": "DHL", "origin": "elsewhere"}
    assert Shipped.read(wrapped) == shipped


@pytest.mark.parametrize("data", [{}, {"order_id": ORDER}, None, [], "x", 1])
def test_an_event_without_what_is_needed_can_never_be_handled(data: object) -> None:
    with pytest.raises(RefusedEvent):
        Shipped.read({"id": "e-1", "data": data})


def test_an_event_without_a_cause_is_its_own() -> None:
    found = Shipped.read({"id": "e-1", "data": shipped.data()})
    assert found.origin == Origin(event_id="e-1", correlation_id="e-1", traceparent="")


@dataclass(frozen=True, kw_only=True)
class Sent(Event):
    TYPE = "notification.sent.v1"
    SUBJECT = "notification_id"

    notification_id: str
    order_id: str | None
    channel: str = "email"


@pytest.mark.parametrize(
    "bad", ["", "none", "o-1", 1, [], {}, f"{ORDER} ", f"{{{ORDER}}}", ORDER.replace("-", ""), "\u0660" * 36]
)
@pytest.mark.parametrize("member", ["notification_id", "order_id"])
def test_an_event_whose_id_is_no_uuid_can_never_be_handled(member: str, bad: object) -> None:
    data = {"notification_id": ORDER, "order_id": ORDER, member: bad}
    with pytest.raises(RefusedEvent, match=f"{member} is not a UUID"):
        Sent.read({"id": "e-1", "data": data})


def test_only_an_id_that_may_be_missing_may_be_null() -> None:
    assert Sent.read({"id": "e-1", "data": {"notification_id": ORDER, "order_id": None}}).order_id is None
    with pytest.raises(RefusedEvent, match="notification_id"):
        Sent.read({"id": "e-1", "data": {"notification_id": None, "order_id": None}})


def test_an_id_is_read_in_lower_case() -> None:
    found = Sent.read({"id": "e-1", "data": {"notification_id": ORDER.upper(), "order_id": ORDER.upper()}})
    assert (found.notification_id, found.order_id) == (ORDER, ORDER)


@pytest.mark.parametrize("bad", ["x" * 129, "a b", "a\x1b[2J", 1, [], {}, "\ud800"])
def test_a_correlation_id_or_a_trace_that_is_none_is_left_out(bad: object) -> None:
    """They are copied into other events, log lines and columns."""
    found = Shipped.read({"id": "e-1", "data": shipped.data(), "correlationid": bad, "traceparent": bad})
    assert found.origin == Origin(event_id="e-1", correlation_id="e-1", traceparent="")
