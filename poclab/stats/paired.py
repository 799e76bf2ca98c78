"""Whether two versions differ on the same cases: a test, an interval for the difference, and the price of many trials.

    one score of 0 or 1, no clusters   exact McNemar
    anything else                      the larger p of two: the exact sign-flip test (of cluster sums where there are clusters),
                                       and the test that the interval below is the inverse of
    the difference                     adjusted Wald interval, with an effective n where there are clusters
    many trials                        Holm

    Why two: the sign-flip test takes differences to be symmetric around 0, and equal means do not make them so. Asked once and
    asked ten times, two equal versions that are right on 98% of cases were called different in 34% of comparisons by it alone.

A difference is candidate minus baseline, case by case. The interval is not adjusted for the number of trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from poclab.stats.intervals import Estimate, cluster_names, effective, t_quantile

#: The steps that the distribution of a sum is worked out in; finer differences are rounded to one of them.
STEPS = 8192
#: So many for each difference where that is more: else 20,000 small ones would each be rounded to nothing.
STEPS_EACH = 4
#: Repeats up to this many leave differences of whole steps of their own, and nothing is rounded.
DENOMINATORS = range(1, 13)


@dataclass(frozen=True)
class Paired:
    """What two versions show on the same cases.

    `p` is two-sided and not adjusted for other trials. `spread` is the mean square of the differences, `effect` their
    design effect: with both, `cases_to_tell` says how many cases it would take.
    """

    difference: Estimate
    p: float
    spread: float
    effect: float


def compare_paired(
    baseline: Sequence[float], candidate: Sequence[float], *, clusters: Sequence[str | None] | None = None, confidence: float = 0.95
) -> Paired:
    """Compare two versions by one score, given as one value in 0..1 per case, in the same order of cases.

    Raises:
        ValueError: no cases, or not the same number of values.
    """
    differences = [after - before for before, after in zip(baseline, candidate, strict=True)]
    if not differences:
        raise ValueError("no cases to compare on")
    n, names = len(differences), cluster_names(len(differences), clusters)
    mean, spread = math.fsum(differences) / n, math.fsum(one * one for one in differences) / n
    if len(set(names)) == n and {*baseline, *candidate} <= {0, 1}:
        p = mcnemar(sum(one > 0 for one in differences), sum(one < 0 for one in differences))
        return Paired(Estimate(mean, *adjusted_wald(mean, spread, n, t_quantile(math.inf, confidence)), n), p, spread, 1.0)
    worth, degrees = effective(differences, names)
    if worth is None:
        return Paired(Estimate(mean, -1.0, 1.0, n), 1.0, spread, n)
    p = max(sign_flip(_sums(differences, names)), wald_p(mean, spread, worth, degrees))
    return Paired(Estimate(mean, *adjusted_wald(mean, spread, worth, t_quantile(degrees, confidence)), n), p, spread, n / worth)


def _sums(values: Sequence[float], names: Sequence[str]) -> list[float]:
    grouped: dict[str, list[float]] = {}
    for value, name in zip(values, names, strict=True):
        grouped.setdefault(name, []).append(value)
    return [math.fsum(group) for group in grouped.values()]


def mcnemar(fixed: int, broken: int) -> float:
    """Return the exact two-sided p of McNemar's test: of the cases that changed, as many got better as got worse.

    Source: McNemar (1947), Psychometrika 12, 153-157; exact, by the binomial distribution.
    """
    changed = fixed + broken
    tail = sum(math.comb(changed, k) for k in range(min(fixed, broken) + 1))
    return min(1.0, 2 * tail / 2**changed)


def sign_flip(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of the mean difference when the sign of each is as likely + as -.

    A difference below a millionth is the rounding of a mean and counts as none.

    The distribution of the sum over all 2^n sign patterns is worked out in steps, by convolution. Differences that are
    multiples of 1/1 to 1/12 are exact; others are first rounded to a step of 1/8192 of the sum of their sizes (of more than
    2,048: to a quarter of their mean size). Rounding treats + and - alike, so the test stays exact for the rounded differences.

    Source: Fisher (1935), The Design of Experiments, section 21; Pagano and Tritchler (1983), Journal of the American
    Statistical Association 78, 435-440, for the convolution.
    """
    import numpy

    whole = sorted(_in_steps(differences), key=abs)
    total, observed = sum(map(abs, whole)), abs(sum(whole))
    if observed == 0:
        return 1.0
    # The sum is total - 2 * (what has a minus): at least `observed` when that is at most `most`.
    most = (total - observed) // 2
    chance = numpy.zeros(most + 1)
    chance[0] = 1.0
    for size in filter(None, map(abs, whole)):
        shifted = chance[: max(most + 1 - size, 0)] / 2
        chance /= 2
        chance[size:] += shifted
    return min(1.0, 2 * float(chance.sum()))


def _in_steps(differences: Sequence[float]) -> list[int]:
    total, steps = math.fsum(map(abs, differences)), max(STEPS, STEPS_EACH * len(differences))
    for denominator in DENOMINATORS:
        whole = [round(one * denominator) for one in differences]
        if total * denominator <= steps and all(abs(one * denominator - step) < 1e-6 for one, step in zip(differences, whole, strict=True)):
            return whole
    return [round(one / total * steps) for one in differences]


def adjusted_wald(mean: float, spread: float, n: float, quantile: float) -> tuple[float, float]:
    """Return the interval for a mean of differences in -1..1, from their mean, their mean square and the (effective) number of cases.

    Wald's interval after one case that got all better and one that got all worse were added. Chosen because it is one
    formula for proportions, fractions, repeats and clusters, never has a width of 0, mirrors when the two sides are
    swapped, and excludes 0 for the same small tables as the exact test does (6 of 120 changed, all one way: yes; 5: no).

    Source: Bonett and Price (2012), Journal of Educational and Behavioral Statistics 37, 479-488; recommended by Fagerland,
    Lydersen and Laake (2014), Statistics in Medicine 33, 2850-2875. With an effective n it is our own generalisation.
    """
    centre, error = _adjusted(mean, spread, n)
    return max(-1.0, min(centre - quantile * error, mean)), min(1.0, max(centre + quantile * error, mean))


def wald_p(mean: float, spread: float, n: float, degrees: float) -> float:
    """Return the two-sided p at which the adjusted Wald interval begins to hold 0; t of so many degrees of freedom."""
    from scipy.special import stdtr

    centre, error = _adjusted(mean, spread, n)
    return 2 * float(stdtr(degrees, -abs(centre) / error))


def _adjusted(mean: float, spread: float, n: float) -> tuple[float, float]:
    """Return mean and standard error after one case that got all better and one that got all worse were added."""
    centre = mean * n / (n + 2)
    return centre, math.sqrt(((spread * n + 2) / (n + 2) - centre**2) / (n + 2))


def holm(p_values: Sequence[float], *, comparisons: int | None = None) -> list[float]:
    """Return p values adjusted so that the chance of a single false word among all comparisons stays what it was for one.

    `comparisons` counts all that were begun; those whose p is not given count as larger than these, which is the cautious way.

    Raises:
        ValueError: fewer comparisons than p values.
    Source: Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    begun = len(p_values) if comparisons is None else comparisons
    if begun < len(p_values):
        raise ValueError(f"{len(p_values)} p values of {begun} comparisons")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (begun - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted
