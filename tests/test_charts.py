import io

import pytest

from poclab import charts
from poclab.charter import Charter, Criterion
from poclab.comparison import compare
from poclab.errors import InputError
from poclab.scores import Score
from poclab.system import Version
from poclab.tables import frame
from test_report import HOSTILE, report, result


def runs(*rows):
    columns = ("run", "split", "accuracy", "accuracy_low", "accuracy_high")
    return frame(dict(zip(columns, row, strict=True)) for row in rows)


THREE = runs(("plain", "dev", 0.5, 0.4, 0.6), ("held out", "test", 0.55, 0.4, 0.7), ("hybrid", "dev", 0.6, 0.5, 0.7))


def axes_of(figure):
    (axes,) = figure.axes
    return axes


def level_lines(axes):
    return {
        line.get_label(): line.get_ydata()[0]
        for line in axes.get_lines()
        if len(set(line.get_ydata())) == 1 and line.get_linestyle() != "None"
    }


def charter(*criteria):
    return Charter(decision="d", owner="o", sponsor="s", criteria=criteria, text={})


def test_the_axes_say_what_they_show():
    """A chart that is cut out of its notebook can still be read: names, units, the whole range of an accuracy."""
    axes = axes_of(charts.accuracy_over_time(THREE))

    assert axes.get_xlabel() == "run, in the order they were made"
    assert axes.get_ylabel() == "accuracy (share of cases)"
    assert axes.get_ylim() == (0, 1)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["plain", "held out", "hybrid"]


def test_each_split_is_drawn_apart_with_its_intervals():
    """Dev and test are never one series; every point stands at its place in time, with its own edges."""
    axes = axes_of(charts.accuracy_over_time(THREE))
    drawn = {bars.get_label(): [tuple(map(tuple, segment)) for segment in bars.lines[2][0].get_segments()] for bars in axes.containers}

    assert list(drawn) == ["dev (95% interval)", "test (95% interval)"]
    assert drawn["dev (95% interval)"] == [
        (pytest.approx((0, 0.4)), pytest.approx((0, 0.6))),
        (pytest.approx((2, 0.5)), pytest.approx((2, 0.7))),
    ]
    assert drawn["test (95% interval)"] == [(pytest.approx((1, 0.4)), pytest.approx((1, 0.7)))]


def test_runs_on_other_cases_are_another_series():
    """A new edition has other cases: its numbers are not held against those of the old one, and a line says where it began."""
    old, new = ("a", "dev", 0.9, 0.8, 1.0), ("b", "dev", 0.5, 0.4, 0.6)
    axes = axes_of(charts.accuracy_over_time(runs(old, new).assign(lock=["1f", "2e"], edition=["1", "2"])))

    assert [bars.get_label() for bars in axes.containers] == ["dev, edition 1 (95% interval)", "dev, edition 2 (95% interval)"]
    assert level_lines(axes) == {"first run on dev, edition 1": 0.9, "first run on dev, edition 2": 0.5}
    assert [0.5, 0.5] in [list(line.get_xdata()) for line in axes.get_lines()]


def test_the_baseline_of_each_split_and_the_target_are_drawn():
    """A point is held against the first run of its split, and against what the charter asks; other criteria are not in this chart."""
    asked = charter(Criterion("accuracy", at_least=0.8, split="test"), Criterion("evidence_recall", at_least=0.9))

    axes = axes_of(charts.accuracy_over_time(THREE, charter=asked))

    assert level_lines(axes) == {"first run on dev": 0.5, "first run on test": 0.55, "target on test: 0.8": 0.8}
    assert {"first run on dev", "target on test: 0.8"} <= {text.get_text() for text in axes.figure.legends[0].get_texts()}


def test_a_run_without_an_accuracy_is_left_out():
    """An incomplete score has no number, and none is drawn for it; the others close up."""
    axes = axes_of(charts.accuracy_over_time(runs(("a", "dev", None, None, None), ("b", "dev", 0.5, 0.4, 0.6))))

    assert [label.get_text() for label in axes.get_xticklabels()] == ["b"]
    assert level_lines(axes) == {"first run on dev": 0.5}


def test_a_run_without_a_split_is_drawn():
    """A set that was never split is all of its cases."""
    axes = axes_of(charts.accuracy_over_time(runs(("a", None, 0.5, 0.4, 0.6))))

    assert level_lines(axes) == {"first run on all": 0.5}


@pytest.mark.parametrize("nothing", [frame([]), frame([{"run": "a", "split": "dev"}]), runs(("a", "dev", None, None, None))])
def test_no_runs_are_no_chart(nothing):
    """An empty pair of axes would look like a result."""
    with pytest.raises(InputError, match="no runs to draw"):
        charts.accuracy_over_time(nothing)


def test_a_name_is_text_and_not_a_formula():
    """A dollar pair in a run's name is no mathematics, unfinished or not; a long name is cut."""
    name = r"price $\frac{$ to " + "x" * 100
    figure = charts.accuracy_over_time(runs((name, "dev", 0.5, 0.4, 0.6), ("$" * 50, "dev", 0.5, 0.4, 0.6)))
    figure.savefig(io.BytesIO(), format="png")  # raises on a broken formula

    first, second = (label.get_text() for label in axes_of(figure).get_xticklabels())
    assert first == (name[:39] + "...").replace("$", r"\$")
    assert second == r"\$" * 39 + "..."


def test_an_edge_that_rounding_put_inside_the_point_is_drawn():
    """Recorded numbers are rounded: an interval may end a millionth before its own mean."""
    figure = charts.accuracy_over_time(runs(("a", "dev", 0.500001, 0.500002, 0.500000)))

    assert len(axes_of(figure).containers) == 1


def test_a_notebook_shows_the_picture():
    """The figure is no pyplot figure, of which IPython would show only the name: it says itself how to be a PNG."""
    from IPython.core.formatters import DisplayFormatter

    shown, _ = DisplayFormatter().format(charts.accuracy_over_time(THREE))

    assert shown["image/png"].startswith(b"\x89PNG")


def compared(*patterns, split="dev", comparisons=None):
    """A baseline and candidates, each named by the cases that it had right."""
    reports = [
        report(*(result(f"q{place}", float(one)) for place, one in enumerate(pattern)), version=Version(pattern, v=pattern), split=split)
        for pattern in patterns
    ]
    return compare(*reports, comparisons=comparisons)


def test_the_forest_has_a_line_per_candidate_with_its_interval_and_word():
    """The largest difference on top; the point and the edges are those of the comparison; nothing is drawn as better that is not."""
    found = compared("0" * 8, "1" * 8, "1" * 4 + "0" * 4)
    axes = axes_of(charts.forest(found))
    drawn = [tuple(map(tuple, bars.lines[2][0].get_segments()[0])) for bars in axes.containers]
    best, half = (one.scores[0].paired.difference for one in found.candidates)

    assert [label.get_text() for label in axes.get_yticklabels()] == ["1" * 4 + "0" * 4, "1" * 8]
    assert drawn == [
        (pytest.approx((half.low, 0)), pytest.approx((half.high, 0))),
        (pytest.approx((best.low, 1)), pytest.approx((best.high, 1))),
    ]
    assert [bars.lines[0].get_xdata()[0] for bars in axes.containers] == [0.5, 1.0]
    assert [text.get_text() for text in axes.texts] == ["cannot tell", "better"]


def test_the_forest_says_what_it_shows():
    """Axis with unit, the baseline at 0, and by how many comparisons the words were corrected: all that were started."""
    axes = axes_of(charts.forest(compared("0000", "1111", comparisons=11)))

    assert axes.get_xlabel() == "difference in exact (share of cases; 95% interval, not adjusted)"
    assert axes.get_title() == "Against 0000, 4 dev cases; words by Holm over 11"
    assert [0, 0] in [list(line.get_xdata()) for line in axes.get_lines()]
    assert axes_of(charts.forest(compared("0", "1", split=None))).get_title() == "Against 0, 1 cases; words by Holm over 1"


def test_the_forest_has_a_colour_for_each_word():
    """Worse, not told, better: three colours, and the word beside each point for whoever cannot see them."""
    axes = axes_of(charts.forest(compared("0" * 8 + "1" * 8, "1" * 16, "0" * 16, "0" * 8 + "1" * 7 + "0")))

    assert [text.get_text() for text in axes.texts] == ["worse", "cannot tell", "better"]
    assert len({bars.lines[0].get_color() for bars in axes.containers}) == 3


def unscored(pattern):
    lost = [result(f"q{place}", scores={"exact": Score(None, "", "the judge is down")}) for place in range(len(pattern))]
    return report(*lost, version=Version("lost", v="lost"))


def test_a_candidate_without_a_number_is_not_in_the_forest():
    """The others are; without any there is no chart, and the reason is told."""
    baseline, other = (report(result("q0", value), version=Version(name, v=name)) for name, value in (("plain", 0.0), ("new", 1.0)))

    axes = axes_of(charts.forest(compare(baseline, unscored("0"), other)))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["new"]
    with pytest.raises(InputError, match="no difference to draw: exact is incomplete: 1 case"):
        charts.forest(compare(baseline, unscored("0")))


def test_hostile_names_are_text_in_the_forest():
    """A pair of dollars is no formula, and a control character is shown as its escape, which every font has."""
    names = [rf"{name} $\frac{{$ {HOSTILE}" for name in ("plain", "new")]
    figure = charts.forest(compare(*(report(result("q0", 1.0), version=Version(name, v=name)) for name in names)))
    figure.savefig(io.BytesIO(), format="png")  # raises on a broken formula, warns of a missing character

    assert axes_of(figure).get_yticklabels()[0].get_text().startswith(r"new \$\frac{\$ <script>")
