"""The notebooks as they are committed, and as poclab's own papermill path executes them."""

import ast
import json
import os
import re

import pytest

import poclab
from conftest import NOTEBOOKS
from poclab import kernels, trials
from poclab.handover import verify
from poclab.sweeps import load_sweep
from poclab.tracking import store, tracking_uri

ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


def _cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def _source(cell):
    return "".join(cell["source"])


def _said(path):
    """Return what the last cell of an executed notebook printed."""
    return "".join(text for output in _cells(path)[-1]["outputs"] for text in output.get("text", ()))


def test_there_are_these():
    """Charter and cases, evaluate, look at runs, decide and hand off, a judge, and an agent."""
    names = ["01_charter_and_cases", "02_evaluate", "03_look_at_runs", "04_decide_and_hand_off", "05_judge", "06_agent"]
    assert [path.stem for path in ALL] == names


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
class TestCommitted:
    def test_without_outputs_counts_or_widget_state(self, path):
        """Executed copies belong to runs, not to git."""
        notebook = json.loads(path.read_text(encoding="utf-8"))

        assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                assert (cell["outputs"], cell["execution_count"]) == ([], None)

    def test_with_an_id_for_every_cell(self, path):
        """They say which cell an error is in, and keep differences small."""
        ids = [cell["id"] for cell in _cells(path)]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch(r"[\w-]{1,64}", one) for one in ids)

    def test_with_one_typed_parameters_cell_that_comes_first(self, path):
        """The first code cell; each line has a type, a default and a comment; the POC is one of them."""
        first = next(cell for cell in _cells(path) if cell["cell_type"] == "code")
        known = kernels.read_parameters(path)

        assert "parameters" in first["metadata"]["tags"]
        assert all(parameter.types for parameter in known.values())
        assert all("  # " in line for line in _source(first).splitlines())
        assert "poc" in known

    def test_with_a_question_first_and_an_answer_last(self, path):
        """A notebook asks one question, and its last cell prints the answer."""
        cells = _cells(path)
        assert cells[0]["cell_type"] == "markdown"
        assert _source(cells[0]).splitlines()[0].endswith("?")
        assert "print(" in _source(cells[-1])

    def test_defining_nothing_and_short(self, path):
        """More than 10 statements in a cell, or a function, belongs in the library."""
        for cell in _cells(path):
            if cell["cell_type"] == "code":
                tree = ast.parse(_source(cell))
                assert not any(isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)) for node in ast.walk(tree))
                assert cell["id"] == "parameters" or sum(isinstance(node, ast.stmt) for node in ast.walk(tree)) <= 10


@pytest.fixture
def execute(swept, tmp_path):
    """Return a function that executes a notebook on the swept POC, in its folder, as a trial is executed."""

    def run(name, **parameters):
        output = tmp_path / name
        kernels.execute(NOTEBOOKS / name, output, {"poc": ".", **parameters}, env=os.environ, cwd=swept[0])
        return output

    return run


@pytest.fixture
def execute_decided(decided_copy, tmp_path):
    """Return a function that executes a notebook on the decided POC."""

    def run(name, **parameters):
        output = tmp_path / name
        kernels.execute(NOTEBOOKS / name, output, {"poc": ".", **parameters}, env=os.environ, cwd=decided_copy)
        return output

    return run


def test_01_says_what_must_be_reached_and_on_which_cases(execute, swept):
    """8 dev and 3 test cases, every evidence found, the one criterion, and what the charter still lacks."""
    executed = execute("01_charter_and_cases.ipynb")
    text = executed.read_text(encoding="utf-8")
    lock = json.loads((swept[0] / "cases.lock.json").read_text())["digest"]

    assert _said(executed) == f"animals: 8 dev and 3 test cases, edition 1, lock {lock[:12]}; 1 criteria\n"
    assert "evidence not found: none" in text
    assert "to reach: accuracy >= 0.8 on test (95% confidence)" in text
    assert "signed" in text


def test_01_takes_a_poc_without_documents(make_poc, tmp_path):
    """An agent has none."""
    poc = make_poc(tmp_path / "animals")
    (poc / "corpus.yaml").unlink()
    kernels.execute(NOTEBOOKS / "01_charter_and_cases.ipynb", tmp_path / "01.ipynb", {"poc": "."}, env=os.environ, cwd=poc)

    assert "no documents; evidence not found: [" in (tmp_path / "01.ipynb").read_text(encoding="utf-8")


def test_02_is_one_recorded_run_with_its_own_executed_copy(swept, tmp_path):
    """The run has the numbers that the notebook printed, and the notebook that printed them: the executed one and this one."""
    (record,) = [one for one in trials.run_sweep(load_sweep(swept[0])).records if one.name == "retrieval none -> bm25"]
    client = store.connect(tracking_uri(swept[0]))
    run = client.get_run(record.run_id)
    folder = client.download_artifacts(record.run_id, "notebook", tmp_path)
    executed = tmp_path / "notebook" / "executed.ipynb"

    assert run.info.status == "FINISHED"
    assert run.data.metrics["accuracy"] == 1.0
    assert run.data.params["retrieval"] == "bm25"
    assert _said(executed).startswith("bm25 400 abstain: 1.000 (0.676 to 1.000, n = 8, 0 failed) by contains; run ")
    assert record.run_id in _said(executed)
    assert (tmp_path / "notebook/source/02_evaluate.ipynb").read_bytes() == (NOTEBOOKS / "02_evaluate.ipynb").read_bytes()
    assert folder
    assert poclab.load_run(record.run_id, swept[0]).mean("evidence_recall") == 1.0


def test_03_lays_the_two_best_runs_side_by_side(execute, swept):
    """Its numbers are those of the recorded runs; two versions that are right on all eight cases cannot be told apart."""
    executed = execute("03_look_at_runs.ipynb")
    text = executed.read_text(encoding="utf-8")
    recorded = poclab.runs(swept[0])

    assert re.fullmatch(
        r"best: bm25 400 (abstain|plain): 1\.000 \(0\.676 to 1\.000, n = 8, 0 failed\) by contains; "
        r"against the second best: cannot tell \(no difference seen\)\n",
        _said(executed),
    )
    # The second best was picked too: three trials make three pairs.
    assert "Holm over 3 comparisons" in text
    for run_id in recorded["run_id"]:
        assert run_id in text
    assert "data:image/png;base64," in text


def test_04_decides_and_writes_a_handoff_that_holds(execute_decided, decided_copy, tmp_path):
    """Its last cell says the verdict and where the handoff is; 3 held-out cases of 3 right are 0.439 at least, short of 0.8."""
    executed = execute_decided("04_decide_and_hand_off.ipynb", out=str(tmp_path / "for the next team"))
    said, text = _said(executed), executed.read_text(encoding="utf-8")

    assert said.startswith(f"not yet; handoff: {tmp_path}/for the next team/handoff.html\nfolder digest ")
    assert verify(tmp_path / "for the next team").holds
    assert "Holm over 2 comparisons" in text
    assert "(0.439 to 1.000)" in text
    assert text.count("data:image/png;base64,") + text.count('"image/png"') == 2
