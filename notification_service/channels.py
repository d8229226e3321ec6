"""The ways a notification can leave.

    with channel.open() as send:      one connection for a batch; raises ChannelDown
        send(message)                 returns when it was taken; raises Refused or ChannelDown

Refused is about this message, and the attempt counts. ChannelDown is about the channel: no attempt counts.
Every message has an id that stays the same from attempt to attempt, so that a receiver can recognise a second one.
"""

import logging
import re
import smtplib
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, parseaddr
from typing import Protocol
from urllib.parse import unquote, urlsplit

import gevent
import orjson
import requests
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from libs.common.errors import DependencyUnavailable
from notification_service.models import render_html

TIMEOUT_SECONDS = 5.0
"""For each packet of a mail server or a gateway."""
EXCHANGE_SECONDS = 10.0
"""For the whole exchange about one message, however slowly the peer sends. A lease lasts longer than a batch."""
_CLOSING = 421
"""The mail server ends the connection, for reasons of its own (RFC 5321, section 3.8)."""
_BUSY = (429, 502, 503, 504)
_LOCAL = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)


class Refused(Exception):
    """The receiver does not take this message; the text says why and holds no personal data."""


class ChannelDown(DependencyUnavailable):
    """Nothing can leave by this channel at the moment."""

    def __init__(self, channel: str, why: str):
        super().__init__(f"The {channel} channel is unavailable.")
        log.warning("channel.down", extra={"channel": channel, "why": why})


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is sent. `to` is an address that suits the channel, or the id of the user."""

    id: str
    channel: str
    to: str
    subject: str | None
    body: str
    template: str | None = None
    data: Mapping[str, object] = field(default_factory=dict)
    request_id: str = ""
    traceparent: str = ""


Send = Callable[[Message], None]


class Channel(Protocol):
    def open(self) -> AbstractContextManager[Send]:
        """A connection for one batch."""


class LogChannel:
    """Writes one line, without the address and the text: the embedded default, and the `log` channel."""

    @contextmanager
    def open(self) -> Iterator[Send]:
        yield self._send

    def _send(self, message: Message) -> None:
        log.info(
            "notification",
            extra={
                "notification_id": message.id,
                "channel": message.channel,
                "template": message.template,
                "request_id": message.request_id,
                "trace_id": message.traceparent[3:35],
            },
        )


class EmailChannel:
    """Mail by SMTP, sent at least once, with a Message-ID that never changes. The URL is
    `smtp://user:password@host:port`, which uses STARTTLS where another host offers it, or `smtps://`, which begins
    with TLS. A password crosses no network in the clear.
    """

    def __init__(self, url: str, sender: str):
        parts = urlsplit(url)
        self._tls = parts.scheme == "smtps"
        self._host, self._port = parts.hostname or "", parts.port or (465 if self._tls else 25)
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._sender, self._address = sender, parseaddr(sender)[1]
        self._domain = self._address.rpartition("@")[2]

    @contextmanager
    def open(self) -> Iterator[Send]:
        smtp = self._connect()
        try:
            yield lambda message: self._send(smtp, message)
        finally:
            with suppress(smtplib.SMTPException, OSError):
                smtp.quit()

    def _connect(self) -> smtplib.SMTP:
        try:
            with gevent.Timeout(EXCHANGE_SECONDS, TimeoutError("The peer sent too slowly.")):
                smtp = self._dial()
                try:
                    self._greet(smtp)
                except BaseException:
                    smtp.close()
                    raise
                return smtp
        except (smtplib.SMTPException, OSError) as exc:
            raise ChannelDown("email", _reason(exc)) from exc

    def _dial(self) -> smtplib.SMTP:
        # The name is given, since smtplib would look for that of this host, which can take seconds.
        if self._tls:
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self._host, self._port, self._domain, timeout=TIMEOUT_SECONDS, context=context)
        return smtplib.SMTP(self._host, self._port, self._domain, timeout=TIMEOUT_SECONDS)

    def _greet(self, smtp: smtplib.SMTP) -> None:
        smtp.ehlo_or_helo_if_needed()
        secret = self._tls or self._host in _LOCAL
        if not secret and smtp.has_extn("starttls"):
            smtp.starttls(context=ssl.create_default_context())
            secret = True
        if self._user and not secret:
            raise smtplib.SMTPNotSupportedError("no login without TLS")
        if self._user:
            smtp.login(self._user, self._password)

    def _send(self, smtp: smtplib.SMTP, message: Message) -> None:
        if smtp.sock is None:
            raise ChannelDown("email", "the connection was lost")
        try:
            with gevent.Timeout(EXCHANGE_SECONDS, TimeoutError("The peer sent too slowly.")):
                smtp.send_message(self._compose(message), self._address, [message.to])
        except ValueError as exc:
            raise Refused("The message cannot be written as mail.") from exc
        except (smtplib.SMTPException, OSError) as exc:
            if (_answer(exc) or (0, ""))[0] == _CLOSING:
                raise ChannelDown("email", _reason(exc)) from exc
            raise Refused(f"The mail server refused it ({_reason(exc)}).") from exc

    def _compose(self, message: Message) -> EmailMessage:
        """Raises ValueError for what a header cannot hold, such as a line break."""
        mail = EmailMessage(policy=SMTP)
        mail["From"], mail["To"] = self._sender, message.to
        mail["Subject"] = message.subject or ""
        mail["Date"], mail["Message-ID"] = formatdate(usegmt=True), f"<{message.id}@{self._domain}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.body)
        if message.template:
            mail.add_alternative(render_html(message.template, message.data), subtype="html")
        return mail


class _HttpChannel(ABC):
    """Posts messages as JSON. It follows no redirect, and takes nothing from the environment."""

    def __init__(self) -> None:
        self._session = requests.Session()
        self._session.trust_env = False

    @contextmanager
    def open(self) -> Iterator[Send]:
        yield self._send

    @abstractmethod
    def _send(self, message: Message) -> None:
        """Post it where it belongs."""

    def _prepare(self, url: str, message: Message) -> requests.PreparedRequest:
        names = ("id", "channel", "to", "subject", "body", "template", "data")
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.id, "User-Agent": "quintet"}
        headers |= {"X-Request-ID": message.request_id, "traceparent": message.traceparent}
        request = requests.PreparedRequest()
        body = orjson.dumps({name: getattr(message, name) for name in names})
        request.prepare(method="POST", url=url, headers={k: v for k, v in headers.items() if v}, data=body)
        return request

    def _post(self, request: requests.PreparedRequest) -> int:
        """The status; of the answer no more is read than a connection needs to be used again."""
        timeout = (TIMEOUT_SECONDS, TIMEOUT_SECONDS)
        with (
            gevent.Timeout(EXCHANGE_SECONDS, requests.Timeout("The peer sent too slowly.")),
            self._session.send(request, timeout=timeout, allow_redirects=False, stream=True) as response,
        ):
            with suppress(HTTPError):
                response.raw.read(65536)
            return response.status_code


class GatewayChannel(_HttpChannel):
    """One gateway for all messages, such as a provider of text messages."""

    def __init__(self, channel: str, url: str):
        super().__init__()
        self._channel, self._url = channel, url

    def _send(self, message: Message) -> None:
        try:
            status = self._post(self._prepare(self._url, message))
        except (requests.RequestException, OSError) as exc:
            raise ChannelDown(self._channel, type(exc).__name__) from exc
        if status in _BUSY:
            raise ChannelDown(self._channel, f"status {status}")
        if status >= 300:
            raise Refused(f"The gateway refused it (status {status}).")


class WebhookChannel(_HttpChannel):
    """The recipient is a URL, and its host must be among `hosts`. A receiver that is down is down for its own
    messages only, so each attempt counts.
    """

    def __init__(self, hosts: Sequence[str]):
        super().__init__()
        self._hosts = {host.lower() for host in hosts}

    def _send(self, message: Message) -> None:
        try:
            request = self._prepare(message.to, message)
            # Judged as it will be sent: two parsers may find two hosts in one odd URL.
            if (parse_url(request.url or "").host or "").lower() not in self._hosts:
                raise Refused("The host is not among those that webhooks may go to.")
            status = self._post(request)
        except (requests.RequestException, OSError) as exc:
            raise Refused(f"The receiver cannot be reached ({type(exc).__name__}).") from exc
        if status >= 300:
            raise Refused(f"The receiver refused it (status {status}).")


class FakeChannel:
    """Keeps what is sent. `refuses` holds recipients whose messages are refused; `down` lets nothing leave."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.refuses: set[str] = set()
        self.down = False
        self.opened = 0

    @contextmanager
    def open(self) -> Iterator[Send]:
        self.opened += 1
        if self.down:
            raise ChannelDown("fake", "it is down")
        yield self._send

    def _send(self, message: Message) -> None:
        if message.to in self.refuses:
            raise Refused("It is refused.")
        self.sent.append(message)


def _answer(exc: Exception) -> tuple[int, str] | None:
    """The code and the text of the mail server, if it was its answer that failed."""
    if isinstance(exc, smtplib.SMTPRecipientsRefused):
        code, text = next(iter(exc.recipients.values()))
        return code, text.decode("ascii", "replace")
    if isinstance(exc, smtplib.SMTPResponseException):
        error = exc.smtp_error
        return exc.smtp_code, error.decode("ascii", "replace") if isinstance(error, bytes) else error
    return None


def _reason(exc: Exception) -> str:
    """The codes of the answer without its text, which may repeat the address."""
    answer = _answer(exc)
    if answer is None:
        return type(exc).__name__
    detail = re.match(r"[245]\.\d{1,3}\.\d{1,3}", answer[1])
    return f"{answer[0]} {detail[0]}" if detail else str(answer[0])
