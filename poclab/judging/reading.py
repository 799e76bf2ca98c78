"""Read a judge's answer: one label of the menu and a reason, or nothing.

An endpoint with structured output answers in the form that was asked for; others wrap it in a fence, put words around it, or say the bare
label. All of that is read. What is not read is never guessed: no label, one that is not on the menu, and two that differ are no verdict.
Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: What is kept of an answer that could not be read.
SHOWN = 200
#: Beyond this nothing is looked for: an answer is a sentence and a label.
LONGEST = 20_000
_LINE = re.compile(
    r"^[\s>*_#-]*(?:final\s+)?(?:label|verdict|answer)[\s*_]*[:=][\s*_`\"']*(?P<label>[^\n`\"'*]+?)[\s*_`\"'.]*$",
    re.IGNORECASE | re.MULTILINE,
)
_DECORATION = " \t\r\n`*_\"'.#"


@dataclass(frozen=True)
class Verdict:
    """What was read: a label of the menu, or None; and why."""

    label: str | None
    reason: str


def read(text: str, labels: Iterable[str]) -> Verdict:
    """Return the verdict that an answer holds: of JSON objects with a label, else of lines such as `Label: wrong`, else the bare label."""
    menu = {label.strip().casefold(): label for label in labels}
    text = text or ""
    if not text.strip():
        return Verdict(None, "the judge answered without a word")
    if len(text) > LONGEST:
        return Verdict(None, f"the judge answered with {len(text):,} characters: {_short(text)}")
    objects = list(_objects(text))
    if objects:
        said = [(str(one["label"]), str(one.get("reason") or "")) for one in objects]
    else:
        said = [(match["label"], _short(text)) for match in _LINE.finditer(text)] or [(text, "")]
    found = {menu.get(label.strip(_DECORATION).casefold()) for label, _ in said}
    if len(found) > 1:
        return Verdict(None, f"the judge gave several labels: {', '.join(sorted({label.strip() for label, _ in said}))[:SHOWN]}")
    (label,) = found
    if label is None:
        return Verdict(None, f"not a label of the menu ({', '.join(menu.values())}): {_short(said[0][0] if objects else text)}")
    return Verdict(label, said[-1][1].strip())


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    """Yield each JSON object in a text that has a label, the outermost ones."""
    decoder, place = json.JSONDecoder(), 0
    while (place := text.find("{", place)) >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        if isinstance(value, dict):
            named = {str(key).strip().casefold(): item for key, item in value.items()}
            if isinstance(named.get("label"), str):
                yield named
        place = end


def _short(text: str) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= SHOWN else f"{folded[: SHOWN - 1]}…"
