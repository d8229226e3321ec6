import pytest

from libs.common.errors import InvalidTransition
from libs.common.events.event import Origin
from notification_service.models import (
    MAX_BACKOFF_SECONDS,
    STATUSES,
    TEMPLATES,
    DoesNotFit,
    Notification,
    fault_of_recipient,
    render,
    render_html,
)
from tests.unit.notification_service.samples import a_notification, a_sending, order_data

# Sending -----------------------------------------------------------------------------------------------------------


def test_success_counts_the_attempt_and_ends_it() -> None:
    sending = a_sending(status="failed", attempts=1, last_error="It was refused.")
    sending.succeed()
    assert (sending.previous_status, sending.status, sending.attempts, sending.last_error) == (
        "failed",
        "sent",
        2,
        None,
    )
    assert sending.sent_at is not None
    assert sending.pause is None


def test_a_refusal_is_tried_again_after_a_pause_that_doubles() -> None:
    pauses = []
    sending = a_sending()
    for _ in range(4):
        sending.fail("No.", max_attempts=5, retry_seconds=30.0)
        assert (sending.status, sending.last_error) == ("failed", "No.")
        pauses.append(sending.pause)
    assert pauses == [30.0, 60.0, 120.0, 240.0]


def test_the_last_refusal_makes_it_dead() -> None:
    sending = a_sending(status="failed", attempts=4)
    sending.fail("No.", max_attempts=5, retry_seconds=30.0)
    assert (sending.previous_status, sending.status, sending.attempts, sending.pause) == ("failed", "dead", 5, None)
    assert not sending.erased


def test_the_pause_is_capped() -> None:
    sending = a_sending(attempts=5000)
    sending.fail("No.", max_attempts=10_000, retry_seconds=30.0)
    assert sending.pause == MAX_BACKOFF_SECONDS


def test_a_long_reason_is_cut() -> None:
    sending = a_sending()
    sending.fail("x" * 1000, max_attempts=5, retry_seconds=30.0)
    assert len(sending.last_error or "") == 200


def test_giving_up_erases_and_counts_no_attempt() -> None:
    sending = a_sending(recipient="ada@example.com", subject="s", data={"a": 1})
    sending.give_up("The user was deleted.")
    assert (sending.status, sending.attempts, sending.pause, sending.erased) == ("dead", 0, None, True)
    assert (sending.recipient, sending.subject, sending.data) == (None, None, {})


# Requests ----------------------------------------------------------------------------------------------------------


def test_a_dead_one_can_be_sent_again_with_all_its_attempts() -> None:
    notification = a_notification(status="dead", attempts=5, due_at=None)
    notification.retry()
    assert (notification.status, notification.attempts, notification.due_at) == ("queued", 0, 0.0)
    assert notification.version == 2


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "dead"])
def test_only_a_dead_one_can_be_sent_again(status: str) -> None:
    notification = a_notification(status=status)
    with pytest.raises(InvalidTransition):
        notification.retry()
    assert (notification.status, notification.version) == (status, 1)


def test_an_erased_one_cannot_be_sent_again() -> None:
    with pytest.raises(InvalidTransition):
        a_notification(status="dead", body=None).retry()


def test_read_and_unread() -> None:
    notification = a_notification()
    assert not notification.read
    notification.mark(read=True)
    first = notification.read_at
    assert notification.read
    assert first is not None
    notification.mark(read=True)
    assert (notification.read_at, notification.version) == (first, 2)
    notification.mark(read=False)
    assert (notification.read, notification.read_at, notification.version) == (False, None, 3)


def test_a_deleted_one_says_nothing_waits_for_nothing_and_counts_for_nothing() -> None:
    notification = a_notification(recipient="ada@example.com", subject="s", data={"a": 1}, lease_token="t")
    assert notification.counts() == {"total": 1, "status:queued": 1, "channel:email": 1}
    notification.delete()
    assert (notification.recipient, notification.subject, notification.body, notification.data) == (
        None,
        None,
        None,
        {},
    )
    assert (notification.due_at, notification.lease_token) == (None, None)
    assert notification.counts() == {}


def test_a_new_one_keeps_where_it_comes_from() -> None:
    cause = Origin(event_id="e", correlation_id="req-1", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    row = Notification.new(channel="log", body="A text.", data={}, cause=cause)
    assert (row["correlation_id"], row["traceparent"]) == ("req-1", cause.traceparent)


@pytest.mark.parametrize("bad", ["", "x" * 129, "a\r\nBcc: b", "ü"])
def test_a_new_one_takes_no_header_that_could_not_be_sent(bad: str) -> None:
    row = Notification.new(
        channel="log", body="A text.", data={}, cause=Origin(event_id="e", correlation_id=bad, traceparent=bad)
    )
    assert (row["correlation_id"], row["traceparent"]) == (row["id"], "")


# Recipients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "recipient"),
    [
        ("email", "ada@example.com"),
        ("email", "a.d+a@mail.example.co.uk"),
        ("email", None),
        ("sms", "+4915112345678"),
        ("push", "any-device-token"),
        ("push", None),
        ("webhook", "https://hooks.example.com/a?b=c"),
        ("webhook", "http://localhost:8080"),
        ("log", "anything"),
        ("log", None),
    ],
)
def test_a_recipient_that_the_channel_reaches(channel: str, recipient: str | None) -> None:
    assert fault_of_recipient(channel, recipient) is None


@pytest.mark.parametrize(
    ("channel", "recipient"),
    [
        ("email", "ada"),
        ("email", "ada@example"),
        ("email", "ada..l@example.com"),
        ("email", ".ada@example.com"),
        ("email", "ada.@example.com"),
        ("email", "ada@-example.com"),
        ("email", "ada@example-.com"),
        ("email", "ada@example.com, bob@example.com"),
        ("email", "ada@example.com\n"),
        ("email", "ada@example.com\r\nBcc: bob@example.com"),
        ("email", "Ada <ada@example.com>"),
        ("email", "ädä@example.com"),
        ("sms", None),
        ("sms", "015112345678"),
        ("sms", "+49 151 12345678"),
        ("sms", "ada@example.com"),
        ("webhook", None),
        ("webhook", "ftp://example.com"),
        ("webhook", "https://user:password@example.com/"),
        ("webhook", "https://evil.example\\@example.com/"),
        ("webhook", "https://example.com/a b"),
        ("webhook", "javascript:alert(1)"),
    ],
)
def test_a_recipient_that_it_does_not_reach(channel: str, recipient: str | None) -> None:
    assert fault_of_recipient(channel, recipient) is not None


# Templates ---------------------------------------------------------------------------------------------------------


def test_the_confirmation_names_the_lines_and_the_total() -> None:
    data = order_data()
    subject, body = render("order_confirmed", data)
    assert subject == f"Your order {data['order_id']} is confirmed"
    assert "2 x Laptop, 2499.99 EUR each: 4999.98 EUR\n" in body
    assert "Total: 4999.98 EUR" in body
    assert "2026-01-31" in body


def test_html_is_escaped_and_text_is_not() -> None:
    name = "<script>alert('1')</script> & Co"
    line = {"name": name, "quantity": 1, "unit_price": "1.00", "line_total": "1.00"}
    data = order_data(items=[line])
    page = render_html("order_confirmed", data)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "&amp; Co" in page
    assert name in render("order_confirmed", data)[1]


def test_a_subject_is_one_line() -> None:
    subject, _ = render("order_confirmed", order_data(order_id="1\r\nBcc: bob@example.com\u2028\x85x"))
    assert subject == "Your order 1 Bcc: bob@example.com x is confirmed"


@pytest.mark.parametrize("missing", ["order_id", "items", "total", "currency", "confirmed_at"])
def test_what_a_template_needs_and_does_not_get_is_named(missing: str) -> None:
    data = order_data()
    del data[missing]
    with pytest.raises(DoesNotFit, match=missing):
        render("order_confirmed", data)


@pytest.mark.parametrize(
    "wrong",
    [
        {"items": 5},
        {"items": [1]},
        {"items": [{"name": "Laptop"}]},
        {"items": None},
        {"confirmed_at": 5},
        {"confirmed_at": {}},
        {"order_id": "x" * 1000},
        {"total": "x" * 200_000},
    ],
)
def test_data_of_another_shape_does_not_fit(wrong: dict[str, object]) -> None:
    with pytest.raises(DoesNotFit):
        render("order_confirmed", order_data(**wrong))


def test_what_looks_like_a_template_in_the_data_is_text() -> None:
    line = {"name": "{{ 7 * 7 }}{% raw %}", "quantity": 1, "unit_price": "1.00", "line_total": "1.00"}
    assert "{{ 7 * 7 }}{% raw %}" in render("order_confirmed", order_data(items=[line]))[1]


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_has_its_three_files(template: str) -> None:
    assert render(template, order_data())
    assert render_html(template, order_data())
