"""A small HTTP client for the running system, on `requests`."""

import os
import time
from collections.abc import Callable
from typing import Any, Self

import requests

from libs.common.config import Settings, host_and_port
from libs.topology import PORT_OFFSETS, SERVICES

ROOTS = ("/api", "/docs", "/errors", "/health", "/livez", "/metrics", "/openapi.json", "/readyz")


class Quintet:
    """The five services, at the ports above a base port."""

    def __init__(self, base_port: int, host: str = "127.0.0.1"):
        self.base_port = base_port
        self._addresses = {name: host_and_port(host, base_port + offset) for name, offset in PORT_OFFSETS.items()}
        self._session = requests.Session()
        self._session.trust_env = False

    @classmethod
    def configured(cls, host: str | None = None) -> Self:
        """The system at the addresses in the settings of this process. Raises ConfigError."""
        # As in the Procfile: PORT is often set for another program.
        environ = {name: value for name, value in os.environ.items() if name != "PORT"}
        found = {service: Settings.load(service, environ) for service in SERVICES}
        made = cls(found["user"].base_port)
        made._addresses = {
            name: host_and_port(host or settings.reachable_host, settings.listen_port)
            for name, settings in found.items()
        }
        return made

    def url(self, service: str, path: str = "") -> str:
        return f"http://{self._addresses[service]}{path}"

    def send(
        self, method: str, service: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> requests.Response:
        """Send a request to a service; a path that does not begin with a known root is below /api/v1."""
        if not path.startswith(ROOTS) and path != "/":
            path = "/api/v1" + path
        return self._session.request(method, self.url(service, path), json=body, headers=headers, timeout=10)

    def get(self, service: str, path: str, headers: dict[str, str] | None = None) -> requests.Response:
        return self.send("GET", service, path, headers=headers)

    def post(
        self, service: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> requests.Response:
        return self.send("POST", service, path, body, headers)

    def is_healthy(self, service: str) -> bool:
        try:
            return self.get(service, "/health").status_code == 200
        except requests.RequestException:
            return False

    def wait_until_healthy(self, seconds: float, still_starting: Callable[[], bool] = lambda: True) -> bool:
        """Whether all five services become healthy within the time; returns early once `still_starting` is false."""
        waiting = list(SERVICES)

        def all_are() -> bool:
            while waiting and self.is_healthy(waiting[0]):
                waiting.pop(0)
            return not waiting or not still_starting()

        eventually(all_are, seconds)
        return not waiting


def eventually(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Poll `condition` until it returns a true value or the time is over; returns its last value."""
    give_up = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < give_up:
        time.sleep(0.05)
    return found
