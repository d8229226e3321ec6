"""Prints requests and answers for people: in colour on a terminal, as plain text with `NO_COLOR` or to a pipe."""

import json
import os
import sys
from typing import Any

import requests

HEADERS = ("Location", "ETag", "Link", "Retry-After", "Idempotent-Replayed")
"""The headers of an answer that are shown."""
SENT_HEADERS = ("Idempotency-Key", "If-Match", "If-None-Match")
MAX_LINES, MAX_WIDTH = 24, 110

BOLD, DIM, RED, GREEN, BLUE = "1", "2", "31", "32", "34"


def paint(text: str, *codes: str) -> str:
    """The text in colour if standard output is a terminal and NO_COLOR is not set (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m"


def exchange(answer: requests.Response) -> None:
    """Print a request and its answer."""
    request = answer.request
    print("  " + paint(_cut(f"{request.method} {request.url}"), BLUE))
    _headers(request.headers, SENT_HEADERS)
    if isinstance(request.body, bytes) and request.body:
        _block(_pretty(request.body))
    print("  " + paint(f"{answer.status_code} {answer.reason}", GREEN if answer.ok else RED, BOLD))
    _headers(answer.headers, HEADERS)
    if answer.content:
        _block(_pretty(answer.content))
    print()


def _headers(headers: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if name in headers:
            print("    " + paint(_cut(f"{name}: {headers[name]}"), DIM))


def _block(text: str) -> None:
    lines = text.splitlines()
    left_out = len(lines) - MAX_LINES
    if left_out > 1:
        lines[MAX_LINES:] = [f"... {left_out} more lines"]
    for line in lines:
        print("    " + _cut(line))


def _cut(line: str) -> str:
    return line if len(line) <= MAX_WIDTH else line[: MAX_WIDTH - 3] + "..."


def _pretty(body: bytes) -> str:
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return body.decode("utf-8", "replace")
