"""The Gunicorn configuration of every service: `SERVICE=order gunicorn -c python:libs.common.server.gunicorn_conf`.

The app is loaded once, before the fork, so that the workers share its memory; database connections and background
loops start after the fork.
"""

from gevent import monkey

# Before all other imports, which must see the patched standard library.
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

# Must be set before prometheus_client is imported, with the app.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_files.make_folder(settings.run_dir / "metrics"))

# The command line overrides this.
wsgi_app = f"{PACKAGES[settings.service]}.app:create_app()"
bind = settings.listen_address
workers = settings.workers
worker_class = "libs.common.server.worker.Worker"
# Not reached: from MAX_CONNECTIONS on, those that have waited longest for their client are closed (worker.py).
worker_connections = 1000
preload_app = True
limit_request_line = MAX_INSTANCE
# By default Gunicorn lets local clients, and those in FORWARDED_ALLOW_IPS, set the scheme and parts of the path by
# headers. Here none may: proxy headers are only used as TRUSTED_PROXIES says (flask_app.py).
forwarded_allow_ips = ""
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
header_map = "drop"
protocol = "http"
proxy_protocol = "off"
http_protocols = "h1"
http2_cleartext = "off"
# Longer than clients keep an idle connection (connections.py), so that none is closed while it is about to be used.
keepalive = 15
timeout = 30
# Less than the five seconds that the launcher allows.
graceful_timeout = 3
control_socket_disable = True
# In a container the root file system may be read-only, and /tmp with it.
worker_tmp_dir = str(settings.run_dir)
proc_name = f"quintet-{settings.service}"
logger_class = "libs.common.server.worker.Logger"
accesslog = None
# sendfile would bypass the head of the answer, which is sent together with the body (answers.py).
sendfile = False


def when_ready(server: Any) -> None:
    # Exclude what was loaded before the fork from garbage collection: the collector writes to objects, and a page that
    # is written to is no longer shared.
    gc.collect()
    gc.freeze()


def post_worker_init(worker: Any) -> None:
    worker.app.callable.extensions["quintet"].start()


def child_exit(server: Any, worker: Any) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
    # The master has metrics files too, since it has loaded the app.
    metrics_files.merge_dead(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]), {os.getpid(), *server.WORKERS})
