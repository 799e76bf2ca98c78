"""Read a judge's answer: one label of the menu and a reason, or nothing.

An endpoint with structured output answers in the form that was asked for; others think aloud, put a fence around it or words before it, or
say `Label: wrong` or the bare label, on a line of its own. All of that is read, and nothing is guessed:

- a verdict stands alone on its lines, first or last in the answer; one within a text is a quotation, maybe of the reply that is judged;
- a label that is not on the menu, and two that differ, wherever they stand, are no verdict;
- nor is one with a text behind it that names another label, or a JSON object that is broken: what is inside of it may be quoted.
Pure.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: What is kept of an answer that could not be read.
SHOWN = 200
#: Beyond this nothing is looked for: an answer is a sentence and a label.
LONGEST = 20_000
#: Stands in a text where an object with a label stood.
MARK = "\0"
_NAMED = r"(?:(?:final )?(?:label|verdict)|final answer)"
_LINE = re.compile(rf"[ \t*_#]*{_NAMED}[ \t*_]*[:=]([^{MARK}]+)", re.IGNORECASE)
#: What a model thinks before it answers; servers may leave the opening tag out. What begins with a verdict is no thought.
_THOUGHT = re.compile(rf"\A(?!\s*\{{|\W*{_NAMED}).*?</think(?:ing)?>", re.IGNORECASE | re.DOTALL)
_THINKING = re.compile(r"</?think(?:ing)?>", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json\b)?")
#: Braces of a text that are no JSON: `{name}`.
_BRACES = re.compile(r'\{[^{}":]*\}')
_DECORATION = " \t\r\n`*_\"'.#"


@dataclass(frozen=True)
class Verdict:
    """What was read: a label of the menu, or None; and why."""

    label: str | None
    reason: str


def fold(label: str) -> str:
    """Return what two spellings of one label have in common: neither case nor marks around it count."""
    return unicodedata.normalize("NFC", label).strip(_DECORATION).casefold()


def read(text: str, labels: Iterable[str]) -> Verdict:
    """Return the verdict that an answer holds: JSON objects with a label, lines such as `Label: wrong`, and lines of a bare label."""
    menu = {fold(label): label for label in labels}
    if not text.strip():
        return Verdict(None, "the judge answered without a word")
    if len(text) > LONGEST:
        return Verdict(None, f"the judge answered with {len(text):,} characters: {short(text)}")
    try:
        objects, rest = _objects(_THOUGHT.sub("", _FENCE.sub(" ", text.replace(MARK, " "))))
    except (ValueError, RecursionError):
        return Verdict(None, f"the judge's answer has a brace that opens no whole JSON object: {short(text)}")
    lines = [line for line in map(str.strip, rest.splitlines()) if line]
    named = [_LINE.fullmatch(line) for line in lines]
    bare = [(line, short(text) if len(lines) > 1 else "") for line in lines if fold(line) in menu]
    said = [*bare, *objects, *((found[1], short(text)) for found in named if found)] or [(rest, "")]
    found = {menu.get(fold(label)) for label, _ in said}
    if len(found) > 1:
        return Verdict(None, f"the judge gave several labels: {', '.join(sorted({label.strip() for label, _ in said}))[:SHOWN]}")
    (label,) = found
    if label is None:
        return Verdict(None, f"not a label of the menu ({', '.join(menu.values())}): {short(objects[0][0] if objects else text)}")
    alone = [bool(match) or fold(line) in (MARK, fold(label)) for match, line in zip(named, lines, strict=True)]
    if _THINKING.search(rest) or not (alone[-1] or (alone[0] and not _names_another(lines[1:], menu, label))):
        return Verdict(None, f"no verdict that stands by itself, at the beginning or the end: {short(text)}")
    return Verdict(label, said[-1][1].strip())


def _objects(text: str) -> tuple[list[tuple[str, str]], str]:
    """Return label and reason of each JSON object that has a label, and the text with a mark in place of them.

    Raises:
        ValueError: a brace that opens no whole object, or an object with two labels.
    """
    decoder, found, rest, place = json.JSONDecoder(object_pairs_hook=_once, strict=False), [], "", 0
    while (start := text.find("{", place)) >= 0:
        braces = _BRACES.match(text, start)
        value, end = ({}, braces.end()) if braces else decoder.raw_decode(text, start)
        if "label" in value:
            found.append((_text(value["label"]), _text(value.get("reason") or "")))
        rest, place = rest + text[place:start] + (MARK if "label" in value else text[start:end]), end
    return found, rest + text[place:]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [key.strip().casefold() for key, _ in pairs]
    if names.count("label") > 1:
        raise ValueError("two labels")
    return dict(zip(names, (item for _, item in pairs), strict=True))


def _names_another(lines: Iterable[str], menu: Iterable[str], label: str) -> bool:
    text = fold(" ".join(lines))
    return any(re.search(rf"(?<!\w){re.escape(other)}(?!\w)", text) for other in menu if other != fold(label))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def short(text: str) -> str:
    """Return the beginning of a text, on one line."""
    folded = " ".join(text[: 10 * SHOWN].split())
    return folded if len(folded) <= SHOWN else f"{folded[: SHOWN - 1]}…"
