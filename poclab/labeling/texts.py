"""Texts of the form of the `Labeler`: evidence in documents and passages, lists and tags as they are typed. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from poclab import rag
from poclab.cases import fold
from poclab.errors import InputError
from poclab.rag import Corpus
from poclab.system import Passage

#: How passages are cut, in characters: whatever is no longer than the overlap stands whole in one of them.
PASSAGE, OVERLAP = 800, 200


def phrase(text: str, start: int, end: int) -> str:
    """Return a stretch of a document as evidence: on one line, as evidence is compared.

    Raises:
        InputError: there is nothing in it.
    """
    if not (found := fold(text[max(start, 0) : max(end, 0)])):
        raise InputError("no text is selected", fix="select some words of one passage: with the mouse, or with Shift and the arrow keys")
    return found


def spans(text: str, phrases: Iterable[str]) -> list[tuple[int, int]]:
    """Return where phrases stand in a text, in whatever white space, in the order of the text."""
    patterns = [r"\s+".join(map(re.escape, one.split())) for one in phrases if one.split()]
    return sorted(match.span() for pattern in patterns for match in re.finditer(pattern, text))


def pieces(text: str, phrases: Iterable[str]) -> list[tuple[str, bool]]:
    """Return a text cut where evidence begins and ends, and of each piece whether it is evidence."""
    found, at = [], 0
    for start, end in spans(text, phrases):
        found += [(text[at:start], False), (text[max(start, at) : end], True)]
        at = max(at, end)
    return [(piece, marked) for piece, marked in (*found, (text[at:], False)) if piece]


def listed(text: str) -> list[str]:
    """Return the lines of a text that hold something, each once."""
    return list(dict.fromkeys(fold(line) for line in text.split("\n") if line.strip()))


def tags_text(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items())


def read_tags(text: str) -> dict[str, str]:
    """Return tags that were written as `kind=lookup, difficulty=easy`.

    Raises:
        InputError: a part that is not NAME=VALUE.
    """
    tags = {}
    for part in (part for part in text.split(",") if part.strip()):
        name, _, value = (side.strip() for side in part.partition("="))
        if not (name and value):
            raise InputError(f"tags: {part.strip()!r} is not NAME=VALUE", fix="write kind=lookup, difficulty=easy")
        tags[name] = value
    return tags


def holding(corpus: Corpus, phrases: Sequence[str]) -> tuple[Passage, ...]:
    """Return the passages, cut as for a search, in which these phrases stand; of each the first document that holds it."""
    texts, found = {one.id: one.text for one in corpus.documents}, []
    for phrase in phrases:
        for name in corpus.find(phrase)[:1]:
            text = texts[name]
            start, end = spans(text, [phrase])[0]
            passages = rag.cut(text, size=PASSAGE, overlap=OVERLAP)
            found += [Passage(text[a:b], name, a, b) for a, b in passages if a < end and start < b]
    return tuple(found)


def joined(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """Return the passages, those of a document that overlap or touch as one, at the rank of the best: nobody reads a text twice."""
    found: list[tuple[int, Passage]] = []
    for rank, one in sorted(enumerate(passages), key=lambda pair: (pair[1].document, pair[1].start)):
        best, last = found[-1] if found else (rank, None)
        if last and last.document == one.document and one.start <= last.end:
            text = last.text + one.text[last.end - one.start :]
            found[-1] = (min(best, rank), replace(last, text=text, end=max(last.end, one.end)))
        else:
            found.append((rank, one))
    return tuple(one for _, one in sorted(found, key=lambda pair: pair[0]))
