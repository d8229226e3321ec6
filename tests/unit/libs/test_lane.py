"""The lane takes what the server's parser would see in the same way, or nothing; and answers it as Flask does."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.config import Settings
from libs.common.errors import Overloaded
from libs.common.ids import example_id
from libs.common.web.exchange import Operation, json_answer
from tests.differential import PEER, Ways

ID = example_id("order_id")
HEAD = b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\n"
RULES = [
    ("POST", "/orders"), ("GET", "/orders"), ("GET", "/orders/stats"), ("GET", "/orders/<id:order_id>"),
    ("POST", "/orders/<id:order_id>/ship"), ("PATCH", "/orders/<id:order_id>"), ("GET", "/schemas/<name>"),
]  # fmt: skip


def ways_with(**given: Any) -> Ways:
    operations = [Operation(method, rule, lambda exchange, path: json_answer({})) for method, rule in RULES]
    return Ways(operations, Settings(service="order", log_level="CRITICAL", **given))


@pytest.fixture(scope="module")
def ways() -> Ways:
    return ways_with()


PLAIN = [
    HEAD + b"Content-Length: 2\r\nX-Request-ID: one\r\n\r\n{}",
    HEAD + b"\r\n",
    HEAD + b"Connection: Keep-Alive\r\ncontent-LENGTH:0 \t\r\n\r\n",
    HEAD + b"Content-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\nIdempotency-Key: k-1\r\n\r\n{}",
    HEAD + b"traceparent: 00-%s-%s-01\r\nX-Request-Timeout-Ms: 1500\r\n\r\n" % (b"a" * 32, b"b" * 16),
    HEAD + b"X-Request-Timeout-Ms: 0\r\n\r\n",
    HEAD + b"X-Request-ID: \xe9\r\nUser-Agent: quintet-order\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n",
    b"GET /api/orders?user_id=%s&limit=1&created_from=2026-01-01T00:00:00Z HTTP/1.1\r\nHost: x\r\n\r\n" % ID.encode(),
    b"GET /api/v1/orders?limit=1&limit=2 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b'GET /api/v1/orders? HTTP/1.1\r\nHost: x\r\nIf-None-Match: "2"\r\n\r\n',
    b"GET /api/v1/orders/%s HTTP/1.1\r\nHost: x\r\nIf-Match: *\r\n\r\n" % ID.upper().encode(),
    b"POST /api/orders/%s/ship HTTP/1.1\r\nHost: x\r\n\r\n" % ID.encode(),
]


@pytest.mark.parametrize("data", PLAIN)
def test_a_plain_request_is_taken_and_answered_as_by_flask(ways: Ways, data: bytes) -> None:
    assert ways.is_plain(data)
    ways.compare(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n\r\n",
        HEAD[:20],
        HEAD,
        HEAD + b"X: 1",
        HEAD + b"Content-Length: 2\r\n\r\n",
        HEAD + b"Content-Length: 2\r\n\r\n{",
        HEAD + b"Content-Length: 2\r\n\r\n{}x",
        HEAD + b"\r\n{}",
        HEAD + b"\r\n" + HEAD + b"\r\n",
        HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        HEAD + b"Content-Length: +0\r\n\r\n",
        HEAD + b"Content-Length: 0x0\r\n\r\n",
        HEAD + b"Content-Length : 0\r\n\r\n",
        HEAD + b" Content-Length: 2\r\n\r\n",
        HEAD + b"X: 1\nContent-Length: 2\r\n\r\n",
        HEAD + b"X: 1\r\n folded\r\n\r\n",
        HEAD + b"X: a\x00b\r\n\r\n",
        HEAD + b"nonsense\r\n\r\n",
        b"GET /api/orders HTTP/1.1\r\n\r\n",
        b"GET /api/orders HTTP/1.1\r\nHost: x/y\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Expect: 100-continue\r\n\r\n",
        HEAD + b"Upgrade: h2c\r\n\r\n",
        HEAD + b"Origin: http://shop.example\r\n\r\n",
        HEAD + b"Connection: close\r\n\r\n",
        HEAD + b"Connection: keep-alive, Upgrade\r\n\r\n",
        b"\r\n" + HEAD + b"\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /apis HTTP/1.1\r\n\r\n",
        b"GET /api/v1/orders?q=%6f HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/orders?q=a+b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/orders?q HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /api/v1/orders/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/schemas/x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PATCH /api/v1/orders/%s HTTP/1.1\r\nHost: x\r\n\r\n" % ID.encode(),
        HEAD + b"X-Unknown: 1\r\n\r\n",
        HEAD + b"Content_Length: 2\r\n\r\n{}",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        HEAD + b"Accept: %s\r\n" % (b"x" * 10) * 61 + b"\r\n",
        b"GET /api/v1/%6frders HTTP/1.1\r\n\r\n",
        b"GET http://x/api/v1/orders HTTP/1.1\r\n\r\n",
        b"GET /api/v1/orders HTTP/1.0\r\n\r\n",
        b"GET  /api/v1/orders HTTP/1.1\r\n\r\n",
        b"HEAD /api/v1/orders HTTP/1.1\r\n\r\n",
        b"OPTIONS /api/v1/orders HTTP/1.1\r\n\r\n",
        b"CONNECT /api/v1/orders HTTP/1.1\r\n\r\n",
        b"get /api/v1/orders HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_not_plain_whole_and_alone_is_left_to_the_parser(ways: Ways, data: bytes) -> None:
    assert not ways.is_plain(data)


@pytest.mark.parametrize(
    ("proxies", "forwarded", "client"),
    [
        (0, "198.51.100.1", PEER[0]), (1, "198.51.100.1", "198.51.100.1"), (1, "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        (2, "203.0.113.9, 198.51.100.1", "203.0.113.9"), (2, "198.51.100.1", PEER[0]), (1, None, PEER[0]),
    ],
)  # fmt: skip
def test_the_client_of_a_rate_limit_is_the_same_on_both_ways(
    proxies: int, forwarded: str | None, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = ways_with(rate_limit="1000/hour", trusted_proxies=proxies)
    counted: list[str] = []
    limited = {"RateLimit": "x", "RateLimit-Policy": "y"}
    monkeypatch.setattr(ways.frame._limiter, "check", lambda address: counted.append(address) or limited)
    line = f"X-Forwarded-For: {forwarded}\r\n" if forwarded else ""

    ways.compare(HEAD + line.encode() + b"\r\n")

    assert counted == [client, client]


def test_a_refusal_of_the_limiter_is_the_same_on_both_ways() -> None:
    ways = ways_with(rate_limit="1/hour", rate_limit_exempt=())
    ways.frame.admit(ways.frame.begin({}, 0.0), {}, PEER[0])

    ways.compare(HEAD + b"X-Request-ID: one\r\n\r\n")

    assert ways.seen == []


def test_a_refusal_for_want_of_room_is_the_same_on_both_ways() -> None:
    ways = ways_with(max_concurrent_requests=1, max_queued_requests=0)
    ways.admission.enter(None)

    ways.compare(HEAD + b"X-Request-ID: one\r\n\r\n")

    assert ways.seen == []
    with pytest.raises(Overloaded):
        ways.admission.enter(None)


SPACE = st.sampled_from([b""] * 20 + [b" ", b"\t", b"\n", b"\r", b"\x00", b"\x0b"])
NAMES = st.sampled_from([
    b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"Host", b"X", b"", b"Accept",
    b"Idempotency-Key", b"If-None-Match", b"Content-Type", b"X-Request-ID",
])  # fmt: skip
VALUES = st.sampled_from([
    b"0", b"2", b"02", b"2,2", b"chunked", b"keep-alive", b"close", b"a\nContent-Length:2", b"", b"application/json",
    b'"1"', b"\xe9\xff", b"a" * 129,
])  # fmt: skip
ENDS = st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r", b""])
FIELDS = st.lists(st.tuples(SPACE, NAMES, SPACE, st.just(b":"), SPACE, VALUES, SPACE, ENDS), max_size=4)
LINES = st.sampled_from([
    b"GET /api/v1/orders HTTP/1.1\r\nHost: x\r\n", b"POST /api/orders?y=1 HTTP/1.1\r\nHost: x\r\n",
    b"GET /api/v1/orders/%s HTTP/1.1\r\nHost: x:80\r\n" % ID.encode(), b"PUT /api/v1/orders HTTP/1.1\n", b"\r\n",
    b"GET /api/v1/orders?a=1&b=&c=x,y~&a=2 HTTP/1.1\r\nHost: x\r\n",
])  # fmt: skip
BODIES = st.sampled_from([b"", b"{}", b"{}GET /api/x HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"\r\n"])


@settings(max_examples=3000)
@given(line=LINES, fields=FIELDS, body=BODIES)
def test_the_lane_sees_no_end_where_the_parser_does_not(
    ways: Ways, line: bytes, fields: list[tuple[bytes, ...]], body: bytes
) -> None:
    ways.compare(line + b"".join(b"".join(field) for field in fields) + b"\r\n" + body)
