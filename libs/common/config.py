"""Settings from the environment: declared once, typed, with all faults reported together.

A service adds its own by subclassing:

    @dataclass(frozen=True, kw_only=True)
    class OrderSettings(Settings):
        recovery_seconds: float = setting(5.0, "The interval of the search for abandoned orders, in seconds.")

    settings = OrderSettings.load("order")

The variable of `recovery_seconds` is RECOVERY_SECONDS. An empty variable counts as unset. A `secret` may come from
a file: SECRET_KEY_FILE=/run/secrets/key. A `per_service` setting is looked up as DATABASE_URL_ORDER first, then as
DATABASE_URL, so that several services can share one environment.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import sqlalchemy as sa

from libs.topology import PORT_OFFSETS, SERVICES

DEVELOPMENT_KEY = "development-only-key-never-use-it-in-production"
MAX_PORT = 65535
_origin = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?", re.ASCII)
DATABASE_DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql+psycopg")
"""SQLAlchemy's names of the installed drivers."""


class ConfigError(Exception):
    """One or more settings are wrong; the message names all of them."""

    def __init__(self, faults: list[str]):
        super().__init__("invalid configuration:\n" + "\n".join(f"  - {fault}" for fault in faults))
        self.faults = faults


def setting(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    secret: bool = False,
    per_service: bool = False,
) -> Any:
    """Declare a setting. Its type is the field's annotation: str, int, float, bool or tuple[str, ...]."""
    rules = {
        "doc": doc, "choices": choices, "minimum": minimum, "maximum": maximum, "secret": secret,
        "per_service": per_service,
    }  # fmt: skip
    return field(default=default, repr=not secret, metadata=rules)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of every service. Durations are in seconds, sizes in bytes."""

    environment: str = setting(
        "development", "In production, secrets and CORS origins must be named.", choices=("development", "production")
    )
    base_port: int = setting(
        8000, "The services listen on this plus 1 to 5.", minimum=1, maximum=MAX_PORT - max(PORT_OFFSETS.values())
    )
    host: str = setting("127.0.0.1", "The IPv4 or IPv6 address to listen on; 0.0.0.0 in a container.")
    port: int = setting(
        0, "The port of this service; 0 means BASE_PORT plus its number.",
        minimum=0, maximum=MAX_PORT, per_service=True,
    )  # fmt: skip
    data_dir: str = setting("var", "Where the embedded databases and the run-time files of the services lie.")
    web_concurrency: int = setting(
        0, "Worker processes of each service; 0 means two, or one where there are fewer cores than services.",
        minimum=0, per_service=True,
    )  # fmt: skip
    fast_lane: bool = setting(
        True, "Whether plain requests go past Flask to their endpoint (ADR 18); off to find out whether that matters."
    )
    role: str = setting(
        "all", "Whether it answers requests (`web`), does what is due beside them, such as events (`worker`), or both.",
        choices=("all", "web", "worker"),
    )  # fmt: skip
    secret_key: str = setting(
        DEVELOPMENT_KEY,
        "Signs cursors and keys the hashes of idempotent requests; at least 32 characters.",
        secret=True,
    )
    cors_origins: tuple[str, ...] = setting(
        ("*",),
        "Origins, comma separated, that browsers may call from: `scheme://host:port`, or `*`, not in production.",
    )
    log_level: str = setting(
        "INFO", "The least severe log line written.", choices=("DEBUG", "INFO", "WARNING", "ERROR")
    )
    log_dir: str = setting("", "Log lines go to a file for each service in here; empty means standard output.")

    database_url: str = setting(
        "", "postgresql://user:password@host/name, or sqlite:///file; empty means a SQLite file under DATA_DIR.",
        secret=True, per_service=True,
    )  # fmt: skip
    database_pool_size: int = setting(
        4, "Connections of one worker process to PostgreSQL; 5 services with 4 workers stay below its default of 100.",
        minimum=1, per_service=True,
    )  # fmt: skip

    broker_url: str = setting(
        "", "amqp://user:password@host/vhost of RabbitMQ; empty means that events go over HTTP.", secret=True
    )
    redis_url: str = setting(
        "", "redis://:password@host/0; shares the rate limits between processes. Empty: each counts for itself.",
        secret=True,
    )  # fmt: skip
    rate_limit: str = setting("", "Requests of one client address to each service, such as 600/minute; empty is off.")
    rate_limit_exempt: tuple[str, ...] = setting(
        ("127.0.0.0/8", "::1/128"), "Networks that are not limited, such as that of the services themselves."
    )
    trusted_proxies: int = setting(0, "How many proxies in front set X-Forwarded-For.", minimum=0)

    user_service_url: str = setting("", "Where the user service is; empty means HOST and BASE_PORT plus 1.")
    product_service_url: str = setting("", "Where the product service is; empty means HOST and BASE_PORT plus 2.")
    order_service_url: str = setting("", "Where the order service is; empty means HOST and BASE_PORT plus 3.")
    notification_service_url: str = setting(
        "", "Where the notification service is; empty means HOST and BASE_PORT plus 4."
    )
    analytics_service_url: str = setting("", "Where the analytics service is; empty means HOST and BASE_PORT plus 5.")

    connect_timeout_seconds: float = setting(0.5, "To connect to another service.", minimum=0.01)
    read_timeout_seconds: float = setting(2.0, "To wait for another service's answer.", minimum=0.01)
    request_deadline_seconds: float = setting(5.0, "To answer a request, all calls included.", minimum=0.1)
    max_concurrent_requests: int = setting(
        64, "Requests that a worker process works on at a time.", minimum=1, per_service=True
    )
    max_queued_requests: int = setting(
        512, "Requests that may wait for that in a worker process; all others are refused.", minimum=0, per_service=True
    )
    call_attempts: int = setting(3, "Attempts at a call of another service that is safe to repeat.", minimum=1)
    retry_budget: float = setting(
        0.1, "Retries of such calls, as a share of all calls of that service from one process.", minimum=0.01
    )
    breaker_failures: int = setting(5, "Failures that open the circuit breaker of a service.", minimum=1)
    breaker_window_seconds: float = setting(10.0, "The time within which so many failures must fall.", minimum=0.1)
    breaker_reset_seconds: float = setting(
        2.0, "How long an open breaker refuses calls before it tries one.", minimum=0.1
    )
    bulkhead_calls: int = setting(32, "Calls of one service that may be under way in one process.", minimum=1)

    service: str = field(default="", metadata={"internal": True})

    @classmethod
    def load(cls, service: str, environ: Mapping[str, str] = os.environ) -> Self:
        """Read every declared setting; raises ConfigError with all faults."""
        values: dict[str, Any] = {"service": service}
        faults: list[str] = []
        for declared in _declared(cls):
            name, text = _find(declared, service, environ, faults)
            if text is None:
                continue
            try:
                values[declared.name] = _parse(declared, text)
            except ValueError as exc:
                shown = "the value" if declared.metadata["secret"] else repr(text)
                faults.append(f"{name}: {shown} {exc}")
        settings = cls(**values)
        faults += settings.contradictions()
        if faults:
            raise ConfigError(faults)
        return settings

    def contradictions(self) -> Iterable[str]:
        """Faults beyond the type and the range of a single variable; a subclass may add its own."""
        if self.environment == "production":
            if self.secret_key == DEVELOPMENT_KEY:
                yield "SECRET_KEY: must be set in production"
            if "*" in self.cors_origins:
                yield "CORS_ORIGINS: must name the origins in production"
        for origin in self.cors_origins:
            if origin != "*" and not _origin.fullmatch(origin):
                yield f"CORS_ORIGINS: {origin!r} is not an origin such as https://shop.example, and not *"
        if len(self.secret_key) < 32:
            yield "SECRET_KEY: needs at least 32 characters"
        if self.rate_limit and not re.fullmatch(r"[1-9]\d*/(second|minute|hour|day)", self.rate_limit):
            yield f"RATE_LIMIT: {self.rate_limit!r} is not such as 600/minute"
        if not _is_host(self.listen_host):
            yield f"HOST: {self.host!r} is not an IP address or a host name"
        if "[" in self.data_dir:
            yield f"DATA_DIR: {self.data_dir!r} has a [, which the library of the metrics takes for a pattern"
        for network in self.rate_limit_exempt:
            try:
                ip_network(network)
            except ValueError:
                yield f"RATE_LIMIT_EXEMPT: {network!r} is not a network"
        yield from self._wrong_urls()

    def _wrong_urls(self) -> Iterable[str]:
        """Faults of the URLs. The messages do not show the URLs, which may hold a password."""
        if not _is_database_url(self.database):
            yield "DATABASE_URL: must be postgresql://user:password@host/name or sqlite:///file"
        if self.broker_url and not is_url(self.broker_url, "amqp", "amqps"):
            yield "BROKER_URL: must be amqp://user:password@host/vhost or amqps://..."
        if self.redis_url and not _is_redis_url(self.redis_url):
            yield "REDIS_URL: must be redis://:password@host/0, rediss://... or redis+unix:///socket"
        for service in SERVICES:
            given = getattr(self, f"{service}_service_url")
            if given and not is_url(given, "http", "https"):
                yield f"{service.upper()}_SERVICE_URL: must be an http or https URL, such as http://{service}:8000"

    @property
    def listen_port(self) -> int:
        return self.port or self.base_port + PORT_OFFSETS[self.service]

    @property
    def listen_host(self) -> str:
        """HOST, without the brackets around an IPv6 address."""
        return self.host[1:-1] if self.host.startswith("[") and self.host.endswith("]") else self.host

    @property
    def listen_address(self) -> str:
        return host_and_port(self.listen_host, self.listen_port)

    @property
    def reachable_host(self) -> str:
        """The address at which processes on this host reach a server on HOST: loopback for 0.0.0.0 and ::."""
        if self.listen_host == "localhost":
            return "127.0.0.1"  # gunicorn listens on the IPv4 address of a name
        address = _ip_address(self.listen_host)
        if address and address.is_unspecified:
            return "127.0.0.1" if address.version == 4 else "::1"
        return self.listen_host

    @property
    def workers(self) -> int:
        """The number of worker processes. With more processes than cores they would only wait for each other."""
        return self.web_concurrency or (1 if (os.cpu_count() or 1) < len(SERVICES) else 2)

    @property
    def run_dir(self) -> Path:
        """The directory for files of the running processes, which may be deleted while the service is stopped."""
        return Path(self.data_dir) / "run" / self.service

    @property
    def database(self) -> str:
        """The SQLAlchemy URL of this service's own database."""
        if not self.database_url:
            path = Path(self.data_dir).absolute() / f"{self.service}.db"
            return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
        scheme, separator, rest = self.database_url.partition("://")
        return ("postgresql+psycopg" if scheme in ("postgres", "postgresql") else scheme) + separator + rest

    def url_of(self, service: str) -> str:
        """The base URL of a service, without a trailing slash."""
        given: str = getattr(self, f"{service}_service_url")
        own = host_and_port(self.reachable_host, self.base_port + PORT_OFFSETS[service])
        return (given or f"http://{own}").rstrip("/")


def host_and_port(host: str, port: int) -> str:
    """`host:port` as in a URL, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_url(url: str, *schemes: str) -> bool:
    """Whether the URL has one of these schemes, a host, and no invalid port."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme in schemes and bool(re.fullmatch(r"[\w:][\w.:%-]*", host)) and parts.port != 0
    except ValueError:
        return False


def env_example(classes: Iterable[type[Settings]]) -> str:
    """The text of `.env.example`: every variable once, with its meaning and its default, commented out."""
    seen: dict[str, Field[Any]] = {}
    for cls in classes:
        for declared in _declared(cls):
            seen.setdefault(declared.name, declared)
    lines = ["# Every variable that the services read, with its default. Made by `make env-example`.", ""]
    for name, declared in seen.items():
        rules = declared.metadata
        lines.append(f"# {rules['doc']}")
        if rules["choices"]:
            lines.append(f"# One of: {', '.join(rules['choices'])}.")
        if rules["secret"]:
            lines.append(f"# May come from a file named by {name.upper()}_FILE.")
        if rules["per_service"]:
            lines.append(f"# For one service only: {', '.join(f'{name}_{s}'.upper() for s in SERVICES)}.")
        default = ",".join(declared.default) if isinstance(declared.default, tuple) else declared.default
        lines += [f"#{name.upper()}={default}", ""]
    return "\n".join(lines)


def _is_host(host: str) -> bool:
    """Whether it is a host name or an address. One with a zone (fe80::1%eth0) is not: it cannot be used in a URL."""
    is_name = re.fullmatch(r"\w[\w.-]*", host, re.ASCII)
    return bool(is_name) or (_ip_address(host) is not None and "%" not in host)


def _ip_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _is_redis_url(url: str) -> bool:
    return is_url(url, "redis", "rediss") or bool(re.fullmatch(r"redis\+unix://[^/]*/.+", url))


def _is_database_url(url: str) -> bool:
    try:
        parts = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return False
    # sqlite://file, with two slashes, has a host and no path.
    return parts.drivername in DATABASE_DRIVERS and not (parts.host and parts.get_backend_name() == "sqlite")


def _declared(cls: type[Settings]) -> list[Field[Any]]:
    return [f for f in fields(cls) if not f.metadata.get("internal")]


def _find(declared: Field[Any], service: str, environ: Mapping[str, str], faults: list[str]) -> tuple[str, str | None]:
    """The name of the variable that sets this, and its text; None if it is not set."""
    base = declared.name.upper()
    names = [f"{base}_{service.upper()}", base] if declared.metadata["per_service"] else [base]
    for name in names:
        if environ.get(name):
            return name, environ[name]
        path = environ.get(f"{name}_FILE") if declared.metadata["secret"] else None
        if path:
            try:
                return f"{name}_FILE", Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as exc:
                faults.append(f"{name}_FILE: cannot be read ({type(exc).__name__})")
    return base, None


def _parse(declared: Field[Any], text: str) -> Any:
    value: Any = text
    if declared.type is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ValueError("is not true or false")
        value = text.lower() in ("true", "1", "yes", "on")
    elif declared.type in (int, float):
        try:
            value = declared.type(text)
            if not math.isfinite(value):
                raise ValueError(text)
        except ValueError:
            raise ValueError("is not a whole number" if declared.type is int else "is not a number") from None
    elif declared.type == tuple[str, ...]:
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    minimum, maximum, choices = (declared.metadata[rule] for rule in ("minimum", "maximum", "choices"))
    if minimum is not None and not value >= minimum:
        raise ValueError(f"is less than {minimum}")
    if maximum is not None and value > maximum:
        raise ValueError(f"is more than {maximum}")
    if choices and value not in choices:
        raise ValueError(f"is not one of {', '.join(choices)}")
    return value
