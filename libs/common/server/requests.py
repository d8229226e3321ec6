"""How requests arrive: each is parsed, refused after a quick look, or answered with a problem if it is malformed."""

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
"""Bytes of all headers of a request. With Gunicorn's bounds for their number and for each of them, a connection could
hold 800 KiB that belong to no request yet.
"""


class Request(GunicornRequest):  # type: ignore[misc]
    """Refuses what Gunicorn's parser lets through and the standard does not."""

    headers: list[tuple[str, str]]
    is_coded = False
    """Whether its body has a Content-Encoding. Such a body is not read: the request is refused without it."""

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
        """Two headers become one with a space in it, which is no key. Gunicorn would join them to one that is."""
        values = [value for each, value in self.headers if each == name]
        if len(values) > 1:
            self.headers = [header for header in self.headers if header[0] != name] + [(name, ", ".join(values))]

    def _check_transfer_codings(self) -> None:
        """Gunicorn takes gzip, deflate and compress before chunked, and undoes only the chunks."""
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
    """In the place of a request that is refused without being parsed."""

    proxy_protocol_info = None
    body = io.BytesIO()

    def __init__(self, seen: Glance):
        self.seen = seen

    def should_close(self) -> bool:
        return False


class Unreadable(Exception):
    """The request is malformed or not accepted: the problem, and what is known of the request."""

    def __init__(self, problem: errors.Problem, seen: Glance):
        super().__init__(problem.code)
        self.problem, self.seen = problem, seen


def seen_of(req: Request | None) -> Glance:
    """What a refusal names of a request that failed after it was read."""
    if req is None:
        return Glance("/", None)
    return Glance(unquote(req.path), dict(req.headers).get(context.REQUEST_ID.upper()), req.method == "HEAD")


_PROBLEMS: dict[type[Exception], type[errors.Problem]] = {
    http_errors.ExpectationFailed: errors.ExpectationFailed,
    http_errors.LimitRequestHeaders: errors.HeadersTooLarge,
    http_errors.LimitRequestLine: errors.UriTooLong,
    http_errors.UnsupportedTransferCoding: errors.UnsupportedTransferCoding,
}
"""Exception of the parser → problem; all others are malformed requests."""


def _message(cfg: Any, unreader: Any, peer: Any, number: int) -> Request | Refused:
    """The next request of a connection, as soon as some of it is there; raises Unreadable."""
    data = unreader.read()
    if cfg.admission.is_full() and (seen := glance(data)):
        return Refused(seen)
    unreader.unread(data)
    try:
        return Request(cfg, unreader, peer, number)
    except http_errors.ParseException as exc:
        raise Unreadable(_PROBLEMS.get(type(exc), errors.MalformedRequest)(), parse_leniently(data)) from exc


RequestParser.mesg_class = staticmethod(_message)
