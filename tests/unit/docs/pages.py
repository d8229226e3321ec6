"""Parses the Markdown pages of the project: prose, code spans, code blocks, links and tables."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

_fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_span = re.compile(r"`([^`\n]+)`")
_link = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_heading = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Page:
    def __init__(self, path: Path):
        self.path = path
        text = path.read_text(encoding="utf-8")
        self.blocks = [(found[1], found[2]) for found in _fence.finditer(text)]
        """(language, text) of each fenced block."""
        self.prose = _fence.sub("", text)
        self.spans = _span.findall(self.prose)
        self.links = _link.findall(_span.sub("", self.prose))

    def __repr__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def code(self) -> list[str]:
        """The code of the page: spans and blocks."""
        return self.spans + [text for _, text in self.blocks]

    @property
    def shell(self) -> list[str]:
        return [text for language, text in self.blocks if language == "sh"]

    @property
    def anchors(self) -> set[str]:
        """The anchors of the headings, derived as GitHub does."""
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _heading.findall(self.prose))
        return {heading.replace(" ", "-") for heading in plain}

    def table(self, heading: str) -> list[list[str]]:
        """The cells of the first table below a heading, without the line of titles."""
        below = re.split(rf"^#+ {re.escape(heading)}$", self.prose, maxsplit=1, flags=re.MULTILINE)[1]
        lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
        assert lines, f"no table below {heading!r} in {self}"
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()]
        return rows[2:]


def page(path: str) -> Page:
    return Page(ROOT / path)


def pages() -> list[Page]:
    """Every Markdown file, hidden directories aside."""
    inner = [child for child in ROOT.iterdir() if child.is_dir() and not child.name.startswith(".")]
    found = [*ROOT.glob("*.md"), *(path for directory in inner for path in directory.rglob("*.md"))]
    return [Page(path) for path in sorted(found)]


def spans(cell: str) -> list[str]:
    """The code spans of a cell of a table."""
    return _span.findall(cell)
