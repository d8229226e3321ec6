"""Writes the secrets for compose.production.yaml: `make compose-secrets`.

Existing files are left unchanged, so that you can provide your own secrets. To change a secret, remove its file and
those that repeat it (REPEATED), and run this again.
"""

import base64
import hashlib
import json
import secrets
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

SERVICES = ("user", "product", "order", "notification", "analytics")
REPEATED = {"broker_url": "rabbitmq_definitions", "redis_url": "redis_conf"}
"""The file with a secret of the clients → the server's file with the same secret."""
RESOURCES = "^(quintet\\.|user|product|order|notification|analytics{}).*"
"""A pattern for the exchanges and queues that the services may use; see docs/production.md."""


def main(directory: Path) -> None:
    # Other users of the host cannot enter the directory; the users in the containers, which differ, can read each file.
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(name: str, make: Callable[[], str]) -> str:
        path = directory / name
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(make(), encoding="utf-8")
            path.chmod(0o444)
        return path.read_text(encoding="utf-8").strip()

    write("postgres_password", word)
    for service in SERVICES:
        write(f"{service}_secret_key", word)
        for role in ("owner", "app"):
            write(f"{service}_{role}_url", partial(database_url, service, role))
    broker_url = write("broker_url", lambda: f"amqp://quintet:{word()}@rabbitmq/quintet")
    write(REPEATED["broker_url"], lambda: definitions(password_of(broker_url)))
    redis_url = write("redis_url", lambda: f"redis://:{word()}@redis/0")
    write(REPEATED["redis_url"], lambda: f"requirepass {password_of(redis_url)}\n")
    # Empty: mail is only logged until a mail server is configured.
    write("smtp_url", str)


def word() -> str:
    """256 random bits in hexadecimal, which needs no escaping in a URL, in SQL or in a shell."""
    return secrets.token_hex(32)


def database_url(service: str, role: str) -> str:
    return f"postgresql://quintet_{service}_{role}:{word()}@postgres/quintet_{service}"


def password_of(url: str) -> str:
    return url.rpartition("@")[0].rpartition(":")[2]


def definitions(password: str) -> str:
    """The definitions file of RabbitMQ: the user with the hash of its password, and its permissions."""
    salt = secrets.token_bytes(4)
    digest = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    user = {
        "name": "quintet", "password_hash": digest, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": [],
    }  # fmt: skip
    own = RESOURCES.format("")
    rights = {"configure": own, "write": RESOURCES.format("|amq\\.default"), "read": own}
    content = {
        "users": [user],
        "vhosts": [{"name": "quintet"}],
        "permissions": [{"user": "quintet", "vhost": "quintet", **rights}],
    }
    return json.dumps(content, indent=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
