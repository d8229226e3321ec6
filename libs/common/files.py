"""Files and folders that nobody but their owner may read: they hold personal data."""

import os
from pathlib import Path


def make_private_folder(path: Path) -> None:
    """Make the folder, and those above it, where they are missing; one that is there keeps its mode."""
    for folder in (*reversed(path.parents), path):
        folder.mkdir(mode=0o700, exist_ok=True)


def open_private(path: str, flags: int) -> int:
    """As os.open; a file that is missing is made. May be the `opener` of open()."""
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
