"""One case of an agent as a person reads it: the task, the calls, the difference, the verdict."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from poclab.cases import expected_text
from poclab.changes import Change
from poclab.errors import InputError, printable
from poclab.report import CaseResult, first_input, reply_text

#: Characters of a line, of the name before it, and of one text that is told.
WIDE, NAMED, KEPT = 100, 10, 600


def story(result: CaseResult) -> str:
    """Return what happened on one case, line by line, fit for a terminal: all of it but the task was written by a model or a tool."""
    return "\n".join(line for name, text in _told(result) for line in _wrapped(printable(name), printable(text)))


def _told(result: CaseResult) -> Iterator[tuple[str, str]]:
    yield "task", f"{result.case_id}: {first_input(result.inputs)}"
    yield "expected", expected_text(result.expected, brief=True)
    yield from calls(result)
    yield "said", reply_text(result.reply) or result.problem
    yield from changed(result)
    scores = result.scores.items()
    for name, score in scores:
        if any(other.value == score.value and f"{name}: {score.reason}" in other.reason for _, other in scores):
            continue  # a part of `scores.every`, which says it
        yield "verdict", f"{name} {'none' if score.value is None else format(float(score.value), 'g')}: {score.reason}"


def calls(result: CaseResult) -> Iterator[tuple[str, str]]:
    """Yield each call of a tool with its turn, and what it gave."""
    for one in (given if isinstance(given, Mapping) else {"tool": given} for given in result.reply.tools):
        yield f"turn {one.get('turn', '?')}", f"{one.get('tool')}({json.dumps(one.get('arguments'), ensure_ascii=False)})"
        if one.get("error") or "result" in one:
            yield "", f"-> error: {one['error']}" if one.get("error") else f"-> {one['result']}"


def changed(result: CaseResult) -> Iterator[tuple[str, str]]:
    """Yield each change that a reply tells."""
    for change in result.reply.effects or ():
        yield "changed", _change(change)
    if not result.reply.effects:
        yield "changed", "nothing" if not result.failure else "see what was said"


def _change(given: Any) -> str:
    try:
        return str(Change.from_json(given))
    except InputError:  # of a score of one's own, which knows what it means
        return json.dumps(given, ensure_ascii=False)


def _wrapped(name: str, text: str) -> list[str]:
    kept = text if len(text) <= KEPT else f"{text[:KEPT]} ... ({len(text)} characters)"
    indents = {"initial_indent": f"{name:<{NAMED}}", "subsequent_indent": " " * NAMED}
    return textwrap.wrap(kept, WIDE, **indents, break_on_hyphens=False) or [name]
