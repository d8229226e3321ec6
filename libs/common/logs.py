"""JSON logs: one object a line, with the request id and the trace id of the work that wrote it.

A log event is a fixed name with identifiers as fields: `log.info("order.rejected", extra={"order_id": ...})`. Log
lines hold no personal data: never log an address, a token, a name or a whole object.
"""

import logging
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import orjson
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.orjson import OrjsonFormatter

from libs.common import context
from libs.common.config import Settings
from libs.common.files import make_private_folder, open_private
from libs.common.flushing import Flusher

REQUESTS = logging.getLogger("quintet.request")
MAX_KNOWN = 1000
"""Kinds of requests whose lines are half prepared."""

_reserved = frozenset(RESERVED_ATTRS)


class Formatter(OrjsonFormatter):
    """Adds time, level, service, request id and trace id; an exception becomes `exc_info` with its traceback."""

    def __init__(self, service: str):
        super().__init__("%(message)s", rename_fields={"message": "event"})
        self.service = service
        self._last = (-1, "")
        """The second of the last line, and how it was written."""
        self._known: dict[tuple[str, str, int, str | None], tuple[str, str]] = {}

    def format(self, record: logging.LogRecord) -> str:
        """A fast path for records without arguments or exception; the base class takes three times as long for them."""
        if record.args or record.exc_info or record.stack_info or not isinstance(record.msg, str):
            return super().format(record)
        log_data = self._head(record.created, record.levelname, record.name)
        log_data["event"] = record.msg
        for name, value in vars(record).items():
            if name not in _reserved:
                log_data[name] = value
        self._add_work(log_data)
        return self.jsonify_log_record(log_data)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data.update(self._head(record.created, record.levelname, record.name))
        super().add_fields(log_data, record, message_dict)
        self._add_work(log_data)

    def request_line(
        self,
        method: str,
        route: str,
        status: int,
        milliseconds: float,
        caller: str | None,
        work: context.Context | None,
    ) -> str:
        """The line of an answered request, as `format` would write it."""
        known = self._known.get((method, route, status, caller))
        before, after = known or self._remember(method, route, status, caller)
        # Of the ids it is known that JSON leaves them as they are.
        ids = f',"request_id":"{work.request_id}","trace_id":"{work.trace_id}"' if work else ""
        return f'{{"time":"{self._written(time.time())}",{before},"latency_ms":{milliseconds}{after}{ids}}}'

    def _remember(self, method: str, route: str, status: int, caller: str | None) -> tuple[str, str]:
        """The parts of a line that are alike for many requests: before and after the latency."""
        fields = {"level": "INFO", "service": self.service, "logger": REQUESTS.name, "event": "request"}
        before = self.jsonify_log_record({**fields, "method": method, "route": route, "status": status})[1:-1]
        after = "," + self.jsonify_log_record({"caller": caller})[1:-1] if caller else ""
        if len(self._known) >= MAX_KNOWN:  # a client may invent methods
            self._known.clear()
        self._known[method, route, status, caller] = before, after
        return before, after

    def _head(self, created: float, level: str, logger: str) -> dict[str, Any]:
        return {"time": self._written(created), "level": level, "service": self.service, "logger": logger}

    def _written(self, created: float) -> str:
        """The time in UTC with milliseconds. All but these is written only once a second."""
        second = int(created)
        last = self._last
        if second != last[0]:
            last = self._last = (second, datetime.fromtimestamp(second, UTC).isoformat()[:-6])
        milliseconds = min(round((created - second) * 1_000_000) // 1000, 999)
        return f"{last[1]}.{milliseconds:03}Z"

    def _add_work(self, log_data: dict[str, Any]) -> None:
        if work := context.current():
            log_data.setdefault("request_id", work.request_id)
            log_data.setdefault("trace_id", work.trace_id)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        try:
            return super().jsonify_log_record(log_data)
        except TypeError:  # orjson refuses lone surrogates and integers of more than 64 bits
            return orjson.dumps({name: _printable(value) for name, value in log_data.items()}).decode()


def _printable(value: Any) -> str:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ascii(value)


class BatchingHandler(logging.Handler):
    """Writes lines to a file descriptor, which it owns, many with one system call.

    Warnings and errors are written at once, other lines at the 64th or when `flush` is called, in a worker 0.2 seconds
    after the first line that waits. Until `batching` is set, every line is written at once.
    """

    def __init__(self, descriptor: int):
        super().__init__()
        self.descriptor = descriptor
        self.batching = False
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record), record.levelno)
        except Exception:
            self.handleError(record)

    def write(self, line: str, level: int) -> None:
        """Write a formatted line; needs no lock."""
        self._lines.append(line)
        if not self.batching or level >= logging.WARNING or len(self._lines) >= 64:
            self.flush()
        elif not _flusher.is_due:
            _flusher.changed()

    def flush(self) -> None:
        self.acquire()
        try:
            lines = self._lines[:]
            # Further lines may have come meanwhile.
            del self._lines[: len(lines)]
            data = "".join(f"{line}\n" for line in lines).encode()
            while data:
                data = data[os.write(self.descriptor, data) :]
        finally:
            self.release()

    def close(self) -> None:
        for step in (self.flush, lambda: os.close(self.descriptor)):
            with suppress(OSError):
                step()
        self.descriptor = -1
        super().close()


_handlers: list[BatchingHandler] = []


# No line shows these, and they are expensive to determine (see "Optimization" in the logging HOWTO).
logging._srcfile = None
logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def configure(settings: Settings) -> None:
    """Send the root logger to a file in LOG_DIR or to standard output; with a file, warnings also go to standard
    error.
    """
    if not settings.log_dir:
        descriptor = _copy_of(sys.stdout)
    else:
        make_private_folder(Path(settings.log_dir))
        path = os.path.join(settings.log_dir, f"{settings.service}.log")
        descriptor = open_private(path, os.O_WRONLY | os.O_APPEND)
    _handlers[:] = [BatchingHandler(descriptor)]
    if settings.log_dir:
        _handlers.append(BatchingHandler(_copy_of(sys.stderr)))
        _handlers[1].setLevel(logging.WARNING)
    for handler in _handlers:
        handler.setFormatter(Formatter(settings.service))
    logging.basicConfig(level=settings.log_level, handlers=list(_handlers), force=True)
    # These libraries log their own requests and steps at INFO.
    for noisy in ("urllib3", "gunicorn.access", "alembic", "amqp", "kombu"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def to_stderr() -> None:
    """Send log lines to standard error, in a command whose standard output is its result."""
    for handler in _handlers:
        os.close(handler.descriptor)
        handler.descriptor = _copy_of(sys.stderr)


def _copy_of(stream: TextIO) -> int:
    """A duplicate descriptor: if the stream is closed, its number may be reused for another file, even a database."""
    return os.dup(stream.fileno())


def request_line(
    method: str, route: str, status: int, milliseconds: float, caller: str | None, work: context.Context | None
) -> None:
    """Log an answered request. The line is that of `info("request", extra=...)`, at a quarter of the cost, since every
    request has one.
    """
    if not REQUESTS.isEnabledFor(logging.INFO):
        return
    if logging.root.handlers != _handlers or not _handlers:  # something else reads the records, such as a test
        fields = {"method": method, "route": route, "status": status, "latency_ms": milliseconds}
        if caller:
            fields["caller"] = caller
        with context.within(work):
            REQUESTS.info("request", extra=fields)
        return
    handler = _handlers[0]  # the other one, if any, takes only warnings
    assert isinstance(handler.formatter, Formatter)
    line = handler.formatter.request_line(method, route, status, milliseconds, caller, work)
    with suppress(OSError):  # as in `flush`
        handler.write(line, logging.INFO)


def start_batching() -> None:
    """From now on, in this process, write lines that are not urgent 0.2 seconds later and at exit."""
    for handler in _handlers:
        handler.batching = True
    _flusher.start()


def flush() -> None:
    for handler in _handlers:
        with suppress(OSError):  # a full disk may lose lines, but must not end the thread or disturb the shutdown
            handler.flush()


_flusher = Flusher(flush)
