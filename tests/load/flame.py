"""A flame graph of a service under load, sampled by py-spy, which must be installed: `pip install py-spy`."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLES_PER_SECOND = 250
WRITING_SECONDS = 60.0


@contextmanager
def flame_graph(path: Path, service: str, master: int) -> Iterator[None]:
    """Sample the workers of a Gunicorn master during the block, and write the picture, an SVG, to `path`.

    Frames are merged by function, since one for each line makes a picture ten times as large.
    """
    program = shutil.which("py-spy")
    if not program:
        raise SystemExit("A flame graph needs py-spy on the PATH: pip install py-spy")
    command = ["record", "--pid", str(master), "--subprocesses", "--function", "--rate", str(SAMPLES_PER_SECOND)]
    sampling = subprocess.Popen(
        [program, *command, "--format", "flamegraph", "--output", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield
    finally:
        sampling.send_signal(signal.SIGINT)  # it writes the picture then
        said, _ = sampling.communicate(timeout=WRITING_SECONDS)
    if not path.exists():
        raise SystemExit(f"py-spy has failed; it may need to run as root:\n{said}")
    path.write_text(impersonal(path.read_text(encoding="utf-8"), service), encoding="utf-8")


def impersonal(picture: str, service: str) -> str:
    """The picture without the paths and process ids of the machine on which it was made."""
    picture = re.sub(r"process \d+:&quot;.*?&quot;", f"a process of the {service} service", picture)
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', rf"\g<1>CPU time of the {service} service", picture)
