"""HTTP messages: JSON bodies, their media types and limits, and conditional requests."""

from collections.abc import Mapping
from decimal import Decimal
from json import JSONDecoder
from typing import Any

from libs.common import errors
from libs.common.web.exchange import JSON, Exchange

MERGE_PATCH = "application/merge-patch+json"
MAX_BODY = 1024 * 1024
MAX_CONTAINERS = 20_000
"""The limit of arrays and objects in a body, twice what any operation needs. They are created before the schema can
reject the body, and a mebibyte can hold 350,000 of them.
"""
MAX_REQUEST_LINE = errors.MAX_INSTANCE
"""Bytes. The filter `ids` has up to two hundred ids; gunicorn accepts no longer lines."""
_NO_CODING = {"Accept-Encoding": "identity"}


def read_json(exchange: Exchange, media_type: str = JSON, limit: int = MAX_BODY) -> Any:
    """Parse the request's body as JSON, with decimals as Decimal. Raises MalformedRequest, PayloadTooLarge or
    UnsupportedMediaType.
    """
    given = exchange.headers.get
    if is_coding(given("content-encoding", "")):
        raise errors.UnsupportedMediaType("Send the body without a Content-Encoding.", headers=_NO_CODING)
    declared = declared_length(exchange)
    if declared > limit:
        raise errors.PayloadTooLarge(f"At most {limit} bytes are taken.")
    accepted = (media_type, JSON) if media_type != JSON else (JSON,)
    if given("content-type", "").partition(";")[0].strip().lower() not in accepted:
        raise errors.UnsupportedMediaType(f"Send {' or '.join(accepted)}.")
    try:
        raw = exchange.body.read(limit + 1)
    except Exception as exc:  # gunicorn's exceptions for a malformed chunk
        raise errors.MalformedRequest("The body cannot be read.") from exc
    if len(raw) > limit:
        raise errors.PayloadTooLarge(f"At most {limit} bytes are taken.")
    if len(raw) < declared:
        raise errors.MalformedRequest("The body ends too early.")
    if len(raw) > MAX_CONTAINERS and raw.count(b"[") + raw.count(b"{") > MAX_CONTAINERS:
        raise errors.MalformedRequest(f"At most {MAX_CONTAINERS} arrays and objects are taken.")
    try:
        return _decoder.decode(raw.decode("utf-8"))
    except _RepeatedMember:
        raise errors.MalformedRequest("The body has a member twice.") from None
    except (ValueError, RecursionError, ArithmeticError):
        raise errors.MalformedRequest("The body is not JSON in UTF-8.") from None


def declared_length(exchange: Exchange) -> int:
    """The Content-Length; 0 if there is none. A chunked body has one, unless it is malformed (bodies.py)."""
    declared = exchange.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdecimal() else 0


def is_coding(content_encoding: str) -> bool:
    """Whether a body with this Content-Encoding would have to be decoded, which no service does."""
    return any(part.strip().lower() not in ("", "identity") for part in content_encoding.split(","))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _RepeatedMember(Exception):
    """An object has a member twice; parsers differ in which of the two they use (RFC 8259, section 4)."""


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) < len(members):
        raise _RepeatedMember
    return made


_decoder = JSONDecoder(object_pairs_hook=_object, parse_float=Decimal, parse_constant=_no_constant)


def check_match(headers: Mapping[str, str], version: int | None) -> None:
    """Check the preconditions of a request against the version of the resource, or None if there is no resource
    (RFC 9110, section 13.2.2). Raises PreconditionFailed or NotFound.
    """
    if "if-match" in headers or "if-none-match" in headers:
        check_preconditions(headers, version)


def check_preconditions(headers: Mapping[str, str], version: int | None, *, is_safe: bool = False) -> bool:
    """Like `check_match`. For a safe method, returns False if `If-None-Match` names the version: the answer is 304."""
    expected, known = headers.get("if-match"), headers.get("if-none-match")
    if version is None:
        if expected is not None:
            raise errors.NotFound
        return True
    tag = f'"{version}"'
    if expected is not None and not names_tag(expected, tag, weak=False):
        raise errors.PreconditionFailed("If-Match does not name the current version.", headers={"ETag": tag})
    if known is None or not names_tag(known, tag, weak=True):
        return True
    if is_safe:
        return False
    raise errors.PreconditionFailed("If-None-Match names the current version.", headers={"ETag": tag})


def names_tag(header: str, tag: str, *, weak: bool) -> bool:
    """Whether an If-Match or If-None-Match header names the tag (RFC 9110, section 13.1)."""
    tags = [part.strip() for part in header.split(",")]
    return "*" in tags or tag in tags or (weak and f"W/{tag}" in tags)
