"""`make up`: takes the ports, migrates, then runs the Procfile, each process forked from one that has loaded the
library. `python -m libs.launcher demo.seed` also runs the `main` of that module, beside the services.

It listens on the five ports before anything else is started, and each service gets its port from it. So what answers
there is never another copy, and a port that is taken ends it at once.

The five services load the same library. Loaded once and forked, its memory is shared by all of them, and the system is
up in a fraction of the time; any other runner of Procfiles starts the same processes without that. Ctrl-C or SIGTERM
stops everything: each process gets SIGTERM and five seconds.
"""

import signal

STOPPING = (signal.SIGTERM, signal.SIGINT)


def end_when_asked_to() -> None:
    """Take the signals that stop a process as the system does by default.

    Both are inherited: that a script ignores SIGINT in what it starts in its background, and that somebody blocks it.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


if __name__ == "__main__":
    end_when_asked_to()  # the imports take a second; then main() stops what it has started

from gevent import monkey  # noqa: E402

# First of all, as in libs/common/server/gunicorn_conf.py: what is imported below must see the patched standard library.
monkey.patch_all()

import os  # noqa: E402
import tempfile  # noqa: E402

# The metrics are kept in files where this is set when their library is loaded, which is now. Each service has a folder
# of its own, which it names after the fork (libs/common/server/gunicorn_conf.py); nothing is counted here.
_no_metrics = tempfile.TemporaryDirectory(prefix="quintet-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _no_metrics.name

import ctypes  # noqa: E402
import errno  # noqa: E402
import gc  # noqa: E402
import importlib  # noqa: E402
import shlex  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, MutableMapping  # noqa: E402
from contextlib import suppress  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gunicorn.app.wsgiapp  # noqa: E402
import gunicorn.workers.ggevent  # noqa: E402 - loaded for those who are forked

import libs.common.app  # noqa: E402, F401
from libs.common.config import ConfigError, Settings  # noqa: E402
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


def set_variables(words: list[str], environ: MutableMapping[str, str]) -> list[str]:
    """Do what the Procfile's words begin with, -u NAME... and NAME=value...; returns the command that follows."""
    words = list(words)
    while words[0] == "-u":
        del words[0]
        environ.pop(words.pop(0), None)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environ[name] = value
    return words


def run_gunicorn(words: list[str], *arguments: str) -> None:
    """Be the process that the Procfile's words describe: its variables, gunicorn, its arguments, and these."""
    sys.argv = [*set_variables(words, os.environ), *arguments]
    gunicorn.app.wsgiapp.run()


def take_ports(commands: dict[str, list[str]]) -> dict[str, socket.socket]:
    """Listen where each of the Procfile's services is to. Raises SystemExit, with a line for each fault."""
    found: dict[str, Settings] = {}
    faults: dict[str, None] = {}
    for name, words in commands.items():
        environ = dict(os.environ)
        set_variables(words, environ)
        try:
            found[name] = Settings.load(name, environ)
        except ConfigError as exc:
            faults |= dict.fromkeys(exc.faults)
    if faults:
        raise SystemExit("\n".join(faults))
    return {name: listen(settings) for name, settings in found.items()}


def listen(settings: Settings) -> socket.socket:
    """As gunicorn does. Raises SystemExit."""
    host, port = settings.listen_host, settings.listen_port
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(gunicorn.config.Backlog.default)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise SystemExit(f"BASE_PORT: port {port}, which the {settings.service} service needs, is taken") from None
        raise SystemExit(f"HOST: {settings.listen_address} cannot be listened on ({exc.strerror})") from None
    return listening


def serve(name: str, words: list[str], ports: dict[str, socket.socket]) -> None:
    """Be the service, on its port alone."""
    port = ports.pop(name).detach()
    for other in ports.values():
        other.close()
    run_gunicorn(words, "--bind", f"fd://{port}")


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
        end_when_asked_to()
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
    commands = read_procfile(Path("Procfile"))
    ports = take_ports(commands)
    for number in STOPPING:
        signal.signal(number, lambda *_: _asked_to_stop.set())
    gc.collect()
    gc.freeze()
    running: dict[int, str] = {}
    beside: dict[int, str] = {}
    try:
        for service in SERVICES:
            running[fork(service, lambda name=service: migrate(name))] = service  # type: ignore[misc]
        while running and (ended := wait_for_one(running)):
            if ended[1]:
                print(f"The migration of the {ended[0]} service failed.", file=sys.stderr)
                return 1
        if _asked_to_stop.is_set():
            return 0
        for name, words in commands.items():
            running[fork(name, lambda name=name, words=words: serve(name, words, ports))] = name  # type: ignore[misc]
        for port in ports.values():
            port.close()
        for module in sys.argv[1:]:
            beside[fork(module, importlib.import_module(module).main)] = module
        if ended := wait_for_one(running):
            print(f"{ended[0]} ended with status {ended[1]}; stopping the others", file=sys.stderr)
        return 1 if ended else 0
    finally:
        stop(running | beside)


if __name__ == "__main__":
    sys.exit(main())
