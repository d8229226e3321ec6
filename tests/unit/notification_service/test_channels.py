import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from libs.common.calls import permission
from libs.common.calls.permission import Permission
from notification_service import channels
from notification_service.channels import (
    Channel,
    ChannelDown,
    ChannelHealth,
    ConnectionLost,
    EmailChannel,
    FakeChannel,
    GatewayChannel,
    LogChannel,
    Message,
    Refused,
    TransientFailure,
    WebhookChannel,
)
from tests.unit.notification_service.samples import a_message, order_data
from tests.unit.notification_service.servers import HttpServer, MailServer, free_port, http_server, mail_server

SENDER = "Shop <shop@example.org>"


def send(channel: Channel, *messages: Message) -> None:
    with channel.open() as post:
        for message in messages:
            post(message)


# Log ---------------------------------------------------------------------------------------------------------------


def test_the_log_names_the_notification_and_no_person(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    message = a_message(template="order_confirmed", body="Dear Ada", request_id="req-1")
    send(LogChannel(), message)
    line = vars(caplog.records[-1])
    assert (line["notification_ids"], line["channel"]) == ([message.id], "email")
    assert line["templates"] == {"order_confirmed": 1}
    assert line["request_ids"] == ["req-1"]
    assert not [value for value in map(str, line.values()) if "ada@example.com" in value or "Dear Ada" in value]


def test_the_log_has_one_line_for_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    cause = {"request_id": "req-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    messages = [a_message(**cause), a_message(template="order_confirmed", **cause), a_message(request_id="")]
    with caplog.at_level(logging.INFO):
        send(LogChannel())
        send(LogChannel(), *messages)
    [line] = map(vars, caplog.records)
    assert line["notification_ids"] == [message.id for message in messages]
    assert line["templates"] == {"none": 2, "order_confirmed": 1}
    assert (line["request_ids"], line["trace_ids"]) == (["req-1"], [trace])


# Mail --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


def over(server: MailServer, sender: str = SENDER) -> EmailChannel:
    return EmailChannel(f"smtp://127.0.0.1:{server.port}", sender)


def test_a_mail_has_text_and_html(mail: MailServer) -> None:
    message = a_message(template="order_confirmed", data=order_data(), subject="Ihre Bestellung für Zoë", body="Grüße.")
    send(over(mail), message)
    [sent], [envelope] = mail.mails, mail.taken
    assert (envelope.mail_from, envelope.rcpt_tos) == ("shop@example.org", ["ada@example.com"])
    assert (sent["From"], sent["To"], sent["Subject"]) == (SENDER, "ada@example.com", message.subject)
    assert sent["Message-ID"] == f"<{message.id}@example.org>"
    assert sent["Auto-Submitted"] == "auto-generated"
    assert sent.get_content_type() == "multipart/alternative"
    text, html = sent.iter_parts()
    assert text.get_content().strip() == "Grüße."
    assert html.get_content_type() == "text/html"
    assert "Thank you for your order" in html.get_content()


def test_without_a_template_it_is_text_alone(mail: MailServer) -> None:
    send(over(mail), a_message(subject=None))
    assert mail.mails[0].get_content_type() == "text/plain"


def test_a_second_attempt_has_the_same_message_id(mail: MailServer) -> None:
    message = a_message()
    send(over(mail), message)
    send(over(mail), message)
    first, second = mail.mails
    assert first["Message-ID"] == second["Message-ID"]


def test_a_batch_takes_one_connection(mail: MailServer) -> None:
    send(over(mail), *(a_message() for _ in range(20)))
    assert (len(mail.taken), mail.connections) == (20, 1)


def test_a_refused_recipient_harms_no_other(mail: MailServer) -> None:
    mail.answers["nobody@example.com"] = "550 5.1.1 nobody@example.com is not here"
    with over(mail).open() as post:
        post(a_message())
        with pytest.raises(Refused) as caught:
            post(a_message(to="nobody@example.com"))
        post(a_message())
    assert len(mail.taken) == 2
    assert str(caught.value) == "The mail server refused it (550 5.1.1)."


@pytest.mark.parametrize("answer", ["451 4.7.1 later", "554 spam"])
def test_a_refused_text_counts(mail: MailServer, answer: str) -> None:
    mail.after_data = answer
    with over(mail).open() as post, pytest.raises(Refused, match=answer[:3]):
        post(a_message())


@pytest.mark.parametrize("answer", ["421 4.3.2 closing", "450 4.2.1 greylisted", "452 4.2.2 mailbox full"])
def test_a_transient_answer_is_about_its_message(mail: MailServer, answer: str) -> None:
    mail.answers["full@example.com"] = answer
    with over(mail).open() as post, pytest.raises(TransientFailure, match=answer[:9]):
        post(a_message(to="full@example.com"))
    send(over(mail), a_message())
    assert len(mail.taken) == 1


@pytest.mark.parametrize("how", ["hangs up", "421"])
def test_after_a_lost_connection_nothing_else_is_tried_on_it(mail: MailServer, how: str) -> None:
    mail.hang_up_at = "poison@example.com" if how == "hangs up" else ""
    mail.answers["poison@example.com"] = "421 4.3.2 closing"
    with over(mail).open() as post:
        with pytest.raises(TransientFailure):
            post(a_message(to="poison@example.com"))
        with pytest.raises(ConnectionLost):
            post(a_message())
    assert mail.taken == []


@pytest.mark.parametrize(
    "where", [{"to": "ada@example.com\r\nBcc: bob@example.com"}, {"subject": "Hi\nBcc: bob@x.com"}]
)
def test_no_header_can_be_put_in(mail: MailServer, where: dict[str, str]) -> None:
    with over(mail).open() as post, pytest.raises(Refused):
        post(a_message(**where))
    assert mail.taken == []


def test_a_text_cannot_end_the_mail_early(mail: MailServer) -> None:
    body = "One.\n.\nMAIL FROM:<evil@example.com>\r\n.\r\nTwo."
    send(over(mail), a_message(body=body))
    assert mail.mails[0].get_content().split() == body.split()


def test_no_server_is_a_channel_that_is_down(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ChannelDown):
        send(EmailChannel(f"smtp://127.0.0.1:{free_port()}", SENDER), a_message())
    assert vars(caplog.records[-1])["why"] == "ConnectionRefusedError"


def test_it_logs_in() -> None:
    with mail_server(login=True) as server:
        send(EmailChannel(f"smtp://user%40x:p%40ss@127.0.0.1:{server.port}", SENDER), a_message())
        assert server.logins == ["user@x"]
        assert len(server.taken) == 1


def test_a_wrong_password_is_no_messages_fault(caplog: pytest.LogCaptureFixture) -> None:
    with mail_server(login=True) as server, pytest.raises(ChannelDown):
        send(EmailChannel(f"smtp://user:wrong@127.0.0.1:{server.port}", SENDER), a_message())
    assert "535 5.7.8" in [vars(record).get("why") for record in caplog.records]


def test_a_password_crosses_no_network_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_LOCAL", ())
    with mail_server(login=True) as server, pytest.raises(ChannelDown):
        send(EmailChannel(f"smtp://user:p%40ss@127.0.0.1:{server.port}", SENDER), a_message())
    assert server.logins == []


@pytest.fixture
def secure(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_tls_is_used_and_the_password_goes_through_it(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, secure: ssl.SSLContext, scheme: str
) -> None:
    monkeypatch.setattr(channels, "_LOCAL", ())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with mail_server(tls=secure, starttls=scheme == "smtp", login=True) as server:
        send(EmailChannel(f"{scheme}://user:p%40ss@localhost:{server.port}", SENDER), a_message())
    assert (len(server.taken), server.logins) == (1, ["user"])


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, secure: ssl.SSLContext, scheme: str
) -> None:
    monkeypatch.setattr(channels, "_LOCAL", ())
    with mail_server(tls=secure, starttls=scheme == "smtp") as server, pytest.raises(ChannelDown):
        send(EmailChannel(f"{scheme}://localhost:{server.port}", SENDER), a_message())
    assert server.taken == []


# HTTP --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def web() -> Iterator[HttpServer]:
    with http_server() as server:
        yield server


def test_a_gateway_gets_what_it_needs(web: HttpServer) -> None:
    message = a_message(
        channel="sms", to="+4915112345678", data={"a": 1.5}, request_id="req-1", traceparent="00-a-b-01"
    )
    send(GatewayChannel("sms", web.url), message)
    [(path, headers, body)] = web.posted
    assert path == "/in"
    assert body == {
        "id": message.id, "channel": "sms", "to": "+4915112345678", "subject": "Hello", "body": "A text.",
        "template": None, "data": {"a": 1.5},
    }  # fmt: skip
    assert headers["Idempotency-Key"] == message.id
    assert (headers["X-Request-ID"], headers["traceparent"]) == ("req-1", "00-a-b-01")


def test_what_is_not_known_of_a_cause_is_left_out(web: HttpServer) -> None:
    send(GatewayChannel("sms", web.url), a_message())
    assert not {"X-Request-ID", "traceparent"} & set(web.posted[0][1])


@pytest.mark.parametrize(
    ("status", "fault"), [(400, Refused), (302, Refused), (429, TransientFailure), (500, TransientFailure)]
)
def test_what_a_gateway_answers_is_about_the_message(web: HttpServer, status: int, fault: type[Refused]) -> None:
    web.status = status
    with GatewayChannel("sms", web.url).open() as post, pytest.raises(Refused) as caught:
        post(a_message())
    assert type(caught.value) is fault


def test_a_gateway_that_closes_without_an_answer_fails_the_message(web: HttpServer) -> None:
    web.status = 0
    with GatewayChannel("sms", web.url).open() as post, pytest.raises(TransientFailure):
        post(a_message())


def test_a_gateway_that_is_not_there_is_down() -> None:
    with GatewayChannel("push", f"http://127.0.0.1:{free_port()}/").open() as post, pytest.raises(ChannelDown):
        post(a_message())


LOOPBACK = ["127.0.0.0/8", "::1/128"]


def webhooks(*hosts: str, networks: Sequence[str] = LOOPBACK) -> WebhookChannel:
    return WebhookChannel(Permission(hosts, networks))


def test_a_webhook_goes_to_a_named_host_and_port(web: HttpServer) -> None:
    send(webhooks(f"127.0.0.1:{web.port}"), a_message(channel="webhook", to=web.url))
    assert web.posted[0][2]["body"] == "A text."


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{port}/in",
        "http://allowed@127.0.0.1:{port}/in",
        "http://127.0.0.1:{port}\\@allowed/in",
        "http://127.0.0.1:{port}#@allowed/in",
        "http://127.0.0.1:{port}?@allowed/in",
        "http://[::1]:{port}/in",
        "http://2130706433:{port}/in",
        "file:///etc/passwd",
        "http://",
        "not a url",
    ],
)
def test_a_webhook_goes_nowhere_else(web: HttpServer, url: str) -> None:
    with webhooks("allowed", f"allowed:{web.port}").open() as post, pytest.raises(Refused):
        post(a_message(channel="webhook", to=url.format(port=web.port)))
    assert web.posted == []


@pytest.mark.parametrize(
    ("entry", "host", "port", "allowed"),
    [
        ("Example.com", "example.COM", 443, True),
        ("example.com", "example.com", 80, True),
        ("example.com", "example.com", 8080, False),
        ("example.com:8080", "example.com", 8080, True),
        ("example.com:8080", "example.com", 443, False),
        ("example.com", "www.example.com", 443, False),
    ],
)
def test_a_port_is_part_of_the_permission(entry: str, host: str, port: int, allowed: bool) -> None:
    assert Permission([entry]).allows(host, port) is allowed


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.1.2.3", "224.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1",
        "::ffff:93.184.216.34", "64:ff9b::10.0.0.1", "2002:a00:1::1", "2001:0:a00:1::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_not_permitted(address: str) -> None:
    assert not Permission([]).allows_address(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_a_public_address_is_permitted(address: str) -> None:
    assert Permission([]).allows_address(address)


def test_a_private_address_is_permitted_where_its_network_is_named() -> None:
    permission = Permission([], ["10.1.0.0/16"])
    assert permission.allows_address("10.1.2.3")
    assert not permission.allows_address("10.2.2.3")


def test_a_named_host_with_a_private_address_is_refused_like_any_other_host(web: HttpServer) -> None:
    """The answer does not reveal whether something listens there."""
    words = set()
    for url in (web.url, f"http://127.0.0.1:{free_port()}/", "http://elsewhere/"):
        port = url.rpartition(":")[2].partition("/")[0]
        with webhooks(f"127.0.0.1:{port}", networks=[]).open() as post, pytest.raises(Refused) as caught:
            post(a_message(channel="webhook", to=url))
        words.add(str(caught.value))
    assert words == {"The host is not among those that webhooks may go to."}
    assert web.posted == []


def test_the_address_that_was_judged_is_the_one_that_is_used(web: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that returns a public address first and a private one afterwards (DNS rebinding) has no effect."""
    addresses = iter(["93.184.216.34", "127.0.0.1"])
    asked: list[str] = []
    connected: list[str] = []

    def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(addresses), port))]

    def connect(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(permission, "create_connection", connect)
    channel = webhooks(f"rebinding.example:{web.port}", networks=[])
    with channel.open() as post:
        for words in ("ConnectionError", "not among those"):
            with pytest.raises(Refused, match=words):
                post(a_message(channel="webhook", to=f"http://rebinding.example:{web.port}/in"))
    assert (asked, connected) == (["rebinding.example"] * 2, ["93.184.216.34"])


def test_of_several_addresses_only_those_that_are_permitted_are_tried(
    web: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        found = ["10.0.0.1", "127.0.0.9", "127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    real, tried = permission.create_connection, list[str]()

    def connect(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        tried.append(address[0])
        if address[0] == "127.0.0.9":
            raise ConnectionRefusedError
        monkeypatch.undo()
        return real(address, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(permission, "create_connection", connect)
    send(webhooks(f"several.example:{web.port}"), a_message(to=f"http://several.example:{web.port}/in"))
    assert tried == ["127.0.0.9", "127.0.0.1"]
    assert web.posted[0][1]["Host"] == f"several.example:{web.port}"


def test_the_certificate_of_a_webhook_is_checked_for_its_name(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, secure: ssl.SSLContext
) -> None:
    with http_server(secure) as server:
        url = f"https://localhost:{server.port}/in"
        channel = webhooks(f"localhost:{server.port}", f"127.0.0.1:{server.port}")
        with channel.open() as post, pytest.raises(Refused, match="SSLError"):
            post(a_message(channel="webhook", to=url))
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(certificate))
        with channel.open() as post:
            post(a_message(channel="webhook", to=url))
            with pytest.raises(Refused, match="SSLError"):
                post(a_message(channel="webhook", to=url.replace("localhost", "127.0.0.1")))
    assert len(server.posted) == 1


def test_a_webhook_follows_no_redirect(web: HttpServer) -> None:
    web.status, web.headers = 307, {"Location": web.url}
    with webhooks(f"127.0.0.1:{web.port}").open() as post, pytest.raises(Refused, match="307"):
        post(a_message(channel="webhook", to=web.url))
    assert len(web.posted) == 1


@pytest.mark.parametrize("kind", ["webhook", "gateway"])
def test_a_cookie_is_neither_kept_nor_sent(web: HttpServer, kind: str) -> None:
    web.headers = {"Set-Cookie": "session=1; Path=/"}
    channel = webhooks(f"127.0.0.1:{web.port}") if kind == "webhook" else GatewayChannel("sms", web.url)
    for _ in range(2):
        send(channel, a_message(to=web.url))
    assert [headers.get("Cookie") for _, headers, _ in web.posted] == [None, None]
    assert not [value for value in vars(channel).values() if isinstance(value, requests.Session)]


def test_a_receiver_that_is_down_is_down_for_its_own_message() -> None:
    port = free_port()
    with webhooks(f"127.0.0.1:{port}").open() as post, pytest.raises(Refused, match="ConnectionError"):
        post(a_message(channel="webhook", to=f"http://127.0.0.1:{port}/"))


# The fake ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "channel",
    [
        LogChannel(),
        FakeChannel(),
        EmailChannel("smtp://localhost", SENDER),
        GatewayChannel("sms", "http://localhost"),
        webhooks("localhost"),
    ],
    ids=lambda channel: type(channel).__name__,
)
def test_every_channel_opens_alike(channel: Channel) -> None:
    assert callable(channel.open)


def test_the_fake_refuses_and_is_down_as_the_others_are() -> None:
    fake = FakeChannel()
    fake.refuses.add("nobody@example.com")
    with fake.open() as post:
        with pytest.raises(Refused):
            post(a_message(to="nobody@example.com"))
        post(a_message())
    fake.defers.add("full@example.com")
    with fake.open() as post, pytest.raises(TransientFailure):
        post(a_message(to="full@example.com"))
    fake.down = True
    with pytest.raises(ChannelDown):
        send(fake, a_message())
    assert len(fake.sent) == 1


# Health ------------------------------------------------------------------------------------------------------------


def counted(*outcomes: tuple[str, bool]) -> ChannelHealth:
    health = ChannelHealth()
    for recipient, transient in outcomes:
        health.count(recipient, transient=transient)
    return health


def test_before_anything_was_tried_the_state_of_a_channel_is_not_known() -> None:
    assert ChannelHealth().state == "unknown"


def test_one_recipient_does_not_speak_for_the_channel() -> None:
    assert counted(*[("bad", True)] * 50).state == "healthy"


def test_a_channel_is_down_when_most_of_the_latest_recipients_fail_for_now() -> None:
    outcomes = [(str(n), True) for n in range(5)]
    assert counted(*outcomes[:4]).state == "healthy"
    assert counted(*outcomes).state == "down"
    assert counted(*((str(n), False) for n in range(5, 10)), *outcomes).state == "healthy"
    assert counted(*((str(n), False) for n in range(5, 50)), *outcomes, ("x", True)).state == "down"


def test_a_channel_that_could_not_be_reached_is_up_with_the_next_outcome() -> None:
    health = counted(("a", False))
    health.unreachable()
    assert health.state == "down"
    health.count("b", transient=False)
    assert health.state == "healthy"
