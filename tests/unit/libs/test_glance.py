"""A glance sees what the server's parser would see, or nothing."""

import pytest
from gunicorn.config import Config
from gunicorn.http.unreader import IterUnreader
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.server.glance import Glance, glance, parse_leniently
from libs.common.server.requests import Request

CFG = Config()
HEAD = b"POST /api/v1/orders HTTP/1.1\r\nHost: x\r\n"


def test_a_plain_request_is_seen() -> None:
    assert glance(HEAD + b"Content-Length: 2\r\nX-Request-ID: one\r\n\r\n{}") == Glance("/api/v1/orders", "one")
    assert glance(HEAD + b"\r\n") == Glance("/api/v1/orders", None)
    assert glance(b"GET /api/orders?user_id=%20&limit=1 HTTP/1.1\r\nHost: x\r\n\r\n") == Glance("/api/orders", None)
    assert glance(HEAD + b"Connection: Keep-Alive\r\ncontent-LENGTH:0 \t\r\n\r\n") == Glance("/api/v1/orders", None)


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
def test_what_is_not_plain_whole_and_alone_is_left_to_the_parser(data: bytes) -> None:
    assert glance(data) is None


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", Glance("/", None)),
        (b"good morning\r\n", Glance("/", None)),
        (b"\x16\x03\x01\xff /x ", Glance("/", None)),
        (b"GET /api/v1/orders", Glance("/", None)),
        (b"GET /api/v1/orders?q=" + b"x" * 9000, Glance("/api/v1/orders", None)),
        (b"GET /caf%C3%A9/%ff HTTP/1.1\r\n", Glance("/café/\ufffd", None)),
        (b"GET http://shop.example/x HTTP/9\r\n", Glance("/x", None)),
        (b"\r\nHEAD /x HTTP/1.1\r\n", Glance("/x", None, is_head=True)),
        (b"HEADER /x HTTP/1.1\r\n", Glance("/x", None)),
        (b"x\r\nx-request-id:  one \r\n", Glance("/", "one")),
        (b"GET /x HTTP/1.1\r\nY-X-Request-ID: one\r\n", Glance("/x", None)),
    ],
)
def test_of_what_is_no_request_as_much_is_made_out_as_can_be(data: bytes, seen: Glance) -> None:
    assert parse_leniently(data) == seen


SPACE = st.sampled_from([b""] * 20 + [b" ", b"\t", b"\n", b"\r", b"\x00", b"\x0b"])
NAMES = st.sampled_from([b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"Host", b"X", b""])
VALUES = st.sampled_from([b"0", b"2", b"02", b"2,2", b"chunked", b"keep-alive", b"close", b"a\nContent-Length:2", b""])
ENDS = st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r", b""])
FIELDS = st.lists(st.tuples(SPACE, NAMES, SPACE, st.just(b":"), SPACE, VALUES, SPACE, ENDS), max_size=3)
LINES = st.sampled_from(
    [b"GET /api/x HTTP/1.1\r\nHost: x\r\n", b"POST /api/x?y HTTP/1.1\r\nHost: x\r\n", b"PUT /api/x HTTP/1.1\n", b"\r\n"]
)
BODIES = st.sampled_from([b"", b"{}", b"{}GET /api/x HTTP/1.1\r\n\r\n", b"0\r\n\r\n", b"\r\n"])


@settings(max_examples=2000)
@given(LINES, FIELDS, BODIES)
def test_a_glance_sees_no_end_where_the_parser_does_not(
    line: bytes, fields: list[tuple[bytes, ...]], body: bytes
) -> None:
    data = line + b"".join(b"".join(field) for field in fields) + b"\r\n" + body
    seen = glance(data)
    if seen is None:
        return
    unreader = IterUnreader([data])
    parsed = Request(CFG, unreader, ("127.0.0.1", 5))
    assert parsed.path == seen.path
    assert not parsed.should_close()
    assert parsed.body.reader.length == len(parsed.body.read())
    assert unreader.take_buffered() == b""
