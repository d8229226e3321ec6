import re
import threading
import time

import pytest

from libs.common import context

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-00"


def test_a_request_id_is_taken() -> None:
    assert context.begin(1, request_id="Req_1.a-B").request_id == "Req_1.a-B"
    assert context.begin(1, request_id="x" * 128).request_id == "x" * 128


@pytest.mark.parametrize("bad", ["", "x" * 129, "a b", "a\n", "\n", "é", "a/b", '"', None])
def test_a_bad_request_id_is_replaced(bad: str | None) -> None:
    made = context.begin(1, request_id=bad).request_id
    assert made != bad
    assert len(made) == 32
    assert context.begin(1, request_id=bad).request_id != made


def test_a_trace_goes_on_in_a_span_of_our_own() -> None:
    work = context.begin(1, traceparent=PARENT)
    assert work.trace_id == TRACE
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-00", work.traceparent)
    assert work.traceparent != PARENT


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "00-0-0-0",
        PARENT.upper(),
        PARENT + "\n",
        PARENT + "-x",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
    ],
)
def test_a_bad_traceparent_starts_a_new_trace(bad: str | None) -> None:
    work = context.begin(1, traceparent=bad)
    assert len(work.trace_id) == 32
    assert work.trace_id != TRACE
    assert re.fullmatch(f"00-{work.trace_id}-[0-9a-f]{{16}}-01", work.traceparent)


def test_all_work_has_ids_of_its_own() -> None:
    works = [context.begin(1) for _ in range(100)]
    ids = [text for work in works for text in (work.request_id, *work.traceparent.split("-")[1:3])]
    assert len(set(ids)) == 300


def test_the_deadline_is_ours_or_the_callers_whichever_is_earlier() -> None:
    assert 4.9 < context.begin(5).seconds_left() <= 5
    assert 0.2 < context.begin(5, timeout_ms="250").seconds_left() <= 0.25
    assert 4.9 < context.begin(5, timeout_ms="60000").seconds_left() <= 5
    assert context.begin(5, timeout_ms="0").seconds_left() <= 0


def test_the_time_that_work_has_waited_is_gone() -> None:
    assert 2.9 < context.begin(5, waited=2).seconds_left() <= 3
    assert context.begin(5, timeout_ms="250", waited=0.3).seconds_left() <= 0


@pytest.mark.parametrize("bad", ["", "-1", "1.5", "1e3", "²", "٣", "soon", " 1", None])
def test_a_bad_timeout_counts_as_absent(bad: str | None) -> None:
    assert context.begin(5, timeout_ms=bad).seconds_left() > 4.9


def test_a_timeout_of_a_million_digits_costs_nothing() -> None:
    started = time.process_time()
    assert context.begin(5, timeout_ms="9" * 1_000_000).seconds_left() > 4.9
    assert time.process_time() - started < 1


def test_each_thread_has_work_of_its_own() -> None:
    mine = context.begin(1, request_id="mine")
    seen: list[object] = []

    def other() -> None:
        seen.append(context.current())
        seen.append(context.begin(1, request_id="other").request_id)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [None, "other"]
    assert context.current() is mine


def test_work_that_has_ended_is_gone() -> None:
    context.begin(1)
    context.end()
    assert context.current() is None
