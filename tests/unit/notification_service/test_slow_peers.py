"""Slow peers, tested in a separate process that gevent patches, as in a worker."""

import subprocess
import sys

import pytest

RUN = """
from gevent import monkey
monkey.patch_all()
import socket, sys, threading, time
from libs.common.calls.permission import Permission
from notification_service import channels
from tests.unit.notification_service.samples import a_message

channels.OPEN_SECONDS = channels.EXCHANGE_SECONDS = 1.0
listener = socket.create_server(("127.0.0.1", 0))
port, beginning = listener.getsockname()[1], sys.argv[2].encode().decode("unicode_escape").encode()

def drip():
    connection, _ = listener.accept()
    connection.sendall(beginning)
    for _ in range(200):
        time.sleep(0.1)
        connection.sendall(b"1")

threading.Thread(target=drip, daemon=True).start()
channel = {
    "webhook": channels.WebhookChannel(Permission([f"127.0.0.1:{port}"], ["127.0.0.0/8"])),
    "gateway": channels.GatewayChannel("push", f"http://127.0.0.1:{port}/"),
    "mail": channels.EmailChannel(f"smtp://127.0.0.1:{port}", "shop@example.org"),
}[sys.argv[1]]
started, outcome = time.monotonic(), "sent"
try:
    with channel.open() as post:
        post(a_message(channel="webhook", to=f"http://127.0.0.1:{port}/"))
except (channels.Refused, channels.ChannelDown) as exc:
    outcome = type(exc).__name__
print(outcome, time.monotonic() - started < 10)
"""


@pytest.mark.parametrize(
    ("channel", "beginning", "outcome"),
    [
        ("webhook", "", "Refused"),
        # Its status says that it has accepted the message; the body is not needed.
        ("webhook", r"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", "sent"),
        ("gateway", r"HTTP/1.1 200 OK\r\nX: ", "TransientFailure"),
        ("mail", "220 ", "ChannelDown"),
        ("mail", r"220 hi\r\n250 hi\r\n250 sender\r\n250 to\r\n354 go\r\n2", "TransientFailure"),
        # It accepts the message and then keeps the connection open.
        ("mail", r"220 hi\r\n250 hi\r\n250 sender\r\n250 to\r\n354 go\r\n250 taken\r\n2", "sent"),
    ],
)
def test_a_receiver_that_answers_too_slowly_holds_nobody_up(channel: str, beginning: str, outcome: str) -> None:
    """Otherwise its lease would end, and another worker would send the message again, and so on for ever."""
    command = [sys.executable, "-c", RUN, channel, beginning]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{outcome} True\n", done.stderr
