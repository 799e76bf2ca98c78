"""The recorder and what happens when a process dies: real processes, real signals, and MLflow's own client to look."""

import os
import signal
import sqlite3
import subprocess
import sys
import traceback
import warnings
from types import SimpleNamespace

import pytest
from sqlalchemy.exc import OperationalError

import poclab
from conftest import DEADLINE_S, until
from poclab import scores, tracking
from poclab.errors import StoreError
from poclab.system import step
from poclab.tracking import check_store, store, tracking_uri
from poclab.tracking.process import Follower
from poclab.tracking.surroundings import Surroundings

#: Answers q01 to q03; what happens at q04 is the first argument. One worker, so that the order is known.
EVALUATION = """
import contextlib, os, pathlib, signal, sys, threading, time
import poclab
from poclab import scores, tracking

way, poc = sys.argv[1], pathlib.Path(sys.argv[2])

def answer(inputs):
    if "beavers" in inputs["question"] and way not in ("finish", "interrupt late"):
        while sum(len(path.read_bytes().splitlines()) for path in poc.glob(".poclab/evaluations/*/records.jsonl")) < 3:
            time.sleep(0.01)
        if way == "lose_recorder":
            recorder = tracking.recorder()
            recorder.send("wait until the run has begun").exception()
            os.kill(recorder._process.pid, signal.SIGKILL)
        else:
            (poc / "reached").touch()
            threading.Event().wait()
    return "fifteen"

cases = poclab.TestSet.load(poc / "cases.jsonl").split("dev")
try:
    report = poclab.evaluate(answer, cases, [scores.contains()], version=poclab.Version(way), workers=1, timeout_s=600)
    print("finished", len(report.results))
except poclab.Interrupted as stop:
    print("interrupted", stop.report.partial, len(stop.report.results), stop)
except poclab.PocError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def together(make_poc, tmp_path_factory):
    """Five processes that meet one fresh store: one finishes, one loses its recorder, one is killed, two are interrupted.

    Of these, the last has all its answers, and waits for MLflow.
    """
    folder = tmp_path_factory.mktemp("together")
    uri = f"sqlite:///{folder}/shared.db"
    pocs, processes = {}, {}
    for way in ("finish", "lose_recorder", "kill", "interrupt", "interrupt late"):
        pocs[way] = make_poc(folder / way / "animals")
        command = [sys.executable, "-c", EVALUATION, way, str(pocs[way])]
        env = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        processes[way] = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for way, number in (("kill", signal.SIGKILL), ("interrupt", signal.SIGINT)):
            until((pocs[way] / "reached").exists, f"{way} reaches the fourth case")
            processes[way].send_signal(number)
        late = pocs["interrupt late"].glob
        until(lambda: [True for path in late(".poclab/evaluations/*/artifacts/report.json")], "the report is saved")
        processes["interrupt late"].send_signal(signal.SIGINT)
        said = {way: process.communicate(timeout=DEADLINE_S) for way, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    client = store.connect(uri)

    def ended():
        runs = {run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("animals").experiment_id])}
        return runs if len(runs) == 5 and all(run.info.status != "RUNNING" for run in runs.values()) else None

    runs = until(ended, "every run is closed")
    return SimpleNamespace(uri=uri, pocs=pocs, said=said, runs=runs, client=client)


def _answered(together, way):
    run = together.runs[way]
    found = together.client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id, include_spans=False)
    return sorted(trace.info.tags["poclab.case"] for trace in found)


def test_processes_that_start_together_on_a_fresh_store_all_record(together):
    """MLflow's migrations crash when several processes run them at once."""
    assert together.said["finish"] == ("finished 8\n", "")
    assert together.runs["finish"].info.status == "FINISHED"
    assert len(_answered(together, "finish")) == 8


def test_a_killed_evaluation_leaves_its_answered_cases_in_a_killed_run(together):
    """kill -9: the recorder writes what was answered and closes the run."""
    assert together.runs["kill"].info.status == "KILLED"
    assert _answered(together, "kill") == ["q01", "q02", "q03"]


def test_ctrl_c_leaves_a_partial_report_and_a_killed_run(together):
    """Three of eight cases were answered: the report says that it is partial, the run holds it, and the path is told."""
    words, errors = together.said["interrupt"]
    run = together.runs["interrupt"]
    (path,) = together.pocs["interrupt"].glob(".poclab/evaluations/*/artifacts/report.json")
    report = poclab.Report.load(path)

    assert words == f"interrupted True 3 stopped after 3 of 8 cases; the partial report is in {path}\n"
    assert errors == ""
    assert (report.partial, len(report.results), report.planned) == (True, 3, 8)
    assert run.info.status == "KILLED"
    assert run.data.tags["poclab.partial"] == "true"
    assert _answered(together, "interrupt") == ["q01", "q02", "q03"]
    assert "report.json" in [one.path for one in together.client.list_artifacts(run.info.run_id)]


def test_ctrl_c_after_the_last_answer_loses_nothing(together):
    """The answers are paid for: the run is written to its end, and then the interrupt is told, with the whole report."""
    assert together.said["interrupt late"] == ("interrupted False 8 stopped after 8 of 8 cases\n", "")
    assert together.runs["interrupt late"].info.status == "FINISHED"
    assert len(_answered(together, "interrupt late")) == 8


def test_a_killed_recorder_is_a_clear_error_and_the_report_is_kept(together):
    """kill -9 of the process that writes: the evaluation goes on, then says what happened; the run does not stay open."""
    words, errors = together.said["lose_recorder"]
    (path,) = together.pocs["lose_recorder"].glob(".poclab/evaluations/*/artifacts/report.json")

    assert f"the process that writes to MLflow ended (exit code -9); the report is kept in {path}" in words
    assert "Traceback" not in words + errors
    assert len(poclab.Report.load(path).results) == 8
    assert together.runs["lose_recorder"].info.status == "FAILED"


def test_a_lost_trace_fails_loudly(make_poc, tmp_path):
    """A store that drops a trace without an error: the count tells, the run is failed, the report and the records are kept."""
    poc = make_poc(tmp_path / "animals")
    store.connect(tracking_uri(poc))
    with sqlite3.connect(poc / "mlflow.db") as database:
        # The trace of q03 disappears, as when a full queue drops one.
        database.execute(
            "CREATE TRIGGER lose AFTER INSERT ON trace_request_metadata WHEN NEW.request_id IN "
            "(SELECT request_id FROM trace_tags WHERE key = 'poclab.case' AND value = 'q03') "
            "BEGIN DELETE FROM trace_request_metadata WHERE request_id = NEW.request_id; END"
        )
    database.close()

    with pytest.raises(StoreError, match=r"of 8 traces 7 are stored; the report is kept in (.*)\n.*the records are in") as caught:
        poclab.evaluate(lambda inputs: "fifteen", poclab.TestSet.load(poc / "cases.jsonl").split("dev"), [scores.contains()])
    (path,) = poc.glob(".poclab/evaluations/*/artifacts/report.json")
    report = poclab.Report.load(path)
    assert str(path) in str(caught.value)
    assert len((path.parents[1] / "records.jsonl").read_text().splitlines()) == 8
    assert store.connect(tracking_uri(poc)).get_run(report.run_id).info.status == "FAILED"


@pytest.mark.parametrize(("keep", "kept"), [("all", ["q01", "q02", "q10"]), ("failed", ["q02", "q10"]), ("none", [])])
def test_traces_can_be_kept_for_failed_cases_only(recorded, monkeypatch, keep, kept):
    """`failed` keeps those that crashed (q10) or are wrong (q02); the report has every case all the same."""

    def answer(inputs):
        if "Mongolia" in inputs["question"]:
            raise ValueError("crash")
        return "fifteen"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(recorded[0]))
    cases = [case for case in poclab.TestSet.load(recorded[0] / "cases.jsonl") if case.id in ("q01", "q02", "q10")]
    report = poclab.evaluate(answer, cases, [scores.contains()], traces=keep)

    client = store.connect(tracking_uri(recorded[0]))
    experiment = client.get_experiment_by_name("in_memory").experiment_id
    found = client.search_traces(locations=[experiment], run_id=report.run_id, include_spans=False)
    assert sorted(trace.info.tags["poclab.case"] for trace in found) == kept
    assert [one.case_id for one in report.results if one.trace_id] == kept
    assert len(report.results) == 3


def test_a_run_that_cannot_be_written_stops_no_other(tmp_path):
    """One recorder serves all trials of a sweep: what goes wrong with one run while it grows is told when that run ends."""
    records = tmp_path / "records.jsonl"
    records.write_text("half a line that ends all the same\n")
    follower = Follower("sqlite:///none.db", records, "1", "run", Surroundings({}, {}))

    follower.look()
    follower.look()

    with pytest.raises(ValueError, match="Expecting value"):
        follower.follow(to_the_end=True)


def test_records_that_disappear_are_noticed(make_poc, recorded, monkeypatch, tmp_path):
    """Somebody cleans the work folder while an evaluation runs: its traces cannot be written, and it says so."""
    poc = make_poc(tmp_path / "cleaned")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(recorded[0]))

    def answer(inputs):
        for path in poc.glob(".poclab/evaluations/*/records.jsonl"):
            path.unlink()
        return "fifteen"

    with pytest.raises(StoreError, match="of 8 traces 0 are stored"):
        poclab.evaluate(answer, poclab.TestSet.load(poc / "cases.jsonl").split("dev"), [scores.contains()])


@pytest.mark.parametrize("outputs", [{(1, 2): "a tuple as a key"}, (loop := []).append(loop) or loop, "half a character: \udce9"])
def test_a_step_that_cannot_be_stored_as_it_is_stops_nothing(recorded, monkeypatch, outputs):
    """What a system says of itself is its own affair: the case that was answered keeps its answer and its trace."""

    def answer(inputs):
        with step("look", "TOOL") as one:
            one.outputs = outputs
        raise OSError("no such file: caf\udce9.txt")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(recorded[0]))
    report = poclab.evaluate(answer, [poclab.Case("q1", {"question": "?"}, {"answers": ["a"]})], [scores.contains()])

    client = store.connect(tracking_uri(recorded[0]))
    (span,) = (one for one in client.get_trace(report.results[0].trace_id).data.spans if one.name == "look")
    assert report.failed == 1
    assert span.outputs is not None


def test_ctrl_c_while_a_record_is_written_loses_its_trace_alone(make_poc, recorded, monkeypatch, tmp_path):
    """The case was answered and stands in the partial report; that its trace is missing is no failure of the store."""

    pressed = []

    class Slow:
        def __repr__(self):
            if not pressed:
                pressed.append("Ctrl-C")
                raise KeyboardInterrupt
            return "slow"

    def answer(inputs):
        with step("look", "TOOL") as one:
            one.outputs = Slow() if "owls" in inputs["question"] else "x"
        return "fifteen"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(recorded[0]))
    cases = poclab.TestSet.load(make_poc(tmp_path / "stopped") / "cases.jsonl").split("dev")
    with pytest.raises(poclab.Interrupted) as stop:
        poclab.evaluate(answer, cases, [scores.contains()], workers=1)

    traces = [(one.case_id, one.trace_id is not None) for one in stop.value.report.results[:3]]
    assert traces == [("q01", True), ("q02", True), ("q03", False)]
    (path,) = (tmp_path / "stopped").glob(".poclab/evaluations/*/artifacts/report.json")
    assert str(path) in str(stop.value)


def test_one_recorder_serves_every_evaluation_of_a_process(recorded):
    """Importing MLflow costs seconds: it is paid once."""
    assert tracking.recorder() is tracking.recorder()
    assert tracking.recorder().alive


def test_a_command_that_fails_answers_with_the_reason():
    """A bug in the recorder does not hang the process that waits for it."""
    with pytest.raises(StoreError, match="MLflow: AttributeError: .*no_such_command"):
        tracking.recorder().send("no_such_command").result(timeout=DEADLINE_S)


def test_a_forked_child_does_not_keep_the_recorder_from_ending():
    """A pool of processes that a system started must not hold up the end of the program for a minute."""
    recorder = tracking.Recorder()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # this process has threads; the child only waits
        child = os.fork()
    if child == 0:
        signal.pause()
    try:
        recorder.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    assert recorder._process.returncode == 0  # it ended by itself; after a minute it would have been killed


def test_the_last_error_is_told_and_not_the_link_below_it(monkeypatch):
    """SQLAlchemy ends its errors with a link; and the key that is told in one is not shown."""
    monkeypatch.setenv("DB_PASSWORD", "s3cr3t-value")
    found = OperationalError("INSERT INTO runs", {}, sqlite3.OperationalError("database is locked by s3cr3t-value"))
    words = "".join(traceback.format_exception(found))

    assert "Background on this error" in words.splitlines()[-1]
    assert tracking.cause(words) == "sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) database is locked by (key removed)"
    assert (tracking.cause("Killed by the machine\n"), tracking.cause("")) == ("Killed by the machine", "")


class TestTrackingUri:
    def test_is_the_database_in_the_poc(self, tmp_path):
        """Absolute: MLflow's own default is the current directory."""
        assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"

    def test_the_environment_comes_first(self, tmp_path, monkeypatch):
        """Any MLflow store can be used."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert tracking_uri(tmp_path) == "http://127.0.0.1:9"

    def test_a_relative_database_is_taken_from_here(self, tmp_path, monkeypatch):
        """The recorder and the kernels of a sweep may run in other folders."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
        assert tracking_uri(None) == f"sqlite:///{tmp_path}/mine.db"

    def test_without_poc_and_address_there_is_no_store(self):
        """A set built in memory is tracked only where a tracking URI is set."""
        assert tracking_uri(None) is None


class TestCheckStore:
    def test_takes_a_store_that_will_be_made(self, tmp_path):
        """The first run of a POC."""
        check_store(f"sqlite:///{tmp_path}/mlflow.db")
        assert list(tmp_path.iterdir()) == []

    def test_refuses_a_file_that_is_no_database(self, tmp_path):
        """The message tells how to get it out of the way."""
        (tmp_path / "mlflow.db").write_text("a letter to my aunt, longer than a header")
        with pytest.raises(StoreError, match="mlflow.db: not an SQLite database\n.*mv mlflow.db mlflow.db.old"):
            check_store(f"sqlite:///{tmp_path}/mlflow.db")

    def test_refuses_a_folder(self, tmp_path):
        """Both where a database should be, and as MLflow's old file store, which cannot hold traces."""
        for uri in (f"sqlite:///{tmp_path}", str(tmp_path), f"file:{tmp_path}", f"file://{tmp_path}", "./mlruns"):
            with pytest.raises(StoreError, match="folder"):
                check_store(uri)

    def test_refuses_a_folder_that_is_not_there(self, tmp_path):
        """A mistyped path in MLFLOW_TRACKING_URI."""
        with pytest.raises(StoreError, match="mlflow.db: cannot be written: No such file or directory"):
            check_store(f"sqlite:///{tmp_path}/typo/mlflow.db")

    def test_refuses_a_server_that_is_not_there(self, unused_port):
        """MLflow itself would try for minutes."""
        with pytest.raises(StoreError, match=f"127.0.0.1:{unused_port}: no server answers there"):
            check_store(f"http://127.0.0.1:{unused_port}")

    @pytest.mark.parametrize("uri", ["http://127.0.0.1:99999999", "http://[bad", "http://user:s3cr/etpw@"])
    def test_refuses_what_is_no_address(self, uri):
        """A port that no computer has, half an address; a password in it is not shown."""
        with pytest.raises(StoreError, match="no server answers") as caught:
            check_store(uri)
        assert "s3cr" not in str(caught.value)

    @pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
    def test_refuses_a_database_in_memory(self, uri, monkeypatch):
        """All runs would be gone when the recorder ends."""
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(StoreError, match="in memory|a folder"):
            check_store(tracking_uri(None))

    @pytest.mark.parametrize("name", ["what?", "100%20x"])
    def test_refuses_a_folder_whose_name_an_address_cannot_hold(self, tmp_path, name):
        """The database would lie in another folder, and nobody would find it."""
        (tmp_path / name).mkdir()
        with pytest.raises(StoreError, match="the address of a database cannot hold"):
            check_store(tracking_uri(tmp_path / name))

    def test_names_what_it_does_not_record_in(self):
        """Databricks is no folder."""
        with pytest.raises(StoreError, match="poclab does not record in Databricks"):
            check_store("databricks")


def test_a_damaged_database_is_an_error_and_the_report_is_kept(make_poc, tmp_path):
    """It looks like a database from outside; only MLflow can tell. No case is lost."""
    poc = make_poc(tmp_path / "animals")
    (poc / "mlflow.db").write_bytes(b"SQLite format 3\x00" + b"damaged " * 1000)
    with pytest.raises(StoreError, match="MLflow cannot use this store: .*; the report is kept in .*\n.*move .*mlflow.db away"):
        poclab.evaluate(lambda inputs: "fifteen", poclab.TestSet.load(poc / "cases.jsonl"), [scores.contains()])
    (path,) = poc.glob(".poclab/evaluations/*/artifacts/report.json")
    assert len(poclab.Report.load(path).results) == 11


def test_a_store_that_cannot_work_is_refused_before_a_case_is_asked(make_poc, tmp_path):
    """Nothing is paid for answers that cannot be stored."""
    poc = make_poc(tmp_path / "animals")
    (poc / "mlflow.db").write_text("no database, and longer than a header")
    asked = []
    with pytest.raises(StoreError, match="not an SQLite database"):
        poclab.evaluate(asked.append, poclab.TestSet.load(poc / "cases.jsonl"), [scores.contains()])
    assert asked == []
