"""The Gunicorn settings of a service in a chaos run: those of production, with crash points and with short waits.

Only the time until others take over the leases of a dead process is shortened; the takeover itself is that of the
product.
"""

# It patches the standard library, so it comes first.
from libs.common.server.gunicorn_conf import *  # noqa: F403, I001
from libs.common.server.gunicorn_conf import settings

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from libs.common import background
from libs.common.events import outbox
from libs.common.data.prepared import Prepared
from tests.chaos import bugs, clock, points

LEASE_SECONDS = 1.5
GRACE_SECONDS = 4.0
"""Together with the deadline of a request longer than a start takes, so that a trap for recovery is armed in time."""
MAX_DRIVE_SECONDS = 3.0
MAX_PAUSE_SECONDS = 1.0

_directory = Path(os.environ["CHAOS_DIR"])


def _shorten() -> None:
    background.MAX_PAUSE_SECONDS = MAX_PAUSE_SECONDS
    relays: Any = outbox
    relays.LEASE_SECONDS = LEASE_SECONDS
    relays._take = {alone: Prepared(relays._claim(alone=alone)) for alone in (True, False)}
    if settings.service == "notification":
        import_module("notification_service.repository").LEASE_SECONDS = LEASE_SECONDS  # type: ignore[attr-defined]
    if settings.service == "order":
        import_module("order_service.checkout").GRACE_SECONDS = GRACE_SECONDS  # type: ignore[attr-defined]
        import_module("order_service.repository").MAX_DRIVE_SECONDS = MAX_DRIVE_SECONDS  # type: ignore[attr-defined]


import_module(f"{settings.service}_service.app")
_shorten()
clock.install(_directory)
bugs.install(os.environ.get("CHAOS_BUG", ""), settings.service)
points.install(points.Trap(_directory), settings.service, "broker" if settings.broker_url else "http")
