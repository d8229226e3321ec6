"""`make up`: migrates, then runs the Procfile, each process forked from one that has loaded the library.

The five services load the same library. Loaded once and forked, its memory is shared by all of them, and the system is
up in a fraction of the time; any other runner of Procfiles starts the same processes without that. Ctrl-C or SIGTERM
stops everything: each process gets SIGTERM and five seconds.
"""

from gevent import monkey

# First of all, as in libs/common/server/gunicorn_conf.py: what is imported below must see the patched standard library.
monkey.patch_all()

import os  # noqa: E402
import tempfile  # noqa: E402

# The metrics are kept in files where this is set when their library is loaded, which is now. Each service has a folder
# of its own, which it names after the fork (libs/common/server/gunicorn_conf.py); nothing is counted here.
_no_metrics = tempfile.TemporaryDirectory(prefix="quintet-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _no_metrics.name

import ctypes  # noqa: E402
import gc  # noqa: E402
import importlib  # noqa: E402
import shlex  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from contextlib import suppress  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gunicorn.app.wsgiapp  # noqa: E402
import gunicorn.workers.ggevent  # noqa: E402 - loaded for those who are forked

import libs.common.app  # noqa: E402, F401
from libs.topology import PACKAGES, SERVICES  # noqa: E402

STOP_SECONDS = 5.0
PR_SET_PDEATHSIG = 1
"""In linux/prctl.h."""


def read_procfile(path: Path) -> dict[str, list[str]]:
    """Name → the words of its command, without `exec` and `env`, whose own words stay: see `run_gunicorn`."""
    commands = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, colon, command = line.partition(":")
        if colon and not name.startswith("#"):
            commands[name.strip()] = [word for word in shlex.split(command) if word not in ("exec", "env")]
    return commands


def run_gunicorn(words: list[str]) -> None:
    """Be the process that the Procfile's words describe: -u NAME..., NAME=value..., gunicorn, its arguments."""
    while words[0] == "-u":
        del words[0]
        os.environ.pop(words.pop(0), None)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        os.environ[name] = value
    sys.argv = words
    gunicorn.app.wsgiapp.run()


def migrate(service: str) -> None:
    made: Any = importlib.import_module(f"{PACKAGES[service]}.app").create_app()
    from libs.common.migrate import upgrade

    upgrade(made.extensions["quintet"].db, PACKAGES[service])


def fork(name: str, work: Callable[[], None]) -> int:
    """Do `work` in a process of its own, out of reach of the terminal's Ctrl-C; returns its id."""
    sys.stdout.flush()
    launcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        end_with(launcher)
        work()
        status = 0
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 1
        if isinstance(exc.code, str):
            print(exc.code, file=sys.stderr)
    except BaseException as exc:
        print(f"{name}: {type(exc).__name__}: {exc}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end_with(parent: int) -> None:
    """Get SIGTERM when the parent dies, be it killed: what it leaves behind would keep the ports. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("The launcher has died.")


_asked_to_stop = threading.Event()


def wait_for_one(running: dict[int, str]) -> tuple[str, int] | None:
    """Wait until one of the processes ends: its name and its exit status; or None when asked to stop."""
    while not _asked_to_stop.wait(0.05):
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return running.pop(pid), os.waitstatus_to_exitcode(status)
    return None


def stop(running: dict[int, str]) -> None:
    """SIGTERM to all, and SIGKILL to what is left after five seconds."""
    for pid in running:
        with suppress(ProcessLookupError):  # it has just ended, and gevent has seen it
            os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + STOP_SECONDS
    while running and time.monotonic() < give_up:
        for pid in list(running):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del running[pid]
        time.sleep(0.02)
    for pid, name in running.items():
        print(f"{name} did not stop in time", file=sys.stderr)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _asked_to_stop.set())
    gc.collect()
    gc.freeze()
    running: dict[int, str] = {}
    try:
        for service in SERVICES:
            running[fork(service, lambda name=service: migrate(name))] = service  # type: ignore[misc]
        while running and (ended := wait_for_one(running)):
            if ended[1]:
                print(f"The migration of the {ended[0]} service failed.", file=sys.stderr)
                return 1
        if _asked_to_stop.is_set():
            return 0
        for name, words in read_procfile(Path("Procfile")).items():
            running[fork(name, lambda words=words: run_gunicorn(words))] = name  # type: ignore[misc]
        if ended := wait_for_one(running):
            print(f"{ended[0]} ended with status {ended[1]}; stopping the others", file=sys.stderr)
        return 1 if ended else 0
    finally:
        stop(running)


if __name__ == "__main__":
    sys.exit(main())
