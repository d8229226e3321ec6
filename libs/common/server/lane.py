"""The lane: plain requests go from their bytes to their endpoint, past Gunicorn's parser, WSGI and Flask (ADR 18).

Flask owns every route and answers whatever is not plain. What is plain is decided by the bytes alone: one complete
GET or POST of a declared operation, with nothing behind it, whose headers are all known here. The lane must be stricter
than Gunicorn's parser: if the two disagreed on the end of a request, a client could smuggle another one.
"""

import io
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from libs.common import context
from libs.common.errors import Overloaded
from libs.common.server.answers import encode
from libs.common.server.requests import is_host
from libs.common.web.admission import Admission, encode_problem
from libs.common.web.exchange import Answer, Exchange, Operation, answer
from libs.common.web.frame import Frame, common_headers
from libs.common.web.routes import ALIAS, PREFIX

_head = re.compile(
    rb"(GET|POST) (/api/[A-Za-z0-9/_-]*)(?:\?([A-Za-z0-9_.~=&:,-]*))? HTTP/1\.1"
    rb"((?:\r\n[A-Za-z0-9-]+:[\t -~\x80-\xff]*){1,60})"
)
_id = re.compile(r"/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?=/|\Z)")
_parameter = re.compile(r"<id:(\w+)>")
_KNOWN = frozenset({
    "host", "user-agent", "accept", "accept-encoding", "accept-language", "cache-control", "pragma", "referer",
    "connection", "content-type", "content-length", "idempotency-key", "if-match", "if-none-match", "traceparent",
    "tracestate", "x-request-id", "x-request-timeout-ms", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port",
    "x-forwarded-proto", "x-real-ip", "forwarded", "via", "priority", "dnt", "sec-fetch-dest", "sec-fetch-mode",
    "sec-fetch-site", "sec-fetch-user", "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform",
})  # fmt: skip
"""Headers that endpoints read or that change nothing. A request with any other one is not plain."""


@dataclass
class Plain:
    """A plain request; to Gunicorn's loop it looks like a request without a body."""

    operation: Operation
    rule: str
    parameters: Mapping[str, str]
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    content: bytes

    proxy_protocol_info = None
    body = io.BytesIO()

    def should_close(self) -> bool:
        return False


LARGEST = 16 * 1024
"""Bytes of a plain request. It is in memory when it is judged; the bodies of others are counted (bodies.py)."""


class Lane:
    """The lane of one process."""

    def __init__(self, operations: Iterable[Operation], frame: Frame, admission: Admission):
        self._frame, self._admission = frame, admission
        self._table: dict[tuple[str, str], tuple[Operation, str, list[str]]] = {}
        for operation in operations:
            names = _parameter.findall(operation.rule)
            for rule in (PREFIX + operation.rule, ALIAS + operation.rule):
                self._table[operation.method, _parameter.sub("*", rule)] = operation, rule, names

    def take(self, data: bytes) -> Plain | None:
        """The request, if `data` is exactly one plain request."""
        head, end, content = data.partition(b"\r\n\r\n")
        found = _head.fullmatch(head) if end and len(data) <= LARGEST else None
        if not found:
            return None
        method, path, query, lines = (part.decode("latin-1") if part else "" for part in found.groups())
        target = self._table.get((method, _id.sub("/*", path)))
        headers, pairs = _read_headers(lines), _read_query(query)
        if target is None or headers is None or pairs is None or not _is_complete(method, headers, content):
            return None
        operation, rule, names = target
        parameters = dict(zip(names, _id.findall(path.lower()), strict=True)) if names else {}
        return Plain(operation, rule, parameters, path, pairs, headers, content)

    def answer(self, plain: Plain, peer: str, connection: str) -> bytes:
        """The bytes of the answer; `connection` is `keep-alive` or `close`."""
        given, method = plain.headers, plain.operation.method
        try:
            waited = self._admission.enter(given.get("x-request-timeout-ms"))
        except Overloaded as problem:
            headers, body = encode_problem(problem, plain.path, context.request_id_of(given.get("x-request-id")))
            return encode(problem.status, connection, headers, body)
        started = time.perf_counter() - waited
        try:
            work = self._frame.begin(given, waited)
            exchange = Exchange(method, plain.path, plain.query, given, io.BytesIO(plain.content), work)
            limits: dict[str, str] = {}

            def ask() -> Answer:
                limits.update(self._frame.admit(work, given, peer))
                return plain.operation.handle(exchange, plain.parameters)

            status, own, body = answer(ask, plain.path, work)
            headers = [*own.items(), *common_headers(work).items(), ("Vary", "Origin"), *limits.items()]
            seconds = time.perf_counter() - started
            self._frame.record(method, plain.rule, status, seconds, given.get("user-agent"), work)
        finally:
            context.end()
            self._admission.leave()
        return encode(status, connection, headers, body)


def _read_headers(lines: str) -> dict[str, str] | None:
    headers: dict[str, str] = {}
    for line in lines.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name not in _KNOWN or name in headers or not value:
            return None
        headers[name] = value
    return headers


def _read_query(query: str) -> list[tuple[str, str]] | None:
    """Names and values; None if the query is not plain."""
    if not query:
        return []
    pairs = [part.partition("=") for part in query.split("&")]
    return [(name, value) for name, _, value in pairs] if all(name and mark for name, mark, _ in pairs) else None


def _is_complete(method: str, headers: Mapping[str, str], content: bytes) -> bool:
    """Whether the body is there, with nothing behind it, and the connection remains."""
    declared = headers.get("content-length")
    if declared != str(len(content)) and (declared is not None or content):
        return False
    if method == "GET" and content:
        return False
    return headers.get("connection", "keep-alive").lower() == "keep-alive" and is_host(headers.get("host", ""))
