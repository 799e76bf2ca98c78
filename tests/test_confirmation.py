"""The winner of a sweep on the held-out cases: scored once, and only when it can be run again as it was."""

import json

import pytest

from conftest import CHARTER, SIGNED, SWEEP, copy_poc
from poclab import freezing
from poclab.archive import Archive
from poclab.confirmation import confirm
from poclab.errors import FrozenError, InputError, PocError
from poclab.sweeps import load_sweep
from poclab.trials import run_sweep


@pytest.fixture
def signed(swept, tmp_path):
    """The swept POC with a signed charter; nobody has looked at its held-out cases."""
    poc = copy_poc(swept[0], tmp_path / "animals")
    (poc / "charter.yaml").write_text(CHARTER + SIGNED)
    return poc


def _unlooked(poc):
    """Assert that nothing was scored: no run was begun, on held-out cases or on others."""
    archive = Archive.open(poc)

    assert archive.looks() == []
    assert len(archive.every) == 3


def test_a_winner_is_run_as_it_was(decided):
    """The same version, notebook and parameters as in the sweep, on the other split."""
    archive = Archive.open(decided.poc)
    row, winner = archive.find(decided.run_id), archive.winner()

    assert (row["tags"]["split"], winner["tags"]["split"]) == ("test", "dev")
    assert (row["tags"]["version"], row["params"]) == (winner["tags"]["version"], winner["params"])
    assert (row["name"], row["metrics"]["cases"]) == ("bm25 400 abstain, held-out cases", 3)


def test_a_version_is_scored_once(decided):
    """Asked again, by itself or by name, it makes no new run, and says when it was scored."""
    archive = Archive.open(decided.poc)
    winner, said = archive.winner()["run_id"], []

    assert [confirm(decided.poc, run_id, say=said.append) for run_id in (None, winner, winner[:8])] == [decided.run_id] * 3
    assert said[0].startswith("bm25 400 abstain was scored on the held-out cases on 20")
    assert f"run {decided.run_id}; not again" in said[0]
    assert confirm(decided.poc, decided.run_id[:8]) == decided.run_id
    assert len(Archive.open(decided.poc).every) == len(archive.every)


def test_the_winner_is_that_of_the_metric_of_the_sweep_file(signed):
    """Where less is better, the least wins; it is another version, so this is another look."""
    (signed / "sweep.yaml").write_text(SWEEP.replace("goal: maximize", "goal: minimize"))
    said = []
    run_id = confirm(signed, say=said.append)
    archive = Archive.open(signed)

    assert said == ["none 400 abstain on dev: 0.250 (0.071 to 0.591, n = 8, 0 failed) by contains; now on the held-out cases, once"]
    assert archive.find(run_id)["tags"]["name"] == "none 400 abstain"
    # Only the case that expects abstention is right without passages: 1 of 3.
    assert archive.find(run_id)["metrics"]["accuracy"] == 0.333333
    assert [look.run_id for look in archive.looks()] == [run_id]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("prompts/abstain.md", "{{context}} {{question}}", "prompts/abstain.md was edited since run [0-9a-f]{32}\n.*poclab sweep"),
        ("prompts/abstain.md", None, "no file 'prompts/abstain.md'"),
        ("docs/owls.md", "# Owls\n\nOwls hunt by day.\n", "the documents changed since run [0-9a-f]{32}\n.*poclab sweep"),
        ("charter.yaml", CHARTER, r"cannot decide yet: it lacks signed(.|\n)*Who agreed"),
        ("cases.jsonl", "", "no cases"),
        ("sweep.yaml", SWEEP.replace("name: accuracy", "name: exact_match"), "unknown metric"),
    ],
)
def test_what_is_not_as_it_was_is_refused_before_any_look(signed, name, text, message):
    """The held-out cases are not spent on another version, or on a decision that cannot be made."""
    (signed / name).unlink() if text is None else (signed / name).write_text(text)
    with pytest.raises(PocError, match=message):
        confirm(signed)
    _unlooked(signed)


def test_a_new_edition_is_refused_before_any_look(signed):
    """What won on other cases has to win on these first: its number on the held-out ones would have none on dev beside it."""
    cases = signed / "cases.jsonl"
    cases.write_text(cases.read_text().replace('"chimneys"', '"chimneys", "roofs"', 1))
    freezing.freeze(cases, new_edition=True)
    with pytest.raises(FrozenError, match="the cases are of another edition since run [0-9a-f]{32} .*\n.*poclab sweep"):
        confirm(signed)
    _unlooked(signed)


def test_a_notebook_that_cannot_name_the_split_is_refused_before_any_look(signed):
    """It would score the cases to iterate on once more, and call them held out."""
    path = signed / "notebooks/02_evaluate.ipynb"
    notebook = json.loads(path.read_text())
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "parameters")
    cell["source"] = [line for line in "".join(cell["source"]).splitlines(keepends=True) if not line.startswith("split")]
    path.write_text(json.dumps(notebook))
    (signed / "sweep.yaml").write_text(SWEEP.replace("split: dev, ", ""))
    with pytest.raises(InputError, match='has no parameter `split`\n.*split: str = "dev"'):
        confirm(signed)
    _unlooked(signed)


def test_a_notebook_that_makes_another_version_is_told(signed):
    """Its run is no confirmation of the one that won."""
    path = signed / "notebooks/02_evaluate.ipynb"
    path.write_text(path.read_text().replace("**reader, **search)", "**reader, **search, max_tokens=299)"))
    with pytest.raises(InputError, match="of another version than run [0-9a-f]{32}: the notebook changed since\n.*poclab sweep"):
        confirm(signed)


def test_an_unknown_run_is_refused_before_any_look(signed):
    """A mistyped id."""
    with pytest.raises(InputError, match="no finished run begins with 'zzz'"):
        confirm(signed, "zzz")
    _unlooked(signed)


def test_the_winner_of_a_sweep_that_did_not_end_is_not_confirmed(signed):
    """The best of the trials that have a result may not be the best of all: no look is spent on it."""
    (signed / "sweep.yaml").write_text(SWEEP.replace("prompts/plain.md]", "prompts/plain.md, prompts/broken.md]"))
    (signed / "prompts/broken.md").write_text("Answer from {{contxt}}: {{question}}\n")
    assert run_sweep(load_sweep(signed)).errors

    with pytest.raises(InputError, match="the last sweep has not ended: 1 of its 4 trials have no result"):
        confirm(signed)
    assert Archive.open(signed).looks() == []


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("polite", "no score 'polite' is given: there are contains, evidence_recall, abstains"),
        ("all_of_4", "all_of_4 takes 4 repeats, and the version has 1"),
    ],
)
def test_a_look_that_would_decide_nothing_is_refused(signed, metric, words):
    """The held-out cases are looked at once: what dev shows already cannot be decided there is said before."""
    (signed / "charter.yaml").write_text(CHARTER.replace("metric: accuracy", f"metric: {metric}") + SIGNED)
    with pytest.raises(InputError, match="held-out cases are looked at once") as caught:
        confirm(signed)

    assert words in caught.value.message and "under `fixed` in sweep.yaml" in caught.value.fix
    _unlooked(signed)
