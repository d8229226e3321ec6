"""Records the calls between the services: each service calls the others through recording proxies."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import requests

from libs.topology import SERVICES
from tests.e2e.shop import Json
from tests.e2e.system import System

PUBLISHERS = ("user", "order", "notification")


class Exchange(NamedTuple):
    """A call of one service by another: the request and the answer."""

    caller: str
    callee: str
    method: str
    path: str
    headers: Message
    body: bytes
    status: int
    answer: bytes


def deliveries_among(exchanges: Sequence[Exchange]) -> list[Exchange]:
    """Those that bring a batch of events."""
    return [exchange for exchange in exchanges if exchange.path == "/api/v1/events"]


def events_of(delivery: Exchange) -> list[Json]:
    events: list[Json] = json.loads(delivery.body)
    return events


@contextmanager
def recorded(system: System, callers: Sequence[str] = SERVICES) -> Iterator[list[Exchange]]:
    """Restart the callers so that they call through recorders, and restart them again at the end. The list grows with
    each of their calls, in the order of the answers.
    """
    exchanges: list[Exchange] = []
    with ExitStack() as recorders:
        urls = {
            caller: {
                f"{callee.upper()}_SERVICE_URL": recorders.enter_context(
                    _recorder(caller, callee, system.api.url(callee), exchanges)
                )
                for callee in SERVICES
            }
            for caller in callers
        }
        system.stop(*callers)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda caller: system.start(caller, **urls[caller]), callers))
        try:
            yield exchanges
        finally:
            system.stop(*callers)
            system.start(*callers)


@contextmanager
def _recorder(caller: str, callee: str, url: str, exchanges: list[Exchange]) -> Iterator[str]:
    """The URL of a server that forwards every request."""
    own = threading.local()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not hasattr(own, "session"):
                own.session = requests.Session()
                own.session.headers.clear()
            answer = own.session.request(self.command, url + self.path, data=body, headers=dict(self.headers.items()))
            seen = (self.command, self.path, self.headers, body, answer.status_code, answer.content)
            exchanges.append(Exchange(caller, callee, *seen))
            self.send_response_only(answer.status_code)
            for name, value in answer.headers.items():
                if name not in ("Connection", "Transfer-Encoding"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def log_message(self, *args: Any) -> None:
            """It is written down already."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
