import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, bootstrap
from statsmodels.stats.proportion import proportion_confint

from poclab.stats import Estimate, bca, cost_estimate, design_effect, mean_estimate, quantile_estimate, wilson

SHARES = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 2 / 3, 1.0])
#: From the t table in Student's form, two-sided 95%.
T_AT_1, T_AT_4, Z = 12.706205, 2.776445, 1.959964


def interval(estimate):
    return estimate.low, estimate.high


def by_wilson_formula(mean, n, quantile):
    """Wilson (1927), solved for the edges: the two roots of (p - mean)^2 = quantile^2 p (1 - p) / n."""
    a, b, c = 1 + quantile**2 / n, -(2 * mean + quantile**2 / n), mean**2
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_gives_the_published_intervals(right, n, low, high):
    """Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3; 20 of 20 is 0 of 20 mirrored."""
    assert wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_gives_the_numbers_of_statsmodels(confidence):
    """For every share of up to 40 cases, and some of more."""
    for n in [*range(1, 41), 250, 10_000]:
        for right in range(0, n + 1, max(1, n // 40)):
            theirs = proportion_confint(right, n, alpha=1 - confidence, method="wilson")
            assert wilson(right / n, n, confidence=confidence) == pytest.approx(theirs, abs=1e-9), (right, n)


def test_twenty_of_twenty_are_not_certain():
    """20/(20 + 3.8415) = 0.839, and three repeats of each case, averaged before, are 20 cases and not 60."""
    repeated = [sum(answers) / 3 for answers in [(1, 1, 1)] * 20]

    for values in ([1.0] * 20, repeated):
        estimate = mean_estimate(values)
        assert (round(estimate.low, 3), estimate.high) == (0.839, 1.0)
        assert estimate.n == 20


def test_more_confidence_is_a_wider_interval():
    """At 99% the normal quantile is 2.575829."""
    assert wilson(0.5, 10, confidence=0.99) == pytest.approx(by_wilson_formula(0.5, 10, 2.575829), abs=1e-6)


@pytest.mark.parametrize(("mean", "n"), [(0.5, 0), (0.5, -1), (1.2, 5), (-0.1, 5), (math.nan, 5), (0.5, math.nan)])
def test_wilson_refuses_what_is_no_share(mean, n):
    """No interval is made up for no cases, or for a mean that no set of 0..1 values has."""
    with pytest.raises(ValueError, match="at least one case"):
        wilson(mean, n)


def test_a_mean_of_nothing_is_refused():
    """An empty mean is not 0 and not nan."""
    with pytest.raises(ValueError, match="no cases"):
        mean_estimate([])


def test_fractions_below_100_cases_get_wilson_on_their_mean():
    """The variance of a 0..1 variable is at most p(1-p): 0.5 over 99 cases is 49.5 of 99."""
    estimate = mean_estimate([0.25, 0.75, 0.5] * 33)

    assert interval(estimate) == pytest.approx(by_wilson_formula(0.5, 99, Z), abs=1e-6)
    assert estimate.value == 0.5
    assert estimate.n == 99


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_values_keep_an_interval_of_wilson(value):
    """A hundred equal values do not prove that the next is equal: the bootstrap would give a width of 0."""
    assert interval(mean_estimate([value] * 100)) == pytest.approx(wilson(value, 100))


def test_values_that_differ_in_the_last_digit_are_equal_values():
    """A mean of repeats such as 0.1 + 0.2 must not turn certainty about nothing into a width of 0, or nan."""
    estimate = mean_estimate([0.3] * 50 + [0.1 + 0.2] * 50)

    assert interval(estimate) == pytest.approx(wilson(0.3, 100))


def test_nearly_constant_values_keep_an_interval_of_wilson():
    """99 ones and a 0.99 say no more than 100 of 100, whose interval begins at 0.963; resampled they would say 0.9994."""
    estimate = mean_estimate([1.0] * 99 + [0.99])

    assert estimate.low == pytest.approx(wilson(0.9999, 100)[0])
    assert estimate.low < 0.9635


def test_proportions_get_wilson_whatever_their_number():
    """0 and 1 alone are a proportion, at 300 cases too; True and False are 1 and 0."""
    assert interval(mean_estimate([1.0] * 240 + [0.0] * 60)) == pytest.approx(by_wilson_formula(0.8, 300, Z), abs=1e-6)
    assert mean_estimate([True, False]) == mean_estimate([1.0, 0.0])


def test_the_bootstrap_gives_the_numbers_of_scipy():
    """From 100 fractional values on: Efron's BCa, as scipy computes it from the same seed."""
    import numpy

    source = random.Random(7)
    values = [source.random() ** 3 for _ in range(100)]
    theirs = bootstrap(
        (numpy.sort(values),), numpy.mean, confidence_level=0.9, n_resamples=9_999, method="BCa", rng=numpy.random.default_rng(0)
    )

    ours = mean_estimate(values, confidence=0.9)
    assert interval(ours) == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), abs=1e-9)


def test_the_bootstrap_refuses_equal_values():
    """It would answer with an interval of no width, or nan."""
    with pytest.raises(ValueError, match="all values are equal"):
        bca([0.5] * 200)


@settings(max_examples=60, deadline=None)
@given(st.lists(SHARES, min_size=1, max_size=130), st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(values, source):
    """The same cases in another order are the same evidence, to the last bit."""
    shuffled = source.sample(values, len(values))

    assert mean_estimate(values) == mean_estimate(shuffled)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(SHARES, st.sampled_from([None, "a", "b", "c"])), min_size=1, max_size=130))
def test_the_interval_holds_the_mean_and_has_a_width(pairs):
    """Whatever the values and clusters: 0 <= low <= mean <= high <= 1, and never a width of 0."""
    values, clusters = zip(*pairs, strict=True)

    one = mean_estimate(values, clusters=clusters)

    assert 0 <= one.low <= one.value <= one.high <= 1
    assert one.high - one.low > 0.001
    assert one.n == len(values)


def test_the_design_effect_is_the_one_worked_by_hand():
    """Five clusters of two, mean 0.5, cluster sums of deviations 1, 1, -1, -1, 0: 5/4 * 4/100 = 0.05, over 2.5/9/10: 1.8."""
    values = [1, 1, 1, 1, 0, 0, 0, 0, 1, 0]
    names = [f"cluster {index // 2}" for index in range(10)]

    assert design_effect(values, names) == pytest.approx(1.8)
    low, high = by_wilson_formula(0.5, 10 / 1.8, T_AT_4)
    assert interval(mean_estimate(values, clusters=names)) == pytest.approx((low, high), abs=1e-6)


def test_the_design_effect_stays_between_1_and_that_of_clusters_whose_cases_are_all_alike():
    """Clusters that are each half right would claim no variance at all; clusters of equals claim more than their size."""
    halves, equals, names = [1, 0, 1, 0], [1, 1, 0, 0], ["a", "a", "b", "b"]

    assert design_effect(halves, names) == 1
    assert design_effect(equals, names) == 2
    assert interval(mean_estimate(equals, clusters=names)) == pytest.approx(by_wilson_formula(0.5, 2, T_AT_1), abs=1e-5)


def test_unequal_clusters_are_worked_by_hand():
    """A cluster of 3 right beside 3 single ones, 1 right: the mean is 4/6, the sums of deviations are 1, 1/3, -2/3, -2/3.

    CR2: (1/(1/2) + (1/9 + 4/9 + 4/9)/(5/6)) / 36 = 3.2/36, over (4/3)/5/6 = 1.6/36: a design effect of 2, of at most
    (9 + 3)/6 = 2. With n = 6/2 and 12^2/(81 + 3) - 1 = 0.71, raised to 1, degrees of freedom.
    """
    values, names = [1, 1, 1, 1, 0, 0], ["a", "a", "a", None, None, None]

    assert design_effect(values, ["a", "a", "a", "b", "c", "d"]) == pytest.approx(2)
    assert interval(mean_estimate(values, clusters=names)) == pytest.approx(by_wilson_formula(4 / 6, 3, T_AT_1), abs=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize(("size", "count", "single"), [(5, 20, 0), (4, 10, 40), (6, 5, 30), (10, 3, 30), (20, 2, 40), (50, 1, 50)])
def test_clusters_of_unequal_size_keep_the_promised_coverage(size, count, single, share):
    """When the cases of a cluster are right or wrong together, at least 93% of the 95% intervals hold the true share.

    Exactly, no simulation: every number of clusters and of single cases that can be right, weighted by its binomial chance.
    """
    clusters = [f"c{index // size}" for index in range(size * count)] + [None] * single
    covered = 0.0
    for right in range(count + 1):
        for alone in range(single + 1):
            values = [1] * (size * right) + [0] * (size * (count - right)) + [1] * alone + [0] * (single - alone)
            low, high = interval(mean_estimate(values, clusters=clusters))
            if low <= share <= high:
                covered += binom.pmf(right, count, share) * binom.pmf(alone, single, share)

    assert covered > 0.93


def test_equal_values_in_clusters_count_each_cluster_once():
    """All right in 5 clusters of 4 is 5 of 5, with t at 4 degrees of freedom: n/(n + t^2) = 5/12.7087."""
    estimate = mean_estimate([1.0] * 20, clusters=[f"c{index // 4}" for index in range(20)])

    assert interval(estimate) == pytest.approx((5 / (5 + T_AT_4**2), 1.0), abs=1e-6)


def test_a_single_cluster_tells_nothing():
    """One cluster is one observation, and there is no spread between clusters to see."""
    assert interval(mean_estimate([1, 0, 1], clusters=["a"] * 3)) == (0, 1)


def test_clusters_of_one_are_no_clusters():
    """A case without a cluster is a cluster of its own, and is none that happens to be named like its place."""
    plain = mean_estimate([1, 0, 1])

    assert mean_estimate([1, 0, 1], clusters=[None] * 3) == plain
    assert mean_estimate([1, 0, 1], clusters=["a", "b", None]) == plain
    assert mean_estimate([1, 0, 1], clusters=["1", None, "case 1"]) == plain


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=40), st.integers(2, 4))
def test_copies_inside_a_cluster_buy_no_certainty(values, copies):
    """Asking every question again in other words, with the same result, leaves the interval no narrower."""
    once = mean_estimate(values)
    names = [str(index) for index in range(len(values))]
    again = mean_estimate(values * copies, clusters=names * copies)

    assert again.value == pytest.approx(once.value)
    assert again.low <= once.low + 1e-9
    assert again.high >= once.high - 1e-9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4), min_size=2, max_size=12))
def test_doubling_the_cases_of_each_cluster_buys_no_certainty(groups):
    """Where the cases of a cluster resemble each other (a design effect of 1 or more), twice as many of them say nothing new."""
    pairs = [(value, str(index)) for index, group in enumerate(groups) for value in group]
    values, names = [value for value, _ in pairs], [name for _, name in pairs]
    n, mean = len(values), Fraction(sum(map(int, values)), len(values))
    deviations = [sum((Fraction(int(value)) - mean for value in group), Fraction()) for group in groups]
    simple = mean * (1 - mean) * n / (n - 1) / n
    robust = sum(one * one / (1 - Fraction(len(group), n)) for one, group in zip(deviations, groups, strict=True)) / n**2
    if simple and robust < simple:
        return

    once, again = mean_estimate(values, clusters=names), mean_estimate(values * 2, clusters=names * 2)

    assert again.low <= once.low + 1e-9
    assert again.high >= once.high - 1e-9


def skewed(n, seed=3):
    source = random.Random(seed)
    return [source.lognormvariate(-5, 1) for _ in range(n)]


@pytest.mark.parametrize("n", [20, 200])
def test_a_mean_cost_has_the_interval_of_scipy(n):
    """Efron's BCa, as scipy computes it from the same seed, whatever the number of cases."""
    import numpy

    values = skewed(n)
    theirs = bootstrap((numpy.sort(values),), numpy.mean, n_resamples=9_999, method="BCa", rng=numpy.random.default_rng(0))

    ours = cost_estimate(values)
    assert ours.value == pytest.approx(sum(values) / n)
    assert interval(ours) == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), rel=1e-6)


def test_equal_costs_are_not_certain():
    """20 times 0.002 is half of twice the largest: Wilson's interval of 10 of 20, 0.2993 to 0.7007, times 0.004."""
    low, high = by_wilson_formula(0.5, 20, Z)

    assert interval(cost_estimate([0.002] * 20)) == pytest.approx((0.004 * low, 0.004 * high), rel=1e-6)


def test_nearly_constant_costs_are_a_share_of_twice_the_largest():
    """99 times 1 and once 3 is 1.02, which is 0.17 of 6: nine or fewer that differ are too few to resample."""
    low, high = by_wilson_formula(1.02 / 6, 100, Z)

    assert interval(cost_estimate([1.0] * 99 + [3.0])) == pytest.approx((6 * low, 6 * high), rel=1e-6)


def test_free_models_cost_nothing_for_certain():
    """Nothing but zeros is a price list, not a sample."""
    assert cost_estimate([0.0] * 20) == Estimate(0.0, 0.0, 0.0, 20)


@pytest.mark.parametrize("values", [[], [0.1, -0.1]])
def test_a_cost_below_zero_or_of_nothing_is_refused(values):
    """A negative amount is a mistake in a price, and an empty mean is not 0."""
    with pytest.raises(ValueError, match="mean cost"):
        cost_estimate(values)


def test_clusters_widen_the_interval_of_a_cost():
    """Pairs that cost the same: a design effect of 2, so both distances grow by its root, and by t (39 degrees: 2.022691) over z."""
    once = skewed(40)
    values, names = [value for value in once for _ in range(2)], [f"c{index // 2}" for index in range(80)]
    plain, clustered = cost_estimate(values), cost_estimate(values, clusters=names)
    wider = math.sqrt(2) * 2.022691 / Z

    assert clustered.value == plain.value
    assert plain.value - clustered.low == pytest.approx(wider * (plain.value - plain.low), rel=1e-6)
    assert clustered.high - plain.value == pytest.approx(wider * (plain.high - plain.value), rel=1e-6)


def test_a_single_cluster_of_costs_has_an_open_edge():
    """One cluster is one observation: nothing says how much the next one costs."""
    estimate = cost_estimate([0.1, 0.2, 0.3], clusters=["a"] * 3)

    assert interval(estimate) == (0, math.inf)
    assert estimate.value == pytest.approx(0.2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.002, 0.02]), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_the_interval_of_a_cost_holds_it_in_any_order(values, source):
    """Whatever the amounts: 0 <= low <= mean <= high, a width unless all are 0, and the order does not matter."""
    estimate = cost_estimate(values)

    assert 0 <= estimate.low <= estimate.value <= estimate.high
    assert (estimate.high > estimate.low) is any(values)
    assert cost_estimate(source.sample(values, len(values))) == estimate


def test_a_percentile_is_the_nearest_rank():
    """Hyndman and Fan, definition 1: of 20 values the 95th percentile is the 19th, the median the 10th; of 1 it is that one."""
    values = [float(value) for value in range(20, 0, -1)]

    assert quantile_estimate(values, 0.95).value == 19
    assert quantile_estimate(values, 0.5).value == 10
    assert quantile_estimate([3.0], 0.95).value == 3
    assert quantile_estimate(range(1, 101), 0.07).value == 7  # 0.07 * 100 is 7.000000000000001 to a computer
    with pytest.raises(ValueError, match="no values"):
        quantile_estimate([], 0.5)


@pytest.mark.parametrize(("n", "open_above"), [(1, True), (20, True), (58, True), (59, False), (72, False), (73, False), (500, False)])
def test_the_upper_edge_of_p95_is_open_below_59_values(n, open_above):
    """0.95^58 = 0.051 is above, 0.95^59 = 0.048 below 5%: with 58 values even the slowest need not reach the true p95."""
    estimate = quantile_estimate([float(value) for value in range(n)], 0.95)

    assert math.isinf(estimate.high) is open_above
    assert estimate.low <= estimate.value <= estimate.high


def test_the_interval_of_a_median_is_the_one_in_the_tables():
    """Of 10 values ranks 2 and 9 (97.9%), of 20 ranks 6 and 15 (95.9%): Conover (1999), from binomial tables."""
    for n, low, high in ((10, 2, 9), (20, 6, 15)):
        assert interval(quantile_estimate(range(1, n + 1), 0.5)) == (low, high)


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_the_chosen_ranks_cover_what_they_promise(q):
    """P(X_(r) <= quantile <= X_(s)) = F(s - 1) - F(r - 1) of the binomial distribution, exactly, for each n to 300.

    An edge that is open covers its side for certain. Once both can be closed at 2.5%, one rank less would not do.
    """
    for n in [*range(1, 301), 1000, 5000]:
        estimate = quantile_estimate(range(1, n + 1), q)
        low = 0 if math.isinf(estimate.low) else int(estimate.low)
        high = n + 1 if math.isinf(estimate.high) else int(estimate.high)
        upper = 1.0 if high == n + 1 else binom.cdf(high - 1, n, q)
        lower = binom.cdf(low - 1, n, q) if low else 0.0

        assert upper - lower >= 0.95 - 1e-12, n
        if q**n <= 0.025 and low:
            assert binom.cdf(low, n, q) > 0.025
            assert binom.cdf(high - 2, n, q) < 0.975


def test_ranks_are_chosen_from_the_count_alone():
    """Ties and order change nothing: the edges are always values that were measured."""
    values = [0.2] * 40 + [0.9] * 40

    estimate = quantile_estimate(values, 0.95)

    assert (estimate.value, *interval(estimate)) == (0.9, 0.9, 0.9)
    assert quantile_estimate(values[::-1], 0.95) == estimate


def test_an_estimate_prints_its_interval_and_its_n():
    """No number stands alone."""
    assert str(mean_estimate([1.0] * 20)) == "1.000 (0.839 to 1.000, n = 20)"


def test_an_open_edge_is_called_open():
    """`inf` would look like a number of seconds."""
    assert str(Estimate(2.0, 1.0, math.inf, 40)) == "2.000 (1.000 to open, n = 40)"


def test_similar_values_keep_an_interval_of_wilson():
    """A hundred similarities between 0.9 and 1 have seen no failed case, and cannot know that there is none: a 0 is far below."""
    values = [0.9 + index / 1000 for index in range(100)]
    mean = math.fsum(values) / 100

    assert interval(mean_estimate(values)) == pytest.approx(wilson(mean, 100))
    assert mean_estimate(values).high - mean_estimate(values).low > 0.08


def test_repeats_are_no_further_requests_for_a_quantile():
    """Forty cases asked three times are forty when a p95 is to be closed: a slow case is slow each time. 59 are enough."""
    forty = quantile_estimate([float(index) for index in range(40) for _ in range(3)], 0.95, cases=40)
    sixty = quantile_estimate([float(index) for index in range(60) for _ in range(3)], 0.95, cases=60)
    once = quantile_estimate([float(index) for index in range(60)], 0.95)

    assert (forty.n, forty.high) == (40, math.inf)
    assert (sixty.low, sixty.high, sixty.n) == (once.low, once.high, once.n)
