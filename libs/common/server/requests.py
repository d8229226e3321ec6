"""Reading of request heads: a request is taken by the lane, or parsed by Gunicorn, or rejected as malformed."""

import re
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import gevent
from gunicorn.http import errors as http_errors
from gunicorn.http.message import Request as GunicornRequest
from gunicorn.http.parser import RequestParser

from libs.common import context, errors
from libs.common.web.messages import is_coding

if TYPE_CHECKING:
    from libs.common.server.lane import Plain

_beginning = re.compile(rb"(?:\r\n)?([!-~]+) (?:https?://[^/ ]*)?(/[!->@-~]*)[? ]")
_request_id = re.compile(rb"\r\nX-Request-ID:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)
_host = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?", re.ASCII)

MAX_HEAD = 32 * 1024
"""Bytes of all headers of a request. Gunicorn limits their number and the size of each, and so would buffer up to
800 KiB per connection.
"""
TURN_SECONDS = 1e-6
"""Sleeping for any time lets the event loop look at all sockets once."""


class Request(GunicornRequest):  # type: ignore[misc]
    """Rejects what Gunicorn's parser accepts contrary to RFC 9110 and 9112."""

    headers: list[tuple[str, str]]
    is_coded = False
    """Whether its body has a Content-Encoding. Such a body is not read, and the request is refused."""

    def parse(self, unreader: Any) -> bytes:
        self.max_buffer_headers = MAX_HEAD
        rest: bytes = super().parse(unreader)
        return rest

    def set_body_reader(self) -> None:
        fields = dict(self.headers)
        host = fields.get("HOST")
        # RFC 9112, section 3.2
        if not is_host(host) if host is not None else self.version >= (1, 1):
            raise http_errors.InvalidHeader("HOST", req=self)
        if "TRANSFER-ENCODING" in fields:
            self._check_transfer_codings()
        super().set_body_reader()
        if len(fields) < len(self.headers):
            self._join("IDEMPOTENCY-KEY")
        if "CONTENT-ENCODING" in fields:
            self._check_content_coding(fields)

    def _join(self, name: str) -> None:
        """Join repeated headers with a comma and a space, which makes an invalid key; Gunicorn's join makes a valid
        one.
        """
        values = [value for each, value in self.headers if each == name]
        if len(values) > 1:
            self.headers = [header for header in self.headers if header[0] != name] + [(name, ", ".join(values))]

    def _check_transfer_codings(self) -> None:
        """Only `chunked` is accepted. Gunicorn accepts gzip, deflate and compress too, but does not decode them."""
        for name, value in self.headers:
            if name == "TRANSFER-ENCODING" and {part.strip().lower() for part in value.split(",")} != {"chunked"}:
                raise http_errors.UnsupportedTransferCoding(value)

    def _check_content_coding(self, fields: dict[str, str]) -> None:
        has_body = "TRANSFER-ENCODING" in fields or fields.get("CONTENT-LENGTH", "0") != "0"
        if has_body and any(name == "CONTENT-ENCODING" and is_coding(value) for name, value in self.headers):
            self.is_coded = True
            self.force_close()
            self._expected_100_continue = False


class Seen(NamedTuple):
    """What is known of a request that cannot be answered by the app."""

    path: str
    request_id: str | None
    is_head: bool = False


class Unreadable(Exception):
    """The request is malformed: the problem, and what is known of the request."""

    def __init__(self, problem: errors.Problem, seen: Seen):
        super().__init__(problem.code)
        self.problem, self.seen = problem, seen


def is_host(value: str) -> bool:
    """Whether it is a valid Host header: a host name or an address, with or without a port (RFC 9110, section 7.2)."""
    return _host.fullmatch(value) is not None


def seen_of(req: "Request | None") -> Seen:
    """What is known of a request that failed after it was parsed."""
    if req is None:
        return Seen("/", None)
    return Seen(unquote(req.path), dict(req.headers).get(context.REQUEST_ID.upper()), req.method == "HEAD")


def parse_leniently(data: bytes) -> Seen:
    """The path and the request id of a malformed request, as far as they can be found; the path is `/` by default."""
    beginning, request_id = _beginning.match(data), _request_id.search(data)
    return Seen(
        path=unquote(beginning[2].decode()) if beginning else "/",
        request_id=request_id[1].decode() if request_id else None,
        is_head=beginning is not None and beginning[1] == b"HEAD",
    )


_PROBLEMS: dict[type[Exception], type[errors.Problem]] = {
    http_errors.ExpectationFailed: errors.ExpectationFailed,
    http_errors.LimitRequestHeaders: errors.HeadersTooLarge,
    http_errors.LimitRequestLine: errors.UriTooLong,
    http_errors.UnsupportedTransferCoding: errors.UnsupportedTransferCoding,
}
"""Exception of the parser → problem; any other is a MalformedRequest."""


def _message(cfg: Any, unreader: Any, peer: Any, number: int) -> "Request | Plain":
    """Read the next request of a connection. Raises Unreadable."""
    _queue_up(unreader)
    data = unreader.read()
    if cfg.lane and (plain := cfg.lane.take(data)):
        return plain  # type: ignore[no-any-return]
    unreader.unread(data)
    try:
        return Request(cfg, unreader, peer, number)
    except http_errors.ParseException as exc:
        raise Unreadable(_PROBLEMS.get(type(exc), errors.MalformedRequest)(), parse_leniently(data)) from exc


def _queue_up(unreader: Any) -> None:
    """Let the event loop serve all other connections that have sent something. A client that sends its next request at
    once would otherwise be served again and again, since reading from a socket with data does not yield.
    """
    if unreader.buf.getbuffer().nbytes or isinstance(unreader.sock, ssl.SSLSocket):
        # The data may have left the socket already. `sleep(0)` would run again before the sockets are looked at.
        gevent.sleep(TURN_SECONDS)
    else:
        unreader.sock._wait(unreader.sock._read_event)


RequestParser.mesg_class = staticmethod(_message)
