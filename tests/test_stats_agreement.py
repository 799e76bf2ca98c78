"""Agreement of two labellers: worked by hand, equal to scikit-learn's and statsmodels' numbers, and honest where those are not."""

import math
import warnings

import numpy
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix, recall_score

from poclab.stats import counted, kappa, kappa_cases, kappa_error, kappa_estimate, paired_kappa, recalls, wilson

R, W, U = "right", "wrong", "unscored"
#: 35 of 50 agree; by chance .5 * .6 + .5 * .4 = .5 would.
FIFTY = {(R, R): 20, (R, W): 5, (W, R): 10, (W, W): 15}
THREE = {(R, R): 30, (R, W): 4, (R, U): 2, (W, W): 17, (W, R): 6, (W, U): 1}


def statsmodels_kappa(counts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from statsmodels.stats.inter_rater import cohens_kappa
    labels = sorted({label for pair in counts for label in pair})
    return cohens_kappa(numpy.array([[counts.get((one, other), 0) for other in labels] for one in labels]))


def pairs(counts):
    return zip(*[pair for pair, count in counts.items() for _ in range(count)], strict=True)


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        (FIFTY, 0.4),  # (.7 - .5) / (1 - .5)
        ({(True, True): 3, (False, False): 2}, 1.0),
        ({(True, False): 2, (False, True): 2}, -1.0),
        # the first label never says unanswerable: what agrees is what chance makes agree
        ({(True, True): 7, (True, False): 3}, 0.0),
        # 47 of 60 agree; by chance (36 * 36 + 24 * 21) / 3600 = .5: a judge's abstentions are a column of their own
        (THREE, (47 / 60 - 0.5) / 0.5),
    ],
)
def test_kappa_is_cohens(counts, value):
    """Worked by hand, and equal to scikit-learn's."""
    assert kappa(counts) == pytest.approx(value, abs=1e-12)
    assert kappa(counts) == pytest.approx(cohen_kappa_score(*pairs(counts)), abs=1e-12)


@pytest.mark.parametrize("counts", [{}, {(True, True): 9}, {(False, False): 1}])
def test_kappa_is_undefined_when_nothing_varies(counts):
    """Both always say the same: chance alone explains it. That is None, and no nan."""
    assert kappa(counts) is None
    assert kappa_error(counts) is None
    assert kappa_estimate(counts) is None


@pytest.mark.parametrize("counts", [FIFTY, THREE, {(R, R): 12, (R, W): 1, (W, W): 9}, {(R, R): 3, (W, W): 2}])
def test_its_error_is_that_of_statsmodels(counts):
    """The formula of Fleiss, Cohen and Everitt, of two labels and of three."""
    assert kappa_error(counts) == pytest.approx(statsmodels_kappa(counts).std_kappa, abs=1e-12)


def test_its_interval_holds_that_of_statsmodels():
    """Each edge is the wider of two: with 50 pairs at .7 Wilson's agreement is .562 to .809, so (.562 - .5) / .5 = .124 and .618."""
    found, theirs = kappa_estimate(FIFTY), statsmodels_kappa(FIFTY)
    low, high = wilson(0.7, 50)

    assert found.low == pytest.approx(min((low - 0.5) / 0.5, theirs.kappa_low), abs=1e-9)
    assert found.high == pytest.approx(max((high - 0.5) / 0.5, theirs.kappa_upp), abs=1e-9)
    assert (found.value, found.n) == (pytest.approx(0.4), 50)


def test_ten_of_ten_are_no_certainty():
    """The large-sample interval of full agreement is 1 to 1. Wilson's for 10 of 10 begins at .722: (.722 - .5) / .5 = .445."""
    found = kappa_estimate({(R, R): 5, (W, W): 5})

    assert statsmodels_kappa({(R, R): 5, (W, W): 5}).std_kappa == pytest.approx(0)
    assert found.low == pytest.approx((10 / (10 + 1.959964**2) - 0.5) / 0.5, abs=1e-6)
    assert found.high == 1.0


def test_cases_of_one_cluster_count_for_fewer():
    """Twenty pairs in four clusters that agree or disagree together are worth about four: the interval is wider."""
    people, judge = [R] * 10 + [W] * 10, [R] * 10 + [W] * 5 + [R] * 5
    clusters = [str(place // 5) for place in range(20)]
    alone, together = paired_kappa(people, judge), paired_kappa(people, judge, clusters=clusters)

    assert alone.value == together.value == pytest.approx(0.5)
    assert together.low < alone.low and together.high >= alone.high
    assert paired_kappa(people, judge, clusters=["one"] * 20).low == -1.0


def test_recall_is_of_each_label_that_people_gave():
    """Of 36 right ones the judge found 30, of 24 wrong ones 17: what it did not score counts as missed; as scikit-learn says."""
    people, judge = pairs(THREE)
    found = recalls(people, judge)

    assert {label: (one.value, one.n) for label, one in found.items()} == {R: (30 / 36, 36), W: (17 / 24, 24)}
    assert found[R].value == pytest.approx(recall_score(people, judge, labels=[R], average=None)[0])
    assert (found[R].low, found[R].high) == wilson(30 / 36, 36)


def test_a_judge_that_abstains_does_not_shift_pairs():
    """The pairs are those of the cases: one that is not scored is counted as such, beside its own case, as scikit-learn's table has it."""
    people, judge = [R, W, R, W], [R, U, R, W]

    assert counted(people, judge) == {(R, R): 2, (W, U): 1, (W, W): 1}
    assert confusion_matrix(people, judge, labels=[R, U, W]).tolist() == [[2, 0, 0], [0, 0, 0], [0, 1, 1]]
    # 3 of 4 agree; by chance .5 * .5 + .5 * .25 = .375
    assert kappa(counted(people, judge)) == pytest.approx((0.75 - 0.375) / 0.625)
    with pytest.raises(ValueError):
        counted(people, judge[1:])


def test_the_order_of_the_cases_does_not_matter():
    """Neither for kappa nor for its interval; and who is called first does not matter for kappa."""
    people, judge = pairs(THREE)
    turned = [*reversed(people)], [*reversed(judge)]

    assert paired_kappa(*turned) == paired_kappa(people, judge)
    assert kappa(counted(judge, people)) == pytest.approx(kappa(counted(people, judge)))
    assert math.isfinite(paired_kappa(people, judge).low)


def test_how_many_labels_a_bound_takes_is_that_of_wilsons_interval():
    """Where all agree on two labels that are as frequent, kappa's edge is twice Wilson's less 1, and that is n / (n + 3.84): 0.8 from 16 on."""
    assert kappa_cases({(R, R): 5, (W, W): 5}, 0.6) == 16
    assert kappa_cases({(R, R): 20, (W, W): 20}, 0.6) == 40  # they are enough
    assert kappa_estimate({(R, R): 8, (W, W): 8}).low >= 0.6 > kappa_estimate({(R, R): 7.5, (W, W): 7.5}).low


def test_no_number_of_labels_lifts_kappa_above_itself():
    """Of 50 with kappa 0.4 none is asked for where 0.4 is needed, nor where kappa is undefined."""
    assert kappa_cases(FIFTY, kappa(FIFTY)) is None
    assert kappa_cases({(R, R): 9}, 0.1) is None
    assert kappa_cases({(R, R): 5, (W, W): 5}, 0.99999) is None  # more than anybody labels


@pytest.mark.parametrize(("labels", "errors"), [(20, 0), (30, 1), (60, 5), (100, 12)])
def test_as_many_labels_as_the_readme_says_bear_so_many_disagreements(labels, errors):
    """At a bound of 0.6, where both labels are about as frequent: one more is one too many."""

    def low(wrong):
        same, one = labels - wrong, wrong // 2
        return kappa_estimate({(R, R): same // 2, (W, W): same - same // 2, (R, W): one, (W, R): wrong - one}).low

    assert low(errors) >= 0.6 > low(errors + 1)
