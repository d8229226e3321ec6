"""Both ways of a request compared: through the lane, and through Gunicorn's parser, WSGI and Flask.

The endpoints are replaced, so that nothing happens twice: they record what they get, and answer as the request says. So
the ways are equal if they hand an endpoint the same exchange, and make the same bytes of its answer.
"""

import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from flask import Flask
from gunicorn.config import Config
from gunicorn.http.unreader import IterUnreader

from libs.common import context, errors
from libs.common.config import Settings
from libs.common.server.lane import Lane
from libs.common.server.requests import Request
from libs.common.server.worker import Logger, Worker
from libs.common.web.admission import Admission
from libs.common.web.exchange import Answer, Exchange, Operation, empty_answer, json_answer
from libs.common.web.flask_app import install, make_flask
from libs.common.web.frame import Frame

PEER = ("192.0.2.7", 4711)
_CHANGING = re.compile(rb"(?m)^(Date|X-Request-ID|traceparent): .*$|\"request_id\":\"[^\"]*\"")


class Ways:
    """The two ways to the operations of one service."""

    def __init__(self, operations: list[Operation], settings: Settings):
        self.seen: list[tuple[Any, ...]] = []
        self.frame = frame = Frame(settings)
        app = make_flask(settings, frame)
        self.admission: Admission = app.wsgi_app  # type: ignore[assignment]
        watched = [Operation(one.method, one.rule, self._watch(one)) for one in operations]
        for operation in watched:
            install(app, operation)
        app.extensions["quintet"] = SimpleNamespace(operations=watched, frame=frame, settings=settings)
        self.lane = Lane(watched, frame, self.admission)
        self._worker = _worker(app)

    def _watch(self, operation: Operation) -> Any:
        def handle(exchange: Exchange, path: Mapping[str, str]) -> Answer:
            body = exchange.body.read(2**20)
            work = exchange.work
            self.seen.append((
                operation, dict(path), exchange.method, exchange.path, list(exchange.query), dict(exchange.headers),
                body, round(work.seconds_left(), 1),
            ))  # fmt: skip
            return _answer_to(zlib.crc32(body + exchange.path.encode()))

        return handle

    def is_plain(self, data: bytes) -> bool:
        return self.lane.take(data) is not None

    def compare(self, data: bytes) -> None:
        """Check that a request that the lane takes is answered by both ways alike."""
        plain = self.lane.take(data)
        if plain is None:
            return
        with context.within(context.current()), _silence():
            by_lane = self._answered(plain)
            unreader = IterUnreader([data])
            by_flask = self._answered(Request(self._worker.cfg, unreader, PEER))
        assert unreader.take_buffered() == b""
        assert by_lane == by_flask

    def _answered(self, request: Any) -> tuple[bytes, list[tuple[Any, ...]]]:
        self.seen = []
        client = _Client()
        try:
            self._worker.handle_request(("192.0.2.1", 80), request, client, PEER)
        except StopIteration:
            client.sent += b"(closed)"
        return _CHANGING.sub(b"", client.sent), self.seen


@contextmanager
def _silence() -> Iterator[None]:
    """Without the log lines of both ways."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class _Client:
    """In the place of a socket."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, data: bytes, flags: int = 0, timeout: float = 0.0) -> int:
        self.sent += data
        return len(data)

    sendall = send


def _worker(app: Flask) -> Worker:
    worker: Worker = object.__new__(Worker)
    cfg = Config()
    cfg.set("keepalive", 15)
    worker.cfg, worker.alive, worker.nr, worker.max_requests = cfg, True, 0, 10**9
    worker.app = SimpleNamespace(callable=app)
    worker.log = Logger(cfg)
    worker.use(app)
    return worker


def _answer_to(number: int) -> Answer:
    """An answer of each kind that an endpoint gives."""
    match number % 6:
        case 0:
            return json_answer({"number": number}, 201, {"Location": f"/api/v1/things/{number}", "ETag": '"1"'})
        case 1:
            return empty_answer(204, {"Cache-Control": "no-store"})
        case 2:
            return empty_answer(304, {"Cache-Control": "private, no-cache", "ETag": '"2"'})
        case 3:
            raise errors.ValidationFailed(errors=[{"pointer": "/é", "detail": "Must not be."}])
        case 4:
            raise errors.Overloaded("The database is busy.")
    return json_answer({"items": ["é"] * 100}, 200, {"Cache-Control": "public, max-age=10"})


def ways_of(app: Flask) -> Ways:
    service = app.extensions["quintet"]
    key = service.name
    if key not in _KNOWN:
        settings = Settings(service=key, secret_key=service.settings.secret_key, log_level="CRITICAL")
        _KNOWN[key] = Ways(service.operations, settings)
    return _KNOWN[key]


_KNOWN: dict[str, Ways] = {}


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """The request as a client writes it."""
    own = {"Host": "localhost", **headers, **({} if body is None else {"Content-Length": str(len(body))})}
    lines = [f"{method} {path} HTTP/1.1", *[f"{name}: {value}" for name, value in own.items()], "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + (body or b"")
