"""What is known of a request that is malformed."""

import pytest

from libs.common.server.requests import Seen, parse_leniently


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (b"", Seen("/", None)),
        (b"good morning\r\n", Seen("/", None)),
        (b"\x16\x03\x01\xff /x ", Seen("/", None)),
        (b"GET /api/v1/orders", Seen("/", None)),
        (b"GET /api/v1/orders?q=" + b"x" * 9000, Seen("/api/v1/orders", None)),
        (b"GET /caf%C3%A9/%ff HTTP/1.1\r\n", Seen("/café/\ufffd", None)),
        (b"GET http://shop.example/x HTTP/9\r\n", Seen("/x", None)),
        (b"\r\nHEAD /x HTTP/1.1\r\n", Seen("/x", None, is_head=True)),
        (b"HEADER /x HTTP/1.1\r\n", Seen("/x", None)),
        (b"x\r\nx-request-id:  one \r\n", Seen("/", "one")),
        (b"GET /x HTTP/1.1\r\nY-X-Request-ID: one\r\n", Seen("/x", None)),
    ],
)
def test_of_what_is_no_request_as_much_is_made_out_as_can_be(data: bytes, seen: Seen) -> None:
    assert parse_leniently(data) == seen
