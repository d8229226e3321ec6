"""Gunicorn for every service: `SERVICE=order gunicorn -c python:libs.common.server.gunicorn_conf ...`.

The app is loaded once, before the fork, so that the workers share its memory; its database connections and its
background work begin after the fork.
"""

from gevent import monkey

# First of all: what is imported below must see the patched standard library.
monkey.patch_all()

import gc  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from libs.common.config import ConfigError, Settings  # noqa: E402
from libs.common.errors import MAX_INSTANCE  # noqa: E402
from libs.common.server import metrics_files  # noqa: E402
from libs.topology import PACKAGES  # noqa: E402

try:
    settings = Settings.load(os.environ.get("SERVICE", ""))
except ConfigError as exc:
    raise SystemExit(str(exc)) from None

# Set before the library of the metrics is loaded, with the app.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_files.make_folder(settings.run_dir / "metrics"))

# What the command line names comes before this.
wsgi_app = f"{PACKAGES[settings.service]}.app:create_app()"
bind = settings.listen_address
workers = settings.web_concurrency
worker_class = "libs.common.server.worker.Worker"
# Before there are so many, the oldest of those that only wait for their client are closed (worker.py).
worker_connections = 1000
preload_app = True
limit_request_line = MAX_INSTANCE
# By default Gunicorn lets every process on this host, and whoever FORWARDED_ALLOW_IPS names, set the scheme and parts
# of the path by headers. Here nobody may: TRUSTED_PROXIES alone names what a proxy says (flask_app.py).
forwarded_allow_ips = ""
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
header_map = "drop"
protocol = "http"
proxy_protocol = "off"
http_protocols = "h1"
http2_cleartext = "off"
# Longer than a client keeps an idle connection (client.py), so that none is closed while it is about to be used.
keepalive = 15
timeout = 30
# Under the five seconds that the launcher allows, and that a person waits after Ctrl-C.
graceful_timeout = 3
control_socket_disable = True
# The root of a container may be read-only, with its /tmp.
worker_tmp_dir = str(settings.run_dir)
proc_name = f"quintet-{settings.service}"
logger_class = "libs.common.server.worker.Logger"
accesslog = None
# It would go past the head of the answer, which waits for the body (worker.py).
sendfile = False


def when_ready(server: Any) -> None:
    # What was loaded before the fork is never garbage; the collector of a worker must not touch it, since a touched
    # page is no longer shared.
    gc.collect()
    gc.freeze()


def post_worker_init(worker: Any) -> None:
    worker.app.callable.extensions["quintet"].start()


def child_exit(server: Any, worker: Any) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
    # The master has files of its own, since it has loaded the app.
    metrics_files.bury(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]), {os.getpid(), *server.WORKERS})
