"""An exchange: a request as an endpoint sees it, and its answer, whatever has read the one and sends the other.

There are two adapters: Flask (flask_app.py), which owns every route, and the lane (server/lane.py), which takes plain
requests from their bytes. An endpoint knows neither.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import orjson

from libs.common import errors
from libs.common.context import Context

JSON = "application/json"

log = logging.getLogger("quintet.request")


class Body(Protocol):
    def read(self, size: int) -> bytes:
        """Up to `size` bytes; raises an exception of the server where the body is malformed."""


@dataclass(slots=True)
class Exchange:
    """A request whose body has arrived."""

    method: str
    path: str
    """Decoded, as it was requested."""
    query: Sequence[tuple[str, str]]
    """Names and values, decoded, in the order of the request."""
    headers: Mapping[str, str]
    """By name in lower case."""
    body: Body
    work: Context


Headers = dict[str, str]
Answer = tuple[int, Headers, bytes]
"""Status, headers and body. The headers include Cache-Control and, where there is a body, Content-Type and
Content-Length.
"""

Handler = Callable[[Exchange, Mapping[str, str]], Answer]
"""Answers a request; the second argument has the parameters of the path. May raise any exception."""


class Operation(NamedTuple):
    """What is served below /api; `rule` is without the prefix."""

    method: str
    rule: str
    handle: Handler


@cache
def reason(status: int) -> str:
    """The status with its reason phrase."""
    return f"{status} {HTTPStatus(status).phrase}"


def empty_answer(status: int, headers: Headers) -> Answer:
    """An answer that can have no body: 204 or 304."""
    return status, headers, b""


def json_answer(content: Any, status: int = 200, headers: Headers | None = None, media_type: str = JSON) -> Answer:
    return bytes_answer(orjson.dumps(content), status, headers, media_type)


def bytes_answer(body: bytes, status: int, headers: Headers | None, media_type: str) -> Answer:
    """An answer whose body is encoded already; it is not stored unless the headers have another Cache-Control."""
    own = {"Content-Type": media_type, "Content-Length": str(len(body))}
    return status, {"Cache-Control": errors.NO_STORE, **(headers or {}), **own}, body


def problem_answer(problem: errors.Problem, path: str, request_id: str) -> Answer:
    document = problem.document(path, request_id)
    return json_answer(document, problem.status, problem.headers, errors.PROBLEM_JSON)


def answer(call: Callable[[], Answer], path: str, work: Context) -> Answer:
    """The answer of the call, or the problem document of what it raises."""
    try:
        return call()
    except errors.Problem as problem:
        return problem_answer(problem, path, work.request_id)
    except Exception as exc:
        log.error("request.failed", exc_info=exc)
        return problem_answer(errors.InternalError(), path, work.request_id)
