"""tests/shell.py removes what a shell passes on to the tests."""

import os
import subprocess
import sys

from tests.programs import ROOT

LOOK = """
import os, signal, sys
signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD)
print([number.name for number in signals if signal.getsignal(number) == signal.SIG_IGN])
print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
print(sorted(name for name in os.environ if name in sys.argv))
"""
FORGET = """
import signal, subprocess, sys
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
from tests import shell
shell.forget()
sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)
"""
LEFT = {
    "BASE_PORT": "1", "DATABASE_URL": "nowhere", "FLASK_APP": "x", "GIT_DIR": "/", "MAKEFLAGS": "n", "MAKELEVEL": "1",
    "NODE_OPTIONS": "--bad", "PORT": "3000", "PYTHONWARNINGS": "error", "VIRTUAL_ENV": "/",
}  # fmt: skip


def test_what_the_tests_start_inherits_nothing_of_it() -> None:
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT QUIT TERM CHLD; exec "$@" <&-', "sh", sys.executable, "-c", FORGET, "-c", LOOK, *LEFT],
        env={**os.environ, **LEFT}, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "[]\nset()\n[]\n", done.stderr
