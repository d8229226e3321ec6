import random
import re
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest
import sqlalchemy as sa
from openapi_spec_validator import validate as validate_openapi

from libs.common.data.idempotency import keys
from libs.common.ids import new_id
from libs.common.times import now
from notification_service.models import CHANNELS, STATUSES, notifications
from tests.integration.lists import Filter, Item, Sorts, compare, compare_while_changing, tie
from tests.integration.notification_service.conftest import Running, user_deleted
from tests.integration.statements import Statement, recorded
from tests.unit.notification_service.samples import order_data
from tests.web import answered, refused

FIELDS = {
    "id", "user_id", "order_id", "channel", "recipient", "template", "subject", "body", "status", "attempts",
    "last_error", "read_at", "sent_at", "created_at", "version",
}  # fmt: skip


# Send --------------------------------------------------------------------------------------------------------------


def test_a_notification_is_queued_and_can_be_looked_at(service: Running) -> None:
    user_id = new_id()
    answer = service.api.post("/notifications/send", {"user_id": user_id, "subject": "Hello", "body": "A text."})
    made = answered(answer, 201)
    assert set(made) == FIELDS
    assert (made["status"], made["channel"], made["attempts"], made["user_id"]) == ("queued", "email", 0, user_id)
    assert answer.headers["Location"] == f"/api/v1/notifications/{made['id']}"
    assert answer.headers["ETag"] == '"1"'
    assert service.get(made["id"]) == made
    assert service.is_woken("email")
    assert not service.is_woken("sms")


def test_a_template_is_rendered_at_once(service: Running) -> None:
    data = order_data()
    body = {"user_id": new_id(), "template": "order_confirmed", "data": data}
    made = answered(service.api.post("/notifications/send", body), 201)
    assert made["subject"] == f"Your order {data['order_id']} is confirmed"
    assert "Laptop" in made["body"]
    assert (made["template"], made["order_id"]) == ("order_confirmed", None)
    again = answered(service.api.post("/notifications/send", {**body, "subject": "Mine"}), 201)
    assert again["subject"] == "Mine"


def test_data_that_does_not_fit_the_template_is_refused(service: Running) -> None:
    for data in ({}, {"order_id": "1"}, order_data(items=5), order_data(items=[{"name": "Laptop"}])):
        body = {"user_id": new_id(), "template": "order_confirmed", "data": data}
        refused(service.api.post("/notifications/send", body), 422, "validation-failed", "/data")
    assert service.stats()["total"] == 0


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "/recipient"),
    ({"body": "A text."}, "/recipient"),
    ({"recipient": "ada@example.com"}, "/body"),
    ({"recipient": "ada@example.com", "body": "x", "template": "order_confirmed"}, "/body"),
    ({"recipient": "ada@example.com", "template": "nothing"}, "/template"),
    ({"recipient": "ada", "body": "x"}, "/recipient"),
    ({"recipient": "ada@example.com\n", "body": "x"}, "/recipient"),
    ({"recipient": "+491511234567", "channel": "webhook", "body": "x"}, "/recipient"),
    ({"user_id": "1", "body": "x"}, "/user_id"),
    ({"user_id": new_id(), "channel": "sms", "body": "x"}, "/recipient"),
    ({"user_id": new_id(), "channel": "fax", "body": "x"}, "/channel"),
    ({"user_id": new_id(), "body": "x\x00"}, "/body"),
    ({"user_id": new_id(), "body": "x", "subject": "a\nb"}, "/subject"),
    ({"user_id": new_id(), "body": "x", "data": {"a": "\x00"}}, "/data"),
    ({"user_id": new_id(), "body": "x", "data": {"a": 2**60}}, "/data"),
    ({"user_id": new_id(), "body": "x", "status": "sent"}, "/status"),
    ({"user_id": new_id(), "body": 5}, "/body"),
]


def test_a_wrong_request_is_refused_and_changes_nothing(service: Running) -> None:
    for body, pointer in WRONG:
        refused(service.api.post("/notifications/send", body), 422, "validation-failed", pointer)
    assert service.find() == []


def test_lone_surrogates_and_endless_numbers_in_the_data_are_refused(service: Running) -> None:
    for value in (b'"\\ud800"', b"1e999", b"1" * 400, b"[" * 200 + b"]" * 200):
        body = b'{"recipient": "ada@example.com", "body": "x", "data": {"a": ' + value + b"}}"
        refused(service.api.post("/notifications/send", body), 422, "validation-failed", "/data")
    service.send(recipient="ada@example.com", data={"a": 1.25, "b": [None, True]})


def test_a_key_makes_one_notification(service: Running) -> None:
    body, headers = {"recipient": "ada@example.com", "body": "A text."}, {"Idempotency-Key": "k1"}
    first = service.api.post("/notifications/send", body, headers=headers)
    second = service.api.post("/notifications/send", body, headers=headers)
    assert (second.status_code, second.data, second.headers["Location"]) == (201, first.data, first.headers["Location"])
    assert second.headers["Idempotent-Replayed"] == "true"
    assert service.stats()["total"] == 1
    other = service.api.post("/notifications/send", {**body, "body": "Another."}, headers=headers)
    refused(other, 422, "idempotency-key-reused")


def test_a_refusal_claims_no_key(service: Running) -> None:
    headers = {"Idempotency-Key": "k1"}
    body = {"user_id": new_id(), "template": "order_confirmed", "data": {}}
    refused(service.api.post("/notifications/send", body, headers=headers), 422, "validation-failed")
    answered(service.api.post("/notifications/send", {**body, "data": order_data()}, headers=headers), 201)


# Lists -------------------------------------------------------------------------------------------------------------


SORTS: Sorts = {"created_at": lambda told: told["created_at"]}
PEOPLE, ORDERS = [new_id(), new_id()], [new_id(), new_id()]


@pytest.fixture
def stored(service: Running) -> list[Item]:
    """Of every status and channel, read and unread, with and without a user and an order, and in three moments."""
    dice, made = random.Random(20260131), []
    for n in range(60):
        read = dice.random() < 0.4
        order = {"order_id": ORDERS[n], "template": "order_confirmed"} if n < len(ORDERS) else {}
        made.append({
            "id": new_id(), "status": dice.choice(STATUSES), "channel": dice.choice(CHANNELS),
            "user_id": dice.choice([*PEOPLE, None]), "unread": not read, "read_at": now() if read else None, **order,
        })  # fmt: skip
    service.store(*made)
    tie(service.db, notifications)
    return [service.get(row["id"]) for row in made]


def test_lists_are_what_a_plain_look_at_all_notifications_says(service: Running, stored: list[Item]) -> None:
    filters: list[Filter] = [
        *(({"user_id": user}, lambda n, user=user: n["user_id"] == user) for user in (PEOPLE[0], new_id())),
        ({"order_id": ORDERS[1]}, lambda n: n["order_id"] == ORDERS[1]),
        *(({"status": status}, lambda n, status=status: n["status"] == status) for status in STATUSES),
        *(({"channel": channel}, lambda n, channel=channel: n["channel"] == channel) for channel in CHANNELS),
        ({"unread": "true"}, lambda n: n["read_at"] is None),
        ({"unread": "false"}, lambda n: n["read_at"] is not None),
    ]
    assert compare(service.api, "/notifications", stored, filters, SORTS) > 300


def test_notifications_that_come_and_go_while_somebody_pages_are_where_they_belong(
    service: Running, stored: list[Item]
) -> None:
    known = [told["id"] for told in stored[:15]]
    for told in stored[15:]:
        service.api.delete(f"/notifications/{told['id']}")

    def change() -> None:
        known.append(service.send(recipient="ada@example.com")["id"])
        service.api.delete(f"/notifications/{known.pop(len(known) // 2)}")

    compare_while_changing(service.api, "/notifications", SORTS, lambda: [service.get(told) for told in known], change)


def test_the_newest_come_first(service: Running, stored: list[Item]) -> None:
    assert service.find("limit=200") == sorted(stored, key=lambda n: (n["created_at"], n["id"]), reverse=True)


def test_neither_a_list_nor_a_look_at_one_loads_data(service: Running) -> None:
    made = service.send(recipient="ada@example.com", data={"a": 1})
    for path in ("/notifications", f"/notifications/{made['id']}"):
        [statement] = [statement for statement, _ in statements(service, path)]
        assert "notifications.data" not in statement
        assert "notifications.body" in statement


def test_an_unknown_filter_is_refused(service: Running) -> None:
    wrong = (
        "unread=1",
        "status=gone",
        "channel=fax",
        "user_id=1",
        "order_id=",
        "sort=status",
        "template=x",
        "limit=201",
    )
    for query in wrong:
        refused(service.api.get(f"/notifications?{query}"), 422, "validation-failed", f"/{query.split('=')[0]}")


def test_a_cursor_of_another_question_is_refused(service: Running) -> None:
    service.store({}, {}, {})
    cursor = answered(service.api.get("/notifications?limit=1"))["next_cursor"]
    refused(service.api.get(f"/notifications?limit=1&channel=log&cursor={cursor}"), 400, "malformed-request")


USER = new_id()
INDEXES = {
    "": "ix_notifications_created_at_id",
    f"user_id={USER}": "ix_notifications_user_id_created_at_id",
    "status=queued": "ix_notifications_status_created_at_id",
    "channel=log": "ix_notifications_channel_created_at_id",
    "unread=true": "ix_notifications_unread_created_at_id",
}


def test_a_page_behind_each_filter_uses_its_index_and_sorts_nothing(service: Running) -> None:
    if not service.db.is_sqlite:
        pytest.skip("the planner of PostgreSQL looks at the size of the table")
    service.store({"user_id": USER}, {"user_id": USER}, {"user_id": USER})
    for query, index in INDEXES.items():
        cursor = answered(service.api.get(f"/notifications?limit=1&{query}"))["next_cursor"]
        for path in (f"/notifications?{query}", f"/notifications?cursor={cursor}&{query}"):
            [plan] = plans(service, path)
            assert index in plan, path
            assert "TEMP B-TREE" not in plan, path


def test_several_filters_use_an_index_that_has_them_all(service: Running) -> None:
    """Otherwise a whole index would be scanned for a nearly empty page."""
    if not service.db.is_sqlite:
        pytest.skip("the planner of PostgreSQL looks at the size of the table")
    order_id = new_id()
    service.store({"order_id": order_id, "template": "order_confirmed", "user_id": USER})
    asked = {"order_id": order_id, "user_id": USER, "status": "queued", "channel": "log", "unread": "true"}
    for number in range(2, len(asked) + 1):
        for names in combinations(asked, number):
            made = plans(service, "/notifications?" + "&".join(f"{name}={asked[name]}" for name in names))
            searches = [step for plan in made for step in re.findall(r"'(S\w+ notifications [^']+)'", plan)]
            assert searches
            for step in searches:
                if "order_id" in names:
                    assert "sqlite_autoindex" in step, (names, step)
                else:
                    assert "(id=?)" in step or ("status=? AND channel=? AND unread=?" in step), (names, step)
                    assert "(id=?)" in step or ("user_id=?" in step) == ("user_id" in names), (names, step)


def test_several_filters_cost_no_more_where_many_rows_fit_one_of_them(service: Running) -> None:
    """Each of two filters chooses half of the rows, and both together none."""
    rows = [
        {"user_id": USER, "status": status, "channel": channel}
        for status, channel in (("sent", "log"), ("dead", "push"))
        for _ in range(1000)
    ]
    service.store(*rows)
    steps: list[int] = []
    for query in (f"user_id={USER}&status=sent&channel=push", "status=dead&channel=log"):
        assert service.find(query) == []
        if service.db.is_sqlite:
            steps.append(steps_of(service, f"/notifications?{query}"))
    assert max(steps, default=0) < 2000


def steps_of(service: Running, path: str) -> int:
    """How many instructions SQLite's virtual machine does for a request."""
    found = statements(service, path)
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with service.db.read() as connection:
        raw: Any = connection.connection.dbapi_connection
        raw.set_progress_handler(tick, 1)
        for statement, parameters in found:
            connection.exec_driver_sql(statement, parameters).all()
        raw.set_progress_handler(None, 0)
    return count


def test_the_few_rows_of_an_order_are_found_by_their_key(service: Running) -> None:
    if not service.db.is_sqlite:
        pytest.skip("the planner of PostgreSQL looks at the size of the table")
    [plan] = plans(service, f"/notifications?order_id={new_id()}")
    assert "sqlite_autoindex_notifications" in plan
    assert "order_id=?" in plan


def plans(service: Running, path: str) -> list[str]:
    """How SQLite finds what a request asks for."""
    found = statements(service, path)
    with service.db.read() as connection:
        return [
            str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all())
            for statement, parameters in found
        ]


def statements(service: Running, path: str) -> list[Statement]:
    """The queries of notifications that a request makes."""
    with recorded(service.db) as made:
        answered(service.api.get(path))
    return [one for one in made if "FROM notifications" in one[0]]


def test_the_statistics_count_by_status_and_channel(service: Running) -> None:
    assert service.stats() == {"total": 0, "by_status": {}, "by_channel": {}}
    service.send(user_id=service.a_user())
    service.send(user_id=service.a_user(), channel="push")
    gone = service.send(user_id=new_id(), channel="push")
    service.step("email")
    service.step("push")
    assert service.stats() == {"total": 3, "by_status": {"sent": 2, "dead": 1}, "by_channel": {"email": 1, "push": 2}}
    answered(service.api.post(f"/notifications/{gone['id']}/retry", None), 409)
    answered(service.api.get("/notifications?status=dead"))
    service.api.delete(f"/notifications/{gone['id']}")
    assert service.stats() == {"total": 2, "by_status": {"sent": 2}, "by_channel": {"email": 1, "push": 1}}


# One ---------------------------------------------------------------------------------------------------------------


def test_it_is_marked_as_read_and_as_unread(service: Running) -> None:
    path = f"/notifications/{service.send(user_id=new_id())['id']}"
    read = answered(service.api.patch(path, {"read": True}))
    assert read["read_at"] is not None
    assert read["version"] == 2
    assert answered(service.api.patch(path, {"read": True})) == read
    assert answered(service.api.patch(path, {})) == read
    assert answered(service.api.patch(path, {"read": False}))["read_at"] is None
    wrong: Any
    for wrong in ({"read": None}, {"read": "true"}, {"read": 1}, {"status": "sent"}, {"body": "x"}, []):
        refused(service.api.patch(path, wrong), 422, "validation-failed")


def test_etags_guard_each_change(service: Running) -> None:
    path = f"/notifications/{service.send(user_id=new_id())['id']}"
    stale = {"If-Match": '"9"'}
    assert service.api.get(path, headers={"If-None-Match": '"1"'}).status_code == 304
    refused(service.api.patch(path, {"read": True}, headers=stale), 412, "precondition-failed")
    refused(service.api.delete(path, headers=stale), 412, "precondition-failed")
    refused(service.api.post(f"{path}/retry", None, headers=stale), 412, "precondition-failed")
    changed = service.api.patch(path, {"read": True}, headers={"If-Match": '"1"'})
    assert changed.headers["ETag"] == '"2"'


def test_a_deleted_one_is_gone_and_never_sent(service: Running) -> None:
    made = service.send(recipient="ada@example.com", subject="Hello")
    path = f"/notifications/{made['id']}"
    assert service.api.delete(path).status_code == 204
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"read": True})):
        refused(service.api.send(method, path, body), 404, "not-found")
    refused(service.api.post(f"{path}/retry", None), 404, "not-found")
    assert service.find() == []
    service.step()
    assert service.mails == []
    row = service.row(made["id"])
    assert (row.recipient, row.subject, row.body, row.data) == (None, None, None, {})


def test_a_key_outlives_the_deletion_so_that_a_late_repetition_sends_nothing(service: Running) -> None:
    body, headers = {"recipient": "ada@example.com", "body": "A text."}, {"Idempotency-Key": "k1"}
    made = answered(service.api.post("/notifications/send", body, headers=headers), 201)
    service.api.delete(f"/notifications/{made['id']}")
    again = answered(service.api.post("/notifications/send", body, headers=headers), 201)
    assert again["id"] == made["id"]
    assert service.find() == []


@pytest.mark.parametrize("gone", ["deleted", "user deleted", "no such user"])
def test_a_repetition_does_not_repeat_what_was_erased(service: Running, gone: str) -> None:
    user_id = service.a_user() if gone == "user deleted" else new_id()
    body = {"user_id": user_id, "subject": "Dear Ada", "body": "Dear Ada"}
    if gone == "deleted":
        body["recipient"] = "ada@example.com"
    headers = {"Idempotency-Key": "k1"}
    made = answered(service.api.post("/notifications/send", body, headers=headers), 201)
    if gone == "deleted":
        assert service.api.delete(f"/notifications/{made['id']}").status_code == 204
    elif gone == "user deleted":
        assert service.receive(user_deleted(user_id)) == ["done"]
        service.erase()
    else:
        service.step()
    with service.db.read() as connection:
        stored = connection.scalars(sa.select(keys.c.body)).all()
    assert not [text for text in stored if "ada@example.com" in text or "Dear Ada" in text]
    if gone != "user deleted":  # those answers are dropped
        again = answered(service.api.post("/notifications/send", body, headers=headers), 201)
        assert again == {**made, "recipient": None, "subject": None, "body": None}


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "dead"])
def test_only_a_dead_one_is_sent_again(service: Running, status: str) -> None:
    service.store({"id": (notification_id := new_id()), "status": status})
    refused(service.api.post(f"/notifications/{notification_id}/retry", None), 409, "invalid-transition")


def test_what_is_not_there_is_not_found(service: Running) -> None:
    for path in (f"/notifications/{new_id()}", "/notifications/1", "/notifications/stats/1"):
        refused(service.api.get(path), 404, "not-found")
    refused(service.api.put(f"/notifications/{new_id()}", {}), 405, "method-not-allowed")


# The service -------------------------------------------------------------------------------------------------------


def test_the_document_is_openapi_and_names_every_channel(service: Running) -> None:
    document: Any = service.app.test_client().get("/openapi.json").json
    validate_openapi(document)
    assert document["components"]["schemas"]["NotificationChannel"]["enum"] == list(CHANNELS)


def test_health_tells_of_what_waits_for_too_long(service: Running) -> None:
    def check() -> dict[str, Any]:
        health: Any = service.app.test_client().get("/health").json
        return dict(health["checks"]["sending"])

    made = service.send(user_id=new_id())
    assert (check()["status"], check()["waiting"]) == ("healthy", 1)
    service.set(created_at=service.row(made["id"]).created_at - timedelta(minutes=11))
    assert check()["status"] == "degraded"


def test_stored_answers_are_kept_for_their_notification(service: Running) -> None:
    made = answered(
        service.api.post("/notifications/send", {"user_id": new_id(), "body": "x"}, headers={"Idempotency-Key": "k"}),
        201,
    )
    with service.db.read() as connection:
        assert connection.scalar(sa.select(keys.c.resource_id)) == made["id"]
