"""A screened sweep looks at all trials on a few cases, and scores the best, and the baseline, on all of them."""

import json
from types import SimpleNamespace

import pytest

from poclab import Report, experiment, trials
from poclab.archive import Archive
from poclab.errors import InputError
from test_search import make

SWEEP = """\
notebook: notebooks/searched.ipynb
include: [{x: 100}]
parameters: {x: {values: [90, 0, 20, 30, 60]}}
screen: {cases: 3, keep: 0.34}
limits: {jobs: 2}
"""


@pytest.fixture(scope="module")
def screened(make_poc, tmp_path_factory):
    """Six trials of which the best three go on (0 and 60 are equal: the first of them), and the baseline; then the same once more."""
    poc = make_poc(tmp_path_factory.mktemp("screened") / "animals")
    sweep = make(poc, SWEEP)
    first = trials.run_sweep(sweep)
    return SimpleNamespace(poc=poc, first=first, again=trials.run_sweep(sweep), archive=Archive.open(poc))


def test_the_best_and_the_baseline_go_on(screened):
    """Three of six, and the baseline, though it is the worst; each trial once on three cases, four on all eight."""
    outcomes = {one.parameters["x"]: one.outcome for one in screened.first.records}

    assert outcomes == {100: "ok", 90: "screened", 0: "ok", 20: "ok", 30: "ok", 60: "screened"}
    assert [one.parameters["x"] for one in screened.first.ranked()] == [30, 20, 0, 100]
    assert screened.first.ran == 6 + 4


def test_all_are_screened_on_the_same_cases(screened):
    """A fixed part of the split, and none of the held-out cases."""
    reports = [Report.load(path) for path in screened.poc.glob(".poclab/sweeps/sweep/*-3/artifacts/report.json")]
    asked = {tuple(one.case_id for one in report.results) for report in reports}

    assert len(reports) == 6
    (cases,) = asked
    assert len(cases) == 3 and set(cases) <= {f"q{n:02}" for n in (1, 2, 3, 4, 5, 6, 9, 10)}


def test_the_table_says_which_were_only_screened(screened):
    """They stand last, without a rank; what they were scored on is told, and that they count."""
    rows = list(screened.first.rows())

    assert [(row["rank"], row["x"], row[""], row["n"]) for row in rows] == [
        (1, 30, "", 8), (2, 20, "", 8), (3, 0, "", 8), (4, 100, "baseline", 8), ("", 60, "screened", 3), ("", 90, "screened", 3),
    ]  # fmt: skip
    assert "2 of 6 trials were only screened, on a part of the cases: they count as comparisons." in screened.first.notes()


def test_all_that_were_screened_count_as_comparisons(screened):
    """Holm corrects for five candidates, though three are compared; a run on three cases is no result to compare or to decide on."""
    found = experiment.compare(poc=screened.poc)

    assert (len(found.candidates), found.comparisons) == (3, 5)
    assert len(screened.archive.sweep()) == len(screened.archive.finished) == 4
    assert screened.archive.unfinished() == ""
    assert sum(row["tags"].get("screen") == "3" for row in screened.archive.every) == 6


def test_a_rerun_is_answered_from_the_records(screened):
    """Neither a screening nor a trial is run again."""
    assert screened.again.ran == 0
    assert [one.outcome for one in screened.again.records] == [one.outcome for one in screened.first.records]
    assert list(screened.again.rows()) == list(screened.first.rows())


def test_a_trial_that_fails_when_it_is_screened_has_failed(poc):
    """It does not go on, and is told like any other failure; the others do."""
    sweep = make(poc, SWEEP.replace("[90, 0, 20, 30, 60]", "[30]"))
    notebook = poc / "notebooks/searched.ipynb"
    notebook.write_text(json.dumps(json.loads(notebook.read_text()) | {}).replace("off = abs", "assert x != 30, 'not this'\\noff = abs"))
    results = trials.run_sweep(sweep)

    assert [one.outcome for one in results.records] == ["ok", "error"]
    assert "not this" in results.failures()


@pytest.mark.parametrize(
    ("screen", "more", "said"),
    [
        ("{cases: 0, keep: 0.3}", "", "screen: found"),
        ("{cases: 3, keep: 1.5}", "", "screen: found"),
        ("[3]", "", "screen: found"),
        ("{case: 3}", "", "unknown key 'case'.*\n.*'cases'"),
        ("{cases: 3}", "fixed: {split: test}\n", "split is 'test'\n.*held-out cases"),
        ("{cases: 3}", "method: tpe\nrun_cap: 3\n", "screen is for a grid"),
    ],
)
def test_what_cannot_be_screened_is_refused(poc, screen, more, said):
    """Before a kernel starts; held-out cases above all."""
    with pytest.raises(InputError, match=said):
        make(poc, SWEEP.replace("{cases: 3, keep: 0.34}", screen) + more)
