"""In a process of its own: the launcher patches the standard library when it is loaded."""

import os
import subprocess
import sys

from tests.events import ROOT

RUN = """
import os
from pathlib import Path
from libs import launcher
launcher.gunicorn.app.wsgiapp.run = lambda: print(os.environ.get("PORT"), os.environ["SERVICE"])
launcher.run_gunicorn(launcher.read_procfile(Path("Procfile"))["user"])
"""


def test_no_service_takes_the_port_of_the_shell() -> None:
    given = {**os.environ, "PORT": "3000"}
    done = subprocess.run([sys.executable, "-c", RUN], env=given, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "None user\n", done.stderr
