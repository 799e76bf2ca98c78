import gc
import itertools
import math
import random
from fractions import Fraction
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from poclab.stats import compare_paired, holm, mcnemar, sign_flip
from poclab.stats.paired import adjusted_wald

Z = NormalDist().inv_cdf(0.975)
#: From the t table in Student's form, two-sided 95%.
T_AT_1, T_AT_4 = 12.706205, 2.776445

SIXTHS = st.integers(0, 6).map(lambda sixths: sixths / 6)
#: Baseline and candidate of one case.
PAIRS = st.tuples(SIXTHS, SIXTHS)
NAMES = st.sampled_from([None, "a", "b", "c", "d"])


def interval(paired):
    return paired.difference.low, paired.difference.high


def by_enumeration(differences):
    """The share of all 2^n patterns of signs whose sum is at least as far from 0."""
    observed = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    as_far = [p for p in patterns if abs(sum(sign * one for sign, one in zip(p, differences, strict=True))) >= observed]
    return len(as_far) / len(patterns)


def from_table(both, fixed, broken, neither):
    """Baseline and candidate of a 2 by 2 table."""
    baseline = [1] * both + [0] * fixed + [1] * broken + [0] * neither
    candidate = [1] * both + [1] * fixed + [0] * broken + [0] * neither
    return baseline, candidate


@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [(6, 0, 0.03125), (5, 0, 0.0625), (0, 6, 0.03125), (0, 0, 1.0), (1, 0, 1.0), (3, 3, 1.0), (7, 1, 0.0703125), (8, 1, 0.0390625)],
)
def test_mcnemar_is_the_one_worked_by_hand(fixed, broken, p):
    """Twice the tail of fair coins: 6 of 6 is 2/64, 5 of 5 is 2/32, 1 or none of 8 is 2 * 9/256, of 9 it is 2 * 10/512."""
    assert mcnemar(fixed, broken) == p


def test_mcnemar_gives_the_numbers_of_statsmodels():
    """The exact form, for every table of up to 25 fixed and 25 broken."""
    for fixed, broken in itertools.product(range(26), repeat=2):
        theirs = statsmodels_mcnemar([[0, fixed], [broken, 0]], exact=True).pvalue
        assert mcnemar(fixed, broken) == pytest.approx(theirs, abs=1e-9)


def test_the_sign_flip_test_is_the_one_worked_by_hand():
    """Of +-1/2 +-1/2 +-1, |sum| is 2 twice and 1 or 0 otherwise: 2 of 8. A sum of 0 is reached by every pattern."""
    assert sign_flip([0.5, 0.5, 1.0]) == 0.25
    assert sign_flip([0.5, 0.5, -1.0]) == 1
    assert sign_flip([0.5]) == 1
    assert sign_flip([]) == 1
    assert sign_flip([0.0] * 5) == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(-12, 12), max_size=9), st.sampled_from([1, 2, 3, 4, 5, 6, 7, 10, 12]))
def test_the_sign_flip_test_counts_every_pattern(numerators, denominator):
    """Means of up to 12 repeats are exact: as many of the 2^n patterns as enumeration in fractions finds."""
    expected = by_enumeration([Fraction(one, denominator) for one in numerators])

    assert sign_flip([one / denominator for one in numerators]) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(5, 11))
def test_other_scores_are_exact_up_to_rounding(source, count):
    """Steps of 1/8192 of the sum of sizes move a sum by at most count/2 of them: p lies between those of sums that much nearer and farther."""
    differences = [round(source.uniform(-1, 1), 4) for _ in range(count)]
    slack = count * sum(map(abs, differences)) / 8192
    observed = abs(sum(differences))
    sums = [
        abs(sum(sign * one for sign, one in zip(pattern, differences, strict=True))) for pattern in itertools.product((1, -1), repeat=count)
    ]
    least, most = (sum(one >= observed + off for one in sums) / len(sums) for off in (slack, -slack))

    assert least - 1e-12 <= sign_flip(differences) <= most + 1e-12


@pytest.mark.parametrize(("fixed", "broken"), [(6, 0), (5, 0), (9, 2), (20, 31), (300, 240), (1500, 1400)])
def test_the_sign_flip_test_of_zeros_and_ones_is_mcnemar(fixed, broken):
    """One test, not two: cases of 0 and 1 in clusters of one must not get another answer."""
    differences = [1.0] * fixed + [-1.0] * broken + [0.0] * 7

    assert sign_flip(differences) == pytest.approx(mcnemar(fixed, broken), rel=1e-9)


@pytest.mark.parametrize(("n", "shift"), [(200, 0.0), (200, 0.04), (2_000, 0.01), (5_000, -0.006)])
def test_the_sign_flip_test_of_many_cases_is_near_the_t_test(n, shift):
    """Both are near the normal distribution then: they agree within half a point plus a twentieth of p."""
    source = random.Random(n)
    differences = [source.triangular(-1, 1, 0) * 0.6 + shift for _ in range(n)]
    theirs = float(ttest_1samp(differences, 0.0).pvalue)

    assert sign_flip(differences) == pytest.approx(theirs, abs=0.005 + 0.05 * theirs)


def test_many_small_differences_are_not_rounded_away():
    """20,000 cases that all got better by 0.37 are no coincidence: a step must not be larger than what each case adds."""
    assert sign_flip([0.37] * 20_000) < 1e-6
    assert sign_flip([0.37, -0.37] * 10_000) == 1


def test_holm_is_the_one_worked_by_hand():
    """0.01 * 4 = 0.04, 0.03 * 3 = 0.09 for the two smallest; 0.04 * 2 = 0.08 must not be less than the one before it."""
    assert holm([0.04, 0.01, 0.9, 0.03]) == pytest.approx([0.09, 0.04, 0.9, 0.09])
    assert holm([]) == []


def test_comparisons_whose_p_is_not_given_count_as_larger():
    """Of 11 begun, 0.004 * 11 = 0.044 and 0.03 * 10 = 0.3: a trial that crashed is not forgotten."""
    assert holm([0.03, 0.004], comparisons=11) == pytest.approx([0.3, 0.044])
    assert holm([0.2], comparisons=11) == [1]


def test_fewer_comparisons_than_p_values_are_refused():
    """What was compared was begun."""
    with pytest.raises(ValueError, match="2 p values of 1 comparisons"):
        holm([0.1, 0.2], comparisons=1)


@pytest.fixture(scope="module")
def _little_garbage():
    """Each call of theirs collects garbage first: what all the tests before have left in memory would take most of a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_little_garbage")
@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 8))
def test_holm_gives_the_numbers_of_statsmodels(p_values, missing):
    """Whatever the p values, in whatever order; a comparison that is not given is a p value of 1, the cautious way."""
    theirs = multipletests([*p_values, *[1.0] * missing], method="holm")[1][: len(p_values)]

    assert holm(p_values, comparisons=len(p_values) + missing) == pytest.approx(list(theirs), abs=1e-9)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((59, 6, 16, 80), -0.1195, -0.0032),
        ((1, 1, 7, 12), -0.5084, -0.0134),
    ],
)
def test_the_difference_has_the_published_interval(table, low, high):
    """161 patients before and after consolidation therapy (Cavo et al. 2012): contingencytables of Fagerland, Lydersen and Laake.

    The second, 21 children (Bentur et al. 2009), by hand: (2 - 8)/23 = -0.2609 +- 1.96 sqrt((10/23 - 0.2609^2)/23) = 0.2475.
    """
    both, fixed, broken, neither = table

    assert interval(compare_paired(*from_table(both, fixed, broken, neither))) == pytest.approx((low, high), abs=5e-5)


def test_six_of_120_tell_a_difference_and_five_do_not():
    """Test and interval agree where it is close: 2/64 and 2/32, (6 -+ 1.96 sqrt(8 - 36/122)) / 122 and (5 -+ 1.96 sqrt(7 - 25/122)) / 122."""
    six, five = (compare_paired(*from_table(80, fixed, 0, 40 - fixed)) for fixed in (6, 5))

    assert six.p == 0.03125
    assert interval(six) == pytest.approx(((6 - Z * math.sqrt(8 - 36 / 122)) / 122, (6 + Z * math.sqrt(8 - 36 / 122)) / 122))
    assert six.difference.low > 0
    assert five.p == 0.0625
    assert interval(five) == pytest.approx(((5 - Z * math.sqrt(7 - 25 / 122)) / 122, (5 + Z * math.sqrt(7 - 25 / 122)) / 122))
    assert five.difference.low < 0


def test_what_a_comparison_says_of_its_cases_is_worked_by_hand():
    """Two up, one down of ten: 0.1 on average, a mean square of 0.3, p = 2 * 4/8 at most 1, and no design effect."""
    found = compare_paired(*from_table(4, 2, 1, 3))

    assert (found.difference.value, found.difference.n) == (pytest.approx(0.1), 10)
    assert found.spread == pytest.approx(0.3)
    assert found.p == 1
    assert found.effect == 1


def test_repeats_are_compared_by_their_means():
    """Three cases better by 1/3 and one by 2/3, none worse: 2 of 16 patterns are as far, p = 0.125.

    By the interval: (5/12 * 4 / 6) / sqrt(((7/9 + 2) / 6 - 0.07716) / 6) = 1.09548, p = 0.27332: the larger one stands.
    """
    found = compare_paired([1 / 3, 0.0, 2 / 3, 1 / 3], [2 / 3, 1 / 3, 1.0, 1.0])

    assert sign_flip([1 / 3, 1 / 3, 1 / 3, 2 / 3]) == pytest.approx(0.125)
    assert found.p == pytest.approx(0.27332, abs=1e-5)
    assert found.difference.value == pytest.approx(5 / 12)
    assert found.spread == pytest.approx((3 / 9 + 4 / 9) / 4)


def test_sizes_count_not_only_signs():
    """Three better by 1/3 and one worse by 1: the sum is 0, while the sign test would see 3 against 1."""
    assert compare_paired([0.0, 0.0, 0.0, 1.0], [1 / 3, 1 / 3, 1 / 3, 0.0]).p == 1


def test_a_cluster_is_flipped_as_one():
    """Five clusters of two that all got better are five coins, 2/32, not ten, 2/1024; five equal clusters are worth five cases.

    Centre (5/7), mean square (5 + 2)/7 = 1, t at 4 degrees of freedom: 5/7 -+ 2.776 sqrt((1 - 25/49) / 7).
    """
    found = compare_paired([0] * 10, [1] * 10, clusters=[f"c{index // 2}" for index in range(10)])

    assert found.p == 0.0625
    assert found.effect == pytest.approx(2)
    assert found.difference.low == pytest.approx(5 / 7 - T_AT_4 * math.sqrt((1 - 25 / 49) / 7), abs=1e-6)
    assert found.difference.high == 1


def test_the_effective_number_of_clustered_differences_is_worked_by_hand():
    """Differences 1, 1, 0, 0 in two clusters: mean 0.5, mean square 0.5, a design effect of 2, t at 1 degree of freedom.

    Worth 2 cases: centre 0.25, 0.25 -+ 12.7 sqrt((0.75 - 0.0625) / 4) is beyond -1 and 1.
    """
    found = compare_paired([0, 0, 0, 0], [1, 1, 0, 0], clusters=["a", "a", "b", "b"])

    assert found.effect == pytest.approx(2)
    assert found.p == 1
    assert interval(found) == (-1, 1)
    assert adjusted_wald(0.5, 0.5, 2, T_AT_1)[0] == -1
    assert adjusted_wald(0.5, 0.5, 2, 1.0) == pytest.approx((0.25 - math.sqrt(0.6875 / 4), 0.25 + math.sqrt(0.6875 / 4)))


def test_a_single_cluster_tells_nothing():
    """One cluster is one observation: whatever its cases say, a fair coin says it as well."""
    found = compare_paired([0] * 8, [1] * 8, clusters=["a"] * 8)

    assert interval(found) == (-1, 1)
    assert found.p == 1
    assert found.effect == 8


def test_clusters_of_one_are_no_clusters():
    """A case without a cluster is a cluster of its own."""
    sides = from_table(5, 7, 1, 4)
    plain = compare_paired(*sides)

    assert compare_paired(*sides, clusters=[None] * 17) == plain
    assert compare_paired(*sides, clusters=[str(index) for index in range(17)]) == plain


def test_nothing_to_compare_is_refused():
    """No difference is made up from no cases, or from cases of one side alone."""
    with pytest.raises(ValueError, match="no cases"):
        compare_paired([], [])
    with pytest.raises(ValueError, match="shorter|longer"):
        compare_paired([1], [1, 0])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(PAIRS, NAMES), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(cases, source):
    """The same cases in another order are the same evidence."""
    one, other = (
        compare_paired([b for (b, _), _ in order], [c for (_, c), _ in order], clusters=[name for _, name in order])
        for order in (cases, source.sample(cases, len(cases)))
    )

    assert one.p == pytest.approx(other.p, abs=1e-12)
    assert (one.difference.value, *interval(one)) == pytest.approx((other.difference.value, *interval(other)), abs=1e-9)
    assert (one.spread, one.effect) == pytest.approx((other.spread, other.effect))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(PAIRS, NAMES), min_size=1, max_size=40))
def test_swapping_the_sides_mirrors_everything(cases):
    """Which version is called the baseline must not move the evidence."""
    baseline, candidate, clusters = [b for (b, _), _ in cases], [c for (_, c), _ in cases], [name for _, name in cases]
    one, other = compare_paired(baseline, candidate, clusters=clusters), compare_paired(candidate, baseline, clusters=clusters)

    assert one.difference.value == -other.difference.value
    assert interval(one) == (-other.difference.high, -other.difference.low)
    assert (one.p, one.spread, one.effect) == (other.p, other.spread, other.effect)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(PAIRS, NAMES), min_size=1, max_size=40))
def test_the_interval_holds_the_difference_and_has_a_width(cases):
    """Whatever the values and clusters: -1 <= low <= difference <= high <= 1, never a width of 0, and 0 <= p <= 1."""
    found = compare_paired([b for (b, _), _ in cases], [c for (_, c), _ in cases], clusters=[name for _, name in cases])

    assert -1 <= found.difference.low <= found.difference.value <= found.difference.high <= 1
    assert found.difference.high - found.difference.low > 0.01
    assert 0 <= found.p <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(PAIRS, min_size=2, max_size=40), st.integers(2, 4))
def test_copies_inside_a_cluster_buy_no_certainty(cases, copies):
    """Asking every question again in other words, with the same result, leaves the interval no narrower and p no smaller."""
    baseline, candidate = [b for b, _ in cases], [c for _, c in cases]
    names = [str(index) for index in range(len(cases))]
    once = compare_paired(baseline, candidate)
    again = compare_paired(baseline * copies, candidate * copies, clusters=names * copies)

    assert again.difference.value == pytest.approx(once.difference.value)
    assert again.difference.low <= once.difference.low + 1e-9
    assert again.difference.high >= once.difference.high - 1e-9
    assert again.p >= once.p - 1e-9


@pytest.mark.parametrize("n", [1, 20, 400])
def test_equal_versions_show_no_difference(n):
    """The same answers are no evidence of anything, and no proof that there is nothing: +- 1.96 sqrt(2/(n+2)/(n+2))."""
    found = compare_paired([1, 0.5] * n, [1, 0.5] * n)

    assert found.p == 1
    assert found.difference.value == 0
    assert found.difference.high == pytest.approx(min(1.0, Z * math.sqrt(2) / (2 * n + 2)))
    assert found.difference.low == -found.difference.high


def test_a_difference_below_a_millionth_is_none():
    """Means of the same values in another order differ in their last digits; that is no evidence of anything."""
    assert sign_flip([5e-8, 5e-8, 1e-12, -3e-16, 5e-8, 5e-8]) == 1.0


def test_a_word_and_its_interval_do_not_contradict_each_other():
    """A hundred cases better by 0.01 each are as one-sided as can be, and yet no evidence of a mean above 0 in 0..1 scores."""
    found = compare_paired([0.8] * 100, [0.81] * 100)

    assert sign_flip([0.01] * 100) < 1e-20
    assert found.difference.low < 0 < found.difference.high
    assert found.p > 0.05


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([None, "a", "b"])),
        min_size=2,
        max_size=40,
    )
)
def test_what_is_told_at_5_percent_has_an_interval_without_0(cases):
    """Whatever the values and clusters: fractions and clusters are called different only where the interval says so too."""
    before, after, clusters = zip(*cases, strict=True)
    found = compare_paired(before, after, clusters=clusters)
    plain = {*before, *after} <= {0, 1} and len({name for name in clusters if name}) == sum(name is not None for name in clusters)

    if found.p < 0.05 and not plain:
        assert not found.difference.low <= 0 <= found.difference.high


def test_asking_one_side_more_often_makes_no_difference_of_equals():
    """Right on 98% of cases both, asked once and asked ten times: of 200 comparisons of 50 cases at most 5% may say otherwise."""
    source = random.Random(98)
    told = 0
    for _ in range(200):
        once = [float(source.random() < 0.98) for _ in range(50)]
        often = [sum(source.random() < 0.98 for _ in range(10)) / 10 for _ in range(50)]
        told += compare_paired(once, often).p <= 0.05

    assert told <= 10
