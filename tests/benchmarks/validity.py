"""Hold the statistics to what they promise: false words, coverage and power, by simulation with fixed seeds.

    python tests/benchmarks/validity.py               # 4,000 rounds of each series, some minutes on two cores
    python tests/benchmarks/validity.py --quick       # 300 rounds, half a minute
    python tests/benchmarks/validity.py --table 2     # one table of five

    1   two equal versions: better or worse at most 5% of the time
    2   a baseline and eleven trials that are all equal: any better or worse at most 5%, and what naive readings would say
    3   95% intervals: coverage of at least 93%, in clusters 90%, of a p95 latency 95%
    4   power: the share of met and better within three points of what the plan promises, of fractions at least that: a
        plan takes them for 0 or 1, or for steps of a whole case
    5   judges that err in 2% to 30% of right and of wrong cases, or of wrong ones alone: coverage of at least 93% for the
        corrected mean, the plain large-sample interval beside it; and for kappa, also with a tenth unscored

Cases differ in difficulty: the chance of a right answer is drawn from a beta distribution of the given mean, mostly near 0
and 1, and a version draws its answers from it anew. The cases of a cluster share that chance, and half of them the very answer.
Prints Markdown. Exit code 1 when a figure is beyond its target by more than two Monte Carlo standard errors (--quick: three).
Intervals of counts are known to dip at single shares, by the binomial distribution: 20 cases at .95 are covered 92.5% of the
time, and 20 of which a fifth are fixed and none broken 92.8%. Mean costs and best-of-12 readings have no target: they are printed
to be known. Not covered: fewer than ten clusters, where `effective` warns; clusters of unequal size, which
tests/test_stats_intervals.py works out exactly; difficulties that change between two versions in ways not listed here.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy

from poclab.stats import (
    cases_to_reach,
    cases_to_tell,
    compare_paired,
    corrected_mean,
    cost_estimate,
    holm,
    mean_estimate,
    paired_kappa,
    power_to_reach,
    power_to_tell,
    quantile_estimate,
    sign_flip,
)

ROUNDS, QUICK_ROUNDS = 4_000, 300
SLACK, QUICK_SLACK = 2.0, 3.0
ALPHA = 0.05
CLUSTER = 5
#: How often a case of a cluster repeats the answer of its cluster instead of an own one.
TOGETHER = 0.5
#: How often a judge says something else than people: of right and wrong cases alike, or of wrong ones.
JUDGE_ERRORS = (0.02, 0.05, 0.1, 0.2, 0.3)
NORMAL = 1.959963984540054
TABLES = {
    1: "Two equal versions: a false better or worse",
    2: "Sweeps of 12 equal trials: a baseline and eleven others",
    3: "Coverage of 95% intervals",
    4: "Power: what a plan promises and what happens",
    5: "Judges: coverage of the corrected mean and of kappa",
}
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Series:
    """One simulation: a round returns figures, whose means are held to their targets (lowest, highest)."""

    table: int
    name: str
    round: Callable[[numpy.random.Generator], Figures]
    targets: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    #: Rounds as a share of those asked for: a sweep is eleven comparisons.
    share: float = 1.0
    #: In the short form, too.
    short: bool = False


@dataclass(frozen=True)
class Result:
    """The mean of one figure over the rounds, with its Monte Carlo standard error."""

    series: str
    figure: str
    value: float
    error: float
    target: tuple[float, float] | None

    def held(self, slack: float) -> bool:
        return self.target is None or self.target[0] - slack * self.error <= self.value <= self.target[1] + slack * self.error


def run(series: Series, rounds: int) -> list[Result]:
    """Simulate one series, seeded by its name: it gives the same figures alone and among others."""
    source = numpy.random.default_rng(zlib.crc32(f"{series.table} {series.name}".encode()))
    found = [series.round(source) for _ in range(max(2, round(rounds * series.share)))]
    results = []
    for figure in found[0]:
        values = numpy.array([one[figure] for one in found])
        error = float(values.std(ddof=1) / math.sqrt(len(values)))
        results.append(Result(series.name, figure, float(values.mean()), error, series.targets.get(figure)))
    return results


# What versions answer


def chances(source: numpy.random.Generator, n: int, rate: float, kind: str) -> numpy.ndarray:
    """Return the chance of a right answer of each case, the same within a cluster."""
    clustered = "clusters" in kind
    drawn = source.beta(2 * rate, 2 * (1 - rate), n // CLUSTER if clustered else n)
    return numpy.repeat(drawn, CLUSTER) if clustered else drawn


def answers(source: numpy.random.Generator, chance: numpy.ndarray, kind: str) -> list[float]:
    """Return the scores of one version, one per case: 0 or 1, or the mean of three repeats."""
    return numpy.mean([_asked_once(source, chance, kind) for _ in range(3 if "repeats" in kind else 1)], axis=0).tolist()


def _asked_once(source: numpy.random.Generator, chance: numpy.ndarray, kind: str) -> numpy.ndarray:
    return (_luck(source, len(chance), kind) < chance).astype(float)


def _luck(source: numpy.random.Generator, n: int, kind: str) -> numpy.ndarray:
    own = source.random(n)
    if "clusters" not in kind:
        return own
    return numpy.where(source.random(n) < TOGETHER, numpy.repeat(source.random(n // CLUSTER), CLUSTER), own)


def cluster_names(n: int, kind: str) -> list[str] | None:
    return [str(index // CLUSTER) for index in range(n)] if "clusters" in kind else None


@dataclass(frozen=True)
class Shape:
    """Scores like a token F1: lumps at 0 and 1, and beta(a, b) between."""

    zeros: float
    ones: float
    a: float
    b: float

    @property
    def mean(self) -> float:
        return self.ones + (1 - self.zeros - self.ones) * self.a / (self.a + self.b)

    def draw(self, source: numpy.random.Generator, n: int) -> numpy.ndarray:
        lump, between = source.random(n), source.beta(self.a, self.b, n)
        return numpy.where(lump < self.zeros, 0.0, numpy.where(lump > 1 - self.ones, 1.0, between))


SHAPES = {
    "F1 with many ones": Shape(0.10, 0.50, 4, 2),
    "F1 with few lumps": Shape(0.15, 0.15, 4, 2),
    "F1 nearly all ones": Shape(0.02, 0.85, 4, 2),
    "similarity, no lumps": Shape(0.0, 0.0, 6, 3),
}
LOWER, HIGHER = SHAPES["F1 with few lumps"], SHAPES["F1 with many ones"]


# 1 and 2: equal versions


def equal_pair(source: numpy.random.Generator, *, n: int, rate: float, kind: str) -> Figures:
    chance = chances(source, n, rate, kind)
    found = compare_paired(answers(source, chance, kind), answers(source, chance, kind), clusters=cluster_names(n, kind))
    return {"better or worse": _differs(found.p, found.difference.value)}


def unequal_repeats(source: numpy.random.Generator, *, n: int, rate: float, times: int) -> Figures:
    """Both right on as many; one asked once, the other several times: differences are not symmetric, and their mean is 0."""
    once, often = (source.random(n) < rate).astype(float), (source.random((times, n)) < rate).mean(axis=0)
    found = compare_paired(once.tolist(), often.tolist())
    return {"better or worse": _differs(found.p, found.difference.value), "by the sign-flip test alone": sign_flip(often - once) <= ALPHA}


def _differs(p: float, difference: float) -> bool:
    return p <= ALPHA and difference != 0


def equal_sweep(source: numpy.random.Generator, *, n: int, rate: float, kind: str) -> Figures:
    chance = chances(source, n, rate, kind)
    baseline, *others = (answers(source, chance, kind) for _ in range(12))
    found = [compare_paired(baseline, one, clusters=cluster_names(n, kind)) for one in others]
    p_values, leads = [one.p for one in found], [one.difference.value for one in found]
    return {
        "any better or worse, Holm": any(map(_differs, holm(p_values), leads)),
        "any better or worse, uncorrected": any(map(_differs, p_values, leads)),
        "the best of 12 is not the baseline": max(leads) > 0,
        "lead of the best of 12": max(0.0, *leads),
    }


def of_equal_versions() -> Iterator[Series]:
    for kind in ("plain", "3 repeats", "clusters of 5", "clusters of 5, 3 repeats"):
        for n in (50, 100, 200):
            for rate in (0.5, 0.8, 0.95):
                one = functools.partial(equal_pair, n=n, rate=rate, kind=kind)
                targets = {"better or worse": (0.0, ALPHA)}
                yield Series(1, f"{kind}, n = {n}, rate {rate}", one, targets, short=n == 100 and rate == 0.8)
    for n, rate, times in ((20, 0.95, 10), (50, 0.98, 10), (50, 0.98, 5), (100, 0.98, 5), (100, 0.95, 10)):
        one = functools.partial(unequal_repeats, n=n, rate=rate, times=times)
        yield Series(1, f"asked 1 and {times} times, n = {n}, rate {rate}", one, {"better or worse": (0.0, ALPHA)}, short=n == 20)
    for kind in ("plain", "3 repeats", "clusters of 5"):
        for n in (50, 100, 200):
            one = functools.partial(equal_sweep, n=n, rate=0.8, kind=kind)
            targets = {"any better or worse, Holm": (0.0, ALPHA)}
            yield Series(2, f"{kind}, n = {n}, rate 0.8", one, targets, share=0.5, short=n == 50)


# 3: coverage


def mean_of_answers(source: numpy.random.Generator, *, n: int, rate: float, kind: str) -> Figures:
    values = answers(source, chances(source, n, rate, kind), kind)
    return _covers(mean_estimate(values, clusters=cluster_names(n, kind)), rate)


def mean_with_failures(source: numpy.random.Generator, *, n: int, share: float) -> Figures:
    """Similarities between .9 and 1, and now and then the 0 of a failed case."""
    values = numpy.where(source.random(n) < share, 0.0, source.uniform(0.9, 1.0, n))
    return _covers(mean_estimate(values.tolist()), 0.95 * (1 - share))


def _covers(estimate, truth: float) -> Figures:
    return {"covered": estimate.low <= truth <= estimate.high}


def mean_of_scores(source: numpy.random.Generator, *, n: int, shape: Shape, kind: str) -> Figures:
    values = shape.draw(source, n)
    if "clusters" in kind:
        values = numpy.where(source.random(n) < TOGETHER, numpy.repeat(shape.draw(source, n // CLUSTER), CLUSTER), values)
    return _covers(mean_estimate(values.tolist(), clusters=cluster_names(n, kind)), shape.mean)


def difference_of_answers(source: numpy.random.Generator, *, n: int, rate: float, gain: float, kind: str) -> Figures:
    """The candidate turns a share `gain` of the chance to fail into a chance to succeed."""
    chance = chances(source, n, rate, kind)
    baseline, candidate = answers(source, chance, kind), answers(source, chance + gain * (1 - chance), kind)
    return _covers(compare_paired(baseline, candidate, clusters=cluster_names(n, kind)).difference, gain * (1 - rate))


def difference_of_tables(source: numpy.random.Generator, *, n: int, fixed: float, broken: float) -> Figures:
    return _covers(compare_paired(*_table(source, n, fixed, broken)).difference, fixed - broken)


def _table(source: numpy.random.Generator, n: int, fixed: float, broken: float) -> tuple[list[int], list[int]]:
    """Return zeros and ones of a baseline and of a candidate that fixes and breaks these shares; of the rest, half are right."""
    lot = source.random(n)
    before = numpy.where(lot < fixed, 0, numpy.where(lot < fixed + broken, 1, lot < (1 + fixed + broken) / 2))
    after = numpy.where(lot < fixed, 1, numpy.where(lot < fixed + broken, 0, before))
    return before.tolist(), after.tolist()


def difference_of_scores(source: numpy.random.Generator, *, n: int, kind: str) -> Figures:
    """Six of ten answers stay as they were, the others are drawn anew from better ones; in clusters, all of a cluster together."""
    size = CLUSTER if "clusters" in kind else 1
    before = LOWER.draw(source, n)
    again = numpy.repeat(source.random(n // size) < 0.4, size)
    after = numpy.where(again, HIGHER.draw(source, n), before)
    found = compare_paired(before.tolist(), after.tolist(), clusters=cluster_names(n, kind))
    return _covers(found.difference, 0.4 * (HIGHER.mean - LOWER.mean))


def p95_of_latency(source: numpy.random.Generator, *, n: int, sigma: float) -> Figures:
    estimate = quantile_estimate(source.lognormal(0.0, sigma, n).tolist(), 0.95)
    return {**_covers(estimate, math.exp(1.6448536 * sigma)), "open above": math.isinf(estimate.high)}


def mean_of_costs(source: numpy.random.Generator, *, n: int, sigma: float, kind: str) -> Figures:
    logs = source.normal(0.0, sigma, n)
    if "clusters" in kind:
        logs = math.sqrt(0.5) * (logs + numpy.repeat(source.normal(0.0, sigma, n // CLUSTER), CLUSTER))
    return _covers(cost_estimate(numpy.exp(logs).tolist(), clusters=cluster_names(n, kind)), math.exp(sigma * sigma / 2))


def of_coverage() -> Iterator[Series]:
    plain, clustered = {"covered": (0.93, 1.0)}, {"covered": (0.90, 1.0)}
    for n in (20, 50, 100, 200):
        for rate in (0.5, 0.8, 0.95):
            one = functools.partial(mean_of_answers, n=n, rate=rate, kind="plain")
            yield Series(3, f"share, n = {n}, rate {rate}", one, plain, short=n == 50)
    for n in (50, 100, 200, 400):
        for name, shape in SHAPES.items():
            one = functools.partial(mean_of_scores, n=n, shape=shape, kind="plain")
            yield Series(3, f"mean of {name}, n = {n}", one, plain, short=n == 100 and shape is HIGHER)
    for n in (100, 200, 400):
        for share in (0.005, 0.01, 0.02):
            one = functools.partial(mean_with_failures, n=n, share=share)
            yield Series(3, f"mean of similarities, {share:.1%} failed, n = {n}", one, plain)
    for n in (50, 100, 200):
        for rate in (0.5, 0.8, 0.95):
            one = functools.partial(mean_of_answers, n=n, rate=rate, kind="3 repeats")
            yield Series(3, f"mean of 3 repeats, n = {n}, rate {rate}", one, plain)
    for count in (10, 20, 40):
        n = count * CLUSTER
        for rate in (0.5, 0.8, 0.95):
            for kind in ("clusters", "clusters, 3 repeats"):
                one = functools.partial(mean_of_answers, n=n, rate=rate, kind=kind)
                yield Series(3, f"share, {count} {kind}, rate {rate}", one, clustered, short=count == 20 and rate == 0.8)
        one = functools.partial(mean_of_scores, n=n, shape=HIGHER, kind="clusters")
        yield Series(3, f"mean of F1 with many ones, {count} clusters", one, clustered)
    yield from _of_differences(plain, clustered)
    for sigma in (0.4, 1.0):
        for n in (40, 59, 100, 200):
            one = functools.partial(p95_of_latency, n=n, sigma=sigma)
            yield Series(3, f"p95 of latency, sigma {sigma}, n = {n}", one, {"covered": (0.95, 1.0)}, short=sigma == 0.4)
    for kind in ("plain", "clusters"):
        for sigma in (0.5, 1.0):
            for n in (20, 50, 100, 400):
                one = functools.partial(mean_of_costs, n=n, sigma=sigma, kind=kind)
                yield Series(3, f"mean cost, {kind}, sigma {sigma}, n = {n}", one, share=0.5)


def _of_differences(plain: Mapping[str, tuple[float, float]], clustered: Mapping[str, tuple[float, float]]) -> Iterator[Series]:
    for kind in ("plain", "3 repeats", "clusters", "clusters, 3 repeats"):
        for n in (50, 100, 200):
            for rate, gain in ((0.5, 0.0), (0.8, 0.0), (0.8, 0.4), (0.95, 0.0)):
                one = functools.partial(difference_of_answers, n=n, rate=rate, gain=gain, kind=kind)
                targets = clustered if "clusters" in kind else plain
                name = f"difference {gain * (1 - rate):.2f}, {kind}, n = {n}, rate {rate}"
                yield Series(3, name, one, targets, short=n == 100 and gain > 0)
    for n in (20, 50, 100, 200):
        for fixed, broken in ((0.1, 0.0), (0.2, 0.0), (0.15, 0.05)):
            one = functools.partial(difference_of_tables, n=n, fixed=fixed, broken=broken)
            yield Series(3, f"difference {fixed - broken:.2f}, {fixed} fixed and {broken} broken, n = {n}", one, plain)
    for kind in ("plain", "clusters"):
        for n in (50, 100, 200, 400):
            one = functools.partial(difference_of_scores, n=n, kind=kind)
            yield Series(3, f"difference of F1, {kind}, n = {n}", one, clustered if kind == "clusters" else plain)


# 4: power


def target_met(source: numpy.random.Generator, *, target: float, expected: float, n: int) -> Figures:
    values = answers(source, chances(source, n, expected, "plain"), "plain")
    return {"met": mean_estimate(values).low >= target}


def told_better(source: numpy.random.Generator, *, n: int, fixed: float, broken: float, alpha: float = ALPHA) -> Figures:
    found = compare_paired(*_table(source, n, fixed, broken))
    return {"better": found.p <= alpha and found.difference.value > 0}


def target_met_by_scores(source: numpy.random.Generator, *, target: float, n: int) -> Figures:
    return {"met": mean_estimate(HIGHER.draw(source, n).tolist()).low >= target}


def gain_told(source: numpy.random.Generator, *, n: int, rate: float, gain: float, kind: str) -> Figures:
    chance = chances(source, n, rate, kind)
    found = compare_paired(answers(source, chance, kind), answers(source, chance + gain * (1 - chance), kind))
    return {"better": found.p <= ALPHA and found.difference.value > 0}


def _spread_of_gain(rate: float, gain: float, repeats: int) -> float:
    """Return the mean square of the differences in `gain_told`: of the chances, and of the answers around them."""
    failing = 1 - rate
    failing_squared = failing * (1 - failing) / 3 + failing**2  # beta(2 rate, 2 (1 - rate)) has the variance rate (1 - rate) / 3
    left = 1 - gain
    noise = failing - failing_squared + left * failing - left**2 * failing_squared
    return gain**2 * failing_squared + noise / repeats


def of_power() -> Iterator[Series]:
    for target, expected in ((0.5, 0.6), (0.8, 0.85), (0.8, 0.9), (0.8, 0.95), (0.9, 0.97)):
        n = cases_to_reach(target, expected)
        one = functools.partial(target_met, target=target, expected=expected, n=n)
        promise = power_to_reach(target, expected, n)
        name = f"reach {target} at {expected}, n = {n} (planned for 80%), promise {promise:.3f}"
        yield Series(4, name, one, {"met": _near(promise)}, short=expected == 0.9)
    for target in (0.65, 0.7):
        n = cases_to_reach(target, HIGHER.mean)
        one = functools.partial(target_met_by_scores, target=target, n=n)
        promise = power_to_reach(target, HIGHER.mean, n)
        name = f"reach {target} by F1 at {HIGHER.mean:.3f}, n = {n} (planned as 0 or 1), promise {promise:.3f}"
        yield Series(4, name, one, {"met": (promise - 0.03, 1.0)})
    for n, fixed, broken in ((50, 0.15, 0.0), (50, 0.2, 0.05), (100, 0.1, 0.0), (100, 0.15, 0.05), (200, 0.1, 0.03), (200, 0.15, 0.1)):
        one = functools.partial(told_better, n=n, fixed=fixed, broken=broken)
        promise = power_to_tell(fixed, broken, n)
        name = f"tell {fixed} fixed and {broken} broken, n = {n}, promise {promise:.3f}"
        yield Series(4, name, one, {"better": _near(promise)}, short=n == 100)
    for fixed, broken in ((0.1, 0.0), (0.1, 0.02), (0.15, 0.05), (0.2, 0.1), (0.05, 0.0)):
        for trials in (1, 11):
            n = cases_to_tell(fixed - broken, fixed + broken, alpha=ALPHA / trials)
            one = functools.partial(told_better, n=n, fixed=fixed, broken=broken, alpha=ALPHA / trials)
            promise = power_to_tell(fixed, broken, n, alpha=ALPHA / trials)
            name = f"about {n} cases tell {fixed} fixed and {broken} broken, 1 of {trials}, promise {promise:.3f}"
            yield Series(4, name, one, {"better": _near(promise)})
    for kind, repeats in (("plain", 1), ("3 repeats", 3)):
        for gain in (0.25, 0.4):
            n = cases_to_tell(gain * 0.2, _spread_of_gain(0.8, gain, repeats))
            one = functools.partial(gain_told, n=n, rate=0.8, gain=gain, kind=kind)
            targets = {"better": _near(0.8) if repeats == 1 else (0.77, 1.0)}
            yield Series(4, f"about {n} cases tell a gain of {gain * 0.2:.2f}, {kind}, promise 0.800", one, targets)


def _near(promise: float) -> tuple[float, float]:
    return promise - 0.03, promise + 0.03


# 5. Judges


def judged(source: numpy.random.Generator, people: numpy.ndarray, *, error: float, kind: str) -> numpy.ndarray:
    """Return what a judge says of cases: the right ones too with `both` it fails, of the wrong ones it passes, an `error` share."""
    errs = source.random(len(people)) < error
    return numpy.where(errs & ((people == 0) | (kind == "both")), 1 - people, people)


def mean_of_a_judge(source: numpy.random.Generator, *, n: int, ratio: float, rate: float, error: float, kind: str) -> Figures:
    people = (source.random(n + round(n * ratio)) < rate).astype(float)
    judge = judged(source, people, error=error, kind=kind)
    given = people[:n].tolist(), judge[:n].tolist(), judge[n:].tolist()
    return {"corrected": _covers(corrected_mean(*given), rate)["covered"], "plain": plain_interval_covers(*given, truth=rate)}


def plain_interval_covers(people: list[float], judge: list[float], others: list[float], *, truth: float) -> bool:
    """Tell whether the plain large-sample interval of prediction-powered inference holds the truth: power 1, nothing added, normal."""
    rectifier = numpy.array(people) - numpy.array(judge)
    spread = math.sqrt(rectifier.var(ddof=1) / len(people) + numpy.var(others, ddof=1) / len(others))
    return abs(numpy.mean(others) + rectifier.mean() - truth) <= NORMAL * spread


def kappa_of_a_judge(source: numpy.random.Generator, *, n: int, rate: float, error: float, unscored: float) -> Figures:
    people = (source.random(n) < rate).astype(float)
    judge = judged(source, people, error=error, kind="both")
    judge[source.random(n) < unscored] = -1.0
    right, passed = rate * (1 - error), rate * (1 - error) + (1 - rate) * error
    chance = (1 - unscored) * (rate * passed + (1 - rate) * (1 - passed))
    agree = (1 - unscored) * (right + (1 - rate) * (1 - error))
    found = paired_kappa(people.tolist(), judge.tolist())
    # Undefined where all of a sample is alike: not calibrated, and no claim.
    return {"covered": found is None or found.low <= (agree - chance) / (1 - chance) <= found.high}


def of_judges() -> Iterator[Series]:
    for n, ratio, rate, error, kind in itertools.product((50, 100, 200), (0.3, 10), (0.5, 0.8, 0.95), JUDGE_ERRORS, ("both", "wrong")):
        one = functools.partial(mean_of_a_judge, n=n, ratio=ratio, rate=rate, error=error, kind=kind)
        name = f"mean {rate}, n = {n}, others {ratio:g} times as many, judge errs in {error:.0%} ({kind})"
        short = n == 50 and error in (0.02, 0.3) and ratio == 10
        yield Series(5, name, one, {"corrected": (0.93, 1.0)}, share=0.5, short=short)
    for n, rate, error, unscored in itertools.product((50, 100, 200), (0.3, 0.5, 0.8, 0.95), JUDGE_ERRORS, (0.0, 0.1)):
        one = functools.partial(kappa_of_a_judge, n=n, rate=rate, error=error, unscored=unscored)
        name = f"kappa, people say right of {rate:.0%}, n = {n}, judge errs in {error:.0%}, {unscored:.0%} unscored"
        yield Series(5, name, one, {"covered": (0.93, 1.0)}, share=0.5, short=n == 50 and error == 0.02 and unscored == 0)


def all_series() -> list[Series]:
    return [*of_equal_versions(), *of_coverage(), *of_power(), *of_judges()]


# What is printed


def rows(results: Sequence[Result], slack: float) -> Iterator[str]:
    """Yield one table in Markdown."""
    yield "| series | figure | result | Monte Carlo error | target | |"
    yield "|---|---|---:|---:|---|---|"
    for one in results:
        word = "" if one.target is None else "held" if one.held(slack) else "MISSED"
        yield f"| {one.series} | {one.figure} | {one.value:.4f} | {one.error:.4f} | {_as_text(one.target)} | {word} |"


def _as_text(target: tuple[float, float] | None) -> str:
    if target is None:
        return ""
    low, high = target
    return f"at most {high:.2f}" if low == 0 else f"at least {low:.2f}" if high == 1 else f"{low:.3f} to {high:.3f}"


def _one_thread() -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)  # a process for each core, whose matrix products would else wait for each other's threads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help=f"rounds of each series [{ROUNDS}]")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, targets relaxed by {QUICK_SLACK:g} standard errors")
    parser.add_argument("--table", type=int, choices=TABLES, action="append", help="this table alone; may be given again")
    asked = parser.parse_args()
    rounds, slack = asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS), QUICK_SLACK if asked.quick else SLACK
    chosen = [one for one in all_series() if asked.table is None or one.table in asked.table]
    begun = time.perf_counter()
    with ProcessPoolExecutor(initializer=_one_thread) as pool:
        found = list(pool.map(run, chosen, [rounds] * len(chosen)))
    missed = [one for results in found for one in results if not one.held(slack)]
    for table, title in TABLES.items():
        results = [result for one, results in zip(chosen, found, strict=True) if one.table == table for result in results]
        if results:
            print(f"\n## {table}. {title}\n", *rows(results, slack), sep="\n")
    print(f"\n{rounds:,} rounds, {time.perf_counter() - begun:.0f} s: ", end="")
    print(f"{len(missed)} beyond their targets by more than {slack:g} Monte Carlo standard errors")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
