"""`offline/overlap-judge` answers `/chat/completions` as a judge would: it counts shared words, and understands nothing.

It exists so that all of `poclab.judging` runs without a key. It is weak, and is to be shown as such by its calibration.

It reads the blocks of a judge's prompt (`<question>`, `<reference>`, `<passage>`, `<reply>`) and the menu of labels, which it takes from the
JSON schema of the request, else from the words `The label is one of`. The first label of the menu is the best, the last the worst:

- with a reference: the best label when the reply holds at least half of the words of one of its lines, the last one otherwise;
- else with passages: the best label when at least half of the words of the reply stand in one of them;
- else: the best label when the reply shares a word with the question.
- of two replies (`<reply_a>`, `<reply_b>`) the one with the larger share; a tie when the shares are equal.

Words are stems without stop words. Instructions, examples and the case's own rubric are not read. It cannot tell a denial from a
statement, an answer from its question said again, or a word from its homonym; a long reply has more words to share.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from poclab.offline.extractive import terms
from poclab.offline.protocol import Refused, completion, messages, refuse_parameters

#: The share of words from which on two texts say the same: half, chosen on 2026-11-26 before any answer was looked at.
ENOUGH = 0.5
BLOCK = re.compile(r"<(question|reference|passage|reply|reply_a|reply_b)>\n(.*?)\n</\1>", re.DOTALL)
MENU = re.compile(r"The label is one of ((?:`[^`\n]+`(?:, )?)+)\.")


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Return the chat completion that answers `body`: `{"reason": ..., "label": ...}`."""
    refuse_parameters({**body, "response_format": None}, "tools", "functions")
    said = messages(body)
    shown = _blocks(text for role, text in said if role == "user")
    labels = _menu(body, "\n".join(text for _, text in said))
    if "reply_a" in shown and "reply_b" in shown:
        (one, why), (other, _) = (_share({**shown, "reply": shown[name]}) for name in ("reply_a", "reply_b"))
        label = "tie" if one == other else "a" if one > other else "b"
        return _said(body, label, f"{one:.2f} and {other:.2f}: {why}")
    share, why = _share(shown)
    return _said(body, labels[0] if share >= ENOUGH else labels[-1], why)


def _said(body: dict[str, Any], label: str, reason: str) -> dict[str, Any]:
    return completion(body, json.dumps({"reason": reason, "label": label}, ensure_ascii=False))


def _menu(body: dict[str, Any], text: str) -> Sequence[str]:
    asked = body.get("response_format")
    try:
        labels = asked["json_schema"]["schema"]["properties"]["label"]["enum"]
    except (TypeError, KeyError):
        labels = re.findall(r"`([^`]+)`", found[1]) if (found := MENU.search(text)) else ()
    if not isinstance(labels, (list, tuple)) or len(labels) < 2:
        raise Refused(f"{body['model']} chooses one of two labels or more: a JSON schema with an enum `label`, or `The label is one of`")
    return labels


def _blocks(texts: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, text in BLOCK.findall("\n\n".join(texts)):
        found.setdefault(name, []).append(html.unescape(text))
    return found


def _share(shown: dict[str, list[str]]) -> tuple[float, str]:
    """Return how much two texts have in common, from 0 to 1, and which they are."""
    reply = set(terms("\n".join(shown.get("reply", ()))))
    if references := [line for text in shown.get("reference", ()) for line in text.split("\n") if line.strip()]:
        shares = [(_within(set(terms(line)) or set(line.lower().split()), reply), line) for line in references]
        share, line = max(shares, key=lambda one: one[0])
        return share, f"{share:.0%} of the words of {line[:100]!r} stand in the reply"
    if passages := shown.get("passage"):
        share = max(_within(reply, set(terms(text))) for text in passages)
        return share, f"{share:.0%} of the words of the reply stand in one passage"
    share = float(bool(reply & set(terms("\n".join(shown.get("question", ()))))))
    return share, f"the reply shares {'a' if share else 'no'} word with the question"


def _within(words: set[str], text: set[str]) -> float:
    return len(words & text) / len(words) if words else 0.0
