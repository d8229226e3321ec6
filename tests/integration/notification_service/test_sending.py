import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common import context
from libs.common.data.statements import epoch
from libs.common.errors import DependencyUnavailable, Overloaded
from libs.common.ids import new_id
from notification_service import repository, use_cases
from notification_service.channels import ChannelDown, EmailChannel, Message, Refused, Send
from notification_service.models import CHANNELS, DataNeed, notifications
from tests.integration.notification_service.conftest import Running, order_confirmed, user_deleted
from tests.unit.notification_service.servers import mail_server
from tests.web import answered, refused


def test_what_is_queued_is_sent_to_the_address_of_its_user(service: Running) -> None:
    made = service.send(user_id=service.a_user("ada@example.com"), subject="Hello")
    assert service.step() is False
    [mail] = service.mails
    assert (mail.id, mail.to, mail.subject, mail.body) == (made["id"], "ada@example.com", "Hello", "A text.")
    sent = service.get(made["id"])
    assert (sent["status"], sent["attempts"], sent["last_error"], sent["version"]) == ("sent", 1, None, 2)
    assert sent["sent_at"] is not None
    assert sent["recipient"] is None
    service.step()
    assert len(service.mails) == 1


def test_a_recipient_needs_no_look_up(service: Running) -> None:
    service.users.down = True
    service.send(recipient="bob@example.com", user_id=new_id())
    service.step()
    assert service.mails[0].to == "bob@example.com"


@pytest.mark.parametrize("channel", ["push", "log"])
def test_a_channel_that_needs_no_address_gets_the_id_of_the_user(service: Running, channel: str) -> None:
    user_id = service.a_user()
    service.send(user_id=user_id, channel=channel)
    service.step(channel)
    assert service.channels[channel].sent[0].to == user_id


def test_a_batch_takes_one_look_up_and_one_connection(service: Running) -> None:
    for _ in range(7):
        service.send(user_id=service.a_user())
    service.step()
    assert (len(service.mails), service.users.calls, service.channels["email"].opened) == (7, 1, 1)


def test_a_full_batch_says_that_there_may_be_more(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "BATCH", 3)
    user_id = service.a_user()
    service.store(*({"channel": "email", "user_id": user_id, "due_at": 1.0} for _ in range(4)))
    assert service.step() is True
    assert service.step() is False
    assert len(service.mails) == 4


def test_the_longest_due_goes_first(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "BATCH", 1)
    user_id = service.a_user()
    ids = [new_id() for _ in range(3)]
    service.store(
        *(
            {"id": i, "channel": "email", "user_id": user_id, "due_at": due}
            for i, due in zip(ids, (3.0, 1.0, 2.0), strict=True)
        )
    )
    while service.step():
        pass
    assert [mail.id for mail in service.mails] == [ids[1], ids[2], ids[0]]


def test_the_sweep_wakes_the_senders_of_channels_with_something_due(service: Running) -> None:
    def woken(**row: Any) -> list[str]:
        service.set(due_at=None)
        service.store(row)
        service.sweep()
        return [channel for channel in CHANNELS if service.is_woken(channel)]

    with service.db.read() as connection:
        now = float(connection.scalar(sa.select(epoch())) or 0)
    assert woken(channel="sms", due_at=now - 1.0) == ["sms"]
    assert woken(channel="email", due_at=None, status="sent") == []
    assert woken(channel="email", due_at=now + 30.0) == []
    assert woken(channel="email", due_at=now + 1000.0, status="failed") == []
    # Further ahead than any lease or pause: the clock was set back.
    assert woken(channel="push", due_at=now + 1000.0) == ["push"]
    assert woken(channel="log", due_at=now + 10_000.0, status="failed") == ["log"]


# What is refused ---------------------------------------------------------------------------------------------------


def test_a_refusal_waits_and_harms_no_other(service: Running) -> None:
    service.channels["email"].refuses.add("nobody@example.com")
    bad, good = service.send(recipient="nobody@example.com"), service.send(recipient="ada@example.com")
    service.step()
    failed = service.get(bad["id"])
    assert (failed["status"], failed["attempts"], failed["last_error"]) == ("failed", 1, "It is refused.")
    assert service.get(good["id"])["status"] == "sent"
    with service.db.read() as connection:
        wait = connection.scalar(sa.select(notifications.c.due_at - epoch()).where(notifications.c.id == bad["id"]))
    assert 990 < (wait or 0) <= 1000
    service.step()
    assert service.get(bad["id"])["attempts"] == 1
    assert service.stats()["by_status"] == {"failed": 1, "sent": 1}


def test_the_next_attempt_may_succeed(service: Running) -> None:
    service.channels["email"].refuses.add("ada@example.com")
    made = service.send(recipient="ada@example.com")
    service.step()
    service.channels["email"].refuses.clear()
    service.set(due_at=0.0)
    service.step()
    sent = service.get(made["id"])
    assert (sent["status"], sent["attempts"], sent["last_error"]) == ("sent", 2, None)
    assert service.stats()["by_status"] == {"sent": 1}


def test_after_the_last_attempt_it_is_dead_and_told_of(start: Callable[..., Running]) -> None:
    service = start(max_attempts=3, retry_seconds=0.0)
    service.channels["email"].refuses.add("ada@example.com")
    made = service.send(recipient="ada@example.com")
    for _ in range(5):
        service.step()
    dead = service.get(made["id"])
    assert (dead["status"], dead["attempts"], dead["last_error"]) == ("dead", 3, "It is refused.")
    [event] = service.published()
    assert event["type"] == "notification.dead.v1"
    assert event["data"]["notification_id"] == made["id"]
    assert (event["data"]["attempts"], event["data"]["version"]) == (3, dead["version"])
    assert service.stats()["by_status"] == {"dead": 1}


def test_a_dead_one_is_sent_again_by_request(start: Callable[..., Running]) -> None:
    service = start(max_attempts=1)
    service.channels["email"].refuses.add("ada@example.com")
    made = service.send(recipient="ada@example.com")
    service.step()
    service.channels["email"].refuses.clear()
    again = answered(service.api.post(f"/notifications/{made['id']}/retry", None))
    assert (again["status"], again["attempts"]) == ("queued", 0)
    refused(service.api.post(f"/notifications/{made['id']}/retry", None), 409, "invalid-transition")
    assert service.stats()["by_status"] == {"queued": 1}
    service.step()
    assert service.get(made["id"])["status"] == "sent"
    assert [event["type"] for event in service.published()] == ["notification.dead.v1", "notification.sent.v1"]


def test_a_user_who_is_unknown_makes_it_dead_and_erased(service: Running) -> None:
    made = service.send(user_id=new_id(), subject="Hello", data={"a": 1})
    service.step()
    dead = service.get(made["id"])
    assert (dead["status"], dead["attempts"], dead["last_error"]) == ("dead", 0, "There is no such user.")
    assert (dead["subject"], dead["body"], service.row(made["id"]).data) == (None, None, {})
    assert [event["type"] for event in service.published()] == ["notification.dead.v1"]
    refused(service.api.post(f"/notifications/{made['id']}/retry", None), 409, "invalid-transition")


def test_a_message_that_breaks_the_sender_counts_as_refused(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(message: Message) -> None:
        raise KeyError("secret@example.com")

    made = service.send(recipient="ada@example.com")
    monkeypatch.setattr(service.channels["email"], "_send", breaks)
    service.step()
    assert service.get(made["id"])["last_error"] == "It cannot be sent."


# What is down ------------------------------------------------------------------------------------------------------


def test_a_channel_that_is_down_counts_no_attempt(service: Running) -> None:
    made = service.send(recipient="ada@example.com")
    service.channels["email"].down = True
    for _ in range(8):
        with pytest.raises(ChannelDown):
            service.step()
        service.set(due_at=0.0)
    waiting = service.get(made["id"])
    assert (waiting["status"], waiting["attempts"], waiting["version"]) == ("queued", 0, 1)
    assert service.row(made["id"]).lease_token is None
    service.channels["email"].down = False
    service.step()
    assert service.get(made["id"])["status"] == "sent"


def test_a_channel_that_is_down_holds_up_no_other(service: Running) -> None:
    service.channels["email"].down = True
    service.send(recipient="ada@example.com")
    service.send(recipient="+4915112345678", channel="sms")
    with pytest.raises(ChannelDown):
        service.step("email")
    service.step("sms")
    assert len(service.channels["sms"].sent) == 1


def test_what_left_before_the_channel_went_down_is_recorded(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [service.send(recipient="ada@example.com") for _ in range(3)]
    sent: list[str] = []

    def one_then_none(message: Message) -> None:
        if sent:
            raise ChannelDown("email", "it went down")
        sent.append(message.id)

    monkeypatch.setattr(service.channels["email"], "_send", one_then_none)
    with pytest.raises(ChannelDown):
        service.step()
    assert sent == [made[0]["id"]]
    assert [service.get(m["id"])["status"] for m in made] == ["sent", "queued", "queued"]


def test_users_that_cannot_be_asked_count_no_attempt_and_hold_up_no_given_recipient(service: Running) -> None:
    asked, given = service.send(user_id=service.a_user()), service.send(recipient="bob@example.com")
    service.users.down = True
    with pytest.raises(DependencyUnavailable):
        service.step()
    assert (service.get(asked["id"])["status"], service.get(given["id"])["status"]) == ("queued", "sent")
    service.step()  # nothing is due: messages that could not be tried are postponed
    assert service.users.calls == 1
    service.users.down = False
    service.set(due_at=sa.case((notifications.c.due_at.is_(None), None), else_=0.0))
    service.step()
    assert service.get(asked["id"])["status"] == "sent"


def test_a_slow_batch_ends_in_time_and_the_rest_follows(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "SEND_SECONDS", -1.0)
    made = [service.send(recipient="ada@example.com") for _ in range(3)]
    assert service.step() is True
    assert [service.get(m["id"])["status"] for m in made] == ["sent", "queued", "queued"]
    monkeypatch.setattr(use_cases, "SEND_SECONDS", 1.0)
    service.step()
    assert len(service.mails) == 3


def test_a_server_that_greets_slowly_gets_its_mail(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "SEND_SECONDS", 0.2)
    for _ in range(3):
        service.send(recipient="ada@example.com")
    fake = service.channels["email"]
    real = fake.open

    @contextmanager
    def slow() -> Iterator[Send]:
        time.sleep(0.3)
        with real() as send:
            yield send

    monkeypatch.setattr(fake, "open", slow)
    service.step()
    assert len(service.mails) == 3


def test_what_was_not_tried_keeps_its_place(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "SEND_SECONDS", -1.0)
    made = [service.send(recipient="ada@example.com")["id"] for _ in range(3)]
    due = [service.row(made_id).due_at for made_id in made]
    service.step()
    assert [service.row(made_id).due_at for made_id in made] == [None, *due[1:]]
    late = service.send(recipient="ada@example.com")["id"]
    for _ in range(3):
        service.step()
    assert [mail.id for mail in service.mails] == [*made, late]


def test_a_lease_outlasts_the_longest_batch() -> None:
    assert repository.LEASE_SECONDS > use_cases.LONGEST_BATCH_SECONDS


# What a claim loads ------------------------------------------------------------------------------------------------


def test_a_claim_loads_a_bounded_amount_of_content(service: Running) -> None:
    data = {"a": "x" * 100_000}
    service.store(*({"channel": "email", "body": "x" * 100_000, "data": data, "due_at": 1.0} for _ in range(30)))
    claimed: list[int] = []
    for _ in range(10):
        with service.db.write(durable=False) as session:
            taken = repository.claim(session, "email", "always", new_id(), 100)
        claimed.append(len(taken))
    assert claimed[:6] == [5, 5, 5, 5, 5, 5]
    assert sum(claimed) == 30


def test_after_a_claim_that_is_full_of_text_there_may_be_more(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "MAX_CLAIM_CHARACTERS", 3)
    made = [service.send(recipient="ada@example.com")["id"] for _ in range(2)]
    assert service.step() is True
    assert [mail.id for mail in service.mails] == made[:1]
    service.step()
    assert [mail.id for mail in service.mails] == made


@pytest.mark.parametrize(("need", "loaded"), [("never", [{}, {}]), ("template", [{}, {"b": 2}])])
def test_data_is_loaded_only_where_the_channel_needs_it(service: Running, need: DataNeed, loaded: list[Any]) -> None:
    order = {"template": "order_confirmed", "order_id": new_id(), "data": {"b": 2}}
    service.store({"channel": "email", "data": {"a": 1}, "due_at": 1.0}, {"channel": "email", "due_at": 2.0, **order})
    with service.db.write(durable=False) as session:
        assert [sending.data for sending in repository.claim(session, "email", need, new_id(), 100)] == loaded


# One recipient and the channel -------------------------------------------------------------------------------------


def sending_check(service: Running) -> dict[str, Any]:
    health: Any = service.app.test_client().get("/health").json
    return dict(health["checks"]["sending"])


def test_a_recipient_that_fails_for_now_starves_no_other_and_counts_its_attempts(
    start: Callable[..., Running],
) -> None:
    service = start(max_attempts=3, retry_seconds=0.0)
    service.channels["email"].defers.add("full@example.com")
    bad = service.send(recipient="full@example.com")
    good = [service.send(recipient=f"{n}@example.com") for n in range(3)]
    for _ in range(3):
        service.step()
    assert [service.get(made["id"])["status"] for made in good] == ["sent"] * 3
    dead = service.get(bad["id"])
    assert (dead["status"], dead["attempts"], dead["last_error"]) == ("dead", 3, "It is refused for now.")
    assert sending_check(service)["channels"]["email"] == "healthy"


def test_where_most_recipients_fail_for_now_the_channel_is_down_and_no_attempt_counts(service: Running) -> None:
    people = [f"{n}@example.com" for n in range(8)]
    made = [service.send(recipient=one)["id"] for one in people]
    service.channels["email"].defers.update(people)
    for _ in range(3):
        with pytest.raises(ChannelDown):
            service.step()
        service.set(due_at=0.0)
    assert {(service.get(one)["status"], service.get(one)["attempts"]) for one in made} == {("queued", 0)}
    found = sending_check(service)
    assert (found["status"], found["channels"]["email"], found["channels"]["sms"]) == ("degraded", "down", "unknown")

    service.channels["email"].defers.clear()
    while service.step():
        pass
    assert {service.get(one)["status"] for one in made} == {"sent"}
    assert sending_check(service)["channels"]["email"] == "healthy"


def test_a_channel_that_is_down_tries_another_message_each_time(service: Running) -> None:
    people = [f"{n}@example.com" for n in range(8)]
    for one in people:
        service.send(recipient=one)
    fake = service.channels["email"]
    fake.defers.update(people[:6])
    with pytest.raises(ChannelDown):
        service.step()
    with pytest.raises(ChannelDown):
        service.step()
    assert fake.sent == []
    service.step()
    assert [mail.to for mail in fake.sent] == people[6:]


def test_a_channel_that_cannot_be_reached_is_down_in_health_until_it_is_reached(
    service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    service.send(recipient="ada@example.com")
    service.channels["email"].down = True
    for _ in range(2):
        with pytest.raises(ChannelDown):
            service.step()
    assert sending_check(service)["channels"]["email"] == "down"
    stalled = [vars(record)["batches"] for record in caplog.records if record.msg == "sending.stalled"]
    assert stalled == [1, 2]
    service.channels["email"].down = False
    service.step()
    assert sending_check(service)["channels"]["email"] == "healthy"


def test_a_connection_that_is_lost_ends_the_batch_and_the_rest_follows(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mail_server() as server:
        real = EmailChannel(f"smtp://127.0.0.1:{server.port}", "Shop <shop@example.org>")
        monkeypatch.setattr(service.channels["email"], "open", real.open)
        server.hang_up_at = "poison@example.com"
        poison = service.send(recipient="poison@example.com")
        good = service.send(recipient="ada@example.com")
        assert service.step() is True
        service.step()
    assert (service.get(poison["id"])["status"], service.get(poison["id"])["attempts"]) == ("failed", 1)
    assert service.get(good["id"])["status"] == "sent"


# Leases ------------------------------------------------------------------------------------------------------------


def test_two_senders_share_no_claim(start: Callable[..., Running]) -> None:
    first, second = start(), start()
    ids = [first.send(recipient="ada@example.com")["id"] for _ in range(30)]
    claimed: list[str] = []
    for running in (first, second):
        with running.db.write(durable=False) as session:
            claimed += [sending.id for sending in repository.claim(session, "email", "never", new_id(), 20)]
    assert sorted(claimed) == ids


def test_many_senders_send_each_notification_once(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_cases, "BATCH", 7)
    running = [start() for _ in range(4)]
    user_id = new_id()
    for one in running:
        one.users.known[user_id] = "ada@example.com"
    running[0].store(*({"channel": "email", "user_id": user_id, "due_at": 1.0} for _ in range(120)))
    failures: list[BaseException] = []

    def work(one: Running) -> None:
        try:
            for _ in range(60):
                one.step()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(one,)) for one in running]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    sent = [mail.id for one in running for mail in one.mails]
    assert len(sent) == len(set(sent)) == 120
    assert {item["attempts"] for item in running[0].find("limit=200")} == {1}


def test_a_sender_that_was_away_too_long_marks_nothing(start: Callable[..., Running]) -> None:
    slow, quick = start(), start()
    made = slow.send(recipient="ada@example.com")

    def overtaken(message: Message) -> None:
        slow.set(due_at=0.0)  # the lease is over
        quick.step()
        raise Refused("Too late.")

    slow.channels["email"]._send = overtaken  # type: ignore[method-assign]
    slow.step()
    sent = slow.get(made["id"])
    assert (sent["status"], sent["attempts"], sent["version"]) == ("sent", 1, 2)
    assert slow.stats()["by_status"] == {"sent": 1}
    assert len(slow.published()) == 1


def test_a_clock_that_was_set_back_holds_nothing_up(service: Running) -> None:
    made = service.send(recipient="ada@example.com")
    service.set(due_at=epoch() + 60.0)
    service.step()
    assert service.get(made["id"])["status"] == "sent"


def test_what_has_failed_may_wait_for_longer_and_not_for_ever(service: Running) -> None:
    made = service.send(recipient="ada@example.com")
    service.set(status="failed", due_at=epoch() + 60.0)
    service.step()
    assert service.get(made["id"])["status"] == "failed"
    service.set(due_at=epoch() + 10 * 3600.0)
    service.step()
    assert service.get(made["id"])["status"] == "sent"


@pytest.mark.parametrize("later", [Running.step, Running.finish])
def test_what_could_not_be_recorded_is_recorded_later_and_not_sent_again(
    service: Running, monkeypatch: pytest.MonkeyPatch, later: Callable[[Running], object]
) -> None:
    made = service.send(recipient="ada@example.com")
    real, calls = repository.lock_leased, []

    def busy(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise Overloaded("The database is busy.")
        return real(*args)

    monkeypatch.setattr(repository, "lock_leased", busy)
    with pytest.raises(Overloaded):
        service.step()
    assert service.get(made["id"])["status"] == "queued"
    later(service)
    assert service.get(made["id"])["status"] == "sent"
    assert len(service.mails) == 1


def test_a_batch_that_used_up_its_time_is_recorded_nevertheless(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = service.send(recipient="ada@example.com")
    seen: list[float] = []
    real = repository.lock_leased

    def look(*args: Any) -> Any:
        work = context.current()
        seen.append(work.seconds_left() if work else -1.0)
        return real(*args)

    def slow(message: Message) -> None:
        context.begin(-1.0)

    monkeypatch.setattr(repository, "lock_leased", look)
    monkeypatch.setattr(service.channels["email"], "_send", slow)
    service.step()
    assert seen[0] > 1.0
    assert service.get(made["id"])["status"] == "sent"


def test_reading_while_it_is_being_sent_loses_nothing(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made = service.send(recipient="ada@example.com")

    def read(message: Message) -> None:
        answered(service.api.patch(f"/notifications/{made['id']}", {"read": True}))

    monkeypatch.setattr(service.channels["email"], "_send", read)
    service.step()
    sent = service.get(made["id"])
    assert sent["read_at"] is not None
    assert (sent["status"], sent["version"]) == ("sent", 3)
    assert service.published()[0]["data"]["version"] == 3


@pytest.mark.parametrize("how", ["delete", "user"])
def test_what_is_erased_while_it_is_being_sent_stays_erased(
    service: Running, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    user_id = service.a_user()
    made = service.send(user_id=user_id)

    def erase(message: Message) -> None:
        if how == "delete":
            assert service.api.delete(f"/notifications/{made['id']}").status_code == 204
        else:
            assert service.receive(user_deleted(user_id)) == ["done"]
            service.erase()

    monkeypatch.setattr(service.channels["email"], "_send", erase)
    service.step()
    row = service.row(made["id"])
    assert (row.body, row.due_at, row.sent_at) == (None, None, None)
    assert service.stats()["total"] == (0 if how == "delete" else 1)


# The whole way -----------------------------------------------------------------------------------------------------


def test_a_confirmation_reaches_a_real_mail_server(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server() as server:
        real = EmailChannel(f"smtp://127.0.0.1:{server.port}", "Shop <shop@example.org>")
        monkeypatch.setattr(service.channels["email"], "open", real.open)
        server.answers["nobody@example.com"] = "550 5.1.1 unknown"
        users = [service.a_user("ada@example.com"), service.a_user("nobody@example.com")]
        service.receive(*(order_confirmed(user_id) for user_id in users))
        service.step()
        assert server.connections == 1
        [mail] = server.mails
    assert mail["To"] == "ada@example.com"
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
    told = {item["user_id"]: (item["status"], item["last_error"]) for item in service.find()}
    assert told == {
        users[0]: ("sent", None),
        users[1]: ("failed", "The mail server refused it (550 5.1.1)."),
    }
