"""What the end of a sweep leaves on its runs: verdicts, links, the champion, aliases; and what happens when the store refuses it."""

import contextlib
import dataclasses
import sqlite3

import pytest

from conftest import copy_poc
from poclab import trials
from poclab.sweeps import load_sweep
from poclab.tracking import store, tracking_uri
from poclab.verdicts import conclude

BASELINE, BM25, PLAIN = "baseline", "retrieval none -> bm25", "retrieval none -> bm25, prompt abstain -> plain"
HOSTILE = "<img src=x onerror=alert(1)> ![x](http://evil.example/x.png) **best**"


def _client(poc):
    return store.connect(tracking_uri(poc))


def _by_name(poc):
    return {run.info.run_name: run for run in _client(poc).search_runs(["1"])}


def _note(run):
    return run.data.tags["mlflow.note.content"]


def _parent(poc):
    return _by_name(poc)["sweep of 3 trials"]


def _conclude(poc):
    """End the sweep of a copy once more, as its runs are now; return what was said."""
    said = []
    results = trials.run_sweep(load_sweep(poc))
    conclude(dataclasses.replace(results, parent_run_id=_parent(poc).info.run_id), poc / ".poclab/sweeps/sweep", say=said.append)
    return said


@pytest.fixture
def swept_copy(swept, tmp_path):
    """The swept POC, to be changed."""
    return copy_poc(swept[0], tmp_path / "animals")


def test_a_trial_says_whether_it_is_better_and_where_to_look(swept):
    """6 of 8 cases fixed and none broken: an exact McNemar p of 2 / 2 ** 6, twice that for two comparisons; the words of `poclab compare`."""
    runs = _by_name(swept[0])
    told, ids = _note(runs[BM25]), (runs[BM25].info.run_id, runs[BASELINE].info.run_id)

    assert "**cannot tell (about " in told.replace("\\", "")
    assert "by contains: +0.750 (" in told.replace("\\", "")
    assert "p = 0.0625**" in told
    assert "6 cases fixed, 0 broken" in told and "Holm over 2 comparisons" in told
    assert "1.000 (0.676 to 1.000, n = 8, 0 failed) by contains" in told.replace("\\", "")
    assert "(#/experiments/1/evaluation-runs?selectedRunUuid={}&compareToRunUuid={})".format(*ids) in told
    assert "failing traces" not in told  # all of its cases are ok


def test_the_word_is_a_tag_to_filter_by(swept):
    """`tags.poclab.verdict = 'better'` finds what helped."""
    words = {name: run.data.tags.get("poclab.verdict") for name, run in _by_name(swept[0]).items()}

    assert words == {BASELINE: "baseline", BM25: "cannot tell", PLAIN: "cannot tell", "sweep of 3 trials": None}


def test_the_baseline_and_the_champion_say_that_they_are(swept):
    """Of two equal ones the first is the champion; the six cases that the baseline gets wrong are a link away."""
    runs = _by_name(swept[0])

    assert _note(runs[BM25]).startswith("**champion**: the best of 3 trials by accuracy")
    assert "champion" not in _note(runs[PLAIN])
    assert _note(runs[BASELINE]).startswith("**baseline** of the sweep")
    failing = f"#/experiments/1/runs/{runs[BASELINE].info.run_id}/traces?filter=TAG%3A%3A%21%3D%3A%3Aok%3A%3Apoclab.outcome"
    assert f"[failing traces only]({failing})" in _note(runs[BASELINE])


def test_the_run_of_the_sweep_holds_table_chart_champion_and_links(swept):
    """Whoever opens it needs no other page to know how the sweep ended."""
    client, parent, champion = _client(swept[0]), _parent(swept[0]), _by_name(swept[0])[BM25].info.run_id

    assert [one.path for one in client.list_artifacts(parent.info.run_id)] == ["forest.png", "ranking.txt"]
    assert f"**champion**: [retrieval none \\-&gt; bm25](#/experiments/1/runs/{champion})" in _note(parent)
    assert "0.676 to 1.000" in _note(parent)
    for what in ("charts of the trials", "baseline and champion, case by case", "failing traces of the champion"):
        assert f"[{what}](#/experiments/1/" in _note(parent)


def test_both_aliases_point_to_the_one_prompt_of_baseline_and_champion(swept):
    """The two share a prompt; that of the other trial has no alias but its own."""
    client = _client(swept[0])

    assert set(client.get_prompt_version("animals-abstain", "1").aliases) >= {"baseline", "champion"}
    assert not {"baseline", "champion"} & set(client.get_prompt_version("animals-plain", "1").aliases)


def test_the_alias_of_the_champion_moves_to_the_prompt_of_the_next(swept_copy):
    """When the best trial is another one, its prompt is the champion, and no other prompt still is."""
    client = _client(swept_copy)
    client.delete_run(_by_name(swept_copy)[BM25].info.run_id)
    trials.run_sweep(load_sweep(swept_copy))  # with the trial back, which is now the second of two equal ones

    assert "champion" in client.get_prompt_version("animals-plain", "1").aliases
    assert {"baseline"} == {"baseline", "champion"} & set(client.get_prompt_version("animals-abstain", "1").aliases)


def test_a_hostile_name_stays_text(swept_copy):
    """MLflow renders descriptions, and would fetch an image from wherever it is told to."""
    client, runs = _client(swept_copy), _by_name(swept_copy)
    client.set_tag(runs[BM25].info.run_id, "mlflow.runName", HOSTILE)

    assert _conclude(swept_copy) == []
    told = _note(_parent(swept_copy))
    assert "&lt;img src=x onerror=alert\\(1\\)&gt; \\!\\[x\\]\\(http&#58;//evil" in told
    assert "<" not in told and "![" not in told and "**best" not in told


def test_what_the_store_refuses_is_told_and_fails_no_sweep(swept_copy):
    """The numbers are recorded: an alias that is missing must not make them look failed; the rest is written."""
    client, parent = _client(swept_copy), _parent(swept_copy).info.run_id
    client.delete_prompt_alias("animals-abstain", "champion")
    client.set_tag(parent, "mlflow.note.content", "to be written")
    with contextlib.closing(sqlite3.connect(swept_copy / "mlflow.db")) as database, database:
        database.execute("CREATE TRIGGER no BEFORE INSERT ON registered_model_aliases BEGIN SELECT RAISE(ABORT, 'not today'); END")

    (said,) = _conclude(swept_copy)
    assert said.startswith("MLflow does not hold the aliases of the prompts: MLflow: ") and "not today" in said
    assert _note(client.get_run(parent)).startswith("**champion**")


def test_reports_that_are_gone_are_told_and_the_table_is_kept(swept_copy):
    """The artifacts were cleaned away: there is nothing to compare, and the ranking is in the journal."""
    for path in [*swept_copy.glob("mlartifacts/**/*.json"), *swept_copy.glob(".poclab/sweeps/sweep/*/artifacts/*.json")]:
        path.unlink()

    (said,) = _conclude(swept_copy)
    assert said.startswith("MLflow does not hold the verdicts: run ") and "holds no report.json" in said
    assert _note(_parent(swept_copy)).startswith("| rank | accuracy |")


def test_a_sweep_of_which_all_failed_describes_nothing(poc):
    """There is neither a table nor a champion; its run says so, and is closed as failed."""
    (poc / "sweep.yaml").write_text("notebook: notebooks/02_evaluate.ipynb\ninclude: [{model: none/such}]\n")
    results = trials.run_sweep(load_sweep(poc))
    (run,) = [run for run in _client(poc).search_runs(["1"]) if run.info.run_id == results.parent_run_id]

    assert results.errors
    assert run.info.status == "FAILED"
    assert _note(run) == "no trial ended well"
