"""How many cases it takes to tell, and what a number of cases can tell.

Power is worked out from the very intervals and tests that later decide: Wilson's near edge, exact McNemar, order
statistics. A score between 0 and 1 is planned as if it were 0 or 1, which asks for too many cases rather than too few.
Confidence is two-sided. Clusters are not planned for: multiply by the design effect.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import TYPE_CHECKING

from poclab.stats.intervals import ranks, wilson

if TYPE_CHECKING:
    import numpy

#: What a plan promises unless it is told otherwise: in four of five repetitions the word would come out.
POWER = 0.8
#: More cases than this are nobody's to label.
MOST = 100_000
#: A difference of means below this is the rounding of sums.
NONE = 1e-9


def power_to_reach(target: float, expected: float, n: int, *, at_least: bool = True, confidence: float = 0.95) -> float:
    """Return the chance that n cases show a target as met when the true share is `expected`.

    Met is what `decide` calls met: the near edge of Wilson's interval is on the right side of the target.
    """
    from scipy.special import bdtrc

    if not at_least:
        target, expected = 1 - target, 1 - expected
    needed = _needed(target, n, confidence)
    return 0.0 if needed > n else float(bdtrc(needed - 1, n, expected)) if needed else 1.0


def _needed(target: float, n: int, confidence: float) -> int:
    """Return how many of n must be right for the lower edge to reach the target; n + 1 when not even all are enough."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    near = math.ceil(n * target + z * math.sqrt(n * target * (1 - target)))  # Wilson's edge, solved for the count; rounding is checked
    return next((k for k in range(max(near - 1, 0), n + 1) if wilson(k / n, n, confidence=confidence)[0] >= target), n + 1)


def cases_to_reach(target: float, expected: float, *, at_least: bool = True, power: float = POWER, confidence: float = 0.95) -> int | None:
    """Return the number of cases from which on the power to show the target as met stays at `power`; None when there is none.

    There is none when `expected` is not beyond the target, and when it would take more than 100,000.
    """
    if not (expected > target if at_least else expected < target):
        return None
    # A target of .99 allows one more wrong case every 100 cases, and the power falls in between: two such falls must be survived.
    rare = min(target, 1 - target)
    ahead = math.ceil(2 / rare) if rare * MOST > 100 else 0
    return _from_which_on(lambda n: power_to_reach(target, expected, n, at_least=at_least, confidence=confidence) >= power, ahead)


def _from_which_on(enough: Callable[[int], bool], ahead: int = 0) -> int | None:
    """Return the n from which on it is enough. Discrete tests go up and down a little from n to n + 1: a stretch must hold."""

    def holds(n: int) -> bool:
        return all(enough(n + more) for more in range(max(40, n // 10, ahead)))

    n = 1
    while not holds(n):
        n *= 2
        if n > MOST:
            return None
    too_few = n // 2
    while n - too_few > 1:
        middle = (n + too_few) // 2
        n, too_few = (middle, too_few) if holds(middle) else (n, middle)
    return n


def smallest_share(target: float, n: int, *, at_least: bool = True, power: float = POWER, confidence: float = 0.95) -> float | None:
    """Return the true share nearest to the target that n cases show as having met it; None when no share would do."""
    best, worst = (1.0, target) if at_least else (0.0, target)
    if power_to_reach(target, best, n, at_least=at_least, confidence=confidence) < power:
        return None
    return _bisect(lambda share: power_to_reach(target, share, n, at_least=at_least, confidence=confidence) >= power, worst, best)


def _bisect(enough: Callable[[float], bool], too_little: float, plenty: float) -> float:
    for _ in range(40):
        middle = (too_little + plenty) / 2
        too_little, plenty = (too_little, middle) if enough(middle) else (middle, plenty)
    return plenty


def cases_until(value: float, near: float, target: float, n: int, *, power: float = POWER, confidence: float = 0.95) -> int | None:
    """Return about how many cases would bring the near edge of an interval to the target, if the value stayed what it is.

    `near` is the edge that n cases gave. Widths shrink with the square root of n. None when the value is the target.
    """
    gap = abs(value - target)
    if gap == 0 or not math.isfinite(near):
        return None
    normal = NormalDist()
    stretch = 1 + normal.inv_cdf(power) / normal.inv_cdf(0.5 + confidence / 2)
    return math.ceil(n * (abs(value - near) * stretch / gap) ** 2)


def cases_for_quantile(q: float, within: float, *, at_most: bool = True, power: float = POWER, confidence: float = 0.95) -> int | None:
    """Return how many requests show that a quantile keeps a bound (or, not `at_most`, that it breaks it).

    `within` is the share of requests that keep the bound. None when that share does not say so.
    """
    from scipy.special import bdtr, bdtrc

    if not (within > q if at_most else within < q):
        return None

    def enough(n: int) -> bool:
        low, high = ranks(n, q, confidence)
        if at_most:  # the upper edge keeps the bound when at least `high` requests do
            return high <= n and (bdtrc(high - 1, n, within) if within < 1 else 1.0) >= power
        return low >= 1 and bdtr(low - 1, n, within) >= power  # the lower edge breaks it when fewer than `low` keep it

    return _from_which_on(enough)


def power_to_tell(fixed: float, broken: float, n: int, *, alpha: float = 0.05) -> float:
    """Return the chance that exact McNemar calls a version better when these shares of n cases get better and worse."""
    import numpy
    from scipy.special import bdtr

    changing = fixed + broken
    changed, most = _most_broken(n, alpha)
    if changing == 0:
        return 0.0
    chance = numpy.diff(bdtr(changed, n, changing), prepend=0.0) if changing < 1 else numpy.where(changed == n, 1.0, 0.0)
    told = numpy.where(most < 0, 0.0, bdtr(numpy.maximum(most, 0), numpy.maximum(changed, 1), broken / changing))
    return float((chance * told).sum())


@functools.lru_cache(maxsize=256)
def _most_broken(n: int, alpha: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return 0 to n changed cases, and for each how many may be broken for exact McNemar to say better; -1 when none may."""
    import numpy
    from scipy.special import bdtr

    changed = numpy.arange(n + 1)  # whole numbers: bdtr warns of a number of cases that is a float
    most = numpy.minimum(
        numpy.floor(changed / 2), numpy.floor(changed / 2 - NormalDist().inv_cdf(1 - alpha / 2) * numpy.sqrt(changed) / 2) + 2
    )
    while True:
        too_many = (most >= 0) & (2 * bdtr(numpy.maximum(most, 0), numpy.maximum(changed, 1), 0.5) > alpha)
        if not too_many.any():
            return changed, numpy.where(changed > 0, most, -1)
        most = numpy.where(too_many, most - 1, most)


def cases_to_tell(difference: float, spread: float, *, alpha: float = 0.05, power: float = POWER, effect: float = 1.0) -> int | None:
    """Return about how many cases it takes to tell a difference of this size, if it is what it looks like; None for no difference.

    `spread` is the mean square of the differences per case, for scores of 0 and 1 the share of cases that changed;
    `effect` their design effect. The exact test needs one changed case more than the formula for the normal one.

    Source: Connor (1987), Biometrics 43, 207-211, for proportions; the same with a mean square for other scores.
    """
    if abs(difference) < NONE:
        return None
    normal, size = NormalDist(), abs(difference)
    z, more = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)
    root = z * math.sqrt(spread) + more * math.sqrt(max(spread - size * size, 0.0))
    # With fewer changed cases than this even all of them one way are more likely than alpha: the exact test cannot tell.
    fewest = math.ceil(math.log2(2 / alpha) - 1e-9)
    return math.ceil(effect * max((root / size) ** 2 + 1 / size, fewest))


def smallest_difference(n: int, *, broken: float = 0.0, power: float = POWER, alpha: float = 0.05) -> float | None:
    """Return the smallest gain that n cases can tell when this share of cases gets worse meanwhile; None when there is none."""
    if power_to_tell(1 - broken, broken, n, alpha=alpha) < power:
        return None
    return _bisect(lambda gain: power_to_tell(gain + broken, broken, n, alpha=alpha) >= power, 0.0, 1 - 2 * broken)
