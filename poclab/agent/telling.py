"""One case of an agent as a person reads it: the task, the calls, the difference, the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from poclab.cases import expected_text
from poclab.changes import Change
from poclab.errors import InputError, printable
from poclab.report import CaseResult, first_input

#: Characters of a line.
WIDE = 200


def story(result: CaseResult) -> str:
    """Return what happened on one case, line by line, fit for a terminal: all of it but the task was written by a model or a tool."""
    return "\n".join(f"{name:<9} {_cut(printable(text))}" for name, text in _lines(result))


def _lines(result: CaseResult) -> Iterator[tuple[str, str]]:
    yield "task", f"{result.case_id}: {first_input(result.inputs)}"
    yield "expected", expected_text(result.expected)
    for one in (given if isinstance(given, Mapping) else {"tool": given} for given in result.reply.tools):
        came = f" -> error: {one['error']}" if one.get("error") else f" -> {one['result']}" if "result" in one else ""
        yield f"turn {one.get('turn', '?')}", f"{one.get('tool')}({json.dumps(one.get('arguments'), ensure_ascii=False)}){came}"
    yield "said", result.reply.text or result.problem
    for change in result.reply.effects or ():
        yield "changed", _change(change)
    if not result.reply.effects:
        yield "changed", "nothing" if not result.failure else "see what was said"
    for name, score in result.scores.items():
        yield "verdict", f"{name} {'none' if score.value is None else format(float(score.value), 'g')}: {score.reason}"


def _change(given: Any) -> str:
    try:
        return str(Change.from_json(given))
    except InputError:  # of a score of one's own, which knows what it means
        return json.dumps(given, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= WIDE else f"{text[: WIDE - 1]}…"
