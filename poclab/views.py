"""One case and one attempt as a notebook shows them: HTML in which all that a model, a file or a person wrote is text.

Without colours of their own, so that they can be read on light and on dark. What a whole report or comparison looks like stands there.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from poclab.cases import first_input
from poclab.changes import expectations
from poclab.comparison.result import Candidate
from poclab.report import CaseResult, Report, reply_text
from poclab.stats import edges
from poclab.system import Call, Passage
from poclab.tables import anchor, block, cut, escaped, folded, form_of, html_table, money, paragraph
from poclab.telling import calls, changed

#: What is shown of an attempt beside its scores.
FACTS = {"latency_p95_s": "p95 latency, s", "cost_usd_per_case": "cost per case, $"}
#: A longer passage or answer is cut; the trace holds all of it.
CHARACTERS = 4_000
#: Of what was edited in a prompt: how many lines are shown, of how many characters, and how long both texts may be.
LINES, LINE, MOST_COMPARED = 4, 70, 40_000


def edits(before: str, after: str) -> list[str]:
    """Return the first lines that a text lost (-) and gained (+)."""
    if len(before) + len(after) > MOST_COMPARED:
        return []
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    lines = [cut(line[0] + " " + line[1:], LINE) for line in found if line[1:].strip() and line[:3] not in ("---", "+++", "@@ ")]
    return [*lines[:LINES], *(["..."] if len(lines) > LINES else [])]


def marked(text: str, phrases: Iterable[str]) -> str:
    """Return a text as HTML in which these phrases are marked, whatever white space they are written with."""
    patterns = [r"\s+".join(map(re.escape, phrase.split())) for phrase in phrases if phrase.strip()]
    found = re.finditer("|".join(sorted(patterns, key=len, reverse=True)), text) if patterns else ()
    out, end = [], 0
    for match in found:
        out += [escaped(text[end : match.start()]), f"<mark>{escaped(match[0])}</mark>"]
        end = match.end()
    return "".join([*out, escaped(text[end:])])


def report_table(report: Report, baseline: Report | None, candidate: Candidate | None) -> str:
    """Return the numbers of a report, beside those of its baseline on the same cases if there is one."""
    if candidate is None:
        rows = [[name, _number(report, name)] for name in report.score_names]
        rows += [[label, _number(report, name)] for name, label in FACTS.items()]
        return html_table(["", "this version"], [*rows, ["failed", report.failed]])
    rows = []
    for change in candidate.scores:
        difference = change.paired and change.paired.difference
        shown = f"{difference.value:+.3f} ({edges(difference.low, difference.high, '+.3f')})" if difference else ""
        rows.append([change.score, _number(baseline, change.score), _number(report, change.score), shown, change.word])
    rows += [[label, _number(baseline, name), _number(report, name), "", ""] for name, label in FACTS.items()]
    return html_table(["", "baseline", "this version", "difference", "word"], [*rows, ["failed", baseline.failed, report.failed, "", ""]])


def _number(report: Report, metric: str) -> str:
    found = report.estimates.get(metric)
    if found is None:
        return "unknown" if metric.startswith("cost") else "no number"
    form = form_of(metric)
    return f"{found.value:{form}} ({edges(found.low, found.high, form)}, n = {found.n})"


def case_view(after: Sequence[CaseResult], before: Sequence[CaseResult] = (), *, link: str = "") -> str:
    """Return one case: what was asked and expected, what both versions answered and were given, scores, tokens, cost, its trace.

    `before` is empty where the baseline did not answer it.
    """
    first = after[0]
    question = paragraph(first_input(first.inputs), name=first.case_id)
    tags = ", ".join(f"{name}: {value}" for name, value in first.tags.items())
    parts = [question, paragraph(tags), _expected(first.expected)]
    sides = [("this version", after), *([("baseline", before)] if before else [])]
    parts += [_side(name, one) for name, results in sides for one in results]
    return block(*parts, anchor("its trace in MLflow", link))


def _expected(expected: Mapping[str, object]) -> str:
    if not expected:
        return ""
    shown = {"abstain": "the documents do not answer it"} if expected.get("abstain") else {}
    shown |= {name: value for name, value in expected.items() if (value or name == "effects") and name != "abstain"}
    rows = [[name, value if isinstance(value, str) else _listed(name, value)] for name, value in shown.items()]
    return paragraph("expected") + html_table([], rows)


def _listed(name: str, value: object) -> str:
    if name == "effects":
        return "\n".join(map(str, expectations(value, where="expected"))) or "no change"
    texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    if not texts:
        return json.dumps(value, ensure_ascii=False)
    return (" | " if name == "answers" else "\n").join(value)


def _side(name: str, one: CaseResult) -> str:
    answer = one.problem if one.failure else reply_text(one.reply) or "(empty)"
    outcome = f"{one.outcome}; " if one.expected or one.failure else ""  # nothing is expected of a question of one's own
    shown = paragraph(outcome + _paid(one), name=name)
    rows = [[score, "unscored" if given.value is None else f"{float(given.value):g}", given.reason] for score, given in one.scores.items()]
    scores = html_table(["score", "value", "why"], rows) if rows and one.expected else ""
    acted = one.reply.tools or one.reply.effects or "effects" in one.expected
    did = folded("what it did", html_table([], [*calls(one), *changed(one)]), is_open=True) if acted else ""
    return shown + did + paragraph(answer[:CHARACTERS]) + scores + _passages(one.reply.contexts, one.expected.get("evidence", ()))


def _passages(passages: Sequence[Passage], evidence: Sequence[str]) -> str:
    if not passages:
        return ""
    shown = "".join(
        f"<p style='margin:.6em 0 .2em'><i>{escaped(one.document)}</i></p>"
        f"<p style='margin:0;white-space:pre-wrap;overflow-wrap:break-word'>{marked(one.text[:CHARACTERS], evidence)}</p>"
        for one in passages
    )
    return folded(f"{len(passages)} passage{'s' * (len(passages) > 1)}", shown)


def _paid(one: CaseResult) -> str:
    calls = one.billed_calls
    if not calls:
        return f"{one.latency_s:.2f} s, no model call seen"
    costs, tokens = [call.cost_usd for call in calls], [_tokens(call) for call in calls]
    cost = money(None if None in costs else sum(costs))
    counted = "tokens unknown" if None in tokens else f"{sum(tokens)} tokens"
    replayed = sum(call.replayed for call in calls)
    return f"{one.latency_s:.2f} s, {counted}, {cost}{f', {replayed} of {len(calls)} answers from the ledger' if replayed else ''}"


def _tokens(call: Call) -> int | None:
    return None if call.tokens_in is None or call.tokens_out is None else call.tokens_in + call.tokens_out
