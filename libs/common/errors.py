"""Errors and their problem documents (RFC 9457): the only mapping from exceptions to statuses.

    Problem
    ├── MalformedRequest 400      ├── PayloadTooLarge 413        ├── InternalError 500
    ├── Unauthenticated 401       ├── UriTooLong 414             ├── UnsupportedTransferCoding 501
    ├── Forbidden 403             ├── UnsupportedMediaType 415   ├── Overloaded 503
    ├── NotFound 404              ├── ExpectationFailed 417      ├── DependencyUnavailable 503
    ├── MethodNotAllowed 405      ├── ValidationFailed 422       └── DeadlineExceeded 504
    ├── InvalidTransition 409     ├── IdempotencyKeyReused 422
    ├── RequestInFlight 409       ├── RateLimited 429
    └── PreconditionFailed 412    └── HeadersTooLarge 431

A service defines its own next to its rules (`class InsufficientStock(Problem)`). Every class has a status, a stable
code and a title. `detail` is for people and must not reveal internals: no host, path, SQL or traceback.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, NotRequired, TypedDict, TypeVar
from urllib.parse import quote

PROBLEM_JSON = "application/problem+json"
NO_STORE = "no-store"
"""The default Cache-Control of answers, and so of every problem."""
MAX_INSTANCE = 8190
"""Characters of `instance`: the length of the longest request line that is accepted."""
MAX_PATH = MAX_INSTANCE // 3
"""Bytes of a path that `instance` shows; percent-encoded, each may take three characters."""
MAX_FAULTS = 100
"""How many faults a problem document lists; without a limit a body could cause as many as it has bytes."""

Raised = TypeVar("Raised", bound=BaseException)


class ProblemDocument(TypedDict):
    """The members of a problem document, as JSON values."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: NotRequired[list[dict[str, Any]]]


class Problem(Exception):
    """An error that the caller gets as a problem document. `errors` is a list of {"pointer", "detail"} with JSON
    pointers (RFC 6901), cut off at MAX_FAULTS.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    retry_after: ClassVar[int | None] = None
    """Seconds for Retry-After; every 429, 503 and 504 has it."""
    example: ClassVar[Mapping[str, Any]] = {}
    """The constructor's arguments for the example in the OpenAPI document."""

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: list[dict[str, Any]] | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.errors = errors
        if errors and len(errors) > MAX_FAULTS:
            self.detail = f"{self.detail.removesuffix('.')}. There are more than {MAX_FAULTS} faults."
            self.errors = errors[:MAX_FAULTS]
        self.headers = dict(headers or {})
        seconds = retry_after if retry_after is not None else self.retry_after
        if seconds is not None:
            self.headers["Retry-After"] = str(seconds)

    def document(self, instance: str, request_id: str) -> ProblemDocument:
        """The problem document. `type` is the path of a page, on every service, that explains the code. `instance` is
        the path of the request, not encoded; the document has it as a URI reference (RFC 3986).
        """
        body: ProblemDocument = {
            "type": f"/errors/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": quote(instance.encode()[:MAX_PATH]),
            "code": self.code,
            "request_id": request_id,
        }
        if self.errors:
            body["errors"] = self.errors
        return body


class MalformedRequest(Problem):
    """The request is malformed: invalid HTTP, JSON or UTF-8, no Host, or a cursor that was not issued for this list."""

    status, code, title = 400, "malformed-request", "Malformed request"
    example: ClassVar = {"detail": "The body is not JSON in UTF-8."}


class Unauthenticated(Problem):
    """No token, or one that is not valid."""

    status, code, title = 401, "unauthenticated", "Authentication is required"


class Forbidden(Problem):
    """The caller is authenticated but lacks a permission."""

    status, code, title = 403, "forbidden", "Not allowed"


class NotFound(Problem):
    """There is no such resource or path."""

    status, code, title = 404, "not-found", "Not found"


class MethodNotAllowed(Problem):
    """The path does not support this method; `Allow` lists those that it supports."""

    status, code, title = 405, "method-not-allowed", "Method not allowed"


class InvalidTransition(Problem):
    """The lifecycle of the resource forbids the step."""

    status, code, title = 409, "invalid-transition", "The lifecycle forbids this"


class RequestInFlight(Problem):
    """Another request with the same Idempotency-Key is still running."""

    status, code, title, retry_after = 409, "request-in-flight", "The same request is still running", 1


class PreconditionFailed(Problem):
    """`If-Match` does not name the current version, or `If-None-Match` of a change names it."""

    status, code, title = 412, "precondition-failed", "The resource has changed"
    example: ClassVar = {"detail": "If-Match does not name the current version."}


class PayloadTooLarge(Problem):
    """The body is larger than the service takes."""

    status, code, title = 413, "payload-too-large", "The body is too large"
    example: ClassVar = {"detail": "At most 1048576 bytes are taken."}


class UriTooLong(Problem):
    """The first line of the request, with the path and the query, is longer than the service takes."""

    status, code, title = 414, "uri-too-long", "The address is too long"


class UnsupportedMediaType(Problem):
    """The body is not JSON, or it has a Content-Encoding."""

    status, code, title = 415, "unsupported-media-type", "Unsupported media type"
    example: ClassVar = {"detail": "Send application/json."}


class ExpectationFailed(Problem):
    """`Expect` asks for something other than `100-continue`."""

    status, code, title = 417, "expectation-failed", "The expectation cannot be met"


class ValidationFailed(Problem):
    """The request is well-formed but not valid; `errors` points at each fault."""

    status, code, title = 422, "validation-failed", "The request is not valid"
    example: ClassVar = {"errors": [{"pointer": "/colour", "detail": "Unknown parameter."}]}


class IdempotencyKeyReused(Problem):
    """The Idempotency-Key was used with another body."""

    status, code, title = 422, "idempotency-key-reused", "The key was used with another request"


class RateLimited(Problem):
    """The caller sends more than the limit allows."""

    status, code, title, retry_after = 429, "rate-limited", "Too many requests", 1


class HeadersTooLarge(Problem):
    """A header is too large, or there are too many."""

    status, code, title = 431, "headers-too-large", "The headers are too large"


class InternalError(Problem):
    """An unexpected error in the service; the log line with the same request id has the traceback."""

    status, code, title = 500, "internal-error", "Internal error"


class UnsupportedTransferCoding(Problem):
    """The body has a Transfer-Encoding other than `chunked`."""

    status, code, title = 501, "unsupported-transfer-coding", "Unsupported transfer coding"


class Overloaded(Problem):
    """The service has too many requests in progress."""

    status, code, title, retry_after = 503, "overloaded", "The service is overloaded", 1


class DependencyUnavailable(Problem):
    """A dependency that the request needs is unavailable."""

    status, code, title, retry_after = 503, "dependency-unavailable", "A dependency is unavailable", 2


class DeadlineExceeded(Problem):
    """The request was not completed before its deadline."""

    status, code, title, retry_after = 504, "deadline-exceeded", "The deadline has passed", 1


class StoredProblem(Problem):
    """The stored problem document of an earlier request, which is sent again unchanged."""

    def __init__(self, document: ProblemDocument, *, replayed: bool = False):
        known = all_problems().get(document["code"], Problem)
        super().__init__(document["detail"], retry_after=known.retry_after)
        self.status = document["status"]  # type: ignore[misc]
        self._document = document
        if replayed:
            self.headers["Idempotent-Replayed"] = "true"

    def document(self, instance: str, request_id: str) -> ProblemDocument:
        return self._document


def copy_of(exc: Raised) -> Raised:
    """A copy of the exception for another caller, who may modify a Problem; the original is its cause. The constructor
    is not called, since that of a subclass may take other arguments.
    """
    copied = type(exc).__new__(type(exc), *exc.args)
    vars(copied).update(deepcopy(vars(exc)) if isinstance(exc, Problem) else vars(exc))
    copied.__cause__ = exc
    return copied


def all_problems() -> dict[str, type[Problem]]:
    """Code → class of every imported problem, as for the error pages."""
    found: dict[str, type[Problem]] = {}
    queue = Problem.__subclasses__()
    while queue:
        cls = queue.pop(0)
        found.setdefault(cls.code, cls)
        queue += cls.__subclasses__()
    return found
