"""The corrected mean of a judge: worked by hand, unbiased, and covered by its interval."""

import statistics

import numpy
import pytest

from poclab.stats import corrected_mean, mean_estimate
from poclab.stats.corrected import power_of


def test_a_judge_that_is_always_right_adds_its_cases():
    """Ten labelled cases at .5 and ten others at .8, all judged rightly: the power is 1/2, and the mean .5 + .5 * (.8 - .5) = .65, that of all."""
    labels, others = [1.0, 0.0] * 5, [1.0] * 8 + [0.0] * 2
    # the spread of all twenty is .65 * .35 = .2275, that of the ten .25: .25 / .2275 / 2
    assert power_of(labels, labels, others) == pytest.approx(0.25 / 0.2275 / 2)
    found = corrected_mean(labels, labels, others)

    assert found.value == pytest.approx(0.5 + 0.25 / 0.2275 / 2 * 0.3)
    assert found.n == 20
    assert found.low < 0.65 < found.high


def test_a_judge_that_says_the_same_of_all_adds_nothing():
    """Its word has no spread: what people say stands alone."""
    people = [1.0] * 30 + [0.0] * 20

    assert power_of(people, [1.0] * 50, [1.0] * 100) == 0
    assert corrected_mean(people, [1.0] * 50, [1.0] * 100).value == 0.6


def test_a_lenient_judge_is_brought_down():
    """The judge passes 90 of 100 others; on the sample it passes 45 of 50 where people pass 30. Naive .9; people and judge go together by .6 * .1."""
    people = [1.0] * 30 + [0.0] * 20
    judge = [1.0] * 45 + [0.0] * 5
    found = corrected_mean(people, judge, [1.0] * 90 + [0.0] * 10)

    assert power_of(people, judge, [1.0] * 90 + [0.0] * 10) == pytest.approx(0.06 / 0.09 * 100 / 150)
    assert found.value == pytest.approx(0.6)
    assert found.high < 0.9


def test_a_sample_without_an_error_is_no_certainty():
    """Fifty agreements do not show that the judge never errs: one error of each sign is added, and the interval has a width."""
    labels = [1.0] * 25 + [0.0] * 25
    found = corrected_mean(labels, labels, [1.0, 0.0] * 5000)

    assert found.high - found.low > 0.05


def test_without_others_it_is_the_peoples_mean():
    """Nothing is left for the judge to add."""
    people = [1.0] * 3 + [0.0] * 2

    assert corrected_mean(people, [0.0] * 5, []) == mean_estimate(people)


def test_lists_that_are_no_pairs_are_refused():
    """One value too few would shift every pair after it."""
    with pytest.raises(ValueError, match="two or more pairs"):
        corrected_mean([1.0, 0.0], [1.0], [1.0])
    with pytest.raises(ValueError, match="two or more pairs"):
        corrected_mean([1.0], [1.0], [1.0])


def test_it_is_unbiased_where_the_naive_mean_is_not():
    """A judge that passes every fifth wrong answer: 400 draws of 100 labelled and 300 other cases at .6 average .6; the judge's mean is .68."""
    draw = numpy.random.default_rng(7)
    corrected, naive = [], []
    for _ in range(400):
        people = (draw.random(400) < 0.6).astype(float)
        judge = numpy.maximum(people, draw.random(400) < 0.2)
        corrected.append(corrected_mean(people[:100].tolist(), judge[:100].tolist(), judge[100:].tolist()).value)
        naive.append(judge.mean())

    assert statistics.mean(corrected) == pytest.approx(0.6, abs=0.008)
    assert statistics.mean(naive) == pytest.approx(0.68, abs=0.008)
