"""The Gunicorn settings of a service of a `FaultySystem`: those of production, with inactive faults."""

# It patches the standard library, so it comes first.
from libs.common.server.gunicorn_conf import *  # noqa: F403, I001
from libs.common.server.gunicorn_conf import settings

import os
from pathlib import Path

from tests.e2e import faults

faults.install(settings.service, Path(os.environ["FAULT_FILE"]))
