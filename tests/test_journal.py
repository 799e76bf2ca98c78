"""A sweep goes on from its records, and only from those that are of what it is now; a notebook runs one, too."""

import dataclasses
import errno
import json
import os
from types import SimpleNamespace

import pytest

from conftest import PROMPTS, copy_poc, notebook_of
from poclab import Report, kernels, trials
from poclab.drift import State
from poclab.errors import InputError, StoreError
from poclab.files import work_folder
from poclab.journal import Journal
from poclab.results import Record
from poclab.sweeps import load_sweep
from poclab.tracking import store, tracking_uri


def test_a_record_that_finds_no_room_is_told_with_the_way_out(poc, tmp_path, monkeypatch):
    """What was answered is in the ledger, and the run in the store: the same command goes on."""
    journal = Journal(load_sweep(poc), tmp_path, tracking_uri(poc))

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="trials.jsonl: cannot be written.*\\n.*free some space"):
        patch.setattr("poclab.journal.os", SimpleNamespace(fsync=full, truncate=os.truncate))  # of this module alone
        journal.append(Record("t", "t", {}, "ok"))


def test_a_sweep_is_resumed_only_as_it_began_unless_that_is_allowed(swept, tmp_path):
    """Each change is named: a prompt, a case, a document, code, the notebook, a package, Python. What was allowed stands on the sweep's run."""
    poc = copy_poc(swept[0], tmp_path / "animals")
    sweep = load_sweep(poc)
    begun = poc / ".poclab/sweeps/sweep/begun.json"
    same = trials.run_sweep(sweep, resume=True)
    assert (same.ran, len(same.ranked())) == (0, 3)

    (poc / "prompts/plain.md").write_text(PROMPTS["plain.md"] + "Be brief.\n")
    (poc / "docs/cats.md").write_text("Cats sleep about fifteen hours a day. They purr when they are content.\n")
    (poc / "system.py").write_text("x = 1\n")
    (poc / "notebooks/02_evaluate.ipynb").write_text((poc / "notebooks/02_evaluate.ipynb").read_text().replace("report", "found"))
    state = json.loads(begun.read_text())
    begun.write_text(json.dumps({**state, "python": "3.10.0", "packages": {**state["packages"], "bm25s": "0.1"}, "lock": "0" * 64}))
    with pytest.raises(InputError) as caught:
        trials.run_sweep(sweep, resume=True)
    for named in (
        "system.py is new", "the notebook was edited", "the cases were frozen anew (lock 000000000000 then", "the documents of corpus.yaml",
        "prompts/plain.md was edited", "Python 3.10.0 then", "1 package(s): bm25s 0.1 -> ",
    ):  # fmt: skip
        assert named in caught.value.message
    assert "--allow-drift" in caught.value.fix

    (poc / "sweep.yaml").write_text((poc / "sweep.yaml").read_text() + "# one more\n")
    more = (poc / "sweep.yaml").read_text().replace("prompts/plain.md]", "prompts/plain.md]}\n  chunk_size: {values: [400, 100]")
    (poc / "sweep.yaml").write_text(more)
    few = load_sweep(poc).only("prompt == 'prompts/abstain.md' and (chunk_size == 100 or retrieval == 'none')")
    mixed = trials.run_sweep(few, allow_drift=True)
    parent = store.connect(tracking_uri(poc)).get_run(mixed.parent_run_id)
    assert "prompts/plain.md was edited" in parent.data.tags["poclab.drift"]
    assert (mixed.ran, len(mixed.records)) == (1, 2)

    begun.write_text("{}")
    with pytest.raises(InputError, match="another version of poclab wrote it"):
        trials.run_sweep(sweep, resume=True)
    begun.unlink()
    with pytest.raises(InputError, match="no sweep was begun here"):
        trials.run_sweep(sweep, resume=True)


NOTED = (
    ("poc: str = '.'\nnote: str = ''", "parameters"),
    "import poclab; from poclab import scores; cases = poclab.TestSet.load(f'{poc}/cases.jsonl').split('dev')",
    "poclab.evaluate(lambda inputs: 'fifteen', cases, [scores.contains()], version=poclab.Version('noted', note=note))",
)


def test_a_notebook_runs_a_sweep_and_gets_its_table(make_poc, tmp_path):
    """From a dict, in a kernel, with what is told of each trial; what is hostile in a parameter arrives as it is."""
    poc = make_poc(tmp_path / "animals", store=True)
    (poc / "notebooks/noted.ipynb").write_text(json.dumps(notebook_of(*NOTED)))
    hostile = "%%bash\nrm -rf / 'quotes\" \\\\ {braces} {{x}} \N{OWL}\r\n" + "x" * 200_000
    given = {"notebook": "notebooks/noted.ipynb", "parameters": {"note": {"values": ["", hostile]}}}
    source = "import poclab; frame = poclab.sweep(given, '.', jobs=2)\nframe[['rank', 'accuracy']].to_json('table.json', orient='records')"
    (tmp_path / "calls.ipynb").write_text(json.dumps(notebook_of(("given: dict = {}", "parameters"), source)))
    kernels.execute(tmp_path / "calls.ipynb", tmp_path / "out.ipynb", {"given": given}, env=os.environ, cwd=poc)

    assert [row["rank"] for row in json.loads((poc / "table.json").read_text())] == [1, 2]
    (record,) = poc.glob(".poclab/sweeps/sweep-*/trials.jsonl")
    assert [json.loads(line)["outcome"] for line in record.read_text().splitlines()] == ["ok", "ok"]
    assert {Report.load(path).version.parameters["note"] for path in record.parent.glob("*/artifacts/report.json")} == {"", hostile}
    outputs = [out for cell in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for out in cell["outputs"]]
    said = "".join("".join(out.get("text", "")) for out in outputs)
    assert "[1/2] " in said and "[2/2] " in said and "Intervals are 95%" in said


def test_many_files_that_changed_are_counted_and_some_named():
    """Another version of poclab has dozens: who reads it wants one line."""
    then = State(code={f"poclab/{name}.py": "1" for name in "abcdefgh"}, notebook="", corpus=None, python="3", packages={})
    now = dataclasses.replace(then, code={f"poclab/{name}.py": "2" for name in "abcdef"} | {"poclab/x.py": "1"})

    assert list(then.changes(now)) == [
        "6 files were edited: poclab/a.py, poclab/b.py, poclab/c.py, poclab/d.py, poclab/e.py ...",
        "poclab/g.py is gone",
        "poclab/h.py is gone",
        "poclab/x.py is new",
    ]


def test_what_a_killed_driver_left_is_closed_by_the_next(make_store, poc):
    """Driver and recorder may both be killed: runs stay open, or finished without a record. Others, and those of records, stay as they are."""
    make_store(poc)
    client = store.connect(tracking_uri(poc))
    made = {name: client.create_run("0", run_name=name).info.run_id for name in ("open", "finished", "failed", "recorded", "another's")}
    for name, status in (("finished", "FINISHED"), ("failed", "FAILED"), ("recorded", "FINISHED")):
        client.set_terminated(made[name], status)
    journal = Journal(load_sweep(poc), work_folder(poc, "sweeps", "sweep"), tracking_uri(poc))
    for name in ("open", "finished", "failed", "recorded"):
        journal.opened(made[name])
    journal.opened("0" * 32)  # of another store
    journal.append(Record("t", "t", {}, "ok", run_id=made["recorded"]))
    trials.run_sweep(load_sweep(poc).only("retrieval == 'none'"))

    statuses = {name: client.get_run(run_id).info.status for name, run_id in made.items()}
    assert statuses == {"open": "KILLED", "finished": "KILLED", "failed": "FAILED", "recorded": "FINISHED", "another's": "RUNNING"}
    assert not journal.runs.exists()
