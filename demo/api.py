"""A few lines on `requests` for talking to the running system."""

import os
import time
from typing import Any

import requests

from libs.topology import PORT_OFFSETS, SERVICES

BASE_PORT = int(os.environ.get("BASE_PORT") or 8000)
HOST = os.environ.get("DEMO_HOST") or "127.0.0.1"

session = requests.Session()
session.trust_env = False


def url(service: str, path: str = "") -> str:
    return f"http://{HOST}:{BASE_PORT + PORT_OFFSETS[service]}{path}"


def call(
    method: str, service: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> requests.Response:
    """Send a request to a service; a path that begins with a known root is taken as it is, another below /api/v1."""
    if not path.startswith(("/health", "/docs", "/openapi")) and path != "/":
        path = "/api/v1" + path
    return session.request(method, url(service, path), json=body, headers=headers, timeout=10)


def wait_until_healthy(seconds: float, started_by: int = 0) -> bool:
    """Whether all five services answer on /health within the time; no longer than the process that starts them lives,
    where it is given.
    """
    give_up = time.monotonic() + seconds
    waiting = list(SERVICES)
    while waiting and time.monotonic() < give_up:
        try:
            if call("GET", waiting[0], "/health").status_code == 200:
                waiting.pop(0)
                continue
        except requests.RequestException:
            if started_by and not _alive(started_by):
                return False
        time.sleep(0.05)
    return not waiting


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
