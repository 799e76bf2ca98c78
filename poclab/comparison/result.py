"""What a comparison found: each candidate against the baseline, as tables for a notebook and a terminal, JSON, a DataFrame."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poclab.errors import printable
from poclab.files import plain
from poclab.report import COST, Report
from poclab.stats import Estimate, Paired, edges
from poclab.tables import anchor, block, cut, escaped, folded, frame, html_table, paragraph, text_table

if TYPE_CHECKING:
    import pandas

#: The chance of a false word that is accepted among all trials of a family.
ALPHA = 0.05
BETTER, WORSE, CANNOT_TELL = "better", "worse", "cannot tell"
#: What of the fixed and broken cases is shown; `to_json` holds all.
MOVES_SHOWN = 20
#: Characters of a question, an answer or a parameter in a terminal.
CELL = 60
RATIOS = {"cost": COST, "p50": "latency_p50_s", "p95": "latency_p95_s"}


@dataclass(frozen=True)
class ScoreChange:
    """One score on both sides. `p` is adjusted for all trials. Without a number on one side, `problem` says why."""

    score: str
    before: Estimate | None = None
    after: Estimate | None = None
    paired: Paired | None = None
    p: float | None = None
    word: str = "no number"
    problem: str = ""


@dataclass(frozen=True)
class Move:
    """A case whose first score differs: what was asked, and what both versions answered."""

    case_id: str
    question: str
    before: str
    after: str
    values: tuple[float, float]


@dataclass(frozen=True)
class TagChange:
    """The first score on the cases of one tag."""

    tag: str
    before: float
    after: float
    difference: Estimate


@dataclass(frozen=True)
class Candidate:
    """One version held against the baseline. `changed` holds the parameters that differ: old and new."""

    report: Report
    changed: dict[str, tuple[str, str]]
    scores: tuple[ScoreChange, ...]
    fixed: tuple[Move, ...]
    broken: tuple[Move, ...]
    tags: tuple[TagChange, ...]
    ratios: dict[str, float | None]
    link: str = ""

    @property
    def name(self) -> str:
        return ", ".join(f"{key} {old} -> {new}" for key, (old, new) in self.changed.items()) or "nothing that the versions name"

    @property
    def verdict(self) -> str:
        """The word of the first score, and what it rests on."""
        score, _, _, difference, p, word = _numbers(self.scores[0], self.report.n)
        return f"{word} by {score}: {difference}, p {p if p.startswith('<') else f'= {p}'}" if difference else word

    @property
    def price(self) -> str:
        """What the change costs, beside what it gains: a point for ten times the price must look like it."""
        return ", ".join(_times(what, ratio) for what, ratio in sorted(self.ratios.items(), key=lambda item: item[1] is None))


@dataclass(frozen=True)
class Comparison:
    """Candidates against one baseline, corrected for `comparisons` (all trials that were started, but the baseline)."""

    baseline: Report
    candidates: tuple[Candidate, ...]
    comparisons: int
    notes: tuple[str, ...]

    def frame(self) -> pandas.DataFrame:
        """Return one line per candidate and score: both values, difference with interval, p, word, ratios, parameters that differ.

        A parameter with the name of another column is called `parameter:<name>`.
        """
        return frame(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for one in self.candidates:
            for change in one.scores:
                difference = change.paired and change.paired.difference
                row = {
                    "run": one.report.run_id,
                    "version": one.report.version.name,
                    "score": change.score,
                    "baseline": change.before and change.before.value,
                    "candidate": change.after and change.after.value,
                    "n": difference and difference.n,
                    **{
                        key: difference and getattr(difference, at)
                        for key, at in (("difference", "value"), ("low", "low"), ("high", "high"))
                    },
                    "p": change.p,
                    "word": change.word,
                    "fixed": len(one.fixed),
                    "broken": len(one.broken),
                    "failed": one.report.failed,
                    **{f"{what}_ratio": ratio for what, ratio in one.ratios.items()},
                }
                yield row | {f"parameter:{key}" if key in row else key: new for key, (_, new) in one.changed.items()}

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values, every fixed and broken case included."""
        return {
            "baseline": {
                "run": self.baseline.run_id,
                "version": self.baseline.version.to_json(),
                "lock": self.baseline.lock_digest,
                "outcomes": self.baseline.outcomes,
            },
            "split": self.baseline.split,
            "comparisons": self.comparisons,
            "alpha": ALPHA,
            "notes": list(self.notes),
            "candidates": [_json(one) for one in self.candidates],
        }

    def __repr__(self) -> str:
        parts = (
            [printable(self._title()), *(self._one_text(one) for one in self.candidates)]
            if len(self.candidates) == 1
            else [self._many_text()]
        )
        return "\n".join([*parts, *(printable(note) for note in self.notes)])

    def _title(self) -> str:
        one = self.candidates[0]
        return f"{self.baseline.version.name} -> {one.report.version.name}: {one.name}"

    def _price(self, one: Candidate) -> str:
        """Return the price, and what became of the cases on both sides: wrong answers may be traded for crashes."""
        before, after = self.baseline.outcomes, one.report.outcomes
        moved = [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
        return f"price: {one.price}; {', '.join(moved) or 'no outcome occurs more or less often'}"

    def _one_text(self, one: Candidate) -> str:
        lines = [text_table(*_score_table(one)), printable(self._price(one))]
        for what, moves in (("fixed", one.fixed), ("broken", one.broken)):
            lines.append(f"\n{what}: {len(moves)}{_more(moves)}")
            if moves:
                rows = [
                    (move.case_id, *(cut(text, CELL) for text in (move.question, move.before, move.after))) for move in moves[:MOVES_SHOWN]
                ]
                lines.append(text_table(("case", "question", "before", "after"), rows))
        if one.tags:
            lines += ["", text_table(*_tag_table(one))]
        return "\n".join([*lines, *([printable(one.link)] if one.link else [])])

    def _many_text(self) -> str:
        table = text_table(*self._many_table())
        link = self._ordered()[0].link
        return f"baseline: {printable(self.baseline.version.name)}: {printable(self.baseline.summary())}\n{table}" + (
            f"\nfirst: {printable(link)}" if link else ""
        )

    def _ordered(self) -> list[Candidate]:
        """Return the candidates, the largest difference of the first score first, those without a number last."""
        return sorted(self.candidates, key=lambda one: -one.scores[0].paired.difference.value if one.scores[0].paired else 2)

    def _many_table(self) -> tuple[list[str], list[list[Any]]]:
        """Return the table of many candidates by the first score."""
        ordered = self._ordered()
        names = list(dict.fromkeys(key for one in ordered for key in one.changed))
        rows = [
            [
                *_numbers(one.scores[0], one.report.n)[2:],
                f"{len(one.fixed)}/{len(one.broken)}",
                _failed(one.report),
                *map(_ratio, one.ratios.values()),
            ]
            + [one.changed[key][1] if key in one.changed else "=" for key in names]
            + [(one.report.run_id or "")[:8]]
            for one in ordered
        ]
        heads = [self.candidates[0].scores[0].score, "difference", "p", "word", "fixed/broken", "failed", *(f"{what} x" for what in RATIOS)]
        return [*heads, *names, "run"], rows

    def _repr_html_(self) -> str:
        one = len(self.candidates) == 1
        return block(*(self._one_html(self.candidates[0]) if one else self._many_html()), *map(paragraph, self.notes))

    def _one_html(self, one: Candidate) -> Iterator[str]:
        yield f"<p><b>{escaped(self._title())}</b></p>"
        yield from (html_table(*_score_table(one)), paragraph(self._price(one)))
        for what, moves in (("fixed", one.fixed), ("broken", one.broken)):
            rows = [(move.case_id, move.question, move.before, move.after) for move in moves[:MOVES_SHOWN]]
            table = html_table(("case", "question", "before", "after"), rows)
            yield folded(f"{what}: {len(moves)}{_more(moves)}", table, is_open=True) if moves else paragraph(f"{what}: 0")
        if one.tags:
            yield folded("by tag", html_table(*_tag_table(one)))
        yield _anchor(one)

    def _many_html(self) -> Iterator[str]:
        yield paragraph(f"{self.baseline.version.name}: {self.baseline.summary()}", name="baseline")
        yield from (html_table(*self._many_table()), _anchor(self._ordered()[0]))


def _numbers(change: ScoreChange, cases: int) -> list[str]:
    """Return score, both values, difference with interval, p and word, as a table shows them; n where it is not all `cases`."""
    if change.paired is None:
        return [change.score, "", "", "", "", f"no number: {change.problem}"]
    difference = change.paired.difference
    both = [f"{one.value:.3f} ({edges(one.low, one.high)})" for one in (change.before, change.after)]
    n = f", n = {difference.n}" if difference.n != cases else ""
    return [
        change.score,
        *both,
        f"{difference.value:+.3f} ({edges(difference.low, difference.high, '+.3f')}{n})",
        p_text(change.p),
        change.word,
    ]


def p_text(p: float) -> str:
    """Return a p as tables show it: none is 0."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _failed(report: Report) -> str:
    """Return how many cases failed, and by what."""
    classes = Counter(one.failure for one in report.results if one.failure)
    return f"{report.failed} ({', '.join(f'{name} {count}' for name, count in classes.most_common())})" if classes else "0"


def _score_table(one: Candidate) -> tuple[list[str], list[list[str]]]:
    return ["score", "before", "after", "difference", "p", "word"], [_numbers(change, one.report.n) for change in one.scores]


def _tag_table(one: Candidate) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            tag.tag,
            str(tag.difference.n),
            f"{tag.before:.3f}",
            f"{tag.after:.3f}",
            f"{tag.difference.value:+.3f} ({edges(tag.difference.low, tag.difference.high, '+.3f')})",
        ]
        for tag in one.tags
    ]
    return ["tag", "n", "before", "after", "difference"], rows


def _json(one: Candidate) -> dict[str, Any]:
    of_report = {"run": one.report.run_id, "version": one.report.version.to_json(), "failed": one.report.failed}
    of_report |= {"outcomes": one.report.outcomes, "retried": one.report.retried}
    return of_report | {key: plain(value) for key, value in vars(one).items() if key != "report"}


def _anchor(one: Candidate) -> str:
    return anchor(f"{one.report.version.name} beside the baseline, case by case, in MLflow", one.link)


def _times(what: str, ratio: float | None) -> str:
    if ratio is None:
        return f"{what} unknown"
    if ratio == 1:
        return f"the same {what}"
    return f"{what} no longer 0" if math.isinf(ratio) else f"{_ratio(ratio)} x the {what}"


def _ratio(value: float | None) -> str:
    if value is not None and math.isinf(value):
        return "from 0"
    return "unknown" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _more(moves: Sequence[Move]) -> str:
    return f" (the first {MOVES_SHOWN}; `to_json()` holds all)" if len(moves) > MOVES_SHOWN else ""
