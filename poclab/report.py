"""What an evaluation found: the result of every case, and the numbers over them with their intervals.

A report is data: it goes to JSON and back, and shows itself as a table in a notebook and as text elsewhere. It is
aggregated here and nowhere else. A case that failed counts as wrong; a score that could not be given (a scorer that
raised) leaves that score without a number. Two reports are not compared here.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab.cases import expected_text
from poclab.errors import InputError
from poclab.files import digest, read_json, write_atomic
from poclab.redaction import conceal
from poclab.scores import Score
from poclab.stats import Estimate, mean_estimate, quantile_estimate
from poclab.system import Call, Reply, Version

if TYPE_CHECKING:
    import pandas

FORMAT = 1
ROWS_SHOWN = 40


@dataclass(frozen=True)
class CaseResult:
    """What became of one case (and repeat). `failure` is None, `timeout`, `crashed` or `malformed_output`; `error` its text."""

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

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        scores = {name: asdict(score) for name, score in self.scores.items()}
        return {**data, "reply": self.reply.to_json(), "scores": scores, "calls": [asdict(call) for call in self.calls]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CaseResult:
        scores = {name: Score(**score) for name, score in data["scores"].items()}
        calls = tuple(Call(**call) for call in data["calls"])
        return cls(**{**data, "reply": Reply.from_json(data["reply"]), "scores": scores, "calls": calls})


@dataclass(frozen=True)
class Report:
    """One version on one split of one frozen set. Results stand in the order of the cases, repeats together."""

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

    @property
    def partial(self) -> bool:
        """True when the evaluation was stopped before every case had its turn."""
        return len(self.results) < self.planned

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

    def mean(self, score: str) -> float:
        """Return the mean of one score.

        Raises:
            InputError: no such score, or it could not be given on some case.
        """
        return self.estimate(score).value

    def estimate(self, score: str, *, confidence: float = 0.95) -> Estimate:
        """Return the mean of one score over the cases it applies to, with its interval.

        Raises:
            InputError: no such score, it applies to no case, or a scorer failed on some case.
        """
        if score not in self.score_names:
            raise InputError(f"this report has no score {score!r}", fix=f"use one of: {', '.join(self.score_names)}")
        if lost := self.unscored(score):
            raise InputError(
                f"{score}: {len(lost)} case(s) could not be scored: {', '.join(lost[:8])}", fix="mend the scorer and evaluate again"
            )
        values, clusters = [], []
        for results in self.by_case.values():
            given = [float(one.scores[score].value or 0) for one in results if score in one.scores]
            if given:
                values.append(math.fsum(given) / len(given))
                clusters.append(results[0].cluster)
        if not values:
            raise InputError(f"{score}: applies to none of these {self.n} cases")
        return mean_estimate(values, clusters=clusters, confidence=confidence)

    def unscored(self, score: str) -> list[str]:
        """Return the ids of the cases on which the scorer itself failed."""
        lost = [one.case_id for one in self.results if score in one.scores and one.scores[score].value is None]
        return list(dict.fromkeys(lost))

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Every number that carries an interval, by its metric name; a score that has no number is absent."""
        found: dict[str, Estimate] = {}
        for name in self.score_names:
            try:
                found[name] = self.estimate(name)
            except InputError:
                continue
        if self.score_names and self.score_names[0] in found:
            found = {"accuracy": found[self.score_names[0]], **found}
        if self.results:
            shares = [math.fsum(one.failure is not None for one in results) / len(results) for results in self.by_case.values()]
            found["failed_share"] = mean_estimate(shares, clusters=[results[0].cluster for results in self.by_case.values()])
            latencies = [one.latency_s for one in self.results]
            found["latency_p50_s"] = quantile_estimate(latencies, 0.50)
            found["latency_p95_s"] = quantile_estimate(latencies, 0.95)
        return found

    def total(self, what: str) -> float | None:
        """Return the sum of `cost_usd`, `tokens_in` or `tokens_out` over all calls that were answered; None when one is unknown."""
        values = [getattr(call, what) for one in self.results for call in one.calls if 200 <= call.status < 300]
        return None if any(value is None for value in values) else math.fsum(values)

    def metrics(self) -> dict[str, float]:
        """Return the flat numbers for MLflow, rounded. What is unknown, or an open edge of an interval, is absent."""
        numbers: dict[str, float | None] = {}
        for name, estimate in self.estimates.items():
            numbers |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        numbers |= {what: self.total(what) for what in ("cost_usd", "tokens_in", "tokens_out")}
        if numbers["cost_usd"] is not None and self.results:
            numbers["cost_usd_per_case"] = numbers["cost_usd"] / len(self.results)
        numbers |= {"failed": self.failed, "cases": self.n}
        return {name: round(value, 6) for name, value in numbers.items() if value is not None and math.isfinite(value)}

    def content_digest(self) -> str:
        """Return the digest of what must be equal when a run is repeated: version, set, replies, scores and failures.

        Left out are times, identifiers, and the wording of errors.
        """
        rows = [
            [
                one.case_id,
                one.case_digest,
                one.repeat,
                one.reply.to_json(),
                one.failure,
                {name: [s.value, s.answer] for name, s in one.scores.items()},
            ]
            for one in self.results
        ]
        identity = [self.version.digest, self.lock_digest, self.split, self.repeats, self.corpus_digest, list(self.score_names)]
        return digest([*identity, rows])

    def frame(self) -> pandas.DataFrame:
        """Return one line per case and repeat: inputs, expected, reply, scores, failure, latency, tokens, trace."""
        return frame(
            {
                "case": one.case_id,
                "repeat": one.repeat,
                **one.tags,
                **one.inputs,
                "expected": expected_text(one.expected),
                "reply": reply_text(one.reply),
                **{name: score.value for name, score in one.scores.items()},
                "failure": one.failure,
                "latency_s": one.latency_s,
                "tokens_in": _sum(one.calls, "tokens_in"),
                "tokens_out": _sum(one.calls, "tokens_out"),
                "trace_id": one.trace_id,
            }
            for one in self.results
        )

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data |= {"format": FORMAT, "version": self.version.to_json(), "results": [one.to_json() for one in self.results]}
        aggregates = {name: {key: _finite(value) for key, value in asdict(one).items()} for name, one in self.estimates.items()}
        totals = {"failed": self.failed, **{what: self.total(what) for what in ("cost_usd", "tokens_in", "tokens_out")}}
        return {**data, "partial": self.partial, "aggregates": {**aggregates, **totals}, "content_digest": self.content_digest()}

    def save(self, path: Path | str) -> Path:
        """Write the report as JSON, whole or not at all, without any key value that is known."""
        return write_atomic(path, conceal(json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False)))

    @classmethod
    def load(cls, path: Path | str) -> Report:
        """Read a report that was saved.

        Raises:
            InputError: no report, of a later format, or its content is not what its digest says.
        """
        data = read_json(path)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise InputError(f"{path}: not a report of format {FORMAT} (found {found!r})", fix="evaluate again with this poclab")
        try:
            fields = {name: data[name] for name in cls.__dataclass_fields__}
            results = tuple(CaseResult.from_json(one) for one in data["results"])
            lists = {name: tuple(data[name]) for name in ("score_names", "warnings")}
            report = cls(**{**fields, **lists, "version": Version.from_json(data["version"]), "results": results})
            whole = report.content_digest() == data["content_digest"]
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not a whole report: {error!r}") from None
        if not whole:
            raise InputError(f"{path}: changed since it was written: its content digest differs", fix="evaluate again")
        return report

    def summary(self) -> str:
        """Return the numbers in a line: `0.82 (0.69 to 0.90, n = 50, 2 failed)`, and what they mean."""
        estimate = self.estimates.get("accuracy")
        name = self.score_names[0] if self.score_names else "no score"
        if estimate is None:
            return f"no accuracy: {name} is incomplete"
        return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}, n = {estimate.n}, {self.failed} failed) by {name}"

    def __repr__(self) -> str:
        lines = [f"{self.version.name}: {self.summary()}", *(f"  {name}: {text}" for name, text in self._facts())]
        return "\n".join(lines)

    def _facts(self) -> list[tuple[str, str]]:
        facts = [("set", f"{self.test_set} {self.split or ''} (lock {self.lock_digest[:12]}, edition {self.edition or 'not frozen'})")]
        if self.partial:
            facts.insert(0, ("PARTIAL", f"stopped after {len(self.results)} of {self.planned}: not a result to decide on"))
        scores = [name for name in self.estimates if name not in ("accuracy", *self.score_names[:1])]
        facts += [(name, _shown(self.estimates[name])) for name in scores]
        facts += [
            (name, f"incomplete: could not be given on {len(self.unscored(name))} case(s)")
            for name in self.score_names
            if self.unscored(name)
        ]
        cost = self.total("cost_usd")
        facts.append(("cost", "unknown (no price known)" if cost is None else f"${cost:.4f}"))
        facts += [("run", self.link or self.run_id or "")] if self.run_id else []
        return facts + [("note", warning) for warning in self.warnings]

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th><td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in self._facts()
        )
        worst = sorted(self.results, key=lambda one: (one.failure is None, self._value(one)))
        rows = [
            [one.case_id, _first_input(one.inputs), expected_text(one.expected), reply_text(one.reply) or one.error, self._verdict(one)]
            for one in worst
        ]
        table = html_table(["case", "input", "expected", "reply", self.score_names[0] if self.score_names else ""], rows[:ROWS_SHOWN])
        more = f"<p>{len(rows) - ROWS_SHOWN} more in <code>report.frame()</code></p>" if len(rows) > ROWS_SHOWN else ""
        title = f"<b>{html.escape(self.version.name)}</b>: {html.escape(self.summary())}"
        return f"<div><p>{title}</p><table>{facts}</table><details><summary>cases, the worst first</summary>{table}{more}</details></div>"

    def _value(self, one: CaseResult) -> float:
        score = one.scores.get(self.score_names[0]) if self.score_names else None
        return float(score.value or 0) if score else 2.0

    def _verdict(self, one: CaseResult) -> str:
        score = one.scores.get(self.score_names[0]) if self.score_names else None
        return one.failure or (
            "does not apply" if score is None else "unscored" if score.value is None else f"{float(score.value):g}: {score.reason}"
        )


def frame(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Return rows as a DataFrame with its columns in the order they first appear: every table of poclab is made here."""
    import pandas

    return pandas.DataFrame(list(rows))


def html_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table in which every cell is text: what a model or a file says is never markup."""

    def cells(tag: str, values: Sequence[Any]) -> str:
        return "".join(f"<{tag} style='text-align:left;white-space:pre-wrap'>{html.escape(str(value))}</{tag}>" for value in values)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', columns)}</tr></thead><tbody>{body}</tbody></table>"


def text_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table for a terminal: columns padded, control characters shown as escapes."""
    shown = [[printable(str(value)) for value in row] for row in (columns, *rows)]
    widths = [max(len(row[index]) for row in shown) for index in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown)


def printable(text: str) -> str:
    """Return the text on one line with control characters escaped, so that no reply can drive a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def reply_text(reply: Reply) -> str:
    """Return a reply as text: its own, else its data as JSON."""
    return reply.text or (json.dumps(reply.data, ensure_ascii=False) if reply.data is not None else "")


def _first_input(inputs: Mapping[str, Any]) -> str:
    return str(inputs.get("question") or next(iter(inputs.values()), ""))


def _shown(estimate: Estimate) -> str:
    edges = ["open" if not math.isfinite(edge) else f"{edge:.3f}" for edge in (estimate.low, estimate.high)]
    return f"{estimate.value:.3f} ({edges[0]} to {edges[1]}, n = {estimate.n})"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sum(calls: Sequence[Call], what: str) -> float | None:
    values = [getattr(call, what) for call in calls]
    return None if not values or any(value is None for value in values) else sum(values)
