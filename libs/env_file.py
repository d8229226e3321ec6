"""Reads the file `.env` like Docker Compose; `python -m libs.env_file` prints it as commands for a shell.

A line is NAME=value, optionally after `export` and with spaces around the `=`. In a value in single quotes every
character is literal; in double quotes a backslash before n, r, t, $, a double quote or a backslash is an escape. A
comment is a line that begins with #, or the rest of a line after a value, a space and #. Variables ($NAME), which
Compose would replace, and syntax that versions of Compose read differently are errors.

It needs only the standard library, so that `make down` and `make clean` work without an installation.
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

_assignment = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.*)")
_comment = r"[ \t]*(?:#.*)?"
_single = re.compile(rf"'((?:[^'\\]|\\[^'])*)'{_comment}")
_double = re.compile(rf'"((?:[^"\\]|\\.)*)"{_comment}')
_escapes = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\\": "\\", r"\"": '"', r"\$": "$"}


class EnvFileError(Exception):
    """Lines of the file are invalid. The message names all of them, but no values, which may be secrets."""


def read_env_file(path: Path) -> dict[str, str]:
    """The variables that the file sets. Raises EnvFileError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise EnvFileError(f"{path}: cannot be read as UTF-8 text ({type(exc).__name__})") from exc
    found, faults = {}, []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        assignment = _assignment.fullmatch(line)
        if not assignment:
            faults.append(f"{path}, line {number}: is not NAME=value")
            continue
        try:
            found[assignment[1]] = _value(assignment[2])
        except ValueError as exc:
            faults.append(f"{path}, line {number}: {assignment[1]}: {exc}")
    if faults:
        raise EnvFileError("\n".join(faults))
    return found


def _value(text: str) -> str:
    if text.startswith("'"):
        value = _between_quotes(_single, text)
    elif text.startswith('"'):
        value = re.sub(r"\\.|\$", _unescape, _between_quotes(_double, text))
    elif text.startswith("#"):
        raise ValueError("a value that begins with # needs quotes")
    else:
        value = text.partition(" #")[0].rstrip(" ")
        if "$" in value:
            raise ValueError("a value with $ needs single quotes; variables are not replaced")
        if not value.isprintable():
            raise ValueError("holds a tab or an invisible character")
    if "\0" in value:
        raise ValueError("holds a NUL character")
    return value


def _between_quotes(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.fullmatch(text)
    if not found:
        raise ValueError("only a comment may follow a closing quote, which must be on the same line")
    return found[1]


def _unescape(found: re.Match[str]) -> str:
    if found[0] == "$":
        raise ValueError("a value with $ needs single quotes; variables are not replaced")
    if found[0] not in _escapes:
        raise ValueError(f"{found[0]} has no meaning in double quotes; in single quotes every character is itself")
    return _escapes[found[0]]


def exports(found: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Shell commands that export the variables that `environ` does not set; an empty variable counts as unset."""
    unset = ((name, value) for name, value in found.items() if not environ.get(name))
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in unset)


def main() -> None:
    try:
        commands = exports(read_env_file(Path(".env")), os.environ)
    except EnvFileError as exc:
        sys.exit(str(exc))
    # UTF-8, like the file, whatever the encoding of the terminal.
    sys.stdout.buffer.write(commands.encode())


if __name__ == "__main__":
    main()
