import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from libs.common import context, logs

NASTY = ['"', "\\", "\n", "\r\n", "\x00", "\x1b[31m", "\u2028", "é", "😀", "{}", "%s", "'", "\ud800"]


class Written:
    """A logger, and the output of its handler."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self.handler = logs.BatchingHandler(self._write)
        self.handler.setFormatter(logs.Formatter("order"))
        self.log = logging.Logger("quintet.test", logging.DEBUG)
        self.log.addHandler(self.handler)

    def lines(self) -> list[dict[str, Any]]:
        """The lines since the last call."""
        os.set_blocking(self._read, False)
        data = b""
        try:
            while chunk := os.read(self._read, 65536):
                data += chunk
        except BlockingIOError:
            pass
        # Not `splitlines`, which also breaks at U+2028 and others that JSON leaves as they are.
        return [json.loads(line) for line in data.decode().split("\n")[:-1]]

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def written() -> Iterator[Written]:
    made = Written()
    yield made
    made.close()


def test_a_line_has_the_event_its_fields_and_where_it_comes_from(written: Written) -> None:
    written.log.info("order.rejected", extra={"order_id": "o-1", "attempts": 3})
    line = written.line()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "INFO",
        "service": "order",
        "logger": "quintet.test",
        "event": "order.rejected",
        "order_id": "o-1",
        "attempts": 3,
    }


def test_no_line_costs_a_look_for_the_place_that_wrote_it(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[logging.LogRecord] = []
    monkeypatch.setattr(written.handler, "emit", records.append)
    written.log.info("order.rejected")

    assert (records[0].lineno, records[0].process, records[0].thread) == (0, None, None)


def test_a_line_names_the_request_and_the_trace_it_belongs_to(written: Written) -> None:
    work = context.begin(1, request_id="req-1")
    written.log.info("x")
    line = written.line()
    assert (line["request_id"], line["trace_id"]) == ("req-1", work.trace_id)


def test_the_request_of_an_event_wins_over_the_one_that_brought_it(written: Written) -> None:
    context.begin(1, request_id="bringer")
    written.log.info("event", extra={"request_id": "origin"})
    assert written.line()["request_id"] == "origin"


@pytest.mark.parametrize("text", NASTY)
def test_no_text_breaks_a_line(written: Written, text: str) -> None:
    written.log.info("x", extra={"value": f"a{text}b"})
    written.log.info("%s", f"a{text}b")
    in_field, in_event = written.lines()
    # A lone surrogate is not valid text; any replacement will do.
    expected = f"a{text}b".encode(errors="replace").decode()
    assert in_field["value"] == in_event["event"] == expected


@pytest.mark.parametrize("value", [object(), {1, 2}, {1: object()}, b"\xff", 2**200, float("nan"), ["\ud800"]])
def test_no_value_loses_a_line(written: Written, value: Any) -> None:
    written.log.info("kept", extra={"value": value})
    assert written.line()["event"] == "kept"


def test_an_exception_is_one_line_with_its_traceback(written: Written) -> None:
    try:
        raise ValueError('quoted "text"\nin two lines')
    except ValueError:
        written.log.exception("request.failed")
    line = written.line()
    assert line["level"] == "ERROR"
    assert "Traceback (most recent call last)" in line["exc_info"]
    assert 'ValueError: quoted "text"\nin two lines' in line["exc_info"]


@pytest.mark.parametrize("log_dir", [True, False])
def test_a_descriptor_that_is_closed_and_given_to_another_file_gets_no_line(
    make_settings: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_dir: bool
) -> None:
    """The descriptor of a closed stream may be reused for a database."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, open(tmp_path / name, "w"))
    numbers = [sys.stdout.fileno(), sys.stderr.fileno()]
    logs.configure(make_settings("order", log_dir=str(tmp_path) if log_dir else ""))
    sys.stdout.close()
    sys.stderr.close()
    other = os.open(tmp_path / "database", os.O_WRONLY | os.O_CREAT)
    for number in numbers:
        os.dup2(other, number)
    logging.getLogger("quintet").warning("x")
    assert (tmp_path / "database").read_bytes() == b""
    assert '"event":"x"' in (tmp_path / ("stderr" if log_dir else "stdout")).read_text()
    for number in {other, *numbers}:
        os.close(number)


def test_to_configure_again_leaves_no_descriptor_open(make_settings: Callable[..., Any], tmp_path: Path) -> None:
    def configured() -> int:
        logs.configure(make_settings("order", log_dir=str(tmp_path)))
        return len(os.listdir("/proc/self/fd"))

    assert configured() == configured()


def test_until_batching_begins_every_line_leaves_at_once(written: Written) -> None:
    written.log.info("first")
    assert written.line()["event"] == "first"


def test_batched_lines_leave_together_and_in_order(written: Written) -> None:
    written.handler.batching = True
    for number in range(63):
        written.log.info("x", extra={"number": number})
    assert written.lines() == []
    written.log.info("x", extra={"number": 63})
    assert [line["number"] for line in written.lines()] == list(range(64))


def test_a_warning_takes_along_what_waits(written: Written) -> None:
    written.handler.batching = True
    written.log.info("first")
    written.log.warning("second")
    assert [line["event"] for line in written.lines()] == ["first", "second"]


def test_a_line_that_cannot_be_formatted_does_not_stop_the_others(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    written.handler.batching = True
    written.log.info("first")
    written.log.info("%d", "no number")
    written.handler.flush()
    assert [line["event"] for line in written.lines()] == ["first"]


def test_a_reader_that_is_gone_fails_nobody_who_logs(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(written.handler, "descriptor", -1)
    written.log.error("x")


def test_threads_that_log_and_flush_at_once_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    handler = logs.BatchingHandler(descriptor)
    handler.setFormatter(logs.Formatter("order"))
    handler.batching = True
    log = logging.Logger("quintet.test")
    log.addHandler(handler)
    done = threading.Event()

    def write(thread: int) -> None:
        for number in range(1000):
            log.info("x", extra={"value": (thread, number)})

    def flush() -> None:
        while not done.is_set():
            handler.flush()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        flusher = threading.Thread(target=flush)
        for thread in (*writers, flusher):
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        flusher.join()
    finally:
        sys.setswitchinterval(before)
    handler.flush()
    os.close(descriptor)
    values = [tuple(json.loads(line)["value"]) for line in path.read_text().splitlines()]
    assert len(values) == 4000
    assert [v for v in values if v[0] == 2] == [(2, n) for n in range(1000)]


def test_a_large_batch_is_written_to_the_last_byte() -> None:
    """A pipe holds 64 KiB, so the rest must wait for the reader."""
    written = Written()
    seen = bytearray()

    def read() -> None:
        while chunk := os.read(written._read, 4096):
            seen.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    written.handler.batching = True
    for number in range(10):
        written.log.info("x" * 50_000, extra={"number": number})
    written.handler.flush()
    os.close(written._write)
    reader.join()
    os.close(written._read)
    assert [json.loads(line)["number"] for line in seen.decode().splitlines()] == list(range(10))


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=30)


START = """
import logging, sys
from libs.common import logs
from libs.common.config import Settings
logs.configure(Settings(service="order", log_dir=sys.argv[1] if len(sys.argv) > 1 else "", log_level="INFO"))
log = logging.getLogger("quintet")
"""


def test_lines_go_to_standard_output() -> None:
    ran = run(START + "log.info('x'); log.debug('hidden'); log.warning('y')")
    assert [json.loads(line)["event"] for line in ran.stdout.splitlines()] == ["x", "y"]
    assert ran.stderr == ""


def test_with_a_directory_lines_go_to_a_file_and_warnings_to_standard_error_too(tmp_path: Path) -> None:
    ran = run(START + "log.info('x'); log.warning('y')", str(tmp_path / "logs"))
    lines = (tmp_path / "logs" / "order.log").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["x", "y"]
    assert ran.stdout == ""
    assert [json.loads(line)["event"] for line in ran.stderr.splitlines()] == ["y"]


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise RuntimeError"])
def test_nothing_is_lost_at_exit(end: str) -> None:
    ran = run(START + "logs.start_batching()\nfor n in range(10): log.info('x')\n" + end)
    assert len(ran.stdout.splitlines()) == 10


def test_a_waiting_line_leaves_soon_with_no_further_line() -> None:
    program = START + "logs.start_batching(); log.info('x'); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert json.loads(running.stdout.readline())["event"] == "x"
        running.communicate(timeout=10)


def test_what_the_libraries_chat_about_is_left_out() -> None:
    program = START + "[logging.getLogger(n).info('x') for n in ('urllib3.connectionpool', 'alembic.runtime')]"
    assert run(program).stdout == ""


def test_configuring_again_leaves_one_handler(make_settings: Callable[..., Any]) -> None:
    for _ in range(3):
        logs.configure(make_settings("order"))
    assert len([h for h in logging.getLogger().handlers if isinstance(h, logs.BatchingHandler)]) == 1


def test_a_full_disk_ends_nothing(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    written.handler.batching = True
    monkeypatch.setattr(logs, "_handlers", [written.handler])
    with open("/dev/full", "wb") as full, monkeypatch.context() as patch:
        patch.setattr(written.handler, "descriptor", full.fileno())
        written.log.info("lost")
        logs.flush()
    written.log.info("kept")
    logs.flush()
    assert [line["event"] for line in written.lines()] == ["kept"]


# The line of a request ---------------------------------------------------------------------------------------------

LISTED = {"method": "POST", "route": "/api/v1/orders/<id:order_id>", "status": 201, "latency_ms": 12.34}
NOON = 1_790_000_000.0


@pytest.fixture
def handling(written: Written, monkeypatch: pytest.MonkeyPatch) -> Written:
    """All loggers write to this handler and no other, as in a service."""
    monkeypatch.setattr(logging.root, "handlers", [written.handler])
    monkeypatch.setattr(logs, "_handlers", [written.handler])
    monkeypatch.setattr(logging.root, "level", logging.INFO)
    monkeypatch.setattr(logs.REQUESTS, "_cache", {})
    return written


def log_request(method: str = "POST", caller: str | None = None, work: context.Context | None = None) -> None:
    logs.request_line(method, str(LISTED["route"]), 201, 12.34, caller, work)


@pytest.mark.parametrize("method", ["POST", *NASTY[:-1]])  # the last one cannot come from a client
@pytest.mark.parametrize("caller", [None, "order"])
@pytest.mark.parametrize("traceparent", [None, f"00-{'a' * 32}-{'b' * 16}-01", "gone"])
def test_the_line_of_a_request_is_that_of_any_other_event(
    handling: Written, monkeypatch: pytest.MonkeyPatch, method: str, caller: str | None, traceparent: str | None
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOON + 0.123)
    lines: list[str] = []
    monkeypatch.setattr(handling.handler, "write", lambda line, level: lines.append(line))
    work = context.begin(5, "req-1", traceparent)
    if traceparent == "gone":
        context.end()
    log_request(method, caller, context.current())
    extra = {**LISTED, "method": method, **({"caller": caller} if caller else {})}
    logging.getLogger("quintet.request").info("request", extra=extra)
    assert lines[0] == lines[1]
    assert ("req-1" in lines[0]) == (context.current() is work)


@pytest.mark.parametrize("latency", [0.0, 0.01, 0.1, 1.0, 9.99, 100.0, 1234.5, 30_000.25, 1e6 / 3])
def test_the_latency_of_a_request_is_written_as_json(latency: float) -> None:
    latency = round(latency, 2)
    line = logs.Formatter("order").request_line("GET", "/x", 200, latency, None, None)
    assert f'"latency_ms":{orjson.dumps(latency).decode()}' in line


def test_methods_that_clients_invent_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_KNOWN", 10)
    formatter = logs.Formatter("order")
    for number in range(25):
        line = formatter.request_line(f"BREW{number}", "/x", 200, 0.1, None, None)
        assert json.loads(line)["method"] == f"BREW{number}"
        assert len(formatter._known) <= 10


def test_a_time_is_written_with_milliseconds_in_utc() -> None:
    formatter = logs.Formatter("order")
    for created in (NOON, NOON + 0.001, NOON + 0.124, NOON + 0.5, NOON + 0.9994, NOON - 0.001, 0.0, 1e9 + 0.25):
        wanted = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        assert formatter._written(created) == wanted
    assert formatter._written(NOON + 0.9999998) == formatter._written(NOON + 0.999)


def test_the_level_holds_for_the_line_of_a_request(handling: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    log_request()
    assert handling.line()["event"] == "request"
    logging.root.setLevel(logging.WARNING)
    log_request()
    logging.root.setLevel(logging.DEBUG)
    log_request()
    assert len(handling.lines()) == 1


def test_the_line_of_a_request_waits_like_any_other(handling: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    handling.handler.batching = True
    monkeypatch.setattr(logs._flusher, "is_due", True)
    for _ in range(63):
        handling.handler.write("{}", logging.INFO)
    assert handling.lines() == []
    log_request()
    assert len(handling.lines()) == 64


def test_the_line_of_a_request_reaches_other_handlers_too(
    handling: Written, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = context.begin(5, "req-1")
    context.end()
    monkeypatch.setattr(logging.root, "handlers", [handling.handler, caplog.handler])
    log_request(caller="user", work=work)
    (record,) = caplog.records
    assert (record.name, record.getMessage(), vars(record)["caller"]) == ("quintet.request", "request", "user")
    assert handling.line()["request_id"] == "req-1"


def test_a_full_disk_fails_no_request(handling: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "wb") as full, monkeypatch.context() as patch:
        patch.setattr(handling.handler, "descriptor", full.fileno())
        log_request()
    log_request()
    assert handling.line()["event"] == "request"


def test_threads_that_log_requests_and_flush_lose_no_line(handling: Written, tmp_path: Path) -> None:
    path = tmp_path / "log"
    descriptor, pipe = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), handling.handler.descriptor
    handling.handler.descriptor, handling.handler.batching = descriptor, True
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writers = [threading.Thread(target=lambda: [log_request() for _ in range(1000)]) for _ in range(3)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            logs.flush()
    finally:
        sys.setswitchinterval(before)
        logs.flush()
        handling.handler.descriptor = pipe
        os.close(descriptor)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["request"] * 3000
