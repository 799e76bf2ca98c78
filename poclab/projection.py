"""What an evaluation is going to cost, before it costs anything: calls, tokens and dollars, with a range.

Every case is first answered from the ledger alone. The calls of those that could be are the history; where these are fewer than five
cases, five of the others are asked now, and stay in the ledger. What is left is as many cases times what a case takes, of the system and of
its judges each: an answer may be there whose verdict is not.
The range is a 95% prediction interval by Student's t, of a sum of that many further cases; it takes cases for alike.

Not covered: what a system asks behind poclab's back, what a notebook asks outside of cases (embeddings of an index: they are asked while
it is projected, and stay in the ledger), and what is asked only after an answer that a replay cannot give.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from poclab import runner
from poclab.arguments import open_budget
from poclab.evaluation import Plan, Task
from poclab.files import read_json, write_atomic
from poclab.report import CaseResult
from poclab.requests import ruling
from poclab.stats import t_quantile
from poclab.system import Call
from poclab.tables import money

#: The folder that a kernel writes its projection into, instead of evaluating.
PROJECT = "POCLAB_PROJECT"
FILE = "projection.json"
#: How many cases show what a case takes.
SAMPLE = 5
AMOUNTS = ("calls", "tokens_in", "tokens_out", "cost_usd")


@dataclass(frozen=True)
class Amount:
    """A sum to come, between low and high."""

    value: float
    low: float
    high: float

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.value + other.value, self.low + other.low, self.high + other.high)


@dataclass(frozen=True)
class Projection:
    """What is still to be paid. An amount is None where an endpoint did not say what one call took, or no price is known.

    `recorded` cases are answered by the ledger already; `sampled_usd` was paid to find this out, for `sampled` cases and those that failed.
    """

    cases: int
    recorded: int
    sampled: int
    sampled_usd: float | None
    calls: Amount | None
    tokens_in: Amount | None
    tokens_out: Amount | None
    cost_usd: Amount | None
    problem: str = ""

    @property
    def left(self) -> int:
        return self.cases - self.recorded - self.sampled

    def save(self, folder: Path) -> Path:
        return write_atomic(folder / FILE, json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Projection:
        data = read_json(folder / FILE)
        return cls(**{**data, **{name: Amount(**data[name]) if data[name] else None for name in AMOUNTS}})

    def cells(self) -> list[str]:
        """Return what is still to be asked, as a table shows it: cases, calls, tokens in and out, dollars."""
        return [str(self.left), *(shown(name, getattr(self, name)) for name in AMOUNTS)]


def shown(name: str, amount: Amount | None) -> str:
    """Return an amount with its range."""
    if amount is None:
        return "unknown"
    form = money if name == "cost_usd" else lambda value: f"{value:,.0f}"
    if amount.low == amount.high:
        return form(amount.value)
    return f"{form(amount.value)} ({form(amount.low)} to {form(amount.high)})"


def total(projections: Sequence[Projection], name: str) -> Amount | None:
    """Return the sum of one amount; None when a part is unknown. The ranges are added, as if all erred to one side."""
    amounts = [getattr(one, name) for one in projections]
    return None if any(one is None for one in amounts) else sum(amounts, Amount(0.0, 0.0, 0.0))


def project(make_plan: Callable[..., Plan], *, workers: int, max_cost_usd: float | None = None) -> Projection:
    """Return what an evaluation takes; `make_plan` gives its plan for a `mode` and a `budget`. What the sample may cost is bounded, too."""
    replayed = make_plan(mode="replay")
    results = _results(replayed, replayed.tasks, workers)
    unanswered = {task.place for task in replayed.tasks if task.context.missed or replayed.outside.missed}
    missing = unanswered | {task.place for task in replayed.tasks if task.judging.missed}
    known = {place: result for place, result in results.items() if place not in missing}
    sample, outside = {}, list(replayed.outside.calls)
    if missing and len(known) < SAMPLE:
        asked = make_plan(mode=None, budget=open_budget(replayed.poc, max_cost_usd))
        chosen = random.Random(0).sample(sorted(missing), min(SAMPLE, len(missing)))
        sample = _results(asked, [asked.tasks[place] for place in chosen], workers)
        outside += asked.outside.calls
    failed = next((f"{one.failure}: {one.problem}" for one in sample.values() if one.failure), "")
    paid = [call for one in sample.values() for call in (*one.billed_calls, *one.billed_judge_calls) if not call.replayed]
    sampled_usd = None if outside else _sum(paid, "cost_usd")
    shows = {place: one for place, one in sample.items() if not one.failure}  # one that failed shows nothing of what the others take
    answered = {place: one for place, one in results.items() if place not in unanswered} | shows
    system = [one.billed_calls for one in answered.values()], len(unanswered - shows.keys())
    judges = [one.billed_judge_calls for one in (known | shows).values()], len(missing - shows.keys())

    def takes(name: str) -> Amount | None:
        # What threads asked that know of no case belongs to none: then nobody knows what a case takes.
        found = [_further([None if outside else _sum(calls, name) for calls in cases], left) for cases, left in (system, judges)]
        return None if None in found else found[0] + found[1]

    return Projection(len(replayed.tasks), len(known), len(shows), sampled_usd, **{name: takes(name) for name in AMOUNTS}, problem=failed)


def _results(plan: Plan, tasks: Sequence[Task], workers: int) -> dict[int, CaseResult]:
    run = runner.run(tasks, plan.ask, then=plan.score, workers=workers, timeout_s=plan.timeout_s)
    with ruling(plan.outside):
        return {outcome.task.place: plan.settle(outcome)[0] for outcome in run}


def _sum(calls: Sequence[Call], name: str) -> float | None:
    """Return what calls took of something; None when one of them does not say."""
    if name == "calls":
        return float(len(calls))
    values = [getattr(call, name) for call in calls]
    return None if any(value is None for value in values) else math.fsum(values)


def _further(values: Iterable[float | None], cases: int) -> Amount | None:
    """Return what so many further cases take, if they are as these."""
    known = list(values)
    if cases == 0:
        return Amount(0.0, 0.0, 0.0)
    if not known or any(value is None for value in known):
        return None
    mean, n = statistics.fmean(known), len(known)
    spread = statistics.stdev(known) if n > 1 else mean
    # The mean of the sample errs, and so does the sum of the cases to come.
    reach = t_quantile(max(n - 1, 1), 0.95) * spread * math.sqrt(cases + cases**2 / n) if spread else 0.0
    return Amount(cases * mean, max(0.0, cases * mean - reach), cases * mean + reach)


def summary(known: Sequence[Projection]) -> list[str]:
    """Return the lines below the trials: what all that is left takes, and what it cost to find out."""
    if not known:
        return []
    sums = ", ".join(f"{shown(name, total(known, name))} {name.replace('_', ' ')}" for name in AMOUNTS[:3])
    lines = [f"to pay: {shown('cost_usd', total(known, 'cost_usd'))} for {sum(one.left for one in known)} cases: {sums}"]
    alike = "; what trials ask alike is counted in each, and paid once" if len(known) > 1 else ""
    lines += [
        f"of {sum(one.cases for one in known)} cases, each counted in every trial to run, the ledger answered {sum(one.recorded for one in known)} before{alike}"
    ]
    sampled, paid = sum(one.sampled for one in known), [one.sampled_usd for one in known]
    if sampled or any(paid) or None in paid:
        lines.append(
            f"to find this out, {money(None if None in paid else math.fsum(paid))} was paid: {sampled} cases were asked, and are in the ledger now"
        )
    problems = {one.problem for one in known if one.problem}
    return lines + [f"a case that was asked to find this out failed: {problem}" for problem in sorted(problems)]
