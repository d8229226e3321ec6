"""Reading of request heads: a request is parsed, or refused under overload without that, or rejected as malformed."""

import io
from typing import Any
from urllib.parse import unquote

from gunicorn.http import errors as http_errors
from gunicorn.http.message import Request as GunicornRequest
from gunicorn.http.parser import RequestParser

from libs.common import context, errors
from libs.common.server.glance import Glance, glance, is_host, parse_leniently
from libs.common.web.messages import is_coding

MAX_HEAD = 32 * 1024
"""Bytes of all headers of a request. Gunicorn limits their number and the size of each, and so would buffer up to
800 KiB per connection.
"""


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


class Refused:
    """A request that is refused without being parsed; takes the place of a Request."""

    proxy_protocol_info = None
    body = io.BytesIO()

    def __init__(self, seen: Glance):
        self.seen = seen

    def should_close(self) -> bool:
        return False


class Unreadable(Exception):
    """The request is malformed: the problem, and what is known of the request."""

    def __init__(self, problem: errors.Problem, seen: Glance):
        super().__init__(problem.code)
        self.problem, self.seen = problem, seen


def seen_of(req: Request | None) -> Glance:
    """The Glance of a request that failed after it was parsed."""
    if req is None:
        return Glance("/", None)
    return Glance(unquote(req.path), dict(req.headers).get(context.REQUEST_ID.upper()), req.method == "HEAD")


_PROBLEMS: dict[type[Exception], type[errors.Problem]] = {
    http_errors.ExpectationFailed: errors.ExpectationFailed,
    http_errors.LimitRequestHeaders: errors.HeadersTooLarge,
    http_errors.LimitRequestLine: errors.UriTooLong,
    http_errors.UnsupportedTransferCoding: errors.UnsupportedTransferCoding,
}
"""Exception of the parser → problem; any other is a MalformedRequest."""


def _message(cfg: Any, unreader: Any, peer: Any, number: int) -> Request | Refused:
    """Read the next request of a connection; under overload it may be a Refused. Raises Unreadable."""
    data = unreader.read()
    if cfg.admission.is_full() and (seen := glance(data)):
        return Refused(seen)
    unreader.unread(data)
    try:
        return Request(cfg, unreader, peer, number)
    except http_errors.ParseException as exc:
        raise Unreadable(_PROBLEMS.get(type(exc), errors.MalformedRequest)(), parse_leniently(data)) from exc


RequestParser.mesg_class = staticmethod(_message)
