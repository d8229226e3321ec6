"""JSON logs: one object a line, with the request id and the trace id of the work that wrote it.

A log event is a fixed name with identifiers as fields: `log.info("order.rejected", extra={"order_id": ...})`. Log
lines hold no personal data: never log an address, a token, a name or a whole object.
"""

import atexit
import logging
import os
import sys
import threading
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

_reserved = frozenset(RESERVED_ATTRS)


class Formatter(OrjsonFormatter):
    """Adds time, level, service, request id and trace id; an exception becomes `exc_info` with its traceback."""

    def __init__(self, service: str):
        super().__init__("%(message)s", rename_fields={"message": "event"})
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """A fast path for records without arguments or exception; the base class takes three times as long for them."""
        if record.args or record.exc_info or record.stack_info or not isinstance(record.msg, str):
            return super().format(record)
        log_data = {**self._head(record), "event": record.msg}
        for name, value in vars(record).items():
            if name not in _reserved:
                log_data[name] = value
        self._add_work(log_data)
        return self.jsonify_log_record(log_data)

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data.update(self._head(record))
        super().add_fields(log_data, record, message_dict)
        self._add_work(log_data)

    def _head(self, record: logging.LogRecord) -> dict[str, Any]:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        return {"time": time, "level": record.levelname, "service": self.service, "logger": record.name}

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

    Warnings and errors are written at once, other lines at the 64th or when `flush` is called, as a worker does five
    times a second. Until `batching` is set, every line is written at once.
    """

    def __init__(self, descriptor: int):
        super().__init__()
        self.descriptor = descriptor
        self.batching = False
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record))
            if not self.batching or record.levelno >= logging.WARNING or len(self._lines) >= 64:
                self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        self.acquire()
        try:
            lines, self._lines = self._lines, []
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


def start_batching() -> None:
    """From now on, in this process, write lines five times a second and at exit."""
    for handler in _handlers:
        handler.batching = True
    atexit.register(flush)
    threading.Thread(target=_flush_often, name="logs", daemon=True).start()


def flush() -> None:
    for handler in _handlers:
        with suppress(OSError):  # a full disk may lose lines, but must not end the thread or disturb the shutdown
            handler.flush()


def _flush_often() -> None:
    pause = threading.Event()
    while not pause.wait(0.2):
        flush()
