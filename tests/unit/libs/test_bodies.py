"""The bodies as the app sees them; tests/integration/libs/test_gunicorn.py tests how they arrive."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.unreader import IterUnreader

from libs.common.errors import Overloaded
from libs.common.server.bodies import Bodies, BodyFirst, _Body
from libs.common.server.requests import Request


def environ_of(framing: str, body: bytes) -> dict[str, Any]:
    """The WSGI environment of a request with this header."""
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.update(environ)
        return []

    name, value = framing.split(": ")
    head = f"POST /x HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode()
    request = Request(Config(), IterUnreader([head + body]), ("127.0.0.1", 5))
    key = {"Content-Length": "CONTENT_LENGTH", "Transfer-Encoding": "HTTP_TRANSFER_ENCODING"}[name]
    BodyFirst(app)({"wsgi.input": request.body, key: value}, lambda *head: None)
    return seen


@pytest.mark.parametrize(
    ("chunks", "body"),
    [(b"0\r\n\r\n", b""), (b"2\r\n{}\r\n0\r\n\r\n", b"{}"), (b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", b"{}")],
)
def test_a_body_in_chunks_has_a_length_like_any_other(chunks: bytes, body: bytes) -> None:
    """An empty one is no body."""
    environ = environ_of("Transfer-Encoding: chunked", chunks)
    assert (environ["CONTENT_LENGTH"], environ["wsgi.input"].read()) == (str(len(body)), body)
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_a_body_that_is_broken_is_still_a_body() -> None:
    environ = environ_of("Transfer-Encoding: chunked", b"x\r\n")
    assert "HTTP_TRANSFER_ENCODING" in environ
    assert "CONTENT_LENGTH" not in environ


def test_a_body_that_ends_too_early_keeps_the_length_that_it_was_to_have() -> None:
    environ = environ_of("Content-Length: 5", b"{}")
    assert (environ["CONTENT_LENGTH"], environ["wsgi.input"].read()) == ("5", b"{}")


def test_a_body_that_is_too_large_is_not_kept_and_its_length_is_told() -> None:
    chunks = (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 17 + b"0\r\n\r\n"
    environ = environ_of("Transfer-Encoding: chunked", chunks)
    assert (environ["CONTENT_LENGTH"], environ["wsgi.input"].read()) == (str(17 * 65536), b"")


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> Bodies:
    """With room for a hundred bytes."""
    monkeypatch.setattr("libs.common.server.waits.Wait.end", lambda wait: None)
    return Bodies(100)


def test_where_there_is_no_more_room_the_oldest_body_is_given_up(bodies: Bodies) -> None:
    first, second, third = (_Body() for _ in range(3))
    for body in (first, second):
        bodies.hold(body, 40)
    bodies.hold(third, 40)
    assert [body.is_given_up for body in (first, second, third)] == [True, False, False]
    bodies.hold(second, 20)
    with pytest.raises(Overloaded):
        bodies.hold(first, 1)


def test_a_body_that_has_arrived_is_not_given_up_for_another(bodies: Bodies) -> None:
    first, second = _Body(), _Body()
    bodies.hold(first, 90)
    bodies.has_arrived(first)
    with pytest.raises(Overloaded):
        bodies.hold(second, 20)
    assert not first.is_given_up
    bodies.release(first)
    bodies.hold(_Body(), 100)


def test_what_is_released_is_room_again(bodies: Bodies) -> None:
    for _ in range(10):
        body = _Body()
        bodies.hold(body, 100)
        bodies.release(body)
        bodies.release(body)
        assert not body.is_given_up
