import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common.files import make_private_folder, open_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def generous() -> Iterator[None]:
    """A umask of 0."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_folder_and_those_above_it_are_for_their_owner_alone(tmp_path: Path) -> None:
    for _ in range(2):
        make_private_folder(tmp_path / "a" / "b")
    assert [mode(tmp_path / "a"), mode(tmp_path / "a" / "b")] == [0o700, 0o700]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    make_private_folder(tmp_path / "a" / "b")
    assert mode(tmp_path / "a") == 0o755


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    with open(tmp_path / "x", "w", opener=open_private) as file:
        file.write("x")
    os.close(open_private(str(tmp_path / "y"), os.O_WRONLY | os.O_APPEND))
    assert [mode(tmp_path / "x"), mode(tmp_path / "y")] == [0o600, 0o600]


def test_a_file_that_is_there_keeps_its_mode_and_its_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    (tmp_path / "x").chmod(0o640)
    os.close(open_private(str(tmp_path / "x"), os.O_RDONLY))
    assert (mode(tmp_path / "x"), (tmp_path / "x").read_text()) == (0o640, "x")
