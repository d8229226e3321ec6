"""The lines are read as compose-go reads them, the library of Docker Compose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from libs.env_file import EnvFileError, exports, read_env_file
from tests.events import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".env"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=value", "value"),
        ("NAME=value\r", "value"),
        ("export NAME=value", "value"),
        ("export\tNAME=value", "value"),
        ("  NAME = value  ", "value"),
        ("NAME=", ""),
        ("NAME=''", ""),
        ("NAME=value # a comment", "value"),
        ("NAME=value#none", "value#none"),
        ("NAME=a=b", "a=b"),
        ("NAME=two words", "two words"),
        ("NAME=it's", "it's"),
        ('NAME=a"b', 'a"b'),
        (r"NAME=C:\new", r"C:\new"),
        ("NAME=größe/データ", "größe/データ"),
        ("NAME='value'", "value"),
        ('NAME="value"', "value"),
        ('NAME="value" # a comment', "value"),
        ("NAME='value'# a comment", "value"),
        ("NAME='a # b'", "a # b"),
        ('NAME="a # b"', "a # b"),
        ("NAME=' value '", " value "),
        ("NAME='$HOME'", "$HOME"),
        (r"NAME='C:\new'", r"C:\new"),
        (r'NAME="a\nb\t\"c\" \$d \\e"', 'a\nb\t"c" $d \\e'),
        (r'NAME="\\n"', r"\n"),
        ("""NAME="it's" """, "it's"),
        ("NAME=first\nNAME=second", "second"),
        ("# NAME=other\n\n  # NAME=other\nNAME=value", "value"),
        ("\ufeffNAME=value", "value"),
    ],
)
def test_a_line_is_read_as_docker_compose_reads_it(path: Path, line: str, value: str) -> None:
    path.write_bytes(line.encode())
    assert read_env_file(path) == {"NAME": value}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("NAME", "is not NAME=value"),
        ("NAME: value", "is not NAME=value"),
        ("two words=value", "is not NAME=value"),
        ("1NAME=value", "is not NAME=value"),
        ("NÄME=value", "is not NAME=value"),
        ("=value", "is not NAME=value"),
        ("NAME='hunter2", "NAME: only a comment"),
        ('NAME="hunter2', "NAME: only a comment"),
        ('NAME="hunter2\nOTHER="', "NAME: only a comment"),
        ("NAME='hunter2' more", "NAME: only a comment"),
        ("NAME='it\\'s hunter2'", "NAME: only a comment"),
        ("NAME=# hunter2", "NAME: a value that begins with #"),
        ("NAME=$hunter2", "NAME: a value with $"),
        ("NAME=hunter2$", "NAME: a value with $"),
        ('NAME="${hunter2}"', "NAME: a value with $"),
        (r'NAME="C:\dir hunter2"', r"NAME: \d has no meaning"),
        ("NAME=hunter2\t# a comment", "NAME: holds a tab"),
        ("NAME=hunter2\u200b", "NAME: holds a tab or an invisible"),
        ("NAME='hunter2\0'", "NAME: holds a NUL"),
    ],
)
def test_what_is_not_understood_is_a_fault_of_its_line_that_does_not_show_the_value(
    path: Path, line: str, fault: str
) -> None:
    path.write_text(f"# a comment\nFIRST=1\n{line}\n", encoding="utf-8")
    with pytest.raises(EnvFileError) as caught:
        read_env_file(path)
    assert str(caught.value).startswith(f"{path}, line 3: {fault}")
    assert "hunter2" not in str(caught.value)


def test_every_line_that_is_not_understood_is_named(path: Path) -> None:
    path.write_text("one\nNAME=value\nOTHER='\n")
    with pytest.raises(EnvFileError, match=r"line 1: .*\n.*line 3: OTHER: "):
        read_env_file(path)


@pytest.mark.parametrize("content", ["NAME=value".encode("utf-16"), b"NAME=\xff", None])
def test_a_file_that_is_no_text_is_a_fault(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EnvFileError, match=r"\.env: cannot be read as UTF-8 text"):
        read_env_file(path)


def test_what_is_set_wins_and_what_is_empty_counts_as_unset() -> None:
    assert (
        exports({"SET": "1", "EMPTY": "2", "NEW": "3"}, {"SET": "0", "EMPTY": ""}) == "export EMPTY=2\nexport NEW=3\n"
    )


@pytest.mark.parametrize("value", ["a b", "it's", "$HOME", "`id`", "a\nb\n", "größe", "; false", ""])
def test_a_shell_gets_the_value_that_the_file_has(path: Path, value: str) -> None:
    escaped = value.replace("$", r"\$").replace("\n", r"\n")
    path.write_text(f'VALUE="{escaped}"\n', encoding="utf-8")
    script = 'commands=$("$PYTHON" -m libs.env_file) && eval "$commands" && printf %s "$VALUE"'
    given = {"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    done = subprocess.run(["sh", "-c", script], cwd=path.parent, env=given, capture_output=True, timeout=60)
    assert (done.stdout.decode(), done.stderr) == (value, b"")


def test_a_fault_ends_it_with_one_line_and_no_traceback(path: Path) -> None:
    path.write_text("NAME\n")
    done = subprocess.run(
        [sys.executable, "-m", "libs.env_file"], cwd=path.parent, env={"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", ".env, line 1: is not NAME=value\n", 1)
