"""One case of an agent as a person reads it: the task, the calls, the difference, the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator

from poclab.cases import expected_text
from poclab.changes import Change
from poclab.errors import printable
from poclab.report import CaseResult, first_input

#: Characters of a line.
WIDE = 200


def story(result: CaseResult) -> str:
    """Return what happened on one case, line by line, fit for a terminal: all of it but the task was written by a model or a tool."""
    return "\n".join(f"{name:<9} {_cut(printable(text))}" for name, text in _lines(result))


def _lines(result: CaseResult) -> Iterator[tuple[str, str]]:
    yield "task", f"{result.case_id}: {first_input(result.inputs)}"
    yield "expected", expected_text(result.expected)
    for one in result.reply.tools:
        failed = f" -> error: {one['error']}" if one.get("error") else ""
        yield f"turn {one.get('turn', '?')}", f"{one.get('tool')}({json.dumps(one.get('arguments'), ensure_ascii=False)}){failed}"
    yield "said", result.reply.text or result.problem
    for change in result.reply.effects or ():
        yield "changed", str(Change.from_json(change))
    if not result.reply.effects:
        yield "changed", "nothing" if not result.failure else "see what was said"
    for name, score in result.scores.items():
        yield "verdict", f"{name} {'none' if score.value is None else format(float(score.value), 'g')}: {score.reason}"


def _cut(text: str) -> str:
    return text if len(text) <= WIDE else f"{text[: WIDE - 1]}…"
