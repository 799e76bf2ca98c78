"""Two runs on the same cases, reply against reply: which of them a judge prefers, each pair asked in both orders.

A judge that changes its mind with the order has no preference: that pair is a tie, and counted; so is one of identical replies, unasked.
Pairs without a verdict are counted too, and are in no share. This is a judge's opinion; whether a version is better is what `compare` tests.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from poclab import stats
from poclab.cases import TestSet
from poclab.errors import InputError, printable
from poclab.judging.asking import Asked, ask_all
from poclab.judging.judge import FIRST, SECOND, TIE, Judge, Preference
from poclab.report import Report
from poclab.stats import Estimate

LATE = Preference(None, False, ("the judge ran out of time", ""))
WORTH = {FIRST: 0.0, TIE: 0.5, SECOND: 1.0}


@dataclass(frozen=True)
class Pairwise:
    """What a judge prefers, case by case. `share` is how often it is the second, a tie being half; None without any verdict."""

    judge: str
    names: tuple[str, str]
    words: dict[str, Preference]
    share: Estimate | None

    @property
    def counts(self) -> dict[str, int]:
        """How often each was preferred, how many ties there are, and how many pairs have no verdict."""
        found = Counter(one.word or "unscored" for one in self.words.values())
        return {word: found[word] for word in (FIRST, SECOND, TIE, "unscored")}

    @property
    def turned(self) -> list[str]:
        """The cases of which the judge said something else in the other order."""
        return [case for case, one in self.words.items() if one.word is not None and not one.agreed]

    @property
    def why(self) -> str:
        """What most often was the reason of a pair without a verdict; nothing where each has one."""
        reasons = Counter(reason for one in self.words.values() if one.word is None for reason in one.reasons if reason)
        return next((reason for reason, _ in reasons.most_common(1)), "")

    def __repr__(self) -> str:
        counts, why = self.counts, f": {self.why}" if self.why else ""
        return printable(
            f"{self.judge}: {self.names[1]} preferred to {self.names[0]}: {self.share or 'no verdict'}; {counts[SECOND]} to {counts[FIRST]}, "
            f"{counts[TIE]} ties, of which {len(self.turned)} turned with the order, {counts['unscored']} unscored{why}"
        )


def pairwise(judge: Judge, before: Report, after: Report, cases: TestSet, *, budget: str | None = None, workers: int = 8) -> Pairwise:
    """Ask a judge about each case that both runs have a reply to.

    Raises:
        InputError: the runs are of other cases, or have no case in common; BudgetError: the budget is used up.
    """
    if {before.lock_digest, after.lock_digest} != {cases.digest}:
        raise InputError("the runs are not on these cases", fix="evaluate both versions on one edition")
    known = {case.id: case for case in cases}
    given = [{one.case_id: one.reply for one in report.results if one.repeat == 0 and not one.failure} for report in (before, after)]
    common = [name for name in given[0] if name in given[1] and name in known and judge.rubric.applies(known[name])]
    if not common:
        raise InputError("no case has a reply in both runs", fix="evaluate both versions on the same split")
    asked = [Asked(known[name], given[0][name], other=given[1][name]) for name in common]
    poc: Path | None = cases.poc
    answers = ask_all(asked, lambda one: judge.prefer(one.case, one.reply, one.other), late=LATE, poc=poc, budget=budget, workers=workers)
    words = dict(zip(common, answers.found, strict=True))
    scored = [name for name, one in words.items() if one.word is not None]
    clusters = [known[name].cluster for name in scored]
    share = stats.mean_estimate([WORTH[words[name].word] for name in scored], clusters=clusters) if scored else None
    return Pairwise(judge.name, (before.version.name, after.version.name), words, share)
