"""The channels that notifications are sent by.

    with channel.open() as send:      one connection for a batch; raises ChannelDown
        send(message)                 returns when the receiver has accepted it

What `send` raises:

    Refused            the receiver does not take this message; the attempt counts
    TransientFailure   the receiver does not take it now; the attempt counts, unless most receivers answer like this
    ChannelDown        the receiver cannot be reached or refuses the login; the message was not tried
    ConnectionLost     the connection ended with an earlier message; this one was not tried

Every message has an id that stays the same from attempt to attempt, so that a receiver can recognise a duplicate.
"""

import logging
import re
import smtplib
import ssl
from abc import ABC, abstractmethod
from collections import Counter
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
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, NewConnectionError

from libs.common.calls.permission import NotPermitted, Permission, PermittedAdapter
from libs.common.errors import DependencyUnavailable
from notification_service.models import DataNeed, render_html

OPEN_SECONDS = 10.0
"""To connect, to wait for the greeting, and to log in."""
EXCHANGE_SECONDS = 10.0
"""For the whole exchange about one message, however slowly the peer sends."""
CLOSE_SECONDS = 2.0
"""To close the connection to a mail server with QUIT."""
_SIZE_EXCEEDED = 552
"""The mail is larger than the server takes (RFC 1870)."""
_LOCAL = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)


class Refused(Exception):
    """The receiver does not take this message; the text says why and holds no personal data."""


class TransientFailure(Refused):
    """The receiver does not take this message now, and may take it later."""


class ConnectionLost(Exception):
    """The connection cannot be used any more; the message was not tried."""


class ChannelDown(DependencyUnavailable):
    """The channel cannot send at the moment."""

    def __init__(self, channel: str, why: str):
        super().__init__(f"The {channel} channel is unavailable.")
        log.warning("channel.down", extra={"channel": channel, "why": why})


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message to send. `to` is an address for the channel, or the id of the user."""

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
    needs_data: DataNeed

    def open(self) -> AbstractContextManager[Send]:
        """A connection for one batch."""


class LogChannel:
    """Writes one line for a batch, without addresses and texts: the embedded default, and the `log` channel."""

    needs_data: DataNeed = "never"

    @contextmanager
    def open(self) -> Iterator[Send]:
        sent: list[Message] = []
        try:
            yield sent.append
        finally:
            if sent:
                _log_batch(sent)


def _log_batch(sent: Sequence[Message]) -> None:
    log.info(
        "notifications",
        extra={
            "channel": sent[0].channel,
            "templates": Counter(message.template or "none" for message in sent),
            "notification_ids": [message.id for message in sent],
            "request_ids": list(dict.fromkeys(message.request_id for message in sent if message.request_id)),
            "trace_ids": list(dict.fromkeys(message.traceparent[3:35] for message in sent if message.traceparent)),
        },
    )


class EmailChannel:
    """Mail by SMTP, sent at least once, with a Message-ID that never changes. The URL is
    `smtp://user:password@host:port`, which uses STARTTLS where another host offers it, or `smtps://`, which begins with
    TLS. The password is never sent over a network without TLS.
    """

    needs_data: DataNeed = "template"

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
            _close(smtp)

    def _connect(self) -> smtplib.SMTP:
        try:
            with gevent.Timeout(OPEN_SECONDS, TimeoutError("The peer sent too slowly.")):
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
        # The local host name is given, since smtplib would look it up, which can take seconds.
        if self._tls:
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self._host, self._port, self._domain, timeout=OPEN_SECONDS, context=context)
        return smtplib.SMTP(self._host, self._port, self._domain, timeout=OPEN_SECONDS)

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
            raise ConnectionLost
        try:
            with gevent.Timeout(EXCHANGE_SECONDS, TimeoutError("The peer sent too slowly.")):
                smtp.send_message(self._compose(message), self._address, [message.to])
        except (ValueError, smtplib.SMTPNotSupportedError) as exc:
            raise Refused("The message cannot be written as mail.") from exc
        except (smtplib.SMTPException, OSError) as exc:
            if _answer(exc) is None:
                # A late answer would be taken for the answer to the next message.
                smtp.close()
            failure = TransientFailure if _is_transient(exc) else Refused
            raise failure(f"The mail server refused it ({_reason(exc)}).") from exc

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
    """Posts messages as JSON. It follows no redirects, keeps no cookies, and ignores the proxies of the environment."""

    needs_data: DataNeed = "always"

    def __init__(self, adapter: HTTPAdapter):
        # No requests.Session, which would keep the cookies of every receiver.
        self._adapter = adapter

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
        """The status; of the body only as much is read as lets the connection be used again."""
        timeout = (EXCHANGE_SECONDS, EXCHANGE_SECONDS)
        with (
            gevent.Timeout(EXCHANGE_SECONDS, requests.Timeout("The peer sent too slowly.")),
            self._adapter.send(request, timeout=timeout, stream=True, verify=True) as response,
        ):
            with suppress(HTTPError):
                response.raw.read(65536)
            return response.status_code


class GatewayChannel(_HttpChannel):
    """One gateway for all messages, such as a provider of text messages."""

    def __init__(self, channel: str, url: str):
        super().__init__(HTTPAdapter())
        self._channel, self._url = channel, url

    def _send(self, message: Message) -> None:
        try:
            status = self._post(self._prepare(self._url, message))
        except (requests.RequestException, OSError) as exc:
            if _is_unreachable(exc):
                raise ChannelDown(self._channel, type(exc).__name__) from exc
            raise TransientFailure(f"The gateway gave no answer ({type(exc).__name__}).") from exc
        if status == 429 or status >= 500:
            raise TransientFailure(f"The gateway refused it (status {status}).")
        if status >= 300:
            raise Refused(f"The gateway refused it (status {status}).")


class WebhookChannel(_HttpChannel):
    """The recipient is a URL that the permission allows. A receiver that is down fails only its own messages, so each
    attempt counts. Everything that is not permitted is refused with the same text, which tells nothing of the network
    behind.
    """

    def __init__(self, permission: Permission):
        self._permitted = PermittedAdapter(permission)
        super().__init__(self._permitted)

    def _send(self, message: Message) -> None:
        try:
            request = self._prepare(message.to, message)
            self._permitted.check(request.url or "")
            status = self._post(request)
        except NotPermitted as exc:
            raise Refused("The host is not among those that webhooks may go to.") from exc
        except (requests.RequestException, OSError) as exc:
            raise Refused(f"The receiver cannot be reached ({type(exc).__name__}).") from exc
        if status >= 300:
            raise Refused(f"The receiver refused it (status {status}).")


class FakeChannel:
    """Keeps the messages that are sent. `refuses` and `defers` hold recipients whose messages fail permanently or
    transiently; `down` makes the channel unavailable.
    """

    needs_data: DataNeed = "always"

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.refuses: set[str] = set()
        self.defers: set[str] = set()
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
        if message.to in self.defers:
            raise TransientFailure("It is refused for now.")
        self.sent.append(message)


class ChannelHealth:
    """Whether a channel works, by the latest outcome for each of the latest recipients: each recipient has one vote, so
    that a single bad address does not decide.
    """

    RECIPIENTS = 10
    QUORUM = 5

    def __init__(self) -> None:
        self._transient: dict[str, bool] = {}
        self._reachable = True

    @property
    def state(self) -> str:
        """`healthy`, `down`, or `unknown` before anything was tried."""
        if self.is_down:
            return "down"
        return "healthy" if self._transient else "unknown"

    @property
    def is_down(self) -> bool:
        """Whether it cannot be reached, or most of the latest recipients failed transiently."""
        failed, votes = sum(self._transient.values()), len(self._transient)
        return not self._reachable or (votes >= self.QUORUM and 2 * failed > votes)

    def count(self, recipient: str, *, transient: bool) -> None:
        """Add the outcome of a message, which shows that the channel was reached."""
        self._reachable = True
        self._transient.pop(recipient, None)
        self._transient[recipient] = transient
        if len(self._transient) > self.RECIPIENTS:
            del self._transient[next(iter(self._transient))]

    def unreachable(self) -> None:
        """The channel could not be reached."""
        self._reachable = False


def _close(smtp: smtplib.SMTP) -> None:
    """Send QUIT and close; takes CLOSE_SECONDS at most."""
    try:
        with gevent.Timeout(CLOSE_SECONDS, TimeoutError("The peer sent too slowly.")):
            if smtp.sock is not None:
                smtp.sock.settimeout(CLOSE_SECONDS)
                smtp.quit()
    except (smtplib.SMTPException, OSError):
        pass
    finally:
        smtp.close()


def _is_transient(exc: Exception) -> bool:
    """Whether there was no answer, a 4xx, or a refusal of the sender and not of the recipient."""
    answered = _answer(exc)
    if answered is None or 400 <= answered[0] < 500:
        return True
    return isinstance(exc, smtplib.SMTPSenderRefused) and answered[0] != _SIZE_EXCEEDED


def _is_unreachable(exc: Exception) -> bool:
    """Whether there was no connection, so that nothing was sent."""
    reason = getattr(exc.args[0] if exc.args else None, "reason", None)
    no_connection = isinstance(exc, requests.ConnectTimeout | requests.exceptions.SSLError)
    return no_connection or isinstance(reason, NewConnectionError)


def _answer(exc: Exception) -> tuple[int, str] | None:
    """The code and the text of the mail server's answer; None when there was no answer."""
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
