"""Intervals for the numbers of one report.

    proportions, repeat means                     Wilson
    other 0..1 scores, n < 100 or nearly alike    Wilson on the mean
    other 0..1 scores                             BCa bootstrap, fixed seed
    cases in clusters                             Wilson with an effective n, and t instead of the normal
    cost per case                                 BCa bootstrap; nearly constant: Wilson on a scale
    p50, p95                                      between two order statistics

An interval of one report says nothing about a difference between two: that is in `paired`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

#: Below this many cases, Wilson's interval stands in for the bootstrap, which covers badly in small samples.
BOOTSTRAP_FROM = 100
#: With fewer values than this apart from the commonest one, resampling sees too little of the tail: 99 ones and a 0.99
#: would give 0.9994 to 1. (Measured: of 500 samples of 100 with 5% apart from the commonest, BCa covered 93%, Wilson 99%.)
APART_FROM = 10
#: Far from the median. Of 100 similarities between 0.9 and 1 none may be the 0 of a failed case, and yet one in 200 is: resampled,
#: they would claim to know the mean to 0.006. (Simulated: 26% of such intervals lay above the truth.)
FAR = 0.25
RESAMPLES = 9_999
#: The resamples of this many cases are kept, in 40 MB: two hundred reports on the same cases are resampled alike.
CACHED_UP_TO = 500


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and the number of cases behind it. An infinite edge is open."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({edges(self.low, self.high)}, n = {self.n})"


def edges(low: float | None, high: float | None, form: str = ".3f") -> str:
    """Return an interval as text; an edge that is infinite, or None as JSON has it, is open."""
    return " to ".join("open" if edge is None or math.isinf(edge) else format(edge, form) for edge in (low, high))


def wilson(mean: float, n: float, *, confidence: float = 0.95, quantile: float | None = None) -> tuple[float, float]:
    """Return the interval for a mean of values between 0 and 1.

    `n` may be a fraction (an effective number of cases). For values that are not only 0 and 1 it is conservative: their
    variance is at most mean * (1 - mean). `quantile` replaces the normal one.

    Raises:
        ValueError: no cases, or a mean outside 0..1.
    Source: Wilson (1927), Journal of the American Statistical Association 22, 209-212.
    """
    if not n > 0 or not 0 <= mean <= 1:
        raise ValueError(f"a mean in 0..1 over at least one case is needed, found {mean!r} over {n!r}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2) if quantile is None else quantile
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    # Rounding must not leave the point estimate outside its own interval.
    return max(0.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))


def mean_estimate(values: Sequence[float], *, clusters: Sequence[str | None] | None = None, confidence: float = 0.95) -> Estimate:
    """Return the mean of values between 0 and 1, one per case, with its interval.

    Wilson below 100 cases, for proportions, and when fewer than ten values are far from the median; BCa bootstrap
    otherwise. `clusters` names the cluster of each case (None: a cluster of its own).

    Raises:
        ValueError: no values. An empty mean is not 0 and not nan.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no cases to take a mean of")
    mean = math.fsum(values) / n
    names = cluster_names(n, clusters)
    if len(set(names)) < n:
        low, high = _clustered(values, names, mean, confidence)
    elif n < BOOTSTRAP_FROM or set(values) <= {0, 1} or _nearly_alike(values):
        low, high = wilson(mean, n, confidence=confidence)
    else:
        low, high = bca(values, confidence=confidence)
    return Estimate(mean, low, high, n)


def nearly_constant(values: Sequence[float]) -> bool:
    """Tell whether too few values differ from the commonest one for the bootstrap to see their spread."""
    # Rounded: two means of repeats that differ in the sixteenth digit are one value.
    return len(values) - max(Counter(round(value, 9) for value in values).values()) < APART_FROM


def independent_difference(one: Estimate, other: Estimate) -> Estimate:
    """Return the difference of two shares from different cases, with an interval made of theirs; n is the smaller one's.

    Source: Newcombe (1998), Statistics in Medicine 17, 873-890, method 10.
    """
    value = one.value - other.value
    below = math.hypot(one.value - one.low, other.high - other.value)
    above = math.hypot(one.high - one.value, other.value - other.low)
    return Estimate(value, max(-1.0, value - below), min(1.0, value + above), min(one.n, other.n))


def _nearly_alike(values: Sequence[float]) -> bool:
    """Tell whether too few values lie far from the middle for the bootstrap to see how often one does."""
    middle = sorted(values)[len(values) // 2]
    return sum(abs(value - middle) > FAR for value in values) < APART_FROM


def cost_estimate(values: Sequence[float], *, clusters: Sequence[str | None] | None = None, confidence: float = 0.95) -> Estimate:
    """Return the mean of amounts of 0 or more, one per case, with its interval.

    BCa bootstrap; where fewer than ten values differ from the commonest, Wilson on the mean as a share of twice the largest
    value seen (a larger one was never seen, and cannot be ruled out). With clusters both distances grow as they do for other
    means: by the effective number of cases, and t. Nothing but zeros is certain: the models were free.

    Raises:
        ValueError: no values, or a negative one.
    """
    n = len(values)
    if n == 0 or min(values) < 0:
        raise ValueError("a mean cost needs one amount of at least 0 per case")
    mean, largest = math.fsum(values) / n, max(values)
    if largest == 0:
        return Estimate(0.0, 0.0, 0.0, n)
    if nearly_constant(values):
        low, high = (2 * largest * edge for edge in wilson(min(mean / (2 * largest), 1.0), n, confidence=confidence))
    else:
        low, high = bca(values, confidence=confidence)
    worth, degrees = effective(values, cluster_names(n, clusters))
    if worth is None:
        return Estimate(mean, 0.0, math.inf, n)
    wider = math.sqrt(n / worth) * t_quantile(degrees, confidence) / t_quantile(math.inf, confidence)
    return Estimate(mean, max(0.0, mean - (mean - low) * wider), mean + (high - mean) * wider, n)


def _clustered(values: Sequence[float], names: Sequence[str], mean: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval with the effective number of cases, and t instead of the normal quantile."""
    n, degrees = effective(values, names)
    # One cluster is one observation: nothing is known about the spread between clusters.
    return (0.0, 1.0) if n is None else wilson(mean, n, quantile=t_quantile(degrees, confidence))


def effective(values: Sequence[float], names: Sequence[str]) -> tuple[float | None, float]:
    """Return how many independent cases these are worth, and the degrees of freedom of t to multiply a standard error with.

    n / design effect cases, and the effective number of clusters - 1 degrees of freedom. That number is
    (sum of m^2)^2 / sum of m^4 for clusters of m cases which are all right or all wrong together: clusters of one size
    count in full, a large one among small ones outweighs them. (Measured: 3 clusters of 10 beside 30 single cases cover
    97% and more; with t of all clusters and the mean size as the largest effect they covered 75%.) Under ten clusters
    may hide how alike their cases are: 5 of 20 at a correlation of 0.7 and a share of 0.8 covered 76%.
    Without clusters: the number of values, and infinite degrees: the normal quantile. A single cluster is worth no number (None).

    Source: Korn and Graubard (1998), Survey Methodology 24, 193-201, for n and t; Carter, Schnepel and Steigerwald (2017),
    Review of Economics and Statistics 99, 698-709, for the number of clusters, at a correlation of 1.
    """
    sizes = Counter(names).values()
    if len(sizes) == len(values):
        return len(values), math.inf
    if len(sizes) == 1:
        return None, math.inf
    clusters = sum(m**2 for m in sizes) ** 2 / sum(m**4 for m in sizes)
    return len(values) / design_effect(values, names), max(clusters - 1, 1)


def t_quantile(degrees: float, confidence: float) -> float:
    """Return Student's quantile for a two-sided confidence; of infinite degrees of freedom the normal one."""
    if math.isinf(degrees):
        return NormalDist().inv_cdf(0.5 + confidence / 2)
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + confidence / 2))


def cluster_names(n: int, clusters: Sequence[str | None] | None) -> list[str]:
    """Return the name of each case's cluster; a case without one is a cluster of its own."""
    return [f"cluster {name}" if name is not None else f"case {index}" for index, name in enumerate(clusters or [None] * n)]


def design_effect(values: Sequence[float], names: Sequence[str]) -> float:
    """Return how many times the variance of the mean grows because cases of a cluster resemble each other.

    The ratio of the cluster-robust variance of the mean to that of a simple random sample, kept between 1 and what it is
    when the cases of a cluster are all alike; at that end when all values are equal, since then the data cannot tell.
    Needs two clusters.

    Source: Kish (1965), Survey Sampling, section 5.4. The robust variance is CR2 of Bell and McCaffrey (2002), Survey
    Methodology 28, 169-181: for a mean, the squared sum of each cluster of m cases is divided by 1 - m / n.
    """
    n, sizes = len(values), Counter(names)
    largest = sum(m * m for m in sizes.values()) / n
    mean = math.fsum(values) / n
    sums: dict[str, float] = dict.fromkeys(sizes, 0.0)
    for value, name in zip(values, names, strict=True):
        sums[name] += value - mean
    simple = math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n
    if simple <= 1e-15:
        return largest
    robust = math.fsum(one * one / (1 - sizes[name] / n) for name, one in sums.items()) / n**2
    return min(max(robust / simple, 1.0), largest)


def bca(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of a mean, with a fixed seed.

    The numbers are those of `scipy.stats.bootstrap`, whose import alone takes seconds and whose memory grows with n.

    Raises:
        ValueError: all values are equal: the bootstrap would give an interval of no width.
    Source: Efron (1987), Journal of the American Statistical Association 82, 171-185: (2.3), (6.6).
    """
    spread = max(values) - min(values)
    if spread <= 1e-9 * max(abs(max(values)), abs(min(values))):
        raise ValueError("all values are equal: the bootstrap cannot tell how much they vary")
    import numpy
    from scipy.special import ndtr, ndtri

    # Sorted, so that the order of the cases does not move the interval.
    data = numpy.sort(numpy.asarray(values, dtype=float))
    mean, apart = data.mean(), (data - data.mean()) / spread
    means = _resampled_means(data)
    bias = ndtri(((means < mean).mean() + (means <= mean).mean()) / 2)
    acceleration = (apart**3).sum() / (6 * (apart**2).sum() ** 1.5)
    tails = bias + ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = numpy.quantile(means, ndtr(bias + tails / (1 - acceleration * tails)))
    return min(float(low), float(mean)), max(float(high), float(mean))


def _resampled_means(data: numpy.ndarray) -> numpy.ndarray:
    import numpy

    n = len(data)
    if n <= CACHED_UP_TO:
        return _resamples(n) @ data / n
    source, at_once = numpy.random.default_rng(0), max(1, 1_000_000 // n)  # 12 MB, however many cases
    shapes = [(min(at_once, RESAMPLES - done), n) for done in range(0, RESAMPLES, at_once)]
    return numpy.concatenate([data[source.integers(0, n, shape, dtype=numpy.uint32)].mean(axis=1) for shape in shapes])


@functools.lru_cache(maxsize=2)
def _resamples(n: int) -> numpy.ndarray:
    """Return how often each of n cases is in each resample: the same for every score on the same cases."""
    import numpy

    drawn = numpy.random.default_rng(0).integers(0, n, (RESAMPLES, n), dtype=numpy.uint32)
    offsets = numpy.arange(RESAMPLES, dtype=numpy.int64)[:, None] * n
    return numpy.bincount((drawn + offsets).ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(float)


def quantile_estimate(values: Sequence[float], q: float, *, cases: int | None = None, confidence: float = 0.95) -> Estimate:
    """Return a quantile by the nearest-rank rule, with the interval between two order statistics.

    `cases` is how many cases the values come from, when some are repeats: a slow case is slow each time, so the ranks are
    those of so many values, each standing for a block of them.

    The value is always one of the inputs. An edge beyond the smallest or largest value is open (infinite): below 59
    values that is the upper edge of a 95th percentile at 95% confidence, since 0.95 ** 59 is the first power below 0.05.

    Raises:
        ValueError: no values.
    Source: Hyndman and Fan (1996), definition 1; Conover (1999), Practical Nonparametric Statistics, section 3.2.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values to take a quantile of")
    ordered, independent = sorted(values), cases or n
    value = ordered[max(math.ceil(q * n - 1e-9), 1) - 1]
    low_rank, high_rank = ranks(independent, q, confidence)
    low = ordered[(low_rank - 1) * n // independent] if low_rank >= 1 else -math.inf
    high = ordered[min(math.ceil(high_rank * n / independent), n) - 1] if high_rank <= independent else math.inf
    return Estimate(value, min(low, value), max(high, value), independent)


@functools.lru_cache(maxsize=64)
def ranks(n: int, q: float, confidence: float) -> tuple[int, int]:
    """Return ranks r < s with P(X_(r) <= quantile <= X_(s)) of at least `confidence`; 0 and n + 1 are open edges.

    Equal tails while both can be had; with too few values for that, the upper edge takes what error it needs to close.
    """
    tail = (1 - confidence) / 2
    below = _binomial_below(n, q)
    low = max((rank for rank in range(1, n + 1) if below[rank - 1] <= tail), default=0)
    high = min((rank for rank in range(1, n + 1) if 1 - below[rank - 1] <= tail), default=n + 1)
    largest_misses = 1 - below[n - 1]
    if high == n + 1 and largest_misses <= 1 - confidence:
        high, spare = n, 1 - confidence - largest_misses
        low = max((rank for rank in range(1, n + 1) if below[rank - 1] <= spare), default=0)
    return low, high


def _binomial_below(n: int, q: float) -> list[float]:
    """Return P(X <= k) for k of 0 to n, X binomial. In logarithms: the probability of none is too small for a float from n = 1,100 on."""
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(q) + (n - k) * math.log1p(-q) for k in range(n + 1)
    )
    return [min(total, 1.0) for total in itertools.accumulate(map(math.exp, logs))]
