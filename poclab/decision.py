"""Go, no-go or not yet: a charter's criteria held against reports.

Each criterion is judged on the near edge of its interval: `met` when the whole interval is on the right side of the bound,
`missed` when the whole of it is on the wrong one, `cannot tell` in between, with about how many more cases it would take.
All met is go, one missed is no-go, anything else is not yet. What stands beside the verdict (looks at the held-out cases,
edits of the criteria, the gap between dev and test, the time box) is told and does not change it.
Pure: runs are found elsewhere.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from poclab.charter import METRICS, Charter, Criterion
from poclab.errors import FrozenError, InputError, printable
from poclab.files import plain
from poclab.report import ALL_OF, QUANTILES, SURVIVAL, Report
from poclab.stats import Estimate, cases_for_quantile, cases_to_reach, cases_until, edges, independent_difference
from poclab.tables import block, counts_text, form_of, html_table, paragraph, text_table

MET, MISSED, CANNOT_TELL = "met", "missed", "cannot tell"
GO, NO_GO, NOT_YET = "go", "no-go", "not yet"
#: What has to be answered before a charter can decide, by what it lacks.
QUESTIONS = {
    "decision": "What is decided, in one sentence? (decision)",
    "owner": "Who decides when the numbers are in? (owner)",
    "sponsor": "Who pays for what follows? (sponsor)",
    "criteria": "Which number, reached on which cases, means yes? (criteria)",
    "signed": "Who agreed to these numbers, on which day, and where is it written down? (signed: {by: ..., on: ..., where: ...})",
}
PEOPLE = r"(?:people|users?|customers?|staff|clients?|colleagues|employees|anyone|anybody|they)"
#: An uncertainty of people, not of technology: no test set answers it. What people will ask or type is one of technology.
ADOPTION = re.compile(
    r"\b(?:adoption|uptake|take-?up|willing(?:ness)?|(?:be|get|gets) adopted|adopted by)\b|\bdemand for (?:it|this|such|an?|the)\b"
    rf"|\b{PEOPLE} (?:will|would|wants? to|are going to) (?:use|adopt|accept|trust|like|want|pay)\b"
    rf"|\b{PEOPLE} (?:(?:adopt|accept|trust)s?|(?:like|want)s? (?:it|this))\b"
    rf"|\b(?:will|would|do) {PEOPLE} (?:use|adopt|accept|trust|like|want|pay)\b",
    re.IGNORECASE,
)
#: Looks that are listed beside a verdict; `to_json` holds all.
LOOKS_SHOWN = 5
#: Numbers of a run that have no interval: they are held against the bound as they are.
COUNTS = {"failed": lambda report: float(report.failed), "cost_usd": lambda report: report.total("cost_usd")}


@dataclass(frozen=True)
class Verdict:
    """One criterion, the number it was held against, and the word; `more` says how many cases would settle it, what is missing, or what it is of."""

    criterion: Criterion
    word: str
    estimate: Estimate | None = None
    more: str = ""

    def __str__(self) -> str:
        return f"{self.word} ({self.more})" if self.more else self.word


@dataclass(frozen=True)
class Judged:
    """Why a judge's score is not to be decided on (nothing: it is), and what is known of the judge."""

    refusal: str
    told: str = ""


@dataclass(frozen=True)
class Look:
    """One scoring of held-out cases."""

    on: str
    by: str
    version: str
    run_id: str
    status: str

    def __str__(self) -> str:
        ended = "" if self.status == "FINISHED" else f", {self.status.lower()}"
        return f"{self.on} by {self.by}: {self.version} (run {self.run_id[:8]}{ended})"


@dataclass(frozen=True)
class Edit:
    """Criteria that changed after they were first used: what they said, since when, and what they say now.

    `looked` if held-out cases had been seen by then: a bar that is moved to a known result.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    before_since: str
    after_since: str
    looked: bool = False

    @property
    def how(self) -> str:
        """What a headline says of it."""
        return f"{'edited' if self.before else 'written'} after {'the held-out cases were seen' if self.looked else 'the first run'}"

    def __str__(self) -> str:
        old = [one for one in self.before if one not in self.after] or ["(nothing)"]
        new = [one for one in self.after if one not in self.before] or ["(nothing)"]
        return f"{'; '.join(old)} (since {self.before_since}) became {'; '.join(new)} (since {self.after_since}){', after the held-out cases were seen' if self.looked else ''}"


@dataclass(frozen=True)
class Decision:
    """The verdicts over one version, and what to know beside them. `looks` and `edits` are None where no store tells."""

    charter: Charter
    reports: tuple[Report, ...]
    verdicts: tuple[Verdict, ...]
    word: str
    gap: Estimate | None
    looks: tuple[Look, ...] | None
    edits: tuple[Edit, ...] | None
    today: datetime.date
    lineage: str = ""
    #: What is known of each judge whose score a criterion is about.
    judges: tuple[tuple[str, str], ...] = ()

    @property
    def go(self) -> bool:
        return self.word == GO

    @property
    def report(self) -> Report:
        """The report on the held-out cases, else the first one."""
        return next((one for one in self.reports if one.split == "test"), self.reports[0])

    @property
    def days(self) -> tuple[int, int] | None:
        """The day of the time box that today is, and how many it has; None without one."""
        return _days(self.charter, self.today)

    @property
    def overdue(self) -> bool:
        return self.days is not None and self.days[0] > self.days[1]

    @property
    def headline(self) -> str:
        """The word, and what a reader must not overlook: a bar that was moved, nothing held out, the time box over."""
        told = [self.word]
        if self.go and not any(one.criterion.split == "test" for one in self.verdicts):
            told.append("on the cases it was tuned on: no criterion is about held-out ones")
        if self.edits:
            worst = max(self.edits, key=lambda one: (one.looked, bool(one.before)))
            told.append(f"on criteria that were {worst.how}")
        if self.overdue:
            told.append(f"after the time box: it ended {self.days[0] - self.days[1]} day(s) ago")
        return ", ".join(told)

    def _since_signed(self) -> str:
        later = [one for one in self.edits or () if one.after_since[:10] > str(self.charter.text["signed"]["on"])]
        return ", before the criteria were edited" if later else ""

    def rows(self) -> list[list[str]]:
        """Return criterion, value with interval, n and verdict as texts, a line per criterion."""
        by = f" by {self.report.score_names[0]}" if self.report.score_names else ""
        return [
            [f"{one.criterion}{by if one.criterion.metric == 'accuracy' else ''}", *_value(one.criterion, one.estimate), str(one)]
            for one in self.verdicts
        ]

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield what to know beside the verdict, each with its name."""
        report = self.report
        run = f", run {report.run_id}" if report.run_id else ""
        yield "version", f"{report.version.name} ({report.version.digest[:12]}){run}"
        yield "cases", f"edition {report.edition}, lock {report.lock_digest[:12]}{f'; {self.lineage}' if self.lineage else ''}"
        for one in self.reports:
            more = f"; {one.retried} were asked again because the endpoint had failed them" if one.retried else ""
            more += f"; {one.lost} request(s) without an answer may be billed, and are in no cost" if one.lost else ""
            yield f"outcomes on {one.split or 'all'}", f"{counts_text(one.outcomes)}{more}"
        for name, told in self.judges:
            yield f"judge {name}", told
        yield "looks at test", _looks(self.looks)
        yield "dev-test gap", _gap(self.gap, self.reports)
        yield "time box", _timebox(self.charter, self.today)
        signed = self.charter.text["signed"]
        yield (
            "charter",
            f"signed by {signed['by']} on {signed['on']} ({signed['where']}){self._since_signed()}; owner {self.charter.owner}; digest {self.charter.digest[:12]}",
        )
        if self.edits is None:
            yield "criteria", "not known whether they were edited: no store of runs"
        for edit in self.edits or ():
            yield "criterion edited", str(edit)
        if ADOPTION.search(self.charter.text.get("uncertainty") or ""):
            yield "advice", PILOT

    def to_json(self) -> dict[str, Any]:
        return {
            "word": self.word,
            "headline": self.headline,
            "on": self.today.isoformat(),
            "verdicts": [{**plain(one), "text": str(one.criterion)} for one in self.verdicts],
            "runs": {one.split or "all": one.run_id for one in self.reports},
            "version": self.report.version.digest,
            "lock": self.report.lock_digest,
            "charter": self.charter.digest,
            **plain({"gap": self.gap, "looks": self.looks, "edits": self.edits, "facts": list(self.facts())}),
        }

    def __repr__(self) -> str:
        facts = [f"{name}: {printable(text)}" for name, text in self.facts()]
        return "\n".join([f"{self.headline}: {printable(self.charter.decision)}", text_table(COLUMNS, self.rows()), *facts])

    def _repr_html_(self) -> str:
        return block(paragraph(self.charter.decision, name=self.headline), html_table(COLUMNS, self.rows()), html_table([], self.facts()))


COLUMNS = ("criterion", "value", "n", "verdict")
PILOT = "the uncertainty is whether people will use it: no test set answers that; run a pilot with a few of them, and count"


def weigh(
    charter: Charter,
    reports: Sequence[Report],
    *,
    looks: Sequence[Look] | None = None,
    edits: Sequence[Edit] | None = None,
    lineage: str = "",
    today: datetime.date | None = None,
    judged: Callable[[str, Report], Judged] | None = None,
) -> Decision:
    """Hold a charter's criteria against the reports of one version, at most one for each split.

    `lineage` says what became of the held-out cases since the first edition. `judged` says of a score that a judge gave whether it is
    to be decided on; without it, none is.

    Raises:
        InputError: the charter cannot decide (with the questions to answer), a report is partial, or they are of several versions.
        FrozenError: the reports come from different sets, or from one that is not frozen.
    """
    refuse_unfinished(charter)
    _check(reports)
    by_split = {one.split or "all": one for one in reports}
    known = {(one.metric, one.split): _known(one, by_split.get(one.split), judged) for one in charter.criteria}
    verdicts = tuple(judge(one, by_split.get(one.split), known[one.metric, one.split]) for one in charter.criteria)
    words = {one.word for one in verdicts}
    return Decision(
        charter=charter,
        reports=tuple(reports),
        verdicts=verdicts,
        word=NO_GO if MISSED in words else GO if words == {MET} else NOT_YET,
        gap=_gap_of(by_split),
        looks=None if looks is None else tuple(looks),
        edits=None if edits is None else tuple(edits),
        today=today or datetime.date.today(),
        lineage=lineage,
        judges=tuple({metric: one.told for (metric, _), one in known.items() if one and one.told}.items()),
    )


def unready(charter: Charter, report: Report, judged: Callable[[str, Report], Judged], split: str) -> list[str]:
    """Return why criteria on a split will not be decided, whatever comes out there, by a report on another one of the same version."""
    found = []
    for one in charter.criteria:
        known = _known(one, report, judged)
        if one.split != split:
            continue
        if known and known.refusal:
            found.append(known.refusal)
        elif tries := ALL_OF.fullmatch(one.metric):
            if int(tries[1]) > report.repeats:
                found.append(f"{one.metric} takes {tries[1]} repeats, and the version has {report.repeats}")
        elif one.metric not in (*METRICS, *report.score_names):
            found.append(f"no score {one.metric!r} is given: there are {', '.join(report.score_names)}")
    return found


def _known(criterion: Criterion, report: Report | None, judged: Callable[[str, Report], Judged] | None) -> Judged | None:
    """Return what is known of the judge of a criterion's score; None where no judge gave it."""
    if report is None or not report.judged_by(criterion.metric):
        return None
    score = report.score_of(criterion.metric)
    return judged(score, report) if judged else Judged(f"no folder of a POC to look for the calibration of {score!r} in")


def refuse_unfinished(charter: Charter) -> None:
    """Raise an `InputError` with the questions that a charter leaves open."""
    if charter.missing:
        questions = "\n".join(f"  {number}. {QUESTIONS[name]}" for number, name in enumerate(charter.missing, start=1))
        where = charter.path or "the charter"
        raise InputError(
            f"{where} cannot decide yet: it lacks {', '.join(charter.missing)}. To answer first:\n{questions}",
            fix=f"write the answers into {where}",
        )


def _check(reports: Sequence[Report]) -> None:
    if not reports:
        raise InputError("no report to decide on", fix="decide(charter, report)")
    for one in reports:
        if one.partial:
            raise InputError(f"the report of {one.version.name!r} is partial: {len(one.results)} of {one.planned}", fix="evaluate it again")
        if one.edition is None:
            raise FrozenError(f"{one.version.name!r} was scored on cases that are not frozen", fix="`poclab freeze`, and evaluate again")
    for error, what, values, fix in (
        (FrozenError, "sets of cases", {one.lock_digest for one in reports}, "evaluate both splits of one edition"),
        (InputError, "versions", {one.version.digest for one in reports}, "decide on one version: its run on dev, and its run on test"),
        (
            InputError,
            "first scores",
            {one.score_names[0] for one in reports if one.score_names},
            "evaluate both splits with the same scores",
        ),
        (InputError, "documents", {one.corpus_digest or "none" for one in reports}, "evaluate both splits on the same documents"),
    ):
        if len(values) > 1:
            raise error(f"the reports are of different {what}: {', '.join(value[:12] for value in sorted(values))}", fix=fix)
    if len({one.split for one in reports}) < len(reports):
        raise InputError("two reports are of one split", fix="give one report for each split")


def judge(criterion: Criterion, report: Report | None, judged: Judged | None = None) -> Verdict:
    """Hold one criterion against the report of its split; `judged` is what is known of the judge that gave its score."""
    if report is None:
        how = ": `poclab decide --confirm`" if criterion.split == "test" else ""
        return Verdict(criterion, CANNOT_TELL, more=f"never scored on {criterion.split}{how}")
    if criterion.metric in COUNTS:
        return _judge_count(criterion, COUNTS[criterion.metric](report), report)
    try:
        estimate = report.estimate(criterion.metric, confidence=criterion.confidence)
    except InputError as error:
        return Verdict(criterion, CANNOT_TELL, more=error.message)
    if judged and judged.refusal:
        return Verdict(criterion, CANNOT_TELL, estimate, judged.refusal)
    word = _word(criterion, estimate.low, estimate.high)
    more = [_more(criterion, estimate, report)] if word == CANNOT_TELL else []
    more += [report.faults_met] if criterion.metric == SURVIVAL else []
    return Verdict(criterion, word, estimate, "; ".join(more))


def _judge_count(criterion: Criterion, value: float | None, report: Report) -> Verdict:
    if value is None:
        return Verdict(criterion, CANNOT_TELL, more=f"the cost is unknown: {report.why_unknown}")
    return Verdict(criterion, _word(criterion, value, value), Estimate(value, value, value, report.n))


def _word(criterion: Criterion, low: float, high: float) -> str:
    if criterion.at_least is not None:
        return MET if low >= criterion.at_least else MISSED if high < criterion.at_least else CANNOT_TELL
    return MET if high <= criterion.at_most else MISSED if low > criterion.at_most else CANNOT_TELL


def _more(criterion: Criterion, estimate: Estimate, report: Report) -> str:
    """Return about how many more cases would settle it, if the number stayed what it is, in four of five repetitions."""
    clusters = set(report.clusters(report.by_case))
    if criterion.metric not in QUANTILES and report.n > 1 and len(clusters) == 1 and None not in clusters:
        return "all cases are of one cluster: label others"
    needed = cases_needed(criterion, estimate, report)
    if needed is None:
        return "no number of cases settles it: the value is at the bound" if estimate.value == criterion.bound else "too close to the bound"
    missed = "" if _reached(criterion, estimate.value) else ", and then probably missed"
    return f"about {max(needed - estimate.n, 1):,} more {'requests' if criterion.metric in QUANTILES else 'cases'}{missed}"


def _reached(criterion: Criterion, value: float) -> bool:
    return value >= criterion.bound if criterion.at_least is not None else value <= criterion.bound


def cases_needed(criterion: Criterion, estimate: Estimate, report: Report) -> int | None:
    """Return about how many cases (requests, for a latency) would show a criterion as met or missed; None: none would."""
    bound, confidence = criterion.bound, criterion.confidence
    if criterion.metric in QUANTILES:
        within = sum(latency <= bound for latency in report.latencies_s) / len(report.latencies_s)
        return cases_for_quantile(QUANTILES[criterion.metric], within, at_most=estimate.value <= bound, confidence=confidence)
    values = report.values(criterion.metric)
    clusters = [name for name in report.clusters(values) if name is not None]
    if set(values.values()) <= {0, 1} and len(set(clusters)) == len(clusters):
        upwards = (criterion.at_least is not None) == _reached(criterion, estimate.value)
        return cases_to_reach(bound, estimate.value, at_least=upwards, confidence=confidence)
    near = estimate.low if estimate.value >= bound else estimate.high
    return cases_until(estimate.value, near, bound, estimate.n, confidence=confidence)


def _gap_of(by_split: dict[str, Report]) -> Estimate | None:
    """Return accuracy on dev minus accuracy on test."""
    if not {"dev", "test"} <= set(by_split):
        return None
    try:
        return independent_difference(*(by_split[split].estimate("accuracy") for split in ("dev", "test")))
    except InputError:
        return None


def _value(criterion: Criterion, estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None:
        return "none", ""
    if estimate.low == estimate.high == estimate.value:
        return f"{estimate.value:g}", str(estimate.n)
    form = form_of(criterion.metric)
    return f"{estimate.value:{form}} ({edges(estimate.low, estimate.high, form)})", str(estimate.n)


def _looks(looks: Sequence[Look] | None) -> str:
    if looks is None:
        return "not known: no store of runs"
    last = f", the last {LOOKS_SHOWN}" if len(looks) > LOOKS_SHOWN else ""
    versions = len({one.version for one in looks})
    several = f", of {versions} versions" if versions > 1 else ""
    return f"{len(looks)}{several}{last}{': ' if looks else ''}{'; '.join(map(str, looks[-LOOKS_SHOWN:]))}"


def _gap(gap: Estimate | None, reports: Sequence[Report]) -> str:
    if gap is None:
        told = {one.split for one in reports if "accuracy" in one.estimates}
        return f"not known: no number of this version, by the same code, on {' and '.join(split for split in ('dev', 'test') if split not in told)}"
    return f"{gap.value:+.3f} ({edges(gap.low, gap.high, '+.3f')}): accuracy on dev minus accuracy on test"


def _days(charter: Charter, today: datetime.date) -> tuple[int, int] | None:
    timebox = charter.text.get("timebox") or {}
    if not timebox.get("start") or not timebox.get("weeks"):
        return None
    return (today - datetime.date.fromisoformat(timebox["start"])).days + 1, math.ceil(timebox["weeks"] * 7)


def _timebox(charter: Charter, today: datetime.date) -> str:
    days = _days(charter, today)
    if days is None:
        return "not known: the charter has none"
    used, total = days
    if used < 1:
        return f"begins in {1 - used} day(s)"
    return f"day {used} of {total}" if used <= total else f"{total} days, ended {used - total} day(s) ago"
