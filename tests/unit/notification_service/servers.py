"""A real mail server and a real HTTP server on free ports."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class MailServer:
    """Keeps the mails that it accepts. `answers` holds its replies to RCPT by recipient; `after_data` its reply to
    DATA.
    """

    def __init__(self) -> None:
        self.taken: list[Envelope] = []
        self.connections = 0
        self.logins: list[str] = []
        self.answers: dict[str, str] = {}
        self.after_data = "250 OK"
        self.hang_up_at = ""
        self.port = 0

    @property
    def mails(self) -> list[EmailMessage]:
        contents = [envelope.content for envelope in self.taken]
        return [message_from_bytes(c, policy=policy.default) for c in contents if isinstance(c, bytes)]

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.connections += 1
        return responses

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address == self.hang_up_at:
            assert server.transport is not None
            server.transport.close()
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.after_data.startswith("250"):
            self.taken.append(envelope)
        return self.after_data

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append(data.login.decode())
        return AuthResult(success=data.password == b"p@ss", handled=False)


class _Controller(Controller):
    def _trigger_server(self) -> None:
        """Connects once, so that the server runs before the test starts. The original does so over plain TCP only."""
        if self.ssl_context is None:
            super()._trigger_server()
            return
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((self.hostname, self.port)) as plain, trusting.wrap_socket(plain) as hello:
            hello.recv(1024)


@contextmanager
def mail_server(
    *, tls: ssl.SSLContext | None = None, starttls: bool = False, login: bool = False
) -> Iterator[MailServer]:
    """With `tls` and without `starttls` it uses TLS from the start."""
    handler = MailServer()
    handler.port = free_port()
    options: dict[str, Any] = {"authenticator": handler.authenticate, "auth_require_tls": False} if login else {}
    if tls and starttls:
        options["tls_context"] = tls
    elif tls:
        options["ssl_context"] = tls
    controller = _Controller(handler, hostname="127.0.0.1", port=handler.port, **options)
    controller.start()
    try:
        yield handler
    finally:
        controller.stop()


class HttpServer:
    """Keeps the posted requests, and answers with `status`; 0 closes the connection instead."""

    def __init__(self) -> None:
        self.status = 202
        self.headers: dict[str, str] = {}
        self.posted: list[tuple[str, dict[str, str], Any]] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"


@contextmanager
def http_server(tls: ssl.SSLContext | None = None) -> Iterator[HttpServer]:
    kept = HttpServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(kept))
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    kept.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(kept: HttpServer) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.posted.append((self.path, dict(self.headers.items()), orjson.loads(body)))
            if not kept.status:
                self.close_connection = True
                return
            self.send_response(kept.status)
            for name, value in kept.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
