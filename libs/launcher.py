"""The launcher behind `make up`: opens the ports, migrates the databases and runs the processes of the Procfile.

`python -m libs.launcher demo.seed` also runs the `main` of that module, next to the services. Ctrl-C or SIGTERM stops
everything: each process gets SIGTERM and five seconds.

The launcher listens on the five ports before it starts anything, and passes each service its socket. So it fails at
once if a port is taken, and what answers on a port is never another copy of the system.

The library is loaded once, and the services are forked from this process: they share its memory and start in a
fraction of the time. Any other Procfile runner starts the same processes without that.
"""

import signal

STOPPING = (signal.SIGTERM, signal.SIGINT)


def restore_signal_handling() -> None:
    """Restore the default handling of the signals that stop a process: a parent may ignore them (a shell script ignores
    SIGINT in its background jobs) or block them, and children inherit both.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


if __name__ == "__main__":
    restore_signal_handling()  # before the imports, which take a second; main() installs its own handlers

from gevent import monkey  # noqa: E402

# Before all other imports, as in libs/common/server/gunicorn_conf.py: they must see the patched standard library.
monkey.patch_all()

import os  # noqa: E402
import tempfile  # noqa: E402

# prometheus_client keeps its metrics in files only if this is set when it is imported, which happens below. Each
# service sets its own folder after the fork (libs/common/server/gunicorn_conf.py); this one stays unused.
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
import gunicorn.workers.ggevent  # noqa: E402 - loaded before the fork

import libs.common.app  # noqa: E402, F401
from libs.common.config import ConfigError, Settings  # noqa: E402
from libs.topology import PACKAGES, SERVICES  # noqa: E402

STOP_SECONDS = 5.0
PR_SET_PDEATHSIG = 1
"""In linux/prctl.h."""


def read_procfile(path: Path) -> dict[str, list[str]]:
    """Name → the words of its command, without `exec` and `env`; the arguments of `env` stay, see `set_variables`."""
    commands = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, colon, command = line.partition(":")
        if colon and not name.startswith("#"):
            commands[name.strip()] = [word for word in shlex.split(command) if word not in ("exec", "env")]
    return commands


def set_variables(words: list[str], environ: MutableMapping[str, str]) -> list[str]:
    """Apply the arguments of `env`, -u NAME... and NAME=value..., to `environ`; returns the command that follows."""
    words = list(words)
    while words[0] == "-u":
        del words[0]
        environ.pop(words.pop(0), None)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environ[name] = value
    return words


def run_gunicorn(words: list[str], *arguments: str) -> None:
    """Run gunicorn in this process as the Procfile says, with further arguments."""
    sys.argv = [*set_variables(words, os.environ), *arguments]
    gunicorn.app.wsgiapp.run()


def take_ports(commands: dict[str, list[str]]) -> dict[str, socket.socket]:
    """Open the listening socket of each service in the Procfile. Raises SystemExit, with a line for each fault."""
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
    """Open a listening socket like gunicorn's. Raises SystemExit."""
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
    """Run the service in this process with its socket; closes the sockets of the others."""
    port = ports.pop(name).detach()
    for other in ports.values():
        other.close()
    run_gunicorn(words, "--bind", f"fd://{port}")


def migrate(service: str) -> None:
    made: Any = importlib.import_module(f"{PACKAGES[service]}.app").create_app()
    from libs.common.migrate import upgrade

    upgrade(made.extensions["quintet"].db, PACKAGES[service])


def fork(name: str, work: Callable[[], None]) -> int:
    """Run `work` in a child process and return its id. The child has its own session, so that Ctrl-C does not reach
    it.
    """
    sys.stdout.flush()
    launcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        restore_signal_handling()
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
    """Have the kernel send SIGTERM to this process when the parent dies, even if killed: otherwise the children would
    keep the ports. Linux only.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit("The launcher has died.")


_asked_to_stop = threading.Event()


def wait_for_one(running: dict[int, str]) -> tuple[str, int] | None:
    """Wait until one of the processes ends; returns its name and exit status, or None if the launcher is to stop."""
    while not _asked_to_stop.wait(0.05):
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return running.pop(pid), os.waitstatus_to_exitcode(status)
    return None


def stop(running: dict[int, str]) -> None:
    """Send SIGTERM to all processes, and SIGKILL to the groups of those that run after STOP_SECONDS."""
    for pid in running:
        with suppress(ProcessLookupError):  # it has just ended, and gevent has reaped it
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
    extras: dict[int, str] = {}
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
            extras[fork(module, importlib.import_module(module).main)] = module
        if ended := wait_for_one(running):
            print(f"{ended[0]} ended with status {ended[1]}; stopping the others", file=sys.stderr)
        return 1 if ended else 0
    finally:
        stop(running | extras)


if __name__ == "__main__":
    sys.exit(main())
