"""What an evaluation found: the result of every case, and the numbers over them with their intervals.

A report is data: it goes to JSON and back, and shows itself as a table in a notebook and as text elsewhere. It is
aggregated here and nowhere else. A case that failed counts as wrong; a score that could not be given (a scorer that
raised) leaves that score without a number. Two reports are not compared here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab.cases import expected_text, first_input
from poclab.errors import InputError, printable
from poclab.files import canonical, digest, plain, read_json, write_atomic
from poclab.redaction import conceal_json
from poclab.scores import Score
from poclab.stats import Estimate, all_of, cost_estimate, mean_estimate, quantile_estimate
from poclab.system import UNDER_WAY, Call, Reply, Version
from poclab.tables import block, counts_text, folded, frame, html_table, money, paragraph

if TYPE_CHECKING:
    import pandas

FORMAT = 1
#: Why there is no reply to score: such a case counts as failed.
FAILURES = ("refused", "truncated", "malformed_output", "rate_limited", "timeout", "connection", "server_error", "crashed", "budget")
#: What can become of a case.
OUTCOMES = ("ok", "wrong", "abstained", "empty_retrieval", *FAILURES)
#: What the endpoint did, not the system: only these may be asked again.
RETRIED = ("rate_limited", "connection", "server_error", "budget")
#: What is shown of a report; `report.frame()` holds all of it.
ROWS_SHOWN, FAILURES_SHOWN = 40, 3
TOTALS = ("cost_usd", "tokens_in", "tokens_out")
COST = "cost_usd_per_case"
#: The share of faults that a case survives in a drill; and the file of a run that holds its drill.
SURVIVAL, DRILL_FILE = "survival", "drill.json"
#: Fields that the first reports did not have.
LATER = ("brief", "code_digest", "retried", "stopped", "drill", "calls_outside")
QUANTILES = {"latency_p50_s": 0.50, "latency_p95_s": 0.95}
#: The share of cases that are right in each of so many tries (pass^k), and up to how many tries it is told.
ALL_OF, MOST_TRIES = re.compile(r"all_of_([1-9]\d*)"), 8
#: What is kept of a reply in a brief report.
BRIEF_CHARACTERS = 500
LONGEST_PROBLEM = 200


@dataclass(frozen=True)
class CaseResult:
    """What became of one case (and repeat).

    `outcome` is one of `OUTCOMES`; where there is no reply to score, `failure` is the same, and `error` what to read about it.
    `latency_s` holds what replayed answers took when they were paid. `judge_calls` are those of the scorers.
    """

    case_id: str
    case_digest: str
    repeat: int
    inputs: Mapping[str, Any]
    expected: Mapping[str, Any]
    tags: Mapping[str, str]
    cluster: str | None
    reply: Reply
    scores: Mapping[str, Score]
    latency_s: float
    failure: str | None = None
    error: str = ""
    calls: Sequence[Call] = ()
    request_id: str = ""
    trace_id: str | None = None
    outcome: str = ""
    judge_calls: Sequence[Call] = ()
    #: Whether it was asked again because the endpoint had failed it in an earlier run.
    retried: bool = False

    def __post_init__(self) -> None:
        if not self.outcome:  # of a report from before there were outcomes
            first = next(iter(self.scores.values()), None)
            object.__setattr__(self, "outcome", self.failure or ("ok" if first is None or first.right else "wrong"))

    @property
    def billed_calls(self) -> list[Call]:
        """The model calls that the endpoint answered, or was still at when the case ran out of time; it bills no other."""
        return billed(self.calls)

    @property
    def billed_judge_calls(self) -> list[Call]:
        return billed(self.judge_calls)

    @property
    def problem(self) -> str:
        """What to read first of `error`: of a traceback, the exception; with the way out, where it names one."""
        lines = [re.sub(r"^ *[|+][ |+-]*", "", line) for line in self.error.strip().split("\n")]  # the margin of a group of errors
        lines = [line for line in lines if line.strip()]
        fix = f" ({lines.pop().strip()})" if lines and lines[-1].startswith("  fix: ") else ""
        stack = max((place for place, line in enumerate(lines) if line.startswith('  File "')), default=None)
        after = [] if stack is None else list(itertools.dropwhile(lambda line: line.startswith("    "), lines[stack + 1 :]))
        said = " ".join(" ".join(after or lines[-1:]).split())
        said = said if len(said) <= LONGEST_PROBLEM else f"{said[: LONGEST_PROBLEM - 1]}…"
        return f"{said.removeprefix('poclab.errors.')}{fix}"

    def content(self) -> list[Any]:
        """Return what must be equal when the case is asked again and answered the same."""
        scores = {name: [one.value, one.answer] for name, one in self.scores.items()}
        return [self.case_id, self.case_digest, self.repeat, self.reply.to_json(), self.failure, scores]

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        scores = {name: vars(score) for name, score in self.scores.items()}
        calls = {name: [vars(call) for call in getattr(self, name)] for name in ("calls", "judge_calls")}
        return {**data, "reply": self.reply.to_json(), "scores": scores, **calls}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CaseResult:
        scores = {name: Score(**score) for name, score in data["scores"].items()}
        calls = {name: tuple(Call(**call) for call in data.get(name, ())) for name in ("calls", "judge_calls")}
        return cls(**{**data, "reply": Reply.from_json(data["reply"]), "scores": scores, **calls})


@dataclass(frozen=True)
class Report:
    """One version on one split of one frozen set. Results stand in the order of the cases, repeats together.

    A `brief` one holds what a comparison reads: its replies are cut, and have no passages.
    """

    version: Version
    test_set: str
    lock_digest: str
    edition: int | None
    split: str | None
    score_names: tuple[str, ...]
    results: tuple[CaseResult, ...]
    planned: int
    repeats: int = 1
    corpus_digest: str | None = None
    charter_digest: str | None = None
    started_at: str = ""
    wall_s: float = 0.0
    run_id: str | None = None
    link: str | None = None
    warnings: tuple[str, ...] = field(default=())
    brief: bool = False
    #: The digest of the system's own source: two functions may carry one version, and are two systems.
    code_digest: str | None = None
    #: How many results are of cases that were asked again because the endpoint had failed them.
    retried: int = 0
    #: Why a partial one is partial, other than by Ctrl-C.
    stopped: str = ""
    #: How many model calls were asked by threads that knew of no case: what they cost belongs to none, so that every cost is unknown.
    calls_outside: int = 0
    #: What `poclab drill` found of this version on these cases, as its file says; it is kept beside the report.
    drill: Mapping[str, Any] | None = None

    def drilled(self, folder: Path) -> Report:
        """Return this report with the drill that lies in its folder, if there is a whole one, of this system and these cases."""
        if not (folder / DRILL_FILE).is_file() or self.split == "test":
            return self
        found = read_json(folder / DRILL_FILE)
        mine = (self.version.digest, self.lock_digest, self.code_digest, self.corpus_digest)
        same = (found["version"]["digest"], *(found.get(name) for name in ("lock_digest", "code_digest", "corpus_digest"))) == mine
        return replace(self, drill=found) if same and found.get("whole") else self

    @property
    def partial(self) -> bool:
        """True when the evaluation was stopped before every case had its turn, or by a budget while some had theirs."""
        return len(self.results) < self.planned or bool(self.stopped)

    @cached_property
    def by_case(self) -> dict[str, list[CaseResult]]:
        """The results of each case, its repeats together, in the order of the cases."""
        grouped: dict[str, list[CaseResult]] = {}
        for result in self.results:
            grouped.setdefault(result.case_id, []).append(result)
        return grouped

    @property
    def n(self) -> int:
        """How many cases were evaluated, whatever the number of repeats."""
        return len(self.by_case)

    @property
    def failed(self) -> int:
        """How many results failed (each repeat counts)."""
        return sum(result.failure is not None for result in self.results)

    def mean(self, metric: str) -> float:
        """Return the value of `estimate`."""
        return self.estimate(metric).value

    def values(self, metric: str) -> dict[str, float]:
        """Return one value per case, repeats averaged, by the id of each case that the metric applies to.

        A metric is the name of a score, `accuracy` (the first score), `all_of_3` (right in each of three tries, pass^3, of the first score),
        `failed_share` or `cost_usd_per_case`.

        Raises:
            InputError: no such metric, it applies to no case, a scorer failed on some case, or a cost is unknown.
        """
        if metric not in self._known:  # a baseline is asked by each of its candidates
            self._known[metric] = self._values(metric)
        return self._known[metric]

    @cached_property
    def _known(self) -> dict[str, dict[str, float]]:
        return {}

    def _values(self, metric: str) -> dict[str, float]:
        score = self.score_names[0] if metric == "accuracy" and self.score_names else metric
        if score in self.score_names:
            self._check_scored(score)
            given = {
                name: [float(one.scores[score].value or 0) for one in group if score in one.scores] for name, group in self.by_case.items()
            }
        elif metric == "failed_share":
            given = {name: [float(one.failure is not None) for one in group] for name, group in self.by_case.items()}
        elif metric == COST:
            given = self._costs()
        elif tries := ALL_OF.fullmatch(metric):
            given = self._right_in_all(int(tries[1]))
        elif metric == SURVIVAL and self.drill:
            given = self._survivals()
        elif metric == SURVIVAL:
            raise InputError("this version was not drilled: `poclab drill`")
        else:
            known = (*self.score_names, "accuracy", "failed_share", COST, SURVIVAL, *QUANTILES)
            raise InputError(f"this report has no score {metric!r}", fix=f"use one of: {', '.join(known)}")
        found = {name: math.fsum(values) / len(values) for name, values in given.items() if values}
        if not found:
            raise InputError(f"{metric} applies to none of the {self.n} cases that were evaluated")
        return found

    def _right_in_all(self, tries: int) -> dict[str, list[float]]:
        """Return for each case how likely the first score is right in so many tries, all of them."""
        score = self.score_names[0]
        self._check_scored(score)
        tried = {name: [one.scores[score].right for one in group if score in one.scores] for name, group in self.by_case.items()}
        if few := [name for name, group in tried.items() if 0 < len(group) < tries]:
            raise InputError(f"all_of_{tries}: {len(few)} case(s) were tried less often, such as {few[0]}", fix=f"repeats={tries}")
        return {name: [all_of(tries, right=sum(group), of=len(group))] for name, group in tried.items() if group}

    def _check_scored(self, score: str) -> None:
        if lost := self.unscored(score):
            named = f"{', '.join(lost[:8])}{' ...' if len(lost) > 8 else ''}"
            why = next(one.scores[score].reason for one in self.by_case[lost[0]] if one.scores[score].value is None)
            raise InputError(
                f"{score} is incomplete: {len(lost)} case(s) could not be scored: {named}: {why}", fix="mend the scorer and evaluate again"
            )

    def _costs(self) -> dict[str, list[float]]:
        if self.total("cost_usd") is None:
            raise InputError(f"the cost is unknown: {self.why_unknown}")
        # A case that the endpoint never answered shows nothing of what a case costs.
        shows = {name: [one for one in group if one.billed_calls or not one.failure] for name, group in self.by_case.items()}
        return {name: [_sum(one.billed_calls, "cost_usd") or 0.0 for one in group] for name, group in shows.items()}

    def _survivals(self) -> dict[str, list[float]]:
        """Return for each case that was drilled, fault by fault of those that it met, whether it survived."""
        met: dict[str, list[float]] = {}
        for row in self.drill["rows"]:
            for case, survived in row["cases"].items():
                met.setdefault(case, []).append(float(survived))
        return met

    def clusters(self, cases: Iterable[str]) -> list[str | None]:
        """Return the cluster of each of these cases."""
        return [self.by_case[name][0].cluster for name in cases]

    def estimate(self, metric: str, *, confidence: float = 0.95) -> Estimate:
        """Return a metric with its interval: one that `values` takes, over the cases it applies to, or a latency over all requests.

        Raises:
            InputError: as `values`.
        """
        if metric in QUANTILES:
            return quantile_estimate(self.latencies_s, QUANTILES[metric], cases=self.n, confidence=confidence)
        values = self.values(metric)
        estimated = cost_estimate if metric == COST else mean_estimate
        return estimated(list(values.values()), clusters=self.clusters(values), confidence=confidence)

    @property
    def latencies_s(self) -> list[float]:
        """The seconds of each request; one that failed counts as the slowest: nobody keeps a bound by failing early."""
        slowest = max((one.latency_s for one in self.results), default=0.0)
        return [slowest if one.failure else one.latency_s for one in self.results]

    def unscored(self, score: str) -> list[str]:
        """Return the ids of the cases on which the scorer itself failed."""
        lost = [one.case_id for one in self.results if score in one.scores and one.scores[score].value is None]
        return list(dict.fromkeys(lost))

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Every number that carries an interval, by its metric name; what has no number is absent."""
        found: dict[str, Estimate] = {}
        names = ("accuracy", *self.score_names, *self._tries, "failed_share", *QUANTILES, COST, SURVIVAL) if self.results else ()
        for name in names:
            with contextlib.suppress(InputError):
                found[name] = self.estimate(name)
        return found

    @property
    def _tries(self) -> list[str]:
        """The metrics of success in all of several tries, where cases were repeated."""
        return [f"all_of_{tries}" for tries in range(2, self.repeats + 1) if tries <= MOST_TRIES or tries == self.repeats]

    def total(self, what: str) -> float | None:
        """Return the sum of `cost_usd`, `tokens_in` or `tokens_out` over all calls that were answered.

        None when one of them is unknown or asked outside of all cases, or when no call was seen: a system may call models behind
        poclab's back.
        """
        return None if self.calls_outside else _sum([call for one in self.results for call in one.billed_calls], what)

    @property
    def lost(self) -> int:
        """How many requests got no answer and may be billed all the same; no cost has them in it."""
        return sum(call.lost for one in self.results for call in (*one.calls, *one.judge_calls))

    @property
    def why_unknown(self) -> str:
        """Why the cost is unknown, if it is."""
        calls = [call for one in self.results for call in one.billed_calls]
        unpriced = {call.model for call in calls if call.cost_usd is None and call.tokens_in is not None and call.tokens_out is not None}
        if self.calls_outside:
            return "calls were asked by threads that know of no case"
        if not calls:
            return "no model call was seen"
        if unpriced:
            return f"{', '.join(map(repr, sorted(unpriced)))} has no price: add it to `prices` of charter.yaml, and evaluate again"
        return "the endpoint did not say how many tokens an answer took"

    @property
    def spent_usd(self) -> float | None:
        """What this evaluation paid, the judge included: replayed answers cost nothing now. None when a cost is unknown, or no call was seen."""
        calls = [call for one in self.results for call in (*one.billed_calls, *one.billed_judge_calls)]
        paid = [replace(call, cost_usd=0.0) if call.replayed else call for call in calls]
        return None if self.calls_outside else _sum(paid, "cost_usd")

    @property
    def judge_cost_usd(self) -> float | None:
        """What the scorers' own calls cost when they were paid; None without any, or when one is unknown."""
        return _sum([call for one in self.results for call in one.billed_judge_calls], "cost_usd")

    @cached_property
    def outcomes(self) -> dict[str, int]:
        """How many results came out in each way, in the order of `OUTCOMES`; what did not occur is 0."""
        found = Counter(one.outcome for one in self.results)
        return {name: found[name] for name in OUTCOMES}

    @cached_property
    def failures(self) -> list[str]:
        """What went wrong, the commonest first: how often, which class, the error, and the first case."""
        found: dict[tuple[str, str], list[str]] = {}
        for one in self.results:
            if one.failure:
                found.setdefault((one.failure, one.problem), []).append(one.case_id)
        ordered = sorted(found.items(), key=lambda item: -len(item[1]))
        return [f"{len(ids)} {failure}: {problem} (first: case {ids[0]})" for (failure, problem), ids in ordered]

    def metrics(self) -> dict[str, float]:
        """Return the flat numbers for MLflow, rounded. What is unknown, or an open edge of an interval, is absent."""
        numbers: dict[str, float | None] = {}
        for name, estimate in self.estimates.items():
            numbers |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        numbers |= {what: self.total(what) for what in TOTALS}
        numbers |= {"failed": self.failed, "cases": self.n, "spent_usd": self.spent_usd, "judge_cost_usd": self.judge_cost_usd}
        numbers |= {"retried": self.retried, **{f"outcome_{name}": count for name, count in self.outcomes.items()}}
        return {name: _rounded(name, value) for name, value in numbers.items() if value is not None and math.isfinite(value)}

    @property
    def models(self) -> list[str]:
        """The models that answered, as the endpoint calls them, with the fingerprint of what serves them if it tells one."""
        return sorted({call.answered_by for one in self.results for call in (*one.calls, *one.judge_calls)} - {""})

    def score_of(self, metric: str) -> str:
        """Return the score that a metric is worked out from: that of the name, the first one where the metric is of what is right."""
        first = metric in ("accuracy", SURVIVAL) or ALL_OF.fullmatch(metric)
        return self.score_names[0] if first and self.score_names else metric

    def judged_by(self, metric: str) -> set[str]:
        """Return the digests of the rubrics that judges went by in a metric, the cases' own left out; none where no judge had a say."""
        score = self.score_of(metric)
        given = (one.scores[score].source for one in self.results if score in one.scores)
        return {one.partition("+")[0] for source in given for one in source.split()}

    @property
    def judged(self) -> dict[str, str]:
        """The scores that judges gave, each with the beginnings of the digests of their rubrics."""
        found = {score: self.judged_by(score) for score in self.score_names}
        return {score: " ".join(sorted(one[:12] for one in digests)) for score, digests in found.items() if digests}

    @property
    def judges(self) -> set[tuple[str, str]]:
        """The models of the scorers' calls, as they were asked for and as the endpoint calls them."""
        return {(call.model, call.answered_by) for one in self.results for call in one.judge_calls if call.answered_by}

    def content_digest(self) -> str:
        """Return the digest of what must be equal when a run is repeated: version, set, replies, scores and failures.

        Left out are times, identifiers, reasons, and the wording of errors. Key values are concealed, as in the file.
        """
        rows = [one.content() for one in self.results]
        identity = [self.version.digest, self.lock_digest, self.split, self.repeats, self.corpus_digest, list(self.score_names)]
        return digest(canonical(conceal_json([*identity, self.planned, rows])))

    def frame(self) -> pandas.DataFrame:
        """Return one line per case and repeat: tags, inputs, expected, reply, scores, failure, latency, tokens, trace.

        A tag or an input with the name of another column is called `tag:<name>` or `input:<name>`.
        """
        return frame(self._row(one) for one in self.results)

    def _row(self, one: CaseResult) -> dict[str, Any]:
        row: dict[str, Any] = {"case": one.case_id, "repeat": one.repeat}
        known = {
            "expected": expected_text(one.expected),
            "reply": reply_text(one.reply),
            **{name: one.scores[name].value if name in one.scores else None for name in self.score_names},
            "failure": one.failure,
            "error": one.problem or None,
            "outcome": one.outcome,
            "latency_s": one.latency_s,
            **{what: _sum(one.billed_calls, what) for what in TOTALS},
            "trace_id": one.trace_id,
        }
        for kind, values in (("tag", one.tags), ("input", one.inputs)):
            row |= {f"{kind}:{name}" if name in row or name in known else name: value for name, value in values.items()}
        return row | known

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "drill"}
        data |= {"format": FORMAT, "version": self.version.to_json(), "results": [one.to_json() for one in self.results]}
        aggregates = plain({name: one for name, one in self.estimates.items() if name != SURVIVAL})  # a drill is kept beside it
        totals = {"failed": self.failed, **{what: self.total(what) for what in TOTALS}}
        content = None if self.brief else self.content_digest()
        return {**data, "partial": self.partial, "aggregates": {**aggregates, **totals}, "content_digest": content}

    def afresh(self) -> Report:
        """Return the same report with none of its numbers worked out yet, those that a brief one was saved with included."""
        return replace(self)

    def shortened(self) -> Report:
        """Return the brief report of this one."""
        return replace(self, brief=True, results=tuple(_shortened(one) for one in self.results))

    def save(self, path: Path | str, *, sync: bool = True) -> Path:
        """Write the report as JSON, whole or not at all, without any key value that is known, and with a digest of it all."""
        data = json.loads(json.dumps(conceal_json(self.to_json()), allow_nan=False))
        return write_atomic(path, json.dumps({**data, "file_digest": digest(data)}, ensure_ascii=False), sync=sync)

    @classmethod
    def load(cls, path: Path | str) -> Report:
        """Read a report that was saved.

        Raises:
            InputError: no report, of another format, or changed since it was written.
        """
        data = read_json(path, digested=True)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise InputError(f"{path}: not a report of format {FORMAT} (found {found!r})", fix="evaluate again with this poclab")
        if data.pop("file_digest", None) != digest(data):
            raise InputError(f"{path}: changed since it was written: its digest differs", fix="evaluate again")
        try:
            fields = {name: data[name] for name in cls.__dataclass_fields__ if name not in LATER or name in data}
            results = tuple(CaseResult.from_json(one) for one in data["results"])
            lists = {name: tuple(data[name]) for name in ("score_names", "warnings")}
            report = cls(**{**fields, **lists, "version": Version.from_json(data["version"]), "results": results})
            if report.brief:  # two hundred are compared at once: their numbers are not worked out again
                vars(report)["estimates"] = {name: _estimate(one) for name, one in data["aggregates"].items() if isinstance(one, dict)}
            return report
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not a whole report: {error!r}", fix="evaluate again with this poclab") from None

    def summary(self) -> str:
        """Return the numbers in a line: `0.82 (0.69 to 0.90, n = 50, 2 failed)`, and what they mean."""
        if not self.score_names:
            return "no score"
        name = self.score_names[0]
        try:
            estimate = self.estimate(name)
        except InputError as error:
            return f"no accuracy: {error.message}"
        return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}, n = {estimate.n}, {self.failed} failed) by {name}"

    def __repr__(self) -> str:
        facts = [("", f"{self.version.name}: {self.summary()}"), *((f"  {name}: ", text) for name, text in self._facts())]
        return "\n".join(name + printable(text) for name, text in facts)

    def _facts(self) -> Iterator[tuple[str, str]]:
        """Yield what to know beside the accuracy, each with its name, in the order to read it."""
        if self.partial:
            why = f"; {self.stopped}" if self.stopped else ""
            asked = len(self.results) - self.outcomes["budget"]
            yield "PARTIAL", f"stopped after {asked} of {self.planned}: not a result to decide on{why}"
        edition = f"edition {self.edition}" if self.edition else "not frozen"
        yield "set", f"{self.test_set} {self.split or ''} (lock {self.lock_digest[:12]}, {edition})"
        for line in self.failures[:FAILURES_SHOWN]:
            yield "failed", line
        for name in self.score_names[1:]:
            try:
                yield name, str(self.estimate(name))
            except InputError as error:
                yield name, f"no number: {error.message}"
        for name in (*self._tries, "failed_share", "latency_p50_s", "latency_p95_s"):
            if name in self.estimates:
                yield name, str(self.estimates[name])
        yield "outcomes", counts_text(self.outcomes)
        if troubled := Counter(call.trouble for one in self.results if not one.failure for call in one.calls[-1:] if call.trouble):
            yield "note", f"{sum(troubled.values())} case(s) have a reply though the last model call met: {counts_text(troubled)}"
        if self.retried:
            yield "retried", f"{self.retried} case(s) that the endpoint had failed were asked again"
        yield "cost", self._cost_text()
        if SURVIVAL in self.estimates:
            yield "drill", f"{self.estimates[SURVIVAL]} survived, with seed {self.drill['seed']}; {self.faults_met}; {self._worst_faults()}"
        if self.run_id:
            yield "run", self.link or self.run_id
        for warning in self.warnings:
            yield "note", warning

    @property
    def faults_met(self) -> str:
        """Of how many faults the survival is, in words."""
        return faults_met(row["cases"] for row in self.drill["rows"])

    def _worst_faults(self) -> str:
        """Return the three faults that fewest cases survived."""
        met = [(sum(row["cases"].values()), len(row["cases"]), row["fault"]) for row in self.drill["rows"] if row["cases"]]
        worst = sorted(met, key=lambda one: one[0] / one[1])[:3]
        return "fewest: " + ", ".join(f"{name} {survived} of {n}" for survived, n, name in worst)

    def _cost_text(self) -> str:
        """Return what the answers cost, and how much of it was paid now."""
        total, spent, judge = self.total("cost_usd"), self.spent_usd, self.judge_cost_usd
        known = money(total) if total is not None else f"unknown ({self.why_unknown})"
        judged = any(one.judge_calls for one in self.results)
        parts = [known, *([f"judge besides: {money(judge)}"] if judged else [])]
        parts += [f"paid now{', judge included' if judged else ''}: {money(spent)}"] if spent != total or judged else []
        parts += [f"{self.lost} request(s) without an answer may be billed besides"] if self.lost else []
        return "; ".join(parts)

    def _repr_html_(self) -> str:
        cases = folded("cases, the worst first", self._cases_html())
        return block(paragraph(self.summary(), name=self.version.name), html_table([], self._facts()), cases)

    def _cases_html(self) -> str:
        worst = sorted(self.results, key=lambda one: (one.failure is None, self._value(one)))
        rows = [
            (
                one.case_id,
                first_input(one.inputs),
                expected_text(one.expected, brief=True),
                reply_text(one.reply) or one.error,
                self._verdict(one),
            )
            for one in worst[:ROWS_SHOWN]
        ]
        hidden = len(worst) - len(rows)
        more = paragraph(f"{hidden} more in report.frame()" if hidden else "")
        return html_table(["case", "input", "expected", "reply", *self.score_names[:1]], rows) + more

    def _first_score(self, one: CaseResult) -> Score | None:
        return one.scores.get(self.score_names[0]) if self.score_names else None

    def _value(self, one: CaseResult) -> float:
        score = self._first_score(one)
        return 2.0 if score is None else float(score.value or 0)

    def _verdict(self, one: CaseResult) -> str:
        score = self._first_score(one)
        if one.failure:
            return one.failure
        if score is None:
            return "does not apply"
        return f"{'unscored' if score.value is None else format(float(score.value), 'g')}: {score.reason}"


def faults_met(faults: Iterable[Mapping[str, bool]]) -> str:
    """Return how many faults of a drill some case met, in words; a survival is of these alone."""
    met = [bool(cases) for cases in faults]
    return f"{sum(met)} of {len(met)} faults apply"


def billed(calls: Sequence[Call]) -> list[Call]:
    """Return the calls that the endpoint answered, or was still at when the case ran out of time."""
    return [call for call in calls if call.status // 100 == 2 or call.status == UNDER_WAY]


def _shortened(one: CaseResult) -> CaseResult:
    scores = {name: replace(score, answer="", reason=score.reason[:BRIEF_CHARACTERS]) for name, score in one.scores.items()}
    reply = Reply(reply_text(one.reply)[:BRIEF_CHARACTERS])
    return replace(one, reply=reply, scores=scores, error=one.problem[:BRIEF_CHARACTERS])


def reply_text(reply: Reply) -> str:
    """Return a reply as text: its own, else its data as JSON."""
    return reply.text or (json.dumps(reply.data, ensure_ascii=False) if reply.data is not None else "")


def _estimate(data: Mapping[str, Any]) -> Estimate:
    """Return an estimate from its JSON, where an open edge is null."""
    low, high = (infinite if data[edge] is None else data[edge] for edge, infinite in (("low", -math.inf), ("high", math.inf)))
    return Estimate(data["value"], low, high, data["n"])


def _rounded(name: str, value: float) -> float:
    # A case may cost a millionth of a dollar.
    return float(f"{value:.6g}") if "cost" in name or name.endswith("_usd") else round(value, 6)


def _sum(calls: Sequence[Call], what: str) -> float | None:
    values = [getattr(call, what) for call in calls]
    return None if not values or any(value is None for value in values) else sum(values)
