"""In a process of its own: the launcher patches the standard library when it is loaded."""

import os
import subprocess
import sys

from tests.events import ROOT

RUN = """
import os
from pathlib import Path
from libs import launcher
launcher.gunicorn.app.wsgiapp.run = lambda: print(os.environ.get("PORT"), os.environ["SERVICE"])
launcher.run_gunicorn(launcher.read_procfile(Path("Procfile"))["user"])
"""


def test_no_service_takes_the_port_of_the_shell() -> None:
    given = {**os.environ, "PORT": "3000"}
    done = subprocess.run([sys.executable, "-c", RUN], env=given, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "None user\n", done.stderr


FORK = """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
from libs import launcher
def tell():
    print(*(signal.getsignal(number).name for number in launcher.STOPPING), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
launcher.fork("user", tell)
os.wait()
"""


def test_no_process_inherits_that_a_signal_is_ignored_or_blocked() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "SIG_DFL SIG_DFL set()\n", done.stderr


LISTEN = """
import socket
from types import SimpleNamespace
from libs import launcher
port = launcher.listen(SimpleNamespace(listen_host="127.0.0.1", listen_port=0))
print(socket.create_connection(port.getsockname(), 5).getpeername() == port.getsockname())
"""


def test_it_listens_before_there_is_a_service() -> None:
    done = subprocess.run([sys.executable, "-c", LISTEN], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr
