"""A quick parser for requests that are refused under overload.

For a refusal, gunicorn's parser, environ and response would cost four times as much as everything else.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

_line = re.compile(rb"(?:GET|POST|PUT|PATCH|DELETE) (/api/[\w./~-]*)(?:\?[!-~]*)? HTTP/1\.1")
_field = re.compile(rb"([\w-]+):[ \t]*([\t -~\x80-\xff]*)")
_beginning = re.compile(rb"(?:\r\n)?([!-~]+) (?:https?://[^/ ]*)?(/[!->@-~]*)[? ]")
_request_id = re.compile(rb"\r\nX-Request-ID:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)
_host = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+)(?::[0-9]{0,5})?", re.ASCII)
_NOT_PLAIN = {b"origin", b"transfer-encoding", b"expect", b"upgrade"}
"""Headers of requests that must take the normal way through the server and the app."""


class Glance(NamedTuple):
    """The parts of a request that its refusal needs."""

    path: str
    request_id: str | None
    is_head: bool = False


def glance(data: bytes) -> Glance | None:
    """Parse `data` if it is exactly one complete, simple request below /api; else None.

    It must be stricter than gunicorn's parser: if the two disagreed on the end of a request, a client could smuggle
    another one.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    found = _line.fullmatch(line)
    if not (found and end):
        return None
    fields: dict[bytes, bytes] = {}
    for each in lines:
        field = _field.fullmatch(each)
        if not field or (name := field[1].lower()) in fields or name in _NOT_PLAIN:
            return None
        fields[name] = field[2].rstrip(b" \t")
    if fields.get(b"content-length", b"0") != b"%d" % len(body):
        return None
    if fields.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    if not is_host(fields.get(b"host", b"").decode("latin-1")):
        return None
    request_id = fields.get(b"x-request-id")
    return Glance(found[1].decode(), request_id.decode("latin-1") if request_id else None)


def is_host(value: str) -> bool:
    """Whether it is a valid Host header: a host name or an address, with or without a port (RFC 9110, section 7.2)."""
    return _host.fullmatch(value) is not None


def parse_leniently(data: bytes) -> Glance:
    """The path and the request id of a malformed request, as far as they can be found; the path is `/` by default."""
    beginning, request_id = _beginning.match(data), _request_id.search(data)
    return Glance(
        path=unquote(beginning[2].decode()) if beginning else "/",
        request_id=request_id[1].decode() if request_id else None,
        is_head=beginning is not None and beginning[1] == b"HEAD",
    )
