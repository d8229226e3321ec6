import threading
from collections.abc import Callable, Iterable

import pytest
import sqlalchemy as sa

from libs.common.data import erasures
from libs.common.data.erasures import Erasure
from libs.common.data.idempotency import keys
from libs.common.events.inbox import inbox
from libs.common.ids import new_id
from notification_service import repository, use_cases
from notification_service.models import DELETED, Address, addresses
from tests.factories import a_cloud_event
from tests.integration.notification_service.conftest import Running, order_confirmed, user_deleted, user_updated
from tests.unit.notification_service.samples import order_data
from tests.web import answered

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# Orders ------------------------------------------------------------------------------------------------------------


def test_a_confirmed_order_is_told_to_its_user(service: Running) -> None:
    user_id = service.a_user("ada@example.com")
    event = order_confirmed(user_id)
    assert service.receive(event) == ["done"]
    assert service.is_woken()
    service.step()
    [made] = service.find(f"order_id={event['data']['order_id']}")
    assert (made["user_id"], made["channel"], made["template"]) == (user_id, "email", "order_confirmed")
    assert made["status"] == "sent"
    assert "Total: 4999.98 EUR" in made["body"]
    assert service.mails[0].to == "ada@example.com"


def test_an_event_delivered_twice_makes_one_notification(service: Running) -> None:
    event = order_confirmed(service.a_user())
    assert service.receive(event, event) == ["done", "duplicate"]
    assert service.receive(event) == ["duplicate"]
    service.step()
    assert (len(service.mails), service.stats()["total"]) == (1, 1)


def test_an_order_confirmed_twice_gets_one_notification_even_when_the_inbox_has_forgotten(service: Running) -> None:
    user_id = service.a_user()
    first = order_confirmed(user_id)
    assert service.receive(first) == ["done"]
    service.step()
    with service.db.write() as session:
        session.execute(sa.delete(inbox))
    again = order_confirmed(user_id, order_id=first["data"]["order_id"])
    assert service.receive(first, again, order_confirmed(user_id)) == ["done", "done", "done"]
    service.step()
    assert (len(service.mails), service.stats()["total"]) == (2, 2)
    assert service.stats()["by_channel"] == {"email": 2}


def test_an_order_whose_confirmation_was_deleted_gets_no_second_one(service: Running) -> None:
    event = order_confirmed(service.a_user())
    service.receive(event)
    service.api.delete(f"/notifications/{service.find()[0]['id']}")
    assert service.receive(order_confirmed(new_id(), order_id=event["data"]["order_id"])) == ["done"]
    assert service.find() == []
    assert service.stats()["total"] == 0


def test_confirmations_that_cross_do_not_deadlock(start: Callable[..., Running]) -> None:
    running = [start() for _ in range(4)]
    orders = [new_id() for _ in range(20)]
    user_id = new_id()
    outcomes: list[str] = []

    def deliver(one: Running, order_ids: list[str]) -> None:
        outcomes.extend(one.receive(*(order_confirmed(user_id, order_id=order_id) for order_id in order_ids)))

    pairs = [(one, orders if n % 2 else orders[::-1]) for n, one in enumerate(running)]
    threads = [threading.Thread(target=deliver, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["done"] * 80
    assert running[0].stats()["total"] == 20


def test_a_bad_event_fails_no_neighbour(service: Running) -> None:
    good = order_confirmed(service.a_user())
    bad = order_confirmed(new_id(), items=[{"name": "Laptop"}])
    worse = order_confirmed("not-a-user")
    unknown = a_cloud_event("order.shipped.v1", {"order_id": new_id()})
    assert service.receive(bad, good, worse, unknown) == ["dead", "done", "dead", "dead"]
    assert [item["order_id"] for item in service.find()] == [good["data"]["order_id"]]


def test_what_is_published_goes_back_to_the_request_that_caused_it(service: Running) -> None:
    event = order_confirmed(service.a_user()) | {"correlationid": "req-1", "traceparent": TRACE}
    service.receive(event)
    service.step()
    [told] = service.published()
    [made] = service.find()
    assert (told["type"], told["correlationid"], told["traceparent"]) == ("notification.sent.v1", "req-1", TRACE)
    assert told["subject"] == made["id"]
    assert told["data"] == {
        "notification_id": made["id"],
        "order_id": event["data"]["order_id"],
        "channel": "email",
        "template": "order_confirmed",
        "created_at": made["created_at"],
        "sent_at": made["sent_at"],
        "attempts": 1,
        "version": 2,
    }
    assert service.mails[0].request_id == "req-1"


def test_a_request_is_the_cause_of_what_it_asks_for(service: Running) -> None:
    answer = service.api.post(
        "/notifications/send", {"recipient": "ada@example.com", "body": "x"}, headers={"X-Request-ID": "req-2"}
    )
    answered(answer, 201)
    service.step()
    assert service.published()[0]["correlationid"] == "req-2"


# Users -------------------------------------------------------------------------------------------------------------


def test_a_deleted_user_is_forgotten(service: Running) -> None:
    user_id, other = service.a_user(), service.a_user()
    headers = {"Idempotency-Key": "k1"}
    body = {
        "user_id": user_id,
        "recipient": "ada@example.com",
        "subject": "Hello",
        "body": "Dear Ada",
        "data": {"a": 1},
    }
    sent = answered(service.api.post("/notifications/send", body, headers=headers), 201)
    deleted = answered(service.api.post("/notifications/send", body, headers={"Idempotency-Key": "k2"}), 201)
    service.api.delete(f"/notifications/{deleted['id']}")
    service.step()
    waiting = service.send(user_id=user_id, channel="push", subject="Hello")
    kept = service.send(user_id=other, channel="push")
    assert service.receive(user_deleted(user_id)) == ["done"]
    service.erase()

    for made, status in ((sent, "sent"), (waiting, "dead")):
        item = service.get(made["id"])
        assert (item["status"], item["recipient"], item["subject"], item["body"]) == (status, None, None, None)
        assert service.row(made["id"]).data == {}
    assert service.get(waiting["id"])["last_error"] == "The user was deleted."
    assert service.get(kept["id"]) == kept
    with service.db.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(keys)) == 0
    assert service.stats()["by_status"] == {"sent": 1, "dead": 1, "queued": 1}
    told = [event["data"]["notification_id"] for event in service.published() if "dead" in event["type"]]
    assert told == [waiting["id"]]
    service.step("push")
    assert [message.id for message in service.channels["push"].sent] == [kept["id"]]


def kept(service: Running, user_id: str) -> list[tuple[str | None, int]]:
    """The address and the version of a user in the replica."""
    query = sa.select(addresses.c.email, addresses.c.version).where(addresses.c.user_id == user_id)
    with service.db.read() as connection:
        return [(email, version) for email, version in connection.execute(query)]


def told(service: Running, user_id: str) -> str:
    """Where the confirmation of another order of this user goes."""
    assert service.receive(order_confirmed(user_id)) == ["done"]
    service.step()
    return str(service.mails.pop().to)


def test_an_address_is_looked_up_once(service: Running) -> None:
    user_id = service.a_user("ada@example.com")
    assert [told(service, user_id) for _ in range(3)] == ["ada@example.com"] * 3
    assert service.users.calls == 1
    service.send(user_id=user_id, channel="push")
    service.step("push")
    assert (service.channels["push"].sent[0].to, service.users.calls) == (user_id, 1)


def test_only_unknown_addresses_are_looked_up(service: Running) -> None:
    ada, bob = service.a_user("ada@example.com"), service.a_user("bob@example.com")
    told(service, ada)
    service.users.known[ada] = "not asked for"
    service.receive(order_confirmed(ada), order_confirmed(bob))
    service.step()
    assert sorted(mail.to for mail in service.mails) == ["ada@example.com", "bob@example.com"]


def test_a_known_address_needs_no_user_service(service: Running) -> None:
    user_id = service.a_user("ada@example.com")
    told(service, user_id)
    service.users.down = True
    assert told(service, user_id) == "ada@example.com"


def test_an_update_has_the_address_looked_up_again(service: Running) -> None:
    user_id = service.a_user("ada@example.com")
    told(service, user_id)
    service.users.known[user_id], service.users.versions[user_id] = "lovelace@example.com", 2
    assert service.receive(user_updated(user_id)) == ["done"]
    assert kept(service, user_id) == [(None, 2)]
    assert told(service, user_id) == "lovelace@example.com"
    assert kept(service, user_id) == [("lovelace@example.com", 2)]


def test_an_update_that_is_older_than_the_answer_changes_nothing(service: Running) -> None:
    user_id = service.a_user("ada@example.com")
    service.users.versions[user_id] = 3
    told(service, user_id)
    assert service.receive(user_updated(user_id, 3), user_updated(user_id, 2)) == ["done", "done"]
    assert kept(service, user_id) == [("ada@example.com", 3)]


def test_the_latest_of_several_updates_counts(service: Running) -> None:
    user_id = new_id()
    service.receive(user_updated(user_id, 3), user_updated(user_id, 2))
    assert kept(service, user_id) == [(None, 3)]


@pytest.mark.parametrize("event", [user_updated, user_deleted])
def test_a_late_answer_brings_no_address_back(
    service: Running, monkeypatch: pytest.MonkeyPatch, event: Callable[[str], dict[str, object]]
) -> None:
    user_id = service.a_user("ada@example.com")
    answer = service.users.addresses

    def overtaken(user_ids: Iterable[str]) -> dict[str, Address]:
        found = answer(user_ids)
        service.receive(event(user_id))
        return found

    monkeypatch.setattr(service.users, "addresses", overtaken)
    told(service, user_id)
    [(email, _)] = kept(service, user_id)
    assert email is None


def test_an_address_is_not_used_for_ever(service: Running) -> None:
    """The event of its change may be a dead letter."""
    user_id = service.a_user("ada@example.com")
    told(service, user_id)
    with service.db.write() as session:
        session.execute(sa.update(addresses).values(learned_at=addresses.c.learned_at - repository.ADDRESS_SECONDS - 1))
    service.users.known[user_id] = "lovelace@example.com"
    assert told(service, user_id) == "lovelace@example.com"


def test_the_address_of_a_deleted_user_is_erased_and_gets_no_mail(service: Running) -> None:
    """Not even when the user service would still give it, as an older copy of its data would."""
    user_id = service.a_user("ada@example.com")
    told(service, user_id)
    service.receive(order_confirmed(user_id), user_deleted(user_id), user_updated(user_id, 7))
    assert kept(service, user_id) == [(None, DELETED)]
    service.step()
    assert (service.mails, service.users.calls) == ([], 1)
    [last] = [item for item in service.find() if item["status"] != "sent"]
    assert (last["status"], last["last_error"]) == ("dead", "There is no such user.")


@pytest.mark.parametrize("version", ["2", 1.5, True, 0, DELETED, None])
def test_an_update_without_a_version_is_a_dead_letter(service: Running, version: object) -> None:
    user_id = service.a_user("ada@example.com")
    told(service, user_id)
    assert service.receive(user_updated(user_id, version), order_confirmed(user_id)) == ["dead", "done"]
    assert kept(service, user_id) == [("ada@example.com", 1)]


def test_what_a_deleted_user_was_told_is_erased_a_page_at_a_time(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasures, "PAGE", 3)
    user_id = service.a_user()
    made = [service.send(user_id=user_id)["id"] for _ in range(7)]
    service.receive(user_deleted(user_id))
    erasure = Erasure(service.db, repository.walk_user, use_cases.erase_notifications)

    left = []
    while erasure.step():
        left.append(sum(service.get(one)["body"] is not None for one in made))

    assert left == [4, 1, 0]
    assert erasure.step() is False


def test_a_version_tells_of_the_erasure(service: Running) -> None:
    user_id = service.a_user()
    made = service.send(user_id=user_id)
    service.step()
    waiting = service.send(user_id=user_id)
    service.receive(user_deleted(user_id))
    service.erase()
    assert (service.get(made["id"])["version"], service.get(waiting["id"])["version"]) == (3, 2)
    service.receive(user_deleted(user_id))
    service.erase()
    assert (service.get(made["id"])["version"], service.get(waiting["id"])["version"]) == (3, 2)


def test_a_deletion_of_nobody_known_changes_nothing(service: Running) -> None:
    assert service.receive(user_deleted(new_id()), user_deleted(new_id())) == ["done", "done"]


def test_a_confirmation_that_comes_after_the_deletion_is_neither_sent_nor_kept(service: Running) -> None:
    user_id = new_id()
    assert service.receive(user_deleted(user_id), order_confirmed(user_id)) == ["done", "done"]
    service.step()
    [made] = service.find()
    assert (made["status"], made["last_error"], made["body"]) == ("dead", "There is no such user.", None)
    assert service.row(made["id"]).data == {}
    assert service.mails == []


def test_what_a_deleted_user_was_told_cannot_be_sent_again(service: Running) -> None:
    user_id = service.a_user()
    made = service.send(user_id=user_id)
    service.receive(user_deleted(user_id))
    service.erase()
    assert service.api.post(f"/notifications/{made['id']}/retry", None).status_code == 409


@pytest.mark.parametrize("bad", [{"user_id": 5}, {}, {"user_id": "x"}])
def test_a_deletion_without_a_user_is_a_dead_letter(service: Running, bad: dict[str, object]) -> None:
    assert service.receive(a_cloud_event("user.deleted.v1", {"deleted_at": "2026-01-31T12:00:00Z", **bad})) == ["dead"]


def test_the_same_template_for_two_requests_makes_two(service: Running) -> None:
    for _ in range(2):
        service.send(user_id=new_id(), template="order_confirmed", body=None, data=order_data())
    assert service.stats()["total"] == 2
