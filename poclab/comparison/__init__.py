"""Whether a version is better than another one: reports on the same frozen cases, compared case by case.

Each candidate is held against one baseline. The word (`better`, `worse`, `cannot tell`) follows the p value alone, adjusted
by Holm for every trial that was started; the intervals shown are not adjusted. Every score is a family of its own.
Latency and cost stand beside the scores without a word, and so do tags: they are looked at after the fact.
Pure: runs are found elsewhere, and charts drawn elsewhere.

    __init__   the comparison      result   what it found, and how that is shown
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from poclab.cases import first_input
from poclab.comparison.result import ALPHA, BETTER, CANNOT_TELL, CELL, RATIOS, WORSE, Candidate, Comparison, Move, ScoreChange, TagChange
from poclab.errors import FrozenError, InputError
from poclab.files import canonical, digest
from poclab.report import BRIEF_CHARACTERS, CaseResult, Report, reply_text
from poclab.stats import MOST, NONE, Paired, cases_to_tell, compare_paired, holm
from poclab.system import Prompt, Version
from poclab.tables import cut

__all__ = ["ALPHA", "Candidate", "Comparison", "Move", "ScoreChange", "TagChange", "changes", "compare"]

#: Stands for a parameter that a version does not have.
ABSENT = object()


def compare(
    baseline: Report, *candidates: Report, comparisons: int | None = None, links: Sequence[str] = (), first: str | None = None
) -> Comparison:
    """Compare candidates with a baseline on the cases that all of them answered.

    `comparisons` counts all that were begun to find these; each makes a false word more likely. `first` is the score that tables and
    words are about, if it is given in all reports; by default the first one.

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
    common = [name for name in baseline.score_names if all(name in one.score_names for one in candidates)]
    shared = [name for name in common if all(one.judged_by(name) == baseline.judged_by(name) for one in candidates)]
    shared.sort(key=lambda name: name != first)
    if not shared:
        of_rubrics = f", and {', '.join(common)} was judged by different rubrics or models" if common else ""
        raise InputError(f"the reports have no score in common{of_rubrics}", fix="evaluate both with the same scores")
    begun = max(len(candidates), comparisons or 0)
    of_scores = [_changes(baseline, candidates, name, begun) for name in shared]
    made = tuple(
        Candidate(
            report=one,
            changed=changes(baseline.version, one.version),
            scores=tuple(of_score[place] for of_score in of_scores),
            **_cases(baseline, one, of_scores[0][place]),
            ratios={what: _ratio_of(baseline, one, metric) for what, metric in RATIOS.items()},
            link=links[place] if links else "",
        )
        for place, one in enumerate(candidates)
    )
    apart = [f"{name} was judged by different rubrics or models, and is not compared" for name in common if name not in shared]
    return Comparison(baseline, made, begun, (*_notes(baseline, candidates, begun, comparisons), *apart))


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
    told = [place for place, change in enumerate(found) if change.paired]
    p_values = [found[place].paired.p for place in told]
    for place, p, factor in zip(told, holm(p_values, comparisons=comparisons), _factors(p_values, comparisons), strict=True):
        found[place] = replace(found[place], p=p, word=_word(found[place].paired, p, factor))
    return found


def _scored_apart(report: Report, mine: Mapping[str, float], other: Mapping[str, float]) -> list[str]:
    """Return the cases that a score applies to on this side alone; one that failed here counts 0 whether it would apply or not."""
    return [case for case in mine if case not in other and any(one.failure is None for one in report.by_case[case])]


def _factors(p_values: Sequence[float], comparisons: int) -> list[int]:
    """Return by how much Holm divides the accepted chance for each p."""
    ordered = sorted(range(len(p_values)), key=lambda index: p_values[index])
    return [comparisons - ordered.index(index) for index in range(len(p_values))]


def _word(paired: Paired, p: float, factor: int) -> str:
    value = paired.difference.value
    if p <= ALPHA:
        return BETTER if value > 0 else WORSE
    needed = cases_to_tell(value, paired.spread, alpha=ALPHA / factor, effect=paired.effect)
    if needed is None:
        return f"{CANNOT_TELL} (no difference seen)"
    about = f"about {max(needed, paired.difference.n + 1):,}" if needed <= MOST else f"more than {MOST:,}"
    return f"{CANNOT_TELL} ({about} cases needed)"


def changes(before: Version, after: Version) -> dict[str, tuple[str, str]]:
    """Return the parameters that differ, each with its old and its new value as texts."""
    old, new = before.parameters, after.parameters
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
    return "(not set)" if value is ABSENT else cut(value.name if isinstance(value, Prompt) else str(value), CELL)


def _cases(baseline: Report, other: Report, change: ScoreChange) -> dict[str, Any]:
    """Return the cases that the first score calls fixed and broken, and what it says by tag."""
    if change.paired is None:
        return {"fixed": (), "broken": (), "tags": ()}
    before, after = baseline.values(change.score), other.values(change.score)
    moved = [
        _move(baseline, other, case, (before[case], after[case]))
        for case in before
        if abs(after.get(case, before[case]) - before[case]) > NONE
    ]
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
    trials = "one comparison" if comparisons == 1 else f"Holm over {comparisons} comparisons, for all trials that were started"
    if unknown := comparisons - len(candidates):
        trials += f"; {unknown} of them are not shown here and count as larger p, the cautious way: shown together, p may be smaller"
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
    if len({one.code_digest for one in (baseline, *candidates)} - {None}) > 1:
        yield "the code of the systems differs: it is part of the difference"
    if len(answered := {answered for one in (baseline, *candidates) for _, answered in one.judges}) > 1:
        yield f"judges answered as {', '.join(sorted(answered))}: where that differs, it is part of the difference"
    repeats = {one.repeats for one in (baseline, *candidates)}
    if repeats != {1}:
        yield f"repeats ({', '.join(map(str, sorted(repeats)))}) are averaged within a case first"
    for one in (baseline, *candidates):
        for name in one.score_names:
            if lost := one.unscored(name):
                yield f"{one.version.name}: {name} is incomplete: {len(lost)} case(s) could not be scored"
