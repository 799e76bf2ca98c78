"""pass^k: how likely all of k tries are right, without bias, and from a report with its interval."""

import itertools

import pytest

import poclab
from poclab.cases import Case
from poclab.charter import criterion
from poclab.decision import judge
from poclab.errors import InputError
from poclab.scores import Scorer
from poclab.stats import all_of, wilson


@pytest.mark.parametrize(
    ("k", "right", "of", "wanted"),
    [
        (1, 3, 4, 0.75),
        (2, 3, 4, 0.5),  # 3 of the 6 pairs
        (3, 3, 4, 0.25),  # 1 of the 4 triples
        (4, 3, 4, 0.0),
        (4, 4, 4, 1.0),
        (2, 1, 8, 0.0),
    ],
)
def test_it_is_the_share_of_draws_that_are_all_right(k, right, of, wanted):
    """C(right, k) / C(of, k), counted by hand."""
    tries = [True] * right + [False] * (of - right)
    draws = [all(one) for one in itertools.combinations(tries, k)]

    assert all_of(k, right=right, of=of) == wanted == sum(draws) / len(draws)


def test_it_is_without_bias():
    """Over all outcomes of 5 tries that are right with .7 each, the mean of the estimate is .7 to the k."""
    for k in range(1, 6):
        mean = sum(0.7 ** sum(one) * 0.3 ** (5 - sum(one)) * all_of(k, right=sum(one), of=5) for one in itertools.product((0, 1), repeat=5))
        assert mean == pytest.approx(0.7**k)


@pytest.mark.parametrize(("k", "right", "of"), [(3, 2, 2), (0, 1, 2), (1, 3, 2), (1, -1, 2)])
def test_fewer_tries_say_nothing(k, right, of):
    """What was not tried is not made up."""
    with pytest.raises(ValueError, match="say nothing"):
        all_of(k, right=right, of=of)


@pytest.fixture
def report():
    """Four cases tried three times: right in 3, 2, 1 and 0 of them."""
    cases = [Case(f"q{right}", {"right": right}, {"answers": ["x"]}) for right in (3, 2, 1, 0)]
    tried = {}

    def system(inputs):
        tried[inputs["right"]] = number = tried.get(inputs["right"], 0) + 1
        return "yes" if number <= inputs["right"] else "no"

    return poclab.evaluate(system, cases, [Scorer("yes", lambda case, reply: reply.text == "yes")], repeats=3, workers=1)


def test_a_report_tells_it_for_every_number_of_tries(report):
    """Means of 1, 1/3, 0, 0 and of 1, 0, 0, 0, over four cases, each with Wilson's interval; and they go to MLflow."""
    assert report.mean("yes") == 0.5
    assert report.mean("all_of_2") == pytest.approx(1 / 3)
    assert report.mean("all_of_3") == 0.25
    estimate = report.estimate("all_of_3")
    assert (estimate.n, estimate.low, estimate.high) == (4, *wilson(0.25, 4))
    assert report.metrics()["all_of_3"] == 0.25
    assert "all_of_2: 0.333" in repr(report)
    assert "all_of_4" not in report.metrics()


def test_more_tries_than_there_were_are_refused(report):
    """With what to type."""
    with pytest.raises(InputError, match="tried less often") as refused:
        report.estimate("all_of_4")
    assert refused.value.fix == "repeats=4"


def test_without_repeats_nothing_is_told_of_it():
    """One try is the mean."""
    report = poclab.evaluate(lambda inputs: "yes", [Case("q", {"a": "b"}, {"answers": ["yes"]})], [poclab.scores.exact()])

    assert [name for name in report.metrics() if name.startswith("all_of")] == []
    assert report.mean("all_of_1") == 1.0


def test_a_charter_may_ask_for_it(report):
    """Reliability is a number to decide on: .25 of four cases may be .7, and is not shown to be .2."""
    asked = criterion({"metric": "all_of_3", "at_least": 0.8, "split": "dev"}, "charter")

    assert judge(asked, report).estimate.value == 0.25
    assert judge(asked, report).word == "missed"


def test_no_score_can_take_its_name():
    """A score called all_of_2 would be told twice."""
    with pytest.raises(InputError, match="every report has a number"):
        Scorer("all_of_2", lambda case, reply: True)
