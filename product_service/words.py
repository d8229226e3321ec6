"""The words of a text, as both engines index and find them: whatever the server, its locale and its rules of case."""

import unicodedata

MAX_WORD = 200
"""Longer words are found by their beginning: an index of PostgreSQL has no room for more."""


def words_of(text: str) -> list[str]:
    """Each word once, without regard to case and to how its letters are encoded. Marks belong to their letter."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    folded = folded.replace("i\u0307", "i")  # what is left of İ
    parted = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in folded)
    return sorted({word[:MAX_WORD] for word in parted.split()})
