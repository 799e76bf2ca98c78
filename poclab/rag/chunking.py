"""Cut documents into passages that know where they stand: `document.text[start:end] == passage.text`.

Lossless: without overlap the passages put together again are the document. A cut is preferred after a paragraph, then a
line, a sentence, a word; only text without any of these is cut in the middle. Sizes are characters, as a reader and the
offsets count them, not tokens, which depend on the model. Headings and tables are not recognised.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from poclab.rag.corpus import Document
from poclab.system import Passage

#: Where a cut does least harm, best first; the cut lies behind the match.
BORDERS = (re.compile(r"\n[ \t\r]*\n"), re.compile(r"\n"), re.compile(r"[.!?][\"')\]]*\s"), re.compile(r"\s"))


def cut(text: str, *, size: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Return (start, end) of each stretch of `text`: at most `size` long, each but the first starting `overlap` before the last one's end.

    The end is looked for in the second half of a stretch, so that most are at least half of `size`. No stretch is empty.

    Raises:
        ValueError: `size` is below 1, or `overlap` is not in 0 .. size - 1: the next stretch would not come further.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"expected size >= 1 and 0 <= overlap < size, found size={size}, overlap={overlap}")
    spans: list[tuple[int, int]] = []
    start = end = 0
    while end < len(text):
        end = _end(text, start, size, overlap)
        spans.append((start, end))
        start = end - overlap
    return spans


def passages(documents: Iterable[Document], *, size: int, overlap: int = 0) -> tuple[Passage, ...]:
    """Return the passages of all documents in order; one of white space alone is left out, since it can answer nothing."""
    return tuple(
        Passage(one.text[start:end], one.id, start, end)
        for one in documents
        for start, end in cut(one.text, size=size, overlap=overlap)
        if one.text[start:end].strip()
    )


def _end(text: str, start: int, size: int, overlap: int) -> int:
    high = start + size
    if high >= len(text):
        return len(text)
    # Beyond the overlap, or the next stretch would start no later than this one.
    low = start + max(size // 2, overlap)
    for border in BORDERS:
        ends = [match.end() for match in border.finditer(text, low, high)]
        if ends:
            return ends[-1]
    return high
