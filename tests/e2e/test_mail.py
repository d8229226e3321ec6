"""Confirmations by a real mail server: the notification service with SMTP_URL set."""

import socket
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from demo.api import eventually
from tests.e2e.shop import Json, Shop, answered
from tests.e2e.system import System


class MailServer:
    """Keeps the mails that it accepts; `refusals` is how many mails it refuses transiently before it accepts one."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.refusals = 0
        self._mails: list[tuple[str, EmailMessage]] = []
        self.start()

    def start(self) -> None:
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def stop(self) -> None:
        self._controller.stop()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = message_from_bytes(envelope.content, policy=policy.default)
        self._mails += [(recipient, mail) for recipient in envelope.rcpt_tos]
        if self.refusals:
            self.refusals -= 1
            return "451 Try again later"
        return "250 OK"

    def mails_to(self, user: Json) -> list[EmailMessage]:
        return [mail for recipient, mail in self._mails if recipient == user["email"]]


@pytest.fixture(scope="module")
def server(running: System) -> Iterator[MailServer]:
    """A mail server that the notification service uses during the test."""
    made = MailServer()
    running.stop("notification")
    running.start("notification", SMTP_URL=f"smtp://127.0.0.1:{made.port}", RETRY_SECONDS="0.2", MAX_ATTEMPTS="3")
    yield made
    running.stop("notification")
    running.start("notification")
    made.stop()


def confirmation(shop: Shop, order: Json) -> Json:
    [found] = eventually(lambda: [one for one in shop.notifications(order) if one["status"] == "sent"], 15)
    return found  # type: ignore[no-any-return]


def test_the_confirmation_is_mailed_once_as_text_and_as_html(shop: Shop, server: MailServer) -> None:
    user = shop.new_user()
    order = answered(shop.order(user, shop.new_product(25), 2), 201)

    found = confirmation(shop, order)

    [mail] = server.mails_to(user)
    assert (mail["To"], mail["Subject"]) == (user["email"], found["subject"])
    assert mail["Message-ID"].startswith(f"<{found['id']}@")
    assert mail["Auto-Submitted"] == "auto-generated"
    text, page = (mail.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert page is not None
    assert text.get_content().splitlines() == found["body"].splitlines()
    assert "4999.98 EUR" in page.get_content()


def test_a_mail_that_is_sent_again_keeps_its_message_id(shop: Shop, server: MailServer) -> None:
    user = shop.new_user()
    server.refusals = 2
    order = answered(shop.order(user, shop.new_product(25)), 201)

    found = confirmation(shop, order)

    assert found["attempts"] == 3
    mails = server.mails_to(user)
    assert len(mails) == 3
    assert len({mail["Message-ID"] for mail in mails}) == 1


def test_what_is_refused_too_often_is_dead_until_somebody_asks_for_it(shop: Shop, server: MailServer) -> None:
    user = shop.new_user()
    server.refusals = 3
    order = answered(shop.order(user, shop.new_product(25)), 201)
    assert eventually(lambda: [one["status"] for one in shop.notifications(order)] == ["dead"], 15)
    [dead] = shop.notifications(order)
    assert (dead["attempts"], bool(dead["last_error"])) == (3, True)
    assert user["email"] not in dead["last_error"]

    asked = answered(shop.api.post("notification", f"/notifications/{dead['id']}/retry"), 200)

    assert (asked["status"], asked["attempts"]) == ("queued", 0)
    assert confirmation(shop, order)["attempts"] == 1
    assert len({mail["Message-ID"] for mail in server.mails_to(user)}) == 1


def test_while_the_mail_server_is_away_orders_go_on_and_nothing_is_given_up(shop: Shop, server: MailServer) -> None:
    user = shop.new_user()
    server.stop()
    order = answered(shop.order(user, shop.new_product(25)), 201)
    assert eventually(lambda: shop.notifications(order))
    server.start()

    found = confirmation(shop, order)

    assert (found["status"], found["attempts"]) == ("sent", 1)
    assert len(server.mails_to(user)) == 1
