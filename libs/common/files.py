"""Files and folders that only their owner may read, since they hold personal data."""

import os
from pathlib import Path


def make_private_folder(path: Path) -> None:
    """Create the folder and its missing parents with mode 0700; existing ones keep their mode."""
    for folder in (*reversed(path.parents), path):
        folder.mkdir(mode=0o700, exist_ok=True)


def open_private(path: str, flags: int) -> int:
    """Like os.open, but creates a missing file with mode 0600. Can be the `opener` of open()."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
