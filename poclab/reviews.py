"""What second labellers say of the cases, how far they agree with the first, and which disagreements are to be settled.

A second labeller cannot mark what they have not seen, and is not independent of what they have. So a review has two steps: first, of
the question and the documents alone, an own answer, or that there is none, which is recorded before the first label is shown, and final;
then the mark. It follows where it can (one of the two says unanswerable; the answers are equal as `scores.exact` compares them), and is
picked otherwise. Evidence is kept, and decides nothing. Kappa is of the first step alone.

A review is of a case's inputs and expected values, by their digest: a case that was edited needs a new one, other tags or a split do not.
What was settled stays counted as the disagreement that it was. Not covered: who reads `cases.jsonl` before the review.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from poclab import scores, stats
from poclab.cases import Case, fold
from poclab.errors import InputError, refuse_unknown
from poclab.files import digest, read_json_lines
from poclab.system import Reply

#: The file of a POC that holds them, one a line, and is only ever added to.
FILE = "reviews.jsonl"
#: What a review ends in: `unanswerable` when only the second labeller says so.
MARKS = ("agree", "disagree", "unanswerable")
#: What can be picked by who has given an answer, and sees another one.
PICKED = MARKS[:2]
#: How a disagreement is settled: the first label stays, the second is taken, or neither.
WAYS = ("first", "second", "edit")


@dataclass(frozen=True)
class Review:
    """What a second labeller says of a case: own `answers` (none: unanswerable) and evidence, before the first label was seen; then the mark.

    `answerable` is what the first label says. Without a mark it is still to be picked.
    """

    case: str
    digest: str
    by: str
    on: str
    answerable: bool
    answers: tuple[str, ...]
    mark: str | None = None
    note: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settlement:
    """How the disagreements on a case were settled (one of `WAYS`), and by whom; `becomes` is the digest since then."""

    case: str
    digest: str
    by: str
    on: str
    settled: str
    becomes: str
    note: str = ""


Entry = Review | Settlement


@dataclass(frozen=True)
class Agreement:
    """How far second labellers agree.

    `share` is of the reviews with a mark; None without any. `counts` has how often the first and the second label say
    answerable: {(True, False): 3}. `kappa` is Cohen's, of these; None where it is undefined.
    """

    share: stats.Estimate | None
    kappa: float | None
    counts: Mapping[tuple[bool, bool], int]

    def __str__(self) -> str:
        if not (n := sum(self.counts.values())):
            return "no reviews yet"
        share = f"agreement {self.share}" if self.share else "agreement: no marks yet"
        if self.share and (waiting := n - self.share.n):  # agreement follows by itself more often than disagreement does
            share += f", {waiting} still to be compared"
        same = "answerable" if self.counts.get((True, True)) else "unanswerable"
        value = f"undefined, since all labels say {same}" if self.kappa is None else f"{self.kappa:.3f}"
        return f"{share}; kappa on answerable {value} (n = {n})"


def label_digest(case: Case) -> str:
    """Return the SHA-256 over what a reviewer judges: the inputs and what is expected."""
    return digest([dict(case.inputs), dict(case.expected)])


def same_name(one: str, other: str) -> bool:
    """Tell whether two people are one: case, white space, and how an accent is encoded aside."""
    return _person(one) == _person(other)


def _person(name: str) -> str:
    return unicodedata.normalize("NFC", fold(name)).casefold()


def is_first(case: Case, by: str) -> bool:
    """Tell whether the case's label is by this person; one without a name is nobody's."""
    return bool(by.strip()) and same_name((case.label or {}).get("by", ""), by)


def follows(case: Case, answers: Sequence[str]) -> str | None:
    """Return the mark that follows from a second labeller's answers (none: unanswerable); None when it has to be picked."""
    if not answers:
        return "agree" if case.abstain else "unanswerable"
    if case.abstain:
        return "disagree"
    found = [scores.exact()(case, Reply(answer)) for answer in answers]
    return "agree" if any(score and score.right for score in found) else None


def counted(cases: Sequence[Case], entries: Sequence[Entry]) -> tuple[Review, ...]:
    """Return the reviews of the cases as they are, or as they were before they were settled; of each labeller of a case the last line."""
    versions = _versions(cases, entries)
    found: dict[tuple[str, str], Review] = {}
    for entry in reversed(entries):
        if isinstance(entry, Review) and entry.digest in versions.get(entry.case, ()):
            found.setdefault((entry.case, _person(entry.by)), entry)
    return tuple(reversed(found.values()))


def _versions(cases: Sequence[Case], entries: Sequence[Entry]) -> dict[str, set[str]]:
    """Return the digests that each case has, and had before it was settled."""
    found = {case.id: {label_digest(case)} for case in cases}
    for entry in reversed(entries):
        if isinstance(entry, Settlement) and entry.becomes in found.get(entry.case, ()):
            found[entry.case].add(entry.digest)
    return found


def disagreements(cases: Sequence[Case], entries: Sequence[Entry]) -> tuple[Review, ...]:
    """Return the reviews that differ from the label and are not settled, the oldest first."""
    reviews, versions = set(counted(cases, entries)), _versions(cases, entries)
    waiting: list[Review] = []
    for entry in entries:
        if isinstance(entry, Settlement):
            if entry.becomes not in versions.get(entry.case, ()):
                continue  # it was written, and the process killed before the case was
            waiting = [one for one in waiting if one.case != entry.case]
        elif entry in reviews and entry.mark in ("disagree", "unanswerable"):
            waiting.append(entry)
    return tuple(waiting)


def agreement(reviews: Sequence[Review]) -> Agreement:
    """Return the share of agreement with its interval, and Cohen's kappa on answerable. Several reviews of a case are a cluster."""
    marked = [one for one in reviews if one.mark]
    agree = [float(one.mark == "agree") for one in marked]
    share = stats.mean_estimate(agree, clusters=[one.case for one in marked]) if marked else None
    counts = Counter((one.answerable, bool(one.answers)) for one in reviews)
    return Agreement(share, stats.kappa(counts), counts)


def read_entries(poc: Path) -> tuple[Entry, ...]:
    """Return all that the reviews of a POC say; nothing where there are none.

    Raises:
        InputError: a line that cannot be understood (with its number).
    """
    path = poc / FILE
    return tuple(read_entry(value, where=f"{path}, line {number}") for number, value in (read_json_lines(path) if path.exists() else ()))


def read_entry(data: Any, *, where: str) -> Entry:
    """Return what one line of `reviews.jsonl` says.

    Raises:
        InputError: an unknown key, a missing one, or a value of the wrong kind; names `where`.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(data).__name__}")
    kind = Settlement if "settled" in data else Review
    refuse_unknown(data, [one.name for one in fields(kind)], where=where)
    for one in fields(kind):
        value = data.get(one.name, None if one.default is MISSING else one.default)
        if not _fits(one.name, value):
            raise InputError(f"{where}: {one.name!r} is {value!r}", fix="lines are added by labelling, not edited: put the old one back")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})


def _fits(name: str, value: Any) -> bool:
    match name:
        case "answerable":
            return isinstance(value, bool)
        case "answers" | "evidence":
            return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
        case "mark":
            return value in (None, *MARKS)
        case "settled":
            return value in WAYS
    return isinstance(value, str)
