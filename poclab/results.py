"""What a sweep found: the record of each trial, and the ranked table of them with its notes.

Pure: nothing is run here. Trials are ranked by one number each; whether two of them differ is not told.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poclab import tracking
from poclab.errors import InputError, printable
from poclab.files import canonical
from poclab.ledger import Spent
from poclab.stats import edges
from poclab.sweeps import Sweep
from poclab.tables import frame, text_table
from poclab.tracking.server import base_of

if TYPE_CHECKING:
    import pandas


#: The outcomes of a trial that has no result, by its own fault or another's.
FAILED = ("error", "dead_kernel", "dead_worker", "timeout", "invalid", "no_result", "cancelled")
#: Those of one that has, of all cases, or of some when it was only screened.
HAS_RESULT = ("ok", "screened")
#: How many lines of a traceback are shown: IPython gives the lines around each place.
LONGEST_TRACEBACK = 20


@dataclass(frozen=True)
class Record:
    """What became of a trial: `ok`, only `screened`, one of `FAILED`, stopped half way by the `budget`, or `not begun` when the sweep stopped.

    It failed by an `error` in a cell or in every case, a `dead_kernel` or `dead_worker`, a `timeout`, a report that is `invalid`, `no_result` at all, or was
    `cancelled` with the sweep. `traceback` is that of the cell.
    `estimates` holds value, low, high and n by metric.
    A number without an interval has null edges, and no n.
    """

    trial_id: str
    name: str
    parameters: Mapping[str, Any]
    outcome: str
    run_id: str | None = None
    experiment_id: str | None = None
    error: str = ""
    traceback: str = ""
    version: str = ""
    content: str = ""
    failed: int = 0
    #: How many cases the endpoint failed; they can be asked again.
    retryable: int = 0
    #: What its answers cost when they were paid, and what of that was paid by this trial.
    cost_usd: float | None = None
    spent_usd: float | None = None
    estimates: Mapping[str, Mapping[str, Any]] | None = None

    def value(self, metric: str) -> float | None:
        """Return the value of a metric; None of a trial that is not ok, or does not have it."""
        return (self.estimates or {}).get(metric, {}).get("value") if self.outcome in HAS_RESULT else None

    def shown(self, metric: str) -> tuple[str, str, int | str]:
        """Return value, interval and n of a metric for a table; a score that could not be given has none."""
        found = (self.estimates or {}).get(metric)
        if found is None:
            return "none", "", ""
        if found.get("n") is None:
            return f"{found['value']:g}", "", ""
        return f"{found['value']:.3f}", edges(found["low"], found["high"]), found["n"]

    def shown_traceback(self) -> str:
        """Return the end of the traceback for a terminal, each line indented; empty without one, or where it says no more than the error."""
        lines = re.sub(r"\x1b\[[0-9;]*m", "", self.traceback).splitlines()[-LONGEST_TRACEBACK:]
        if "\n".join(lines).partition(": ")[2] == self.error:
            return ""
        return "".join(f"\n    {printable(line)}" for line in lines)

    def outcome_text(self, metric: str) -> str:
        """Return what became of the trial, in a line."""
        if self.outcome not in HAS_RESULT:
            return f"failed: {self.error}" if self.outcome in FAILED else f"stopped: {self.error}"
        value, interval, n = self.shown(metric)
        failed = f", {self.failed} failed" if self.failed else ""
        screened = "screened: " if self.outcome == "screened" else ""
        return f"{screened}{metric} {value}{f' ({interval}, n = {n})' if interval else ''}{failed}"


@dataclass(frozen=True)
class Results:
    """The records of a sweep in the order of its trials, how many were run just now, and the parent run."""

    sweep: Sweep
    records: tuple[Record, ...]
    ran: int
    parent_run_id: str | None
    lock_digest: str
    corpus_digest: str | None
    budget: Spent | None = None
    #: What changed since the sweep began, where that was allowed.
    drifted: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record.outcome in FAILED)

    @property
    def stopped(self) -> str:
        """What the budget or too many failures left undone; empty when all trials had their turn."""
        outcomes = [record.outcome for record in self.records]
        half, rest = outcomes.count("budget"), outcomes.count("not begun")
        if not half + rest:
            return ""
        done = f"{outcomes.count('ok')} of {len(outcomes)} trials are done"
        if "budget" not in outcomes:
            return f"stopped after {len(self.errors)} failed trial(s): {done}, {rest} not begun; the same command goes on from there"
        return (
            f"stopped by the budget: {done}, {half} stopped half way, {rest} not begun. "
            f"Raise {'limits.max_cost_usd' if self.sweep.nested else '--max-cost-usd'} and run the same command again: "
            "what was answered is not paid again."
        )

    @property
    def to_retry(self) -> str:
        """How many cases the endpoint failed, and how to ask them again; empty without any."""
        counts = [record.retryable for record in self.records if record.outcome in HAS_RESULT and record.retryable]
        return f"the endpoint failed {sum(counts)} case(s) of {len(counts)} trial(s): --retry-failed asks these again" if counts else ""

    def ranked(self) -> list[Record]:
        """Return the trials that are ok, the best first; equal ones in the order of the sweep, those without the metric last.

        Raises:
            InputError: no report has the metric.
        """
        metric, sign = self.sweep.metric, -1 if self.sweep.maximize else 1
        done = [record for record in self.records if record.outcome == "ok"]
        if done and not any(metric in record.estimates for record in done):
            raise InputError(f"the reports have no metric {metric!r}", fix=f"use one of: {', '.join(done[0].estimates)}")
        return sorted(done, key=lambda record: sign * record.estimates[metric]["value"] if metric in record.estimates else math.inf)

    def screened(self) -> list[Record]:
        """Return the trials that were only screened, the best first; those without the metric last."""
        metric, sign = self.sweep.metric, -1 if self.sweep.maximize else 1
        found = [record for record in self.records if record.outcome == "screened"]
        return sorted(found, key=lambda one: math.inf if one.value(metric) is None else sign * one.value(metric))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield one line per trial, ranked: rank, metric with interval, n, failed, p95, cost, and what was varied.

        Those that were only screened come last, without a rank.
        """
        for rank, record in self._placed():
            value, interval, n = record.shown(self.sweep.metric)
            yield {
                "rank": rank or "",
                self.sweep.metric: value,
                "interval": interval,
                "n": n,
                "failed": record.failed,
                "p95_s": f"{record.estimates['latency_p95_s']['value']:.2f}",
                "cost_usd": "unknown" if record.cost_usd is None else f"{record.cost_usd:{'.2g' if 0 < record.cost_usd < 1 else '.2f'}}",
                **{name: record.parameters.get(name, "(default)") for name in self.sweep.varied},
                "": self._state(record),
                "run": (record.run_id or "")[:8],
            }

    def _placed(self) -> Iterator[tuple[int | None, Record]]:
        """Yield the trials as the table has them, each with its rank if it has one."""
        yield from enumerate(self.ranked(), start=1)
        yield from ((None, one) for one in self.screened())

    def _state(self, record: Record) -> str:
        is_baseline = self.sweep.has_baseline and record.trial_id == self.records[0].trial_id
        return "baseline" if is_baseline else "screened" if record.outcome == "screened" else ""

    def frame(self) -> pandas.DataFrame:
        """Return the ranked table with its numbers as numbers: rank, metric, low, high, n, failed, p95_s, cost_usd, what was varied, state, run_id.

        A number that is not known is NaN. A parameter with the name of another column is called `parameter:<name>`.
        """
        return frame(self._numbers(rank, record) for rank, record in self._placed())

    def _numbers(self, rank: int | None, record: Record) -> dict[str, Any]:
        found = record.estimates.get(self.sweep.metric) or {}
        row = {"rank": rank, self.sweep.metric: found.get("value"), **{name: found.get(name) for name in ("low", "high", "n")}}
        row |= {"failed": record.failed, "p95_s": record.estimates["latency_p95_s"]["value"], "cost_usd": record.cost_usd}
        last = {"state": self._state(record), "run_id": record.run_id}
        varied = {name: record.parameters.get(name, "(default)") for name in self.sweep.varied}
        return row | {f"parameter:{name}" if name in row | last else name: value for name, value in varied.items()} | last

    def notes(self) -> str:
        """Return what the table does not say by itself."""
        done = sum(record.outcome == "ok" for record in self.records)
        many = (
            f"{done} of {len(self.records)} trials, {self.ran} of them run now, the others earlier.\n"
            if self.ran < len(self.records)
            else ""
        )
        budget = f"{self.budget}, by the whole sweep until now\n" if self.budget else ""
        mixed = f"Not all trials are of one state; since the sweep began: {'; '.join(self.drifted)}.\n" if self.drifted else ""
        screened = len(self.screened())
        only = f"{screened} of {len(self.records)} trials were only screened, on a part of the cases: they count as comparisons.\n"
        one = f"{alike}\n" if (alike := self._alike()) else ""
        documents = f"; corpus {self.corpus_digest[:12]}" if self.corpus_digest else ""
        return (
            f"lock {self.lock_digest[:12]}{documents}\n"
            f"{mixed}{budget}{one}{many}{only if screened else ''}Intervals are 95%, each trial by itself: the best of many looks better than it is.\n"
            f"Which trials differ from the baseline: `poclab compare {_relative(self.sweep.poc)}`"
        )

    def _alike(self) -> str:
        """Return which parameters the versions do not have, so that trials cannot be told apart; nothing when they can."""
        groups: dict[str, list[Record]] = {}
        for record in self.records:
            if record.outcome == "ok" and record.version:
                groups.setdefault(record.version, []).append(record)
        names = [
            name
            for name in self.sweep.varied
            if any(len({canonical(one.parameters.get(name)) for one in same}) > 1 for same in groups.values())
        ]
        several = " and ".join(names)
        hand = ", ".join(f"{name}={name}" for name in names)
        return (
            f"Some trials are one version, which has no {several}: where the system uses it, poclab.Version(..., {hand})." if names else ""
        )

    def where(self) -> str:
        """Return the address of the MLflow UI, and the command that serves it."""
        ids = [record.experiment_id for record in self.records if record.experiment_id]
        uri = tracking.tracking_uri(self.sweep.poc)
        serve = "" if uri.startswith("http") else f" (served by `poclab ui {_relative(self.sweep.poc)}`)"
        return f"MLflow UI: {base_of(uri)}/#/experiments/{ids[0] if ids else ''}/evaluation-runs{serve}"

    def failures(self) -> str:
        """Return the trials that failed, those with the same error together."""
        by_error: dict[str, list[Record]] = {}
        for record in self.errors:
            by_error.setdefault(record.error, []).append(record)
        return "\n".join(
            f"{len(same)} trial(s) failed ({'; '.join(one.name for one in same[:3])}{' ...' if len(same) > 3 else ''}): {error}"
            f"{same[0].shown_traceback()}"
            for error, same in by_error.items()
        )

    def __str__(self) -> str:
        rows = list(self.rows())
        return text_table(list(rows[0]), [list(row.values()) for row in rows]) if rows else "no trial ended well"


def _relative(poc: Path) -> str:
    """Return a folder as a person would type it from here."""
    return os.path.relpath(poc) if poc.resolve().is_relative_to(Path.cwd()) else str(poc)
