"""Trials run for real: a kernel each, in notebooks that behave well and badly."""

import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from conftest import DEADLINE_S, ENV_KEY, PROMPTS, invoke, notebook_of, until
from poclab import Report, executors, projection, trials
from poclab.errors import FrozenError, StoreError
from poclab.judging.rubric import TEMPLATES
from poclab.ledger import LEDGER
from poclab.sweeps import load_sweep, single
from poclab.tracking import store, tracking_uri

CELLS = [
    "import os, pathlib, signal, sys, threading, time\nimport poclab\nfrom poclab import scores\n"
    "records = pathlib.Path(os.environ['POCLAB_TRIAL'], 'records.jsonl')",
    "if way == 'leaves':\n    sys.exit(0)",
    "if way == 'dies':\n    os._exit(0)",
    "if way == 'is killed':\n    os.kill(os.getpid(), signal.SIGKILL)",
    "def answer(inputs):\n"
    "    if 'beavers' in inputs['question'] and way.startswith('hangs'):\n"
    "        while len(records.read_bytes().splitlines()) < 3:\n"
    "            time.sleep(0.01)\n"
    "        pathlib.Path(f'{way} {os.getpid()}').touch()\n"
    "        threading.Event().wait()\n"
    "    if way == 'fails everywhere':\n"
    "        raise RuntimeError('no model here')\n"
    "    return 'fifteen'",
    "version = poclab.Version(way, way=way, prompt=poclab.Prompt.load(prompt), size=size + (way == 'misreports'))\n"
    "cases = poclab.TestSet.load(f'{poc}/cases.jsonl').split('dev')\n"
    "cases = poclab.TestSet(cases.cases[:2]) if way == 'tries two' else cases\n"
    "if way != 'forgets':\n"
    "    report = poclab.evaluate(answer, cases, [scores.contains()], version=version, workers=1, timeout_s=600)",
    "print(os.environ['ZOO_TOKEN'])",
    "if way == 'raises':\n    raise RuntimeError('after the report; ' + os.environ['ZOO_TOKEN'])",
]
PARAMETERS = "poc: str = '.'\nway: str = 'goes well'\nprompt: str = 'prompts/plain.md'\nsize: int = 1"
BAD = ("leaves", "dies", "is killed", "forgets", "misreports, size: 1", "raises", "fails everywhere", "tries two")
WELL = "  - {way: goes well}\n  - {way: goes well, prompt: prompts/abstain.md}\n"


def _ways_poc(make_poc, folder, include):
    poc = make_poc(folder / "animals", store=True)
    (poc / "notebooks/ways.ipynb").write_text(json.dumps(notebook_of((PARAMETERS, "parameters"), *CELLS)))
    (poc / "sweep.yaml").write_text(f"notebook: notebooks/ways.ipynb\ninclude:\n{include}limits: {{jobs: 2}}\n")
    return poc


def _run(poc, include=None):
    """Run the sweep of a POC, with another list of trials if one is given; return the results and what was said."""
    if include:
        (poc / "sweep.yaml").write_text(f"notebook: notebooks/ways.ipynb\ninclude:\n{include}limits: {{jobs: 2}}\n")
    said = []
    return SimpleNamespace(results=trials.run_sweep(load_sweep(poc), say=said.append), said=said)


@pytest.fixture(scope="module")
def ways(make_poc, tmp_path_factory):
    """One sweep with two trials that go well and eight that do not; then the good ones alone, and after an edited prompt."""
    include = WELL + "".join(f"  - {{way: {way}}}\n" for way in BAD)
    poc = _ways_poc(make_poc, tmp_path_factory.mktemp("ways"), include)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_TOKEN", ENV_KEY)
        first = _run(poc)
        again = _run(poc, WELL)
        (poc / "prompts/abstain.md").write_text(PROMPTS["abstain.md"] + "Be brief.\n")
        with (poc / ".poclab/sweeps/sweep/trials.jsonl").open("ab") as file:
            file.write('{"trial_id": "half", "name": "Zoë'.encode()[:-1])  # in the middle of a character
        edited = _run(poc, WELL)
        last = _run(poc, WELL)
    return SimpleNamespace(poc=poc, first=first, again=again, edited=edited, last=last, client=store.connect(tracking_uri(poc)))


def _record(ways, way):
    (found,) = [record for record in ways.first.results.records if record.parameters["way"] == way]
    return found


def test_a_trial_that_leaves_no_report_failed_whatever_its_notebook_says(ways):
    """`sys.exit(0)` and a forgotten call both end with every cell completed."""
    for way in ("leaves", "forgets"):
        assert _record(ways, way).outcome == "no_result"
        assert "the notebook ended without a report" in _record(ways, way).error


def test_a_trial_whose_kernel_dies_failed(ways):
    """By its own hand or by kill -9; the error names the executed notebook."""
    for way in ("dies", "is killed"):
        assert _record(ways, way).outcome == "dead_kernel"
        assert "DeadKernel" in _record(ways, way).error
        assert "executed.ipynb" in _record(ways, way).error


def test_a_trial_that_evaluates_something_else_failed(ways):
    """The sweep asked for size 1 and the version that was evaluated has 2; or the notebook tried two cases first."""
    assert _record(ways, "misreports").error == "asked for size = 1, but the version that was evaluated has 2"
    assert "evaluated other cases than the frozen ones (2 cases" in _record(ways, "tries two").error


def test_a_trial_in_which_every_case_failed_is_no_result(ways):
    """An endpoint that was down must not stand in the ranking with 0, nor be taken from the record when it is up again."""
    assert _record(ways, "fails everywhere").error == "every case failed: 8 crashed: RuntimeError: no model here (first: case q01)"


def test_a_trial_that_raises_after_its_report_failed(ways):
    """The notebook did not do all its work; the error is told, without the key in it."""
    assert "RuntimeError: after the report; (key removed)" in _record(ways, "raises").error


def test_one_failing_trial_does_not_stop_the_others(ways):
    """All ten were run, two went well, and each was told of."""
    wanted = ["no_result", "dead_kernel", "dead_kernel", "no_result", "invalid", "error", "error", "invalid"]
    assert [record.outcome for record in ways.first.results.records] == ["ok"] * 2 + wanted
    assert ways.first.said[0] == "10 trials to run, 2 at a time"
    assert len(ways.first.said) == 11
    assert ways.first.results.ran == 10
    assert len(ways.first.results.errors) == len(BAD)


def test_every_run_is_closed_as_what_it_was(ways):
    """Good trials FINISHED, bad ones and the sweep FAILED; none stays RUNNING; all hang under the sweep's run."""
    (experiment,) = ways.client.search_experiments(filter_string="name = 'animals'")
    runs = {run.info.run_id: run for run in ways.client.search_runs([experiment.experiment_id])}
    parent = ways.first.results.parent_run_id

    for record in ways.first.results.records:
        assert runs[record.run_id].info.status == ("FINISHED" if record.outcome == "ok" else "FAILED")
        assert runs[record.run_id].data.tags["mlflow.parentRunId"] == parent
        assert runs[record.run_id].data.tags["poclab.trial"] == record.trial_id
    assert runs[parent].info.status == "FAILED"
    assert {run.info.status for run in runs.values()} == {"FINISHED", "FAILED"}


def test_a_failed_trial_says_why_in_its_description(ways):
    """Whoever opens its run need not look for the notebook first."""
    described = ways.client.get_run(_record(ways, "forgets").run_id).data.tags["mlflow.note.content"]

    assert described.startswith("the notebook ended without a report")


def test_the_cases_that_a_failed_trial_answered_keep_their_traces(ways):
    """To see what went wrong."""
    run_id = _record(ways, "raises").run_id
    experiment = ways.client.get_run(run_id).info.experiment_id
    assert len(ways.client.search_traces(locations=[experiment], run_id=run_id, include_spans=False, max_results=50)) == 8


def test_the_executed_notebook_and_its_source_belong_to_the_run(ways):
    """Also those of a trial that failed: there it is wanted most."""
    for way in ("is killed", "raises", "misreports"):
        run_id = _record(ways, way).run_id
        found = [one.path for one in ways.client.list_artifacts(run_id, "notebook")]
        assert found == ["notebook/executed.ipynb", "notebook/source"]
        assert [one.path for one in ways.client.list_artifacts(run_id, "notebook/source")] == ["notebook/source/ways.ipynb"]


def test_key_values_that_a_notebook_prints_or_raises_are_not_kept(ways):
    """Search every byte: executed notebooks, records, store, artifacts."""
    for path in ways.poc.rglob("*"):
        assert not path.is_file() or ENV_KEY.encode() not in path.read_bytes(), path


def test_a_finished_sweep_that_is_run_again_runs_nothing(ways):
    """The record is found; the numbers are the same."""
    assert ways.again.results.ran == 0
    assert ways.again.said == []
    assert ways.again.results.records == ways.first.results.records[:2]


def test_an_edited_prompt_runs_only_the_trials_that_name_it(ways):
    """One of the two; the other keeps its run. A half-written last line of the record does not matter."""
    plain, abstain = ways.edited.results.records

    assert ways.edited.results.ran == 1
    assert ways.edited.said[:2] == ["1 trial to run, 2 at a time", "since it last began: prompts/abstain.md was edited"]
    assert plain == ways.first.results.records[0]
    assert abstain.run_id != ways.first.results.records[1].run_id
    assert abstain.version != ways.first.results.records[1].version
    assert ways.last.results.ran == 0
    assert ways.last.results.records == ways.edited.results.records


def test_the_failures_are_listed_by_their_error(ways):
    """Trials with the same error stand together."""
    listed = ways.first.results.failures()

    assert "2 trial(s) failed (way goes well -> leaves; way goes well -> forgets): the notebook ended without a report" in listed
    assert "1 trial(s) failed (way goes well -> misreports): asked for size = 1" in listed
    assert "----> 2     raise RuntimeError('after the report; ' + os.environ['ZOO_TOKEN'])" in listed
    assert "\x1b" not in listed and ENV_KEY not in listed


def test_a_trial_whose_run_was_deleted_is_to_be_run_again(ways):
    """What stands in the record must be there to be looked at."""
    plain = ways.last.results.records[0]
    ways.client.delete_run(plain.run_id)
    try:
        assert trials.planned_table(load_sweep(ways.poc)).count("done") == 1
    finally:
        ways.client.restore_run(plain.run_id)


def test_without_its_store_the_record_is_worth_nothing(ways, tmp_path, monkeypatch):
    """Trials whose runs went to another store, or to one that was deleted, are to be run again."""
    assert trials.planned_table(load_sweep(ways.poc)).count("done") == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert "done" not in trials.planned_table(load_sweep(ways.poc))


class TestSwept:
    """What the sweep of the shared POC left."""

    def test_the_table_is_ranked_with_intervals_and_the_baseline_marked(self, swept):
        """8 of 8 right: Wilson's interval is (0.676, 1); closed book only the 2 to abstain from: (0.071, 0.591)."""
        results = trials.run_sweep(load_sweep(swept[0]))
        rows = [
            [row[name] for name in ("rank", "accuracy", "interval", "n", "failed", "cost_usd", "retrieval", "")] for row in results.rows()
        ]

        assert results.ran == 0
        assert rows == [
            [1, "1.000", "0.676 to 1.000", 8, 0, "0.00", "bm25", ""],
            [2, "1.000", "0.676 to 1.000", 8, 0, "0.00", "bm25", ""],
            [3, "0.250", "0.071 to 0.591", 8, 0, "0.00", "none", "baseline"],
        ]
        assert list(results.frame()["rank"]) == [1, 2, 3]

    def test_the_parent_run_holds_the_table(self, swept):
        """Looking at the sweep's run is enough."""
        client = store.connect(tracking_uri(swept[0]))
        (parent,) = client.search_runs(["1"], "tags.`mlflow.runType` = 'poclab_sweep'")
        held = [one.path for one in client.list_artifacts(parent.info.run_id)]

        assert parent.info.status == "FINISHED"
        assert parent.data.tags["poclab.trials"] == "3"
        assert "0.676 to 1.000" in parent.data.tags["mlflow.note.content"]
        assert "ranking.txt" in held

    def test_a_trial_leaves_what_an_evaluation_leaves(self, swept):
        """The same run as by hand, and the notebook, executed and source; parameters are those of the system."""
        results = trials.run_sweep(load_sweep(swept[0]))
        client = store.connect(tracking_uri(swept[0]))
        baseline = client.get_run(results.records[0].run_id)
        report = Report.load(client.download_artifacts(baseline.info.run_id, "report.json"))

        assert {one.path for one in client.list_artifacts(baseline.info.run_id)} == {
            "report.json", "brief.json", "version.json", "cases.jsonl", "cases.lock.json", "charter.yaml", "prompts", "environment.json", "notebook",
            "trial.json",
        }  # fmt: skip
        assert baseline.info.run_name == "baseline"
        assert baseline.data.params == {"model": "offline/extractive", "prompt": "prompts/abstain.md", "retrieval": "none"} | {
            name: baseline.data.params[name] for name in baseline.data.params.keys() - {"model", "prompt", "retrieval"}
        }
        assert baseline.data.metrics["accuracy"] == 0.25
        assert baseline.inputs.dataset_inputs[0].dataset.digest == report.lock_digest[:32]
        assert baseline.data.tags["poclab.prompt.prompt"] == "prompts:/animals-abstain/1"
        assert baseline.data.tags["poclab.content"] == report.content_digest() == results.records[0].content
        assert report.run_id == baseline.info.run_id
        assert len(client.search_traces(locations=["1"], run_id=baseline.info.run_id, max_results=50)) == 8

    def test_both_prompts_of_the_sweep_are_registered_once(self, swept):
        """Three trials, two prompts, one version of each."""
        client = store.connect(tracking_uri(swept[0]))
        found = {
            (one.name, client.get_prompt_version_by_alias(one.name, "latest").version)
            for one in client.search_prompts()
            if one.name.startswith("animals-")
        }
        assert found == {("animals-abstain", 1), ("animals-plain", 1)}


def test_a_set_that_is_not_frozen_is_refused_before_a_kernel_starts(poc):
    """Frozen means refused."""
    (poc / "cases.lock.json").unlink()
    with pytest.raises(FrozenError, match="not frozen: there is no cases.lock.json\n.*poclab freeze"):
        trials.run_sweep(load_sweep(poc))


def test_an_edited_label_is_refused_with_the_name_of_the_case(poc):
    """A sweep must not mix two label sets."""
    cases = poc / "cases.jsonl"
    cases.write_text(cases.read_text().replace("chimneys", "roofs", 1))
    with pytest.raises(FrozenError, match="changed after it was frozen as edition 1: 1 changed: q02\n.*git checkout.*--new-edition"):
        trials.run_sweep(load_sweep(poc))


def test_a_store_that_is_no_database_is_refused_before_a_kernel_starts(poc):
    """Nothing is run that cannot be recorded."""
    (poc / "mlflow.db").write_text("no database, and longer than a header")
    with pytest.raises(StoreError, match="not an SQLite database"):
        trials.run_sweep(load_sweep(poc))


@pytest.fixture(scope="module")
def stopped(make_poc, tmp_path_factory):
    """A sweep with two trials that hang, stopped by Ctrl-C; then the same command again, ended by `kill` twice at once, and by `kill -9`."""
    folder = tmp_path_factory.mktemp("stopped")
    poc = _ways_poc(make_poc, folder, "  - {way: goes well}\n  - {way: hangs A}\n  - {way: hangs B}\n")
    record, stories = poc / ".poclab/sweeps/sweep/trials.jsonl", []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        command = [sys.executable, "-m", "poclab", "sweep", str(poc)]
        env = {**os.environ, "ZOO_TOKEN": ENV_KEY}
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            until(lambda: record.exists() and len(list(poc.glob("hangs *"))) == 2, "both hang, one is recorded")
            kernels = [int(path.name.split()[-1]) for path in poc.glob("hangs *")]
            process.send_signal(number)
            began = time.monotonic()
            if number == signal.SIGTERM:  # again and again: two that come while it does not run are one to it
                until(lambda asked=process: asked.poll() is not None or asked.send_signal(signal.SIGTERM), "it ends")
            out, err = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
        took_s = time.monotonic() - began
        until(lambda ids=kernels: not any(_alive(pid) for pid in ids), "the kernels end")
        stories.append(SimpleNamespace(code=process.returncode, out=out, err=err, took_s=took_s, records=record.read_text()))
        for path in poc.glob("hangs *"):
            path.unlink()
    client = store.connect(tracking_uri(poc))
    until(lambda: all(run.info.status != "RUNNING" for run in client.search_runs(["1"])), "every run is closed")
    return SimpleNamespace(
        poc=poc, interrupted=stories[0], ended=stories[1], killed=stories[2], client=client, runs=client.search_runs(["1"])
    )


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_stops_a_sweep_at_once(stopped):
    """Exit code 130, a word on how to go on, no traceback; a hanging cell would otherwise hold it for ten minutes."""
    assert stopped.interrupted.code == 130
    assert (
        f"1 of 3 trials that were to run are recorded\n  fix: poclab sweep {stopped.poc}, which goes on from there"
        in stopped.interrupted.err
    )
    assert "Traceback" not in stopped.interrupted.err
    assert stopped.interrupted.took_s < 30
    records = [json.loads(line) for line in stopped.interrupted.records.splitlines()]
    assert sorted(record["outcome"] for record in records) == ["cancelled", "cancelled", "ok"]


def test_who_asks_twice_is_not_kept_waiting(stopped):
    """The second `kill` (or Ctrl-C) ends the driver at once; kernels and runs are closed without it."""
    assert stopped.ended.code == 143
    assert stopped.ended.took_s < 30
    assert "Traceback" not in stopped.ended.err and "stopped." not in stopped.ended.err


def test_the_runs_of_a_stopped_sweep_are_killed_and_keep_their_traces(stopped):
    """After Ctrl-C, `kill` and kill -9 alike: per sweep two trials and the parent; the third trial is finished."""
    statuses = sorted(run.info.status for run in stopped.runs)
    hanging = [run for run in stopped.runs if "hangs" in run.info.run_name]

    assert statuses == ["FINISHED"] + ["KILLED"] * 9
    assert len(hanging) == 6
    for run in hanging:
        found = stopped.client.search_traces(locations=["1"], run_id=run.info.run_id, include_spans=False)
        assert sorted(trace.info.tags["poclab.case"] for trace in found) == ["q01", "q02", "q03"]


def test_a_stopped_sweep_goes_on_where_it_was(stopped):
    """The trial that had ended was not run again: the second command ran the other two."""
    assert "goes well" not in stopped.killed.out
    assert trials.planned_table(load_sweep(stopped.poc)).count("done") == 1


def test_looking_at_a_sweep_leaves_its_record_alone(poc):
    """`--dry-run` beside a sweep that runs: the line that is just being written is not cut off. An editor's lock is no code."""
    sweep = load_sweep(poc).only("retrieval == 'none'")  # each trial that is planned asks five cases
    (poc / ".#system.py").symlink_to("ada@zoo.1234:5678")
    (poc / "mlflow.db").touch()
    record = poc / ".poclab/sweeps/sweep/trials.jsonl"
    record.parent.mkdir(parents=True)
    record.write_text('{"trial_id": "half')

    assert trials.planned_table(sweep).count("  to run  ") == 1
    assert record.read_text() == '{"trial_id": "half'


def test_a_sweep_that_is_being_run_is_not_run_twice(poc):
    """Two drivers would take each other's trials away; the second is told so, at once."""
    from filelock import FileLock

    sweep = load_sweep(poc)
    folder = poc / ".poclab" / "sweeps" / sweep.name
    folder.mkdir(parents=True)

    with FileLock(folder / "lock"), pytest.raises(StoreError, match="being run already"):
        trials.run_sweep(sweep)


def test_a_dry_run_says_that_the_budget_does_not_reach(poc, monkeypatch):
    """A dollar for each trial is foreseen, and half of one is allowed; nothing is spent to say so."""
    dollar = projection.Amount(1.0, 1.0, 1.0)
    foreseen = projection.Projection(8, 0, 0, 0.0, dollar, dollar, dollar, dollar)
    monkeypatch.setattr(trials, "_projected", lambda sweep, todo, budget, **_: dict.fromkeys(todo, foreseen))
    sweep = load_sweep(poc)

    assert "this does not fit: $0.5000 is left" in trials.planned_table(dataclasses.replace(sweep, max_cost_usd=0.5))
    assert "does not fit" not in trials.planned_table(dataclasses.replace(sweep, max_cost_usd=50))


def test_forked_kernels_find_what_started_ones_find(make_poc, tmp_path):
    """The same trials, warm and cold, have the same results; and warm ones were forked from one process."""
    include = "  - {way: a}\n  - {way: b}\n"
    warm, cold = (_ways_poc(make_poc, tmp_path / name, include) for name in ("warm", "cold"))
    for poc in (warm, cold):
        cells = [*CELLS, "print('parent', os.getppid())"]
        (poc / "notebooks/ways.ipynb").write_text(json.dumps(notebook_of((PARAMETERS, "parameters"), *cells)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_TOKEN", ENV_KEY)
        found = [trials.run_sweep(load_sweep(poc), warm=poc is warm) for poc in (warm, cold)]

    assert [one.content for one in found[0].records] == [one.content for one in found[1].records]
    assert all(one.outcome == "ok" for results in found for one in results.records)
    parents = [{_parent(poc, record) for record in results.records} for poc, results in zip((warm, cold), found, strict=True)]
    assert len(parents[0]) == 1 and parents[0] != {os.getpid()} == parents[1]


def test_only_a_trial_that_searches_by_vectors_has_what_that_takes_imported(poc):
    """Half of the imports, which every sweep would wait for; a search may come to it."""
    searched = {
        "notebook": "notebooks/02_evaluate.ipynb", "method": "tpe", "run_cap": 2, "seed": 1,
        "parameters": {"retrieval": {"values": ["bm25", "dense"]}},
    }  # fmt: skip
    plain, dense, search = (
        trials._imports(load_sweep(source, poc))
        for source in (
            poc / "sweep.yaml",
            {"notebook": "notebooks/02_evaluate.ipynb", "include": [{"retrieval": "none"}, {"retrieval": "hybrid"}]},
            searched,
        )
    )

    assert not any(name.startswith("sklearn") for name in plain)
    assert set(executors.DENSE) < set(dense) and set(dense) == set(search) > set(plain)


def _parent(poc, record):
    """Return the process that a trial's kernel says to be a child of."""
    text = (poc / ".poclab/sweeps/sweep" / record.trial_id / "executed.ipynb").read_text()
    return int(text.rpartition("parent ")[2].partition("\\n")[0])


def test_a_part_of_a_sweep_is_paid_from_the_budget_of_the_whole(make_poc, tmp_path, monkeypatch):
    """Else every part could spend all of it; and the rest is run by the whole command later."""
    monkeypatch.setenv("ZOO_TOKEN", ENV_KEY)
    poc = _ways_poc(make_poc, tmp_path, "  - {way: a}\n  - {way: b}\n")
    text = (poc / "sweep.yaml").read_text()
    (poc / "sweep.yaml").write_text(text.replace("{jobs: 2}", "{jobs: 2, max_cost_usd: 1.00}"))
    sweep = load_sweep(poc)
    part, whole = trials.run_sweep(sweep.only("way == 'b'")), trials.run_sweep(sweep)

    assert [[one.parameters["way"] for one in results.records] for results in (part, whole)] == [["b"], ["a", "b"]]
    assert (part.ran, whole.ran) == (1, 1)
    with contextlib.closing(sqlite3.connect(poc / LEDGER)) as ledger:
        assert ledger.execute("SELECT count(*), sum(limit_nano) FROM budgets").fetchall() == [(1, 10**9)]
    runs = store.connect(tracking_uri(poc)).search_runs(["1"], "tags.`poclab.trial` != ''")
    assert [run.data.tags["poclab.trials"] for run in runs] == ["2", "2"]


def test_a_trial_during_which_code_was_edited_is_refused(make_poc, tmp_path, monkeypatch):
    """It is of neither version; the same command runs it again, by the new code alone."""
    monkeypatch.setenv("ZOO_TOKEN", ENV_KEY)
    poc = _ways_poc(make_poc, tmp_path, "  - {way: goes well}\n")
    edits = "pathlib.Path('mine.py').write_text('x = 1')"
    (poc / "notebooks/ways.ipynb").write_text(json.dumps(notebook_of((PARAMETERS, "parameters"), *CELLS, edits)))
    first, again = (trials.run_sweep(load_sweep(poc)) for _ in range(2))

    assert [one.outcome for one in first.records] == ["invalid"]
    assert first.records[0].error == "mine.py: edited while the sweep ran\n  fix: run it again: no trial of two versions is kept"
    assert [one.outcome for one in again.records] == ["ok"]


def test_a_trial_during_which_its_world_was_written_to_is_refused(make_poc, tmp_path, monkeypatch):
    """A tool may take the wrong path, and write to the database that all tasks find: no number comes of that."""
    monkeypatch.setenv("ZOO_TOKEN", ENV_KEY)
    poc = _ways_poc(make_poc, tmp_path, "  - {way: goes well}\n")
    (poc / "shop.db").write_bytes(b"as it was")
    writes = "pathlib.Path(world).write_bytes(b'spoilt')"
    parameters = f"{PARAMETERS}\nworld: str = 'shop.db'"
    (poc / "notebooks/ways.ipynb").write_text(json.dumps(notebook_of((parameters, "parameters"), *CELLS, writes)))

    assert "shop.db: edited while the sweep ran" in trials.run_sweep(load_sweep(poc)).records[0].error


SLOW = "if way.startswith('slow') and not pathlib.Path('tried').exists():\n    pathlib.Path('tried').touch()\n    time.sleep(600)"


def test_a_trial_that_takes_too_long_is_ended_and_may_be_run_again(make_poc, tmp_path, monkeypatch):
    """The first attempt hangs, in a run of its own that failed; the second goes well."""
    monkeypatch.setenv("ZOO_TOKEN", ENV_KEY)
    poc = _ways_poc(make_poc, tmp_path, "  - {way: slow}\n")
    (poc / "notebooks/ways.ipynb").write_text(json.dumps(notebook_of((PARAMETERS, "parameters"), CELLS[0], SLOW, *CELLS[1:])))
    sweep = load_sweep(poc)
    (late,) = trials.run_sweep(dataclasses.replace(sweep, timeout_s=8)).records
    (poc / "tried").unlink()
    (again,) = trials.run_sweep(dataclasses.replace(sweep, cell_timeout_s=4, retries=1)).records

    assert (late.outcome, again.outcome) == ("timeout", "ok")
    assert late.error.startswith("cell 4: TimeoutError: no end after 8 s (see ")
    runs = store.connect(tracking_uri(poc)).search_runs(["1"], "tags.`poclab.trial` != ''", order_by=["attributes.start_time"])
    assert [(one.info.status, one.data.tags.get("poclab.attempt")) for one in runs] == [("FAILED", None)] * 2 + [("FINISHED", "2")]


def test_after_enough_failures_no_further_trial_begins(make_poc, tmp_path):
    """A mistake that all trials share is met once; the same command goes on with the rest."""
    poc = _ways_poc(make_poc, tmp_path, "  - {way: leaves}\n  - {way: a}\n  - {way: b}\n  - {way: c}\n")
    text = (poc / "sweep.yaml").read_text()
    (poc / "sweep.yaml").write_text(text.replace("{jobs: 2}", "{jobs: 1, stop_after_failures: 1}"))
    first = invoke("sweep", poc, ZOO_TOKEN=ENV_KEY)

    assert first.returncode == 2
    assert "stopped after 1 failed trial(s): 0 of 4 trials are done, 3 not begun; the same command goes on from there" in first.stdout
    assert "1 trial(s) failed (baseline): the notebook ended without a report" in first.stderr


def test_an_edited_default_prompt_makes_another_trial(poc):
    """`poclab run` without parameters takes the prompt of the notebook's own cell: once edited, that is asked again; any other file is nothing to it."""
    run = single(poc, poc / "notebooks/02_evaluate.ipynb", {})
    ((before, _),) = trials.plan(run)
    (poc / "prompts/plain.md").write_text("Another one. {{context}} {{question}}")
    assert trials.plan(run)[0][0] == before
    (poc / "prompts/abstain.md").write_text("Edited. {{context}} {{question}}")

    assert trials.plan(run)[0][0] != before


def test_a_rubric_as_it_comes_along_is_the_same_in_the_poc(poc):
    """Whoever draws replies for people to label gets a copy of it, and nothing is run again for that; an edited one is another judge."""
    run = single(poc, poc / "notebooks/02_evaluate.ipynb", {})
    ((before, _),) = trials.plan(run)
    own = poc / "rubrics/tone.yaml"
    own.parent.mkdir()
    own.write_bytes((TEMPLATES / "tone.yaml").read_bytes())
    assert trials.plan(run)[0][0] == before
    own.write_text(own.read_text().replace("version: 1", "version: 2"))

    assert trials.plan(run)[0][0] != before
