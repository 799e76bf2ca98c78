"""A screened sweep looks at all trials on a few cases, and scores the best, and the baseline, on all of them."""

import json
from types import SimpleNamespace

import pytest

from conftest import copy_poc
from poclab import Report, experiment, trials
from poclab.archive import Archive
from poclab.errors import InputError
from poclab.sweeps import Screen, load_sweep
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
    poc = make_poc(tmp_path_factory.mktemp("screened") / "animals", store=True)
    sweep = make(poc, SWEEP)
    first = trials.run_sweep(sweep)
    return SimpleNamespace(poc=poc, first=first, again=trials.run_sweep(sweep), archive=Archive.open(poc))


def test_the_best_and_the_baseline_go_on(screened):
    """Three of six, and the baseline, though it is the worst; each trial once on three cases, four on all eight."""
    outcomes = {one.parameters["x"]: one.outcome for one in screened.first.records}

    assert outcomes == {100: "ok", 90: "screened", 0: "ok", 20: "ok", 30: "ok", 60: "screened"}
    assert [one.parameters["x"] for one in screened.first.ranked()] == [30, 20, 0, 100]
    assert screened.first.ran == 6  # trials, though some of them twice


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
    with pytest.raises(InputError, match="was only screened, on 3 cases"):
        screened.archive.find(next(one.run_id for one in screened.first.records if one.outcome == "screened"))


def test_a_rerun_is_answered_from_the_records(screened):
    """Neither a screening nor a trial is run again."""
    assert screened.again.ran == 0
    assert [one.outcome for one in screened.again.records] == [one.outcome for one in screened.first.records]
    assert list(screened.again.rows()) == list(screened.first.rows())


def test_another_number_of_cases_opens_no_door(screened, tmp_path):
    """All places are taken by those that have a whole result: the two that were out are screened again, and stay out. Drift keeps all."""
    poc = copy_poc(screened.poc, tmp_path / "animals")
    (poc / "docs/cats.md").write_text("Cats sleep.\n")
    mixed = trials.run_sweep(load_sweep(poc), allow_drift=True)
    (poc / "docs/cats.md").write_text((screened.poc / "docs/cats.md").read_text())
    (poc / "sweep.yaml").write_text(SWEEP.replace("cases: 3", "cases: 4"))
    found = trials.run_sweep(load_sweep(poc))

    assert mixed.ran == 0
    assert "Not all trials are of one state; since the sweep began: the documents of corpus.yaml are others" in mixed.notes()
    assert [one.outcome for one in mixed.records] == [one.outcome for one in screened.first.records]
    assert found.ran == 2
    assert [one.outcome for one in found.records] == [one.outcome for one in screened.first.records]


def test_no_more_cases_than_there_are(poc):
    """To be screened on all of them would be to be scored twice."""
    with pytest.raises(InputError, match="screen.cases is 8, and dev has 8"):
        trials.plan(make(poc, SWEEP.replace("cases: 3", "cases: 8")))


@pytest.mark.parametrize(("keep", "count", "kept"), [(0.28, 25, 7), (0.55, 100, 55), (0.33, 6, 2), (0.34, 6, 3), (0.01, 5, 1)])
def test_a_share_is_rounded_up_and_not_by_chance(keep, count, kept):
    """0.28 x 25 is 7.000000000000001 in floating point."""
    assert Screen(3, keep).kept(count) == kept


def test_a_trial_that_fails_when_it_is_screened_has_failed(poc, make_store):
    """It does not go on, and is told like any other failure; the others do."""
    make_store(poc)
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


def test_stopping_a_round_of_screening_says_that_the_other_is_left(poc):
    """All six looked at on a few cases are not six results."""
    driver = trials._Driver(load_sweep(poc), print)
    driver.screening = 2

    assert driver._kept({"a": None}, 1) == "1 of 1 trials are screened; those that go on were not run on all cases yet"
