"""Removes what a shell passes on to the tests that it starts: no test may depend on it."""

import os
import signal

KEPT = (
    "CI", "HOME", "LONG", "PATH", "TERM", "TMPDIR",
    "BASE",  # the image that those of tests/containers are built on
    "PYTHONHASHSEED",  # the processes of pytest-xdist must put the tests in one order
    "PYTHONPATH",
    "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY",  # what installs
)  # fmt: skip
KEPT_FAMILIES = ("COVERAGE_", "DOCKER_", "HYPOTHESIS_", "PIP_", "PYTEST_", "TEST_", "UV_")
SET = {"LANG": "C.UTF-8", "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD)


def forget() -> None:
    """Remove variables, and reset ignored or blocked signals, for this process and its children.

    A shell without job control, as one that runs a script, ignores SIGINT and SIGQUIT in what it starts in the
    background, and its children inherit that.
    """
    for name in set(os.environ) - set(KEPT):
        if not name.startswith(KEPT_FAMILIES):
            del os.environ[name]
    os.environ.update(SET)
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
