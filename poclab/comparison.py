"""Whether a version is better than another one: reports on the same frozen cases, compared case by case.

Each candidate is held against one baseline. The word (`better`, `worse`, `cannot tell`) follows the p value alone, adjusted
by Holm for every trial that was started; the intervals shown are not adjusted. Every score is a family of its own.
Latency and cost stand beside the scores without a word, and so do tags: they are looked at after the fact.
Pure: runs are found elsewhere, and charts drawn elsewhere.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from poclab.errors import FrozenError, InputError, printable
from poclab.files import canonical, digest, plain
from poclab.report import BRIEF_CHARACTERS, COST, CaseResult, Report, first_input, reply_text
from poclab.stats import Estimate, Paired, cases_to_tell, compare_paired, edges, holm
from poclab.system import Prompt
from poclab.tables import frame, html_table, text_table

if TYPE_CHECKING:
    import pandas

#: The chance of a false word that is accepted among all trials of a family.
ALPHA = 0.05
BETTER, WORSE, CANNOT_TELL = "better", "worse", "cannot tell"
#: Stands for a parameter that a version does not have.
ABSENT = object()
#: What of the fixed and broken cases is shown; `to_json` holds all.
MOVES_SHOWN = 20
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
            "baseline": {"run": self.baseline.run_id, "version": self.baseline.version.to_json(), "lock": self.baseline.lock_digest},
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

    def _one_text(self, one: Candidate) -> str:
        lines = [text_table(*_score_table(one)), printable(f"price: {one.price}; failed {self.baseline.failed} -> {one.report.failed}")]
        for what, moves in (("fixed", one.fixed), ("broken", one.broken)):
            lines.append(f"\n{what}: {len(moves)}{_more(moves)}")
            if moves:
                rows = [(move.case_id, *map(_cut, (move.question, move.before, move.after))) for move in moves[:MOVES_SHOWN]]
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
            [*_numbers(one.scores[0])[2:], f"{len(one.fixed)}/{len(one.broken)}", one.report.failed, *map(_ratio, one.ratios.values())]
            + [one.changed[key][1] if key in one.changed else "=" for key in names]
            + [(one.report.run_id or "")[:8]]
            for one in ordered
        ]
        heads = [self.candidates[0].scores[0].score, "difference", "p", "word", "fixed/broken", "failed", *(f"{what} x" for what in RATIOS)]
        return [*heads, *names, "run"], rows

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        body = "".join(self._one_html(one) for one in self.candidates) if len(self.candidates) == 1 else self._many_html()
        return f"<div class='tex2jax_ignore mathjax_ignore'>{body}{notes}</div>"

    def _one_html(self, one: Candidate) -> str:
        price = html.escape(f"price: {one.price}; failed {self.baseline.failed} -> {one.report.failed}")
        parts = [f"<p><b>{html.escape(self._title())}</b></p>", html_table(*_score_table(one)), f"<p>{price}</p>"]
        for what, moves in (("fixed", one.fixed), ("broken", one.broken)):
            rows = [(move.case_id, move.question, move.before, move.after) for move in moves[:MOVES_SHOWN]]
            table = html_table(("case", "question", "before", "after"), rows)
            parts.append(
                f"<details open><summary>{what}: {len(moves)}{_more(moves)}</summary>{table}</details>" if moves else f"<p>{what}: 0</p>"
            )
        if one.tags:
            parts.append(f"<details><summary>by tag</summary>{html_table(*_tag_table(one))}</details>")
        return "".join([*parts, _anchor(one)])

    def _many_html(self) -> str:
        head = html.escape(f"{self.baseline.version.name}: {self.baseline.summary()}")
        return f"<p>baseline: <b>{head}</b></p>{html_table(*self._many_table())}{_anchor(self._ordered()[0])}"


def compare(baseline: Report, *candidates: Report, trials: int | None = None, links: Sequence[str] = ()) -> Comparison:
    """Compare candidates with a baseline on the cases that all of them answered.

    `trials` counts every trial that was started to find these, baseline included; each makes a false word more likely.

    Raises:
        FrozenError: the reports come from different frozen sets.
        InputError: nothing to compare with, a run twice, a partial report, different splits or cases, or no score in common.
    """
    if not candidates:
        raise InputError("nothing to compare with", fix="name two runs or more, the baseline first")
    for one in candidates:
        _check(baseline, one)
    given = [one.run_id for one in candidates if one.run_id is not None]
    if twice := [run for run in given if given.count(run) > 1]:
        raise InputError(f"run {twice[0]} is given twice", fix="name each run once: a repeated one would count as another comparison")
    shared = [name for name in baseline.score_names if all(name in one.score_names for one in candidates)]
    if not shared:
        raise InputError("the reports have no score in common", fix="evaluate both with the same scores")
    comparisons = max(len(candidates), (trials or 0) - 1)
    changes = [_changes(baseline, candidates, name, comparisons) for name in shared]
    made = tuple(
        Candidate(
            report=one,
            changed=_changed(baseline, one),
            scores=tuple(of_score[place] for of_score in changes),
            **_cases(baseline, one, changes[0][place]),
            ratios={what: _ratio_of(baseline, one, metric) for what, metric in RATIOS.items()},
            link=links[place] if links else "",
        )
        for place, one in enumerate(candidates)
    )
    return Comparison(baseline, made, comparisons, tuple(_notes(baseline, candidates, comparisons, trials)))


def _check(baseline: Report, other: Report) -> None:
    names = f"{baseline.version.name!r} and {other.version.name!r}"
    if baseline.run_id is not None and baseline.run_id == other.run_id:
        raise InputError(f"both are run {baseline.run_id}", fix="compare two different runs")
    for one in (baseline, other):
        if one.partial:
            raise InputError(
                f"the report of {one.version.name!r} is partial: {len(one.results)} of {one.planned} cases were answered",
                fix="evaluate it again",
            )
    if baseline.lock_digest != other.lock_digest:
        sets = " and ".join(f"{_edition(one)} (lock {one.lock_digest[:12]})" for one in (baseline, other))
        raise FrozenError(f"{names} were scored on different cases: {sets}", fix="evaluate both on the same edition")
    if baseline.split != other.split:
        raise InputError(
            f"{names} were scored on different splits: {baseline.split or 'all'} and {other.split or 'all'}",
            fix="evaluate both on one split",
        )
    if _digests(baseline) != _digests(other):
        raise InputError(f"{names} answered different cases of the same set", fix="evaluate both on the whole split")


def _edition(report: Report) -> str:
    return "a set that is not frozen" if report.edition is None else f"edition {report.edition}"


def _digests(report: Report) -> dict[str, str]:
    return {one.case_id: one.case_digest for one in report.results}


def _changes(baseline: Report, candidates: Sequence[Report], score: str, comparisons: int) -> list[ScoreChange]:
    """Return what one score says of each candidate; p is adjusted over all comparisons, those without a number included."""
    found: list[ScoreChange] = []
    for one in candidates:
        try:
            before, after = baseline.values(score), one.values(score)
        except InputError as error:
            found.append(ScoreChange(score, problem=error.message))
            continue
        both = [case for case in before if case in after]
        if not both or (apart := _scored_apart(baseline, before, after) + _scored_apart(one, after, before)):
            named = f"different cases on the two sides ({', '.join(apart[:8])})" if both else "no case of both"
            found.append(ScoreChange(score, problem=f"{score} applies to {named}: let it apply by the case alone, not by the reply"))
            continue
        paired = compare_paired([before[case] for case in both], [after[case] for case in both], clusters=baseline.clusters(both))
        found.append(ScoreChange(score, baseline.estimates[score], one.estimates[score], paired))
    told = [change for change in found if change.paired]
    adjusted = iter(holm([change.paired.p for change in told], comparisons=comparisons))
    factors = iter(_factors([change.paired.p for change in told], comparisons))
    return [
        ScoreChange(one.score, one.before, one.after, one.paired, p := next(adjusted), _word(one.paired, p, next(factors)))
        if one.paired
        else one
        for one in found
    ]


def _scored_apart(report: Report, mine: Mapping[str, float], other: Mapping[str, float]) -> list[str]:
    """Return the cases that a score applies to on this side alone; one that failed here counts 0 whether it would apply or not."""
    return [case for case in mine if case not in other and any(one.failure is None for one in report.by_case[case])]


def _factors(p_values: Sequence[float], comparisons: int) -> list[int]:
    """Return by how much Holm divides the accepted chance for each p."""
    ordered = sorted(range(len(p_values)), key=lambda index: p_values[index])
    return [comparisons - ordered.index(index) for index in range(len(p_values))]


def _word(paired: Paired, p: float, factor: int) -> str:
    value = paired.difference.value
    if p <= ALPHA and value != 0:
        return BETTER if value > 0 else WORSE
    needed = cases_to_tell(value, paired.spread, alpha=ALPHA / factor, effect=paired.effect)
    if needed is None:
        return f"{CANNOT_TELL} (no difference seen)"
    return f"{CANNOT_TELL} (about {max(needed, paired.difference.n + 1):,} cases needed)"


def _changed(baseline: Report, other: Report) -> dict[str, tuple[str, str]]:
    old, new = baseline.version.parameters, other.version.parameters
    pairs = {name: (old.get(name, ABSENT), new.get(name, ABSENT)) for name in dict.fromkeys([*old, *new])}
    return {name: _told_apart(*pair) for name, pair in pairs.items() if _identity(pair[0]) != _identity(pair[1])}


def _told_apart(old: Any, new: Any) -> tuple[str, str]:
    """Return two values as texts. Those that are written alike (one file name, two texts) are told by their digests."""
    if (texts := (_shown(old), _shown(new)))[0] != texts[1]:
        return texts
    return f"{texts[0]} ({_identity(old).rpartition(' ')[2][:8]})", f"{texts[1]} ({_identity(new).rpartition(' ')[2][:8]})"


def _identity(value: Any) -> str:
    """Return what makes a value what it is; a text that stands in the notebook is not a prompt of the same words."""
    if value is ABSENT:
        return "absent"
    return f"prompt {value.digest}" if isinstance(value, Prompt) else digest(canonical(value))


def _shown(value: Any) -> str:
    return "(default)" if value is ABSENT else _cut(value.name if isinstance(value, Prompt) else str(value))


def _cases(baseline: Report, other: Report, change: ScoreChange) -> dict[str, Any]:
    """Return the cases that the first score calls fixed and broken, and what it says by tag."""
    if change.paired is None:
        return {"fixed": (), "broken": (), "tags": ()}
    before, after = baseline.values(change.score), other.values(change.score)
    moved = [_move(baseline, other, case, (before[case], after[case])) for case in before if case in after and before[case] != after[case]]
    return {
        "fixed": tuple(one for one in moved if one.values[1] > one.values[0]),
        "broken": tuple(one for one in moved if one.values[1] < one.values[0]),
        "tags": tuple(_tag_changes(baseline, before, after)),
    }


def _move(baseline: Report, other: Report, case: str, values: tuple[float, float]) -> Move:
    first = baseline.by_case[case][0]
    return Move(case, first_input(first.inputs), _answers(baseline.by_case[case]), _answers(other.by_case[case]), values)


def _answers(results: Sequence[CaseResult]) -> str:
    """Return the answers of all repeats, each once."""
    given = (f"({one.failure}: {one.problem})" if one.failure else reply_text(one.reply) or "(empty)" for one in results)
    return " | ".join(dict.fromkeys(one[:BRIEF_CHARACTERS] for one in given))


def _tag_changes(baseline: Report, before: dict[str, float], after: dict[str, float]) -> Iterator[TagChange]:
    groups: dict[str, list[str]] = {}
    for case in before:
        for name, value in baseline.by_case[case][0].tags.items():
            if case in after:
                groups.setdefault(f"{name}: {value}", []).append(case)
    for tag, cases in sorted(groups.items()):
        olds, news = [before[case] for case in cases], [after[case] for case in cases]
        paired = compare_paired(olds, news, clusters=baseline.clusters(cases))
        yield TagChange(tag, sum(olds) / len(cases), sum(news) / len(cases), paired.difference)


def _ratio_of(baseline: Report, other: Report, metric: str) -> float | None:
    """Return how many times the baseline's cost or latency the candidate's is: infinite when only the baseline's is 0; None when one is unknown."""
    old, new = baseline.estimates.get(metric), other.estimates.get(metric)
    if old is None or new is None:
        return None
    if old.value == new.value:
        return 1.0
    return new.value / old.value if old.value else math.inf


def _notes(baseline: Report, candidates: Sequence[Report], comparisons: int, known: int | None) -> Iterator[str]:
    trials = "one comparison" if comparisons == 1 else f"Holm over {comparisons} comparisons, one for each trial that was started"
    cases = " ".join(filter(None, [str(baseline.n), baseline.split, "cases"]))
    yield (
        f"{cases}, lock {baseline.lock_digest[:12]}. Differences are candidate minus baseline with a 95% "
        f"interval that is not adjusted; the word follows p alone ({trials})."
    )
    if known is None and any(one.run_id for one in candidates):
        yield "whether these are trials of a sweep, and of how many, is not known here: name the folder of the POC (poc=...) to correct for all"
    corpora = {one.corpus_digest for one in (baseline, *candidates)}
    if len(corpora) > 1:
        yield f"different corpora: {', '.join(sorted((one or 'none')[:12] for one in corpora))}: the documents are part of the difference"
    repeats = {one.repeats for one in (baseline, *candidates)}
    if repeats != {1}:
        yield f"repeats ({', '.join(map(str, sorted(repeats)))}) are averaged within a case first"
    for one in (baseline, *candidates):
        for name in one.score_names:
            if lost := one.unscored(name):
                yield f"{one.version.name}: {name} is incomplete: {len(lost)} case(s) could not be scored"


def _numbers(change: ScoreChange) -> list[str]:
    """Return score, both values, difference with interval, p and word, as a table shows them."""
    if change.paired is None:
        return [change.score, "", "", "", "", f"no number: {change.problem}"]
    difference = change.paired.difference
    both = [f"{one.value:.3f} ({edges(one.low, one.high)})" for one in (change.before, change.after)]
    told = "< 0.0001" if change.p < 0.0001 else f"{change.p:.4f}"
    return [change.score, *both, f"{difference.value:+.3f} ({edges(difference.low, difference.high, '+.3f')})", told, change.word]


def _score_table(one: Candidate) -> tuple[list[str], list[list[str]]]:
    return ["score", "before", "after", "difference", "p", "word"], [_numbers(change) for change in one.scores]


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
    return of_report | {key: plain(value) for key, value in vars(one).items() if key != "report"}


def _anchor(one: Candidate) -> str:
    text = html.escape(f"{one.report.version.name} beside the baseline, case by case, in MLflow")
    return f"<p><a href='{html.escape(one.link, quote=True)}'>{text}</a></p>" if one.link else ""


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


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
