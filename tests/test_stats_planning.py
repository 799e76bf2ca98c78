import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from poclab.stats import (
    cases_for_quantile,
    cases_to_reach,
    cases_to_tell,
    cases_until,
    mcnemar,
    power_to_reach,
    power_to_tell,
    smallest_difference,
    smallest_share,
    wilson,
)

#: Normal quantiles from the tables: two-sided 95%, and one of 80%.
Z, Z_80 = 1.959964, 0.841621


def by_counting(target, expected, n, *, confidence=0.95):
    """Add up the chance of every number of right answers whose interval by Wilson begins at the target or above."""
    met = [k for k in range(n + 1) if wilson(k / n, n, confidence=confidence)[0] >= target]
    return sum(binom.pmf(k, n, expected) for k in met)


def by_every_table(fixed, broken, n, alpha):
    """Add up the chance of every number of fixed and broken cases that McNemar calls better."""
    return sum(
        multinomial.pmf([up, down, n - up - down], n, [fixed, broken, max(1 - fixed - broken, 0.0)])
        for up in range(n + 1)
        for down in range(min(up, n - up + 1))
        if mcnemar(up, down) <= alpha
    )


@pytest.mark.parametrize(("target", "expected"), [(0.8, 0.9), (0.8, 1.0), (0.5, 0.6), (0.95, 0.99), (0.3, 0.2), (0.02, 0.1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_power_to_reach_a_target_is_the_chance_of_a_met_interval(target, expected, confidence):
    """The plan asks the very interval that decides later, for each n."""
    for n in [*range(1, 41), 73, 150]:
        ours = power_to_reach(target, expected, n, confidence=confidence)
        assert ours == pytest.approx(by_counting(target, expected, n, confidence=confidence), abs=1e-9), n


def test_sixteen_of_sixteen_show_80_percent_and_fifteen_do_not():
    """Wilson's lower edge of n of n is n/(n + 3.8415): 16/19.84 = 0.806, 15/18.84 = 0.796."""
    assert power_to_reach(0.8, 1.0, 16) == 1
    assert power_to_reach(0.8, 1.0, 15) == 0
    assert power_to_reach(0.8, 0.9, 16) == pytest.approx(0.9**16)
    assert cases_to_reach(0.8, 1.0) == 16


@pytest.mark.parametrize(("target", "expected"), [(0.8, 0.9), (0.8, 0.85), (0.5, 0.7), (0.9, 0.97), (0.97, 0.998)])
def test_a_bound_from_above_is_the_mirror_image(target, expected):
    """At most 20% wrong is at least 80% right."""
    n = cases_to_reach(target, expected)

    assert cases_to_reach(1 - target, 1 - expected, at_least=False) == n
    assert power_to_reach(1 - target, 1 - expected, n, at_least=False) == pytest.approx(power_to_reach(target, expected, n), abs=1e-9)
    assert smallest_share(1 - target, n, at_least=False) == pytest.approx(1 - smallest_share(target, n), abs=1e-9)


@pytest.mark.parametrize(
    ("target", "expected", "power"),
    [
        *itertools.product([0.5], [0.6, 0.75, 1.0], [0.8, 0.9]),
        *itertools.product([0.8], [0.85, 0.9, 0.95, 1.0], [0.8, 0.9]),
        *itertools.product([0.95], [0.98, 0.99, 1.0], [0.8]),
        (0.85, 0.9625, 0.8),  # at 55 to 61 cases enough, at 62 not
        (0.94, 0.985, 0.9),  # at 191 to 212 cases enough, at 213 not
        (0.97, 0.998, 0.8),
    ],
)
def test_from_the_number_of_cases_on_the_power_stays(target, expected, power):
    """Whoever labels a few more cases than planned loses nothing, and one case less is not enough with some more."""
    n = cases_to_reach(target, expected, power=power)

    assert [more for more in range(n, 2 * n + 100) if power_to_reach(target, expected, more) < power] == []
    assert power_to_reach(target, expected, n - 1) < power


def test_what_cannot_be_shown_has_no_number_of_cases():
    """A share that is the target, or on the wrong side of it, is never shown as beyond; a hair beyond would take millions."""
    assert cases_to_reach(0.8, 0.8) is None
    assert cases_to_reach(0.8, 0.7) is None
    assert cases_to_reach(0.2, 0.3, at_least=False) is None
    assert cases_to_reach(0.8, 0.801) is None
    assert cases_to_reach(1.0, 1.0) is None


@pytest.mark.parametrize(("target", "n"), [(0.8, 20), (0.8, 50), (0.5, 30), (0.9, 200), (0.0, 10)])
def test_the_smallest_share_is_at_the_edge(target, n):
    """With that share the power is there, a thousandth nearer to the target it is not."""
    share = smallest_share(target, n)

    assert power_to_reach(target, share, n) >= 0.8
    if share > 0.001:
        assert power_to_reach(target, share - 0.001, n) < 0.8
    assert smallest_share(1 - target, n, at_least=False) == pytest.approx(1 - share, abs=1e-9)


def test_the_smallest_share_of_sixteen_cases_is_worked_by_hand():
    """All sixteen must be right: share^16 = 0.8. With fifteen there is none."""
    assert smallest_share(0.8, 16) == pytest.approx(0.8 ** (1 / 16))
    assert smallest_share(0.8, 15) is None


def test_the_cases_until_an_edge_clears_the_target_are_worked_by_hand():
    """0.90 with a lower edge of 0.82 over 50: the width 0.08 * (1 + 0.8416/1.96) must shrink to 0.05, 50 * 2.28705^2 = 261.5."""
    assert cases_until(0.9, 0.82, 0.85, 50) == 262
    assert cases_until(0.1, 0.18, 0.15, 50) == 262
    assert cases_until(0.9, 0.82, 0.85, 51, power=0.5) == 131  # 51 * 1.6^2 = 130.6
    assert cases_until(0.85, 0.8, 0.85, 50) is None
    assert cases_until(2.0, math.inf, 3.0, 40) is None


def test_59_requests_that_all_keep_a_bound_show_p95():
    """0.95^58 = 0.0510, 0.95^59 = 0.0485: with 59 the slowest is beyond the true p95 often enough."""
    assert cases_for_quantile(0.95, 1.0) == 59
    assert cases_for_quantile(0.5, 1.0) == 5  # 0.5^5 = 0.031, and 0.5^4 = 0.0625 is more than 5%


def edges_of_quantile(n, q):
    """The ranks of the edges of 95% as a table of the binomial distribution gives them: 2.5% on each side, or 5% above alone."""
    ranks = np.arange(1, n + 1)
    low = max(ranks[binom.cdf(ranks - 1, n, q) <= 0.025], default=0)
    high = min(ranks[binom.sf(ranks - 1, n, q) <= 0.025], default=n + 1)
    return low, (n if high == n + 1 and q**n <= 0.05 else high)


@pytest.mark.parametrize(("q", "within"), [(0.95, 0.99), (0.95, 0.994), (0.95, 0.98), (0.5, 0.7), (0.9, 0.97)])
def test_from_the_number_of_requests_on_the_bound_is_shown(q, within):
    """The upper edge keeps the bound when at least as many requests do as its rank says."""
    n = cases_for_quantile(q, within)

    def power(n):
        high = edges_of_quantile(n, q)[1]
        return binom.sf(high - 1, n, within) if high <= n else 0.0

    assert [more for more in range(n, n + 80) if power(more) < 0.8] == []
    assert power(n - 1) < 0.8


def test_that_a_bound_is_broken_takes_requests_too():
    """The lower edge breaks the bound when fewer requests than its rank keep it."""
    n = cases_for_quantile(0.5, 0.3, at_most=False)

    def power(n):
        low = edges_of_quantile(n, 0.5)[0]
        return binom.cdf(low - 1, n, 0.3) if low else 0.0

    assert [more for more in range(n, n + 60) if power(more) < 0.8] == []
    assert power(n - 1) < 0.8


def test_a_share_that_does_not_say_so_has_no_number_of_requests():
    """95% within the bound is a p95 at the bound, not within it."""
    assert cases_for_quantile(0.95, 0.95) is None
    assert cases_for_quantile(0.95, 0.9) is None
    assert cases_for_quantile(0.95, 0.99, at_most=False) is None


@pytest.mark.parametrize(("fixed", "broken"), [(0.3, 0.0), (0.3, 0.1), (0.6, 0.4), (1.0, 0.0), (0.1, 0.1), (0.05, 0.3), (0.9, 0.1)])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 11])
def test_the_power_to_tell_counts_every_table(fixed, broken, alpha):
    """The plan asks the very test that decides later."""
    for n in (1, 5, 6, 7, 12, 25, 40):
        assert power_to_tell(fixed, broken, n, alpha=alpha) == pytest.approx(by_every_table(fixed, broken, n, alpha), abs=1e-9), n


def test_the_power_to_tell_six_of_six_is_worked_by_hand():
    """Of six cases all must be fixed, of five not even all are enough; with nothing that changes there is nothing to tell."""
    assert power_to_tell(0.7, 0.1, 6) == pytest.approx(0.7**6)
    assert power_to_tell(1.0, 0.0, 5) == 0
    assert power_to_tell(0.0, 0.0, 100) == 0
    assert power_to_tell(0.0, 0.5, 100) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "broken"), [(6, 0.0), (20, 0.0), (50, 0.0), (50, 0.05), (120, 0.1), (400, 0.02)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_smallest_difference_is_at_the_edge(n, broken, alpha):
    """With that gain the power is there, a thousandth less and it is not; six cases at 1% can tell nothing."""
    gain = smallest_difference(n, broken=broken, alpha=alpha)
    if n == 6 and alpha == 0.01:
        assert gain is None
        return

    assert power_to_tell(gain + broken, broken, n, alpha=alpha) >= 0.8
    assert power_to_tell(gain - 0.001 + broken, broken, n, alpha=alpha) < 0.8


def test_the_smallest_difference_of_six_cases_is_worked_by_hand():
    """All six must be fixed: gain^6 = 0.8."""
    assert smallest_difference(6) == pytest.approx(0.8 ** (1 / 6))
    assert smallest_difference(5) is None


def test_the_cases_to_tell_are_connors_and_a_changed_case_more():
    """0.15 fixed, 0.05 broken: ((1.96 sqrt(0.2) + 0.8416 sqrt(0.19)) / 0.1)^2 = 154.5, and 1 / 0.1 = 10 cases hold one net change more."""
    by_formula = ((Z * math.sqrt(0.2) + Z_80 * math.sqrt(0.2 - 0.01)) / 0.1) ** 2

    assert by_formula == pytest.approx(154.5, abs=0.1)
    assert cases_to_tell(0.1, 0.2) == 165
    assert cases_to_tell(-0.1, 0.2) == 165
    assert cases_to_tell(0.1, 0.2, effect=2.0) == math.ceil(2 * (by_formula + 10))
    assert cases_to_tell(0.0, 0.2) is None


def test_fewer_cases_than_the_exact_test_needs_are_never_named():
    """When every case is fixed the formula says 5, but 2 * 2^-5 = 0.0625: five cases tell nothing, six do."""
    assert cases_to_tell(1.0, 1.0) == 6
    assert cases_to_tell(1.0, 1.0, effect=3.0) == 18


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.05 / 11, 0.001])
def test_the_cases_to_tell_have_the_power_they_promise(alpha):
    """About 80%, and at least 79% by the exact test, for gains of up to 40 points."""
    for fixed, broken in itertools.product([0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4], [0.0, 0.01, 0.02, 0.05, 0.1, 0.15]):
        if fixed - broken > 0.01:
            n = cases_to_tell(fixed - broken, fixed + broken, alpha=alpha)
            assert power_to_tell(fixed, broken, n, alpha=alpha) >= 0.79, (fixed, broken, n)


def test_more_power_and_less_error_take_more_cases():
    """Whatever is asked for, asking for more is not cheaper."""
    plain = cases_to_tell(0.1, 0.2)

    assert cases_to_tell(0.1, 0.2, power=0.9) > plain
    assert cases_to_tell(0.1, 0.2, alpha=0.01) > plain
    assert cases_to_reach(0.8, 0.9, power=0.9) > cases_to_reach(0.8, 0.9)
    assert cases_to_reach(0.8, 0.9, confidence=0.99) > cases_to_reach(0.8, 0.9)


def test_the_normal_quantiles_of_this_file_are_those_of_the_tables():
    """The two constants above, once against the library that the code uses."""
    assert NormalDist().inv_cdf(0.975) == pytest.approx(Z, abs=1e-6)
    assert NormalDist().inv_cdf(0.8) == pytest.approx(Z_80, abs=1e-6)
