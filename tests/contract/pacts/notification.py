"""What the notification service expects of the user service, and of the events of the order and the user service."""

from flask import Flask
from pact import match

from libs.common.data.erasures import Erasure
from notification_service import repository, use_cases
from notification_service.channels import FakeChannel
from notification_service.clients import FakeUsers, UserClient
from notification_service.models import Address
from tests.contract.pacts.drafts import Call, Published, a_time, an_amount, an_id, call, event, provided, text
from tests.contract.pacts.order import ORDER, USER
from tests.web import Api, answered

STRANGER = "0198c0de-0000-7000-8000-000000000009"


@call("notification", "user")
def addresses_of_users(call: Call) -> None:
    call.given("a user", status="active").asks("GET", "/users", ids=provided(USER, "${user_id}"), limit="200")
    address = {"id": an_id(USER), "email": text("ada@example.com", "[^@]+@[^@]+"), "version": match.int(1)}
    call.answers(200, {"items": match.each_like(address, min=1)})
    with call.client() as client:
        assert UserClient(client).addresses([USER, USER]) == {USER: Address("ada@example.com", 1)}


@call("notification", "user")
def addresses_of_users_whom_nobody_knows(call: Call) -> None:
    call.asks("GET", "/users", ids=f"{USER},{STRANGER}", limit="200").answers(200, {"items": []})
    with call.client() as client:
        assert UserClient(client).addresses([STRANGER, USER]) == {}


@call("notification", "user")
def the_address_of_a_user_who_was_deleted(call: Call) -> None:
    call.given("a deleted user").asks("GET", "/users", ids=provided(USER, "${user_id}"), limit="200")
    call.answers(200, {"items": []})
    with call.client() as client:
        assert UserClient(client).addresses([USER]) == {}


@call("notification", "user")
def a_user_service_with_too_much_to_do(call: Call) -> None:
    call.asks("GET", "/users", ids=USER, limit="200")
    call.too_much_to_do(lambda client: UserClient(client).addresses([USER]))


def post_office(published: Published) -> Flask:
    return published.services.start("notification", users=FakeUsers())


@event("notification", "order.confirmed.v1")
def a_confirmed_order_is_told_to_its_user(published: Published) -> None:
    item = {
        "name": match.str("Laptop"), "quantity": match.int(2),
        "unit_price": an_amount("2499.99"), "line_total": an_amount("4999.98"),
    }  # fmt: skip
    published.given("a confirmed order").says(
        {
            "order_id": an_id(ORDER), "user_id": an_id(USER), "items": match.each_like(item, min=1),
            "total": an_amount("4999.98"), "currency": text("EUR", "[A-Z]{3}"),
            "confirmed_at": a_time("2026-01-31T12:00:00.000000Z"),
        }
    )  # fmt: skip
    api = published.to(post_office(published))
    (confirmation,) = answered(api.get(f"/notifications?user_id={USER}&order_id={ORDER}"))["items"]
    assert f"Order {ORDER}, confirmed on 2026-01-31" in confirmation["body"]
    assert "2 x Laptop, 2499.99 EUR each: 4999.98 EUR" in confirmation["body"]
    assert "Total: 4999.98 EUR" in confirmation["body"]


@event("notification", "user.updated.v1")
def the_address_of_a_user_who_has_changed_is_looked_up_again(published: Published) -> None:
    published.given("a user", status="suspended")
    published.says({"user_id": an_id(USER), "version": match.int(2)})
    users, mails = FakeUsers({USER: "ada@example.com"}), FakeChannel()
    office = published.services.start("notification", users=users)
    sender = use_cases.Sender(office.extensions["quintet"].db, "email", mails, users, max_attempts=1, retry_seconds=1.0)
    body = {"user_id": USER, "body": "A text."}
    answered(Api(office).post("/notifications/send", body), 201)
    sender.step()
    users.known[USER], users.versions[USER] = "lovelace@example.com", 2
    answered(published.to(office).post("/notifications/send", body), 201)
    sender.step()
    assert [mail.to for mail in mails.sent] == ["ada@example.com", "lovelace@example.com"]


@event("notification", "user.deleted.v1")
def what_was_said_to_a_deleted_user_is_erased(published: Published) -> None:
    published.given("a deleted user")
    published.says({"user_id": an_id(USER), "deleted_at": a_time("2026-01-31T12:00:00.000000Z")})
    office = post_office(published)
    sent = answered(Api(office).post("/notifications/send", {"user_id": USER, "body": "A text."}), 201)
    api = published.to(office)
    Erasure(office.extensions["quintet"].db, repository.walk_user, use_cases.erase_notifications).step()
    assert answered(api.get(f"/notifications/{sent['id']}"))["body"] is None
