"""A quick look at the bytes of a request, to refuse it without parsing all of it.

While a service refuses two thirds of what comes, gunicorn's parser, environ and response would cost it four times as
much as all the rest of a refusal.
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
"""What these ask for, only the app and the server know."""


class Glance(NamedTuple):
    """What a refusal needs to know of its request."""

    path: str
    request_id: str | None
    is_head: bool = False


def glance(data: bytes) -> Glance | None:
    """A request below /api that is plain, whole, and all that `data` holds; else None.

    Where one request ends the next begins, so this must see no end where the parser would not see it.
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
    """Whether it is the name or the address of a host, with or without a port (RFC 9110, section 7.2)."""
    return _host.fullmatch(value) is not None


def parse_leniently(data: bytes) -> Glance:
    """The path and the id of a request that the parser refuses, as far as they can be found; else the path is `/`."""
    beginning, request_id = _beginning.match(data), _request_id.search(data)
    return Glance(
        path=unquote(beginning[2].decode()) if beginning else "/",
        request_id=request_id[1].decode() if request_id else None,
        is_head=beginning is not None and beginning[1] == b"HEAD",
    )
