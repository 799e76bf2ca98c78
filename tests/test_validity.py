import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parent / "benchmarks" / "validity.py"
ROUNDS = 400


@pytest.fixture(scope="module")
def validity():
    spec = importlib.util.spec_from_file_location("validity", PATH)
    module = sys.modules["validity"] = importlib.util.module_from_spec(spec)  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    yield module
    del sys.modules["validity"]


def short_form(validity, table):
    """Each short series of a table, with fixed seeds."""
    results = [one for series in validity.all_series() if series.table == table and series.short for one in validity.run(series, ROUNDS)]
    assert any(one.target for one in results)
    return results


def beyond(results):
    """What misses its target by more than three Monte Carlo standard errors."""
    return [f"{one.series}: {one.figure} {one.value:.3f} +- {one.error:.3f}, target {one.target}" for one in results if not one.held(3)]


def test_equal_versions_are_seldom_called_better_or_worse(validity):
    """At most one comparison in twenty of two equal versions says a false word: plain, with repeats, in clusters."""
    assert beyond(short_form(validity, 1)) == []


def test_a_sweep_of_equal_trials_names_a_false_winner_seldom(validity):
    """At most one sweep in twenty says a false word of any of its eleven trials; without Holm it is one in six of plain ones."""
    results = short_form(validity, 2)
    uncorrected = [one.value for one in results if one.figure == "any better or worse, uncorrected"]

    assert beyond(results) == []
    assert max(uncorrected) > 0.1


def test_intervals_cover_what_they_promise(validity):
    """Of the 95% intervals of means and differences at least 93% hold the truth, in clusters 90%, of p95 latency 95%."""
    assert beyond(short_form(validity, 3)) == []


def test_a_plan_keeps_its_promise(validity):
    """The planned power is the share of runs that come out as met, or as better."""
    assert beyond(short_form(validity, 4)) == []


def test_the_intervals_of_judges_cover_what_they_promise(validity):
    """The corrected mean and kappa of a judge that errs seldom, or often: at least 93%; the plain interval does not, where errors are few."""
    results = short_form(validity, 5)

    assert beyond(results) == []
    assert min(one.value for one in results if one.figure == "plain") < 0.9


def test_the_short_form_is_long_enough_to_miss_a_target(validity):
    """Targets relaxed by three standard errors still notice a coverage of 87%, and a false word in every ninth comparison."""

    def reached(share, target):
        return validity.Result("", "", share, (share * (1 - share) / ROUNDS) ** 0.5, target).held(3)

    assert not reached(0.87, (0.93, 1.0))
    assert not reached(1 / 9, (0.0, 0.05))
    assert reached(0.92, (0.93, 1.0))


def test_a_series_gives_the_same_figures_again(validity):
    """The seed belongs to the series: alone or among others, the same rounds."""
    one = next(series for series in validity.all_series() if series.short)

    assert validity.run(one, 20) == validity.run(one, 20)
