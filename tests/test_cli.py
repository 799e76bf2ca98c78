"""The command line as a person uses it: a process, its exit code, what it prints."""

import json
import socket
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from conftest import ENV_KEY, SWEEP
from poclab import trials
from poclab.cli import _Group, main
from poclab.sweeps import load_sweep


def _refused(done, *words):
    """Assert that a command ended as wrong input does: exit code 2, a message with these words, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr


def _invoke(*arguments):
    """Run a command in this process, which has papermill and a recorder at hand already: seconds less."""
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return SimpleNamespace(returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr)


class TestSweep:
    def test_prints_each_trial_then_the_ranked_table_and_where_to_look(self, swept):
        """The last line is the address of the MLflow UI, and the command that serves it."""
        folder, done = swept
        lines = done.stdout.splitlines()

        assert [line[:5] for line in lines[:3]] == ["[1/3]", "[2/3]", "[3/3]"]
        assert lines[4].split() == ["rank", "accuracy", "interval", "n", "failed", "p95_s", "cost_usd", "retrieval", "prompt", "run"]
        assert lines[5].startswith("1     1.000     0.676 to 1.000  8  0")
        assert "0.250     0.071 to 0.591" in lines[7]
        assert "baseline" in lines[7]
        assert lines[-1] == f"MLflow UI: http://127.0.0.1:5000/#/experiments/1/evaluation-runs (served by `poclab ui {folder}`)"
        assert done.stderr == ""

    def test_that_is_finished_runs_nothing_again(self, swept, run_poclab):
        """Exit code 0, the same table, no kernel and no MLflow."""
        folder, first = swept
        done = run_poclab("sweep", folder, timeout=30)

        assert done.returncode == 0
        assert "3 of 3 trials, 0 of them run now" in done.stdout
        assert done.stdout.splitlines()[1:5] == first.stdout.splitlines()[4:8]

    def test_dry_run_prints_the_trials_and_leaves_nothing(self, poc, run_poclab):
        """No store, no run, no executed notebook."""
        done = run_poclab("sweep", poc, "--dry-run")

        assert done.returncode == 0
        assert "3 trials, 3 to run, 2 at a time" in done.stdout
        assert not (poc / "mlflow.db").exists()
        assert not list(poc.rglob("executed.ipynb"))

    def test_is_found_from_inside_the_poc(self, poc, run_poclab):
        """Like git: the folder above counts."""
        done = run_poclab("sweep", "--dry-run", "--jobs", "3", cwd=poc / "prompts")

        assert done.returncode == 0, done.stderr
        assert "3 to run, 3 at a time" in done.stdout

    def test_with_trials_that_cannot_run_ends_with_2_and_says_why(self, poc):
        """No key for a model of an endpoint, and a prompt with an unknown placeholder: both are told, in words."""
        (poc / "prompts/typo.md").write_text("Answer from {{contxt}}: {{question}}\n")
        (poc / "sweep.yaml").write_text(
            "notebook: notebooks/02_evaluate.ipynb\nlimits: {jobs: 2}\ninclude: [{model: big-1}, {prompt: prompts/typo.md}]\n"
        )
        done = _invoke("sweep", poc)

        _refused(
            done, "no API key for model 'big-1'", "export OPENAI_API_KEY", "prompts/typo.md: unknown placeholder {{contxt}}", "{{context}}"
        )
        assert "no trial ended well" in done.stdout


class TestBadInput:
    def test_a_folder_that_is_no_poc(self, tmp_path, run_poclab):
        """The message says what is missing and how to make one."""
        for verb in ("sweep", "run", "freeze", "ui"):
            _refused(run_poclab(verb, tmp_path), f"no POC at {tmp_path}", "there is no charter.yaml", "poclab new DIR")

    def test_a_folder_that_is_not_there(self, tmp_path, run_poclab):
        """A mistyped path."""
        _refused(run_poclab("sweep", tmp_path / "typo"), "typo: no such folder")

    def test_a_set_that_is_not_frozen(self, poc, run_poclab):
        """Names the command that freezes."""
        (poc / "cases.lock.json").unlink()
        _refused(run_poclab("sweep", poc), "not frozen: there is no cases.lock.json", "`poclab freeze`")

    def test_an_edited_label(self, poc, run_poclab):
        """Names the case, and both ways on."""
        cases = poc / "cases.jsonl"
        cases.write_text(cases.read_text().replace("chimneys", "roofs", 1))
        _refused(run_poclab("run", poc), "1 changed: q02", "git checkout", "--new-edition")
        _refused(run_poclab("freeze", poc), "q02")

    @pytest.mark.parametrize(
        ("pair", "words"),
        [
            ("chunk_sise=100", ("unknown parameter 'chunk_sise'", "did you mean 'chunk_size'")),
            ("chunk_size=many", ("chunk_size is 'many' (str), but the notebook takes int",)),
            ("chunk_size=.nan", ("nan (float) is not a JSON value",)),
            ("prompt=2026-11-23", ("(date) is not a JSON value",)),
            ("prompt=prompts/abstian.md", ("no file 'prompts/abstian.md'", "prompts/abstain.md")),
            ("chunk_size", ("expected NAME=VALUE",)),
            ("prompt=/nowhere/missing.md", ("no file '/nowhere/missing.md'", "prompts/plain.md")),
            (f"prompt={'é' * 190}.md", ("prompt: no file",)),
            (f"chunk_size={'[' * 3_000}", ("but the notebook takes int",)),
        ],
    )
    def test_a_wrong_parameter(self, swept, pair, words):
        """Refused before a kernel starts."""
        _refused(_invoke("run", swept[0], "-p", pair), *words)

    @pytest.mark.parametrize("verb", ["new", "freeze", "run", "sweep", "ui"])
    def test_a_name_that_no_file_can_have(self, verb):
        """300 characters, pasted by mistake."""
        _refused(_invoke(verb, "x" * 300), "xxx: ")

    def test_a_poc_that_only_the_environment_names(self, tmp_path, monkeypatch):
        """The variable is named, and no file is read as a sweep."""
        monkeypatch.setenv("POCLAB_POC", str(tmp_path))
        for verb in ("freeze", "run", "sweep", "ui"):
            _refused(_invoke(verb), f"POCLAB_POC is '{tmp_path}': there is no charter.yaml", "unset POCLAB_POC")

    def test_what_the_system_refuses(self):
        """A full disk, a file that became a folder: the system's own words, and no traceback."""
        group = _Group(commands=[click.Command("read", callback=lambda: Path("/").read_text())])
        done = CliRunner().invoke(group, ["read"])

        assert (done.exit_code, done.stderr) == (2, "error: [Errno 21] Is a directory: '/'\n")

    def test_that_would_drive_the_terminal_is_printed_escaped(self, tmp_path):
        """Names, ids and error texts come from files and endpoints; the lines of a message stay lines."""
        done = _invoke("freeze", tmp_path / "\x1b]0;title\x07")

        _refused(done, r"\x1b]0;title\x07: no such folder" + "\n  fix: ")
        assert _invoke("new", tmp_path / "\x1b[2J").stdout.partition("\n")[0].endswith(r"\x1b[2J'")

    def test_a_notebook_without_one_parameters_cell(self, poc, run_poclab):
        """The message says how to tag one."""
        path = poc / "notebooks/02_evaluate.ipynb"
        notebook = json.loads(path.read_text())
        notebook["cells"].append(next(cell for cell in notebook["cells"] if cell["id"] == "parameters"))
        path.write_text(json.dumps(notebook))
        _refused(run_poclab("sweep", poc), "2 cells are tagged `parameters`, expected exactly one", "Property Inspector")

    def test_an_unknown_metric(self, poc, run_poclab):
        """With the nearest name."""
        (poc / "sweep.yaml").write_text(SWEEP.replace("name: accuracy", "name: acuracy"))
        _refused(run_poclab("sweep", poc), "unknown metric 'acuracy'", "did you mean 'accuracy'")

    def test_a_store_that_is_no_database(self, poc, run_poclab):
        """Before anything runs."""
        (poc / "mlflow.db").write_text("no database, and longer than a header")
        for verb in ("run", "sweep", "ui"):
            _refused(run_poclab(verb, poc), "mlflow.db: not an SQLite database", "mv mlflow.db")

    def test_a_store_server_that_is_not_there(self, poc, run_poclab, unused_port):
        """In seconds, not after MLflow's minutes."""
        done = run_poclab("run", poc, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{unused_port}", timeout=30)
        _refused(done, "no server answers there")

    def test_a_read_only_folder(self, poc, run_poclab):
        """A disk image, a colleague's share: here a file stands where the work folder should be, which also stops root."""
        work = poc / ".poclab"
        if work.is_dir():
            work.rename(poc / "moved")
        work.write_text("")
        _refused(run_poclab("run", poc), ".poclab", "cannot be")

    def test_files_that_are_not_text(self, poc, run_poclab):
        """Not UTF-8, not YAML, empty."""
        for content, word in ((b"\xff\xfe\x00", "not UTF-8"), (b"a: [", "not YAML"), (b"", "found nothing")):
            (poc / "sweep.yaml").write_bytes(content)
            _refused(run_poclab("sweep", poc), "sweep.yaml", word)

    def test_a_mistyped_verb_or_option_is_exit_code_2(self):
        """click's own words."""
        for arguments in (("swep",), ("sweep", "--jobz", "2"), ("sweep", "--jobs", "0"), ("ui", "--port", "70000"), ("ui", "--port", "-1")):
            done = _invoke(*arguments)
            assert done.returncode == 2
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", [True, False])
def test_an_endpoint_that_is_no_api_fails_the_trial_in_words(poc, monkeypatch, unused_port, page):
    """One that answers HTML, and one that is not there: the trial says so; the key is in no file."""
    server = HTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    port = server.server_port if page else unused_port
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", ENV_KEY)
    (poc / "sweep.yaml").write_text("notebook: notebooks/02_evaluate.ipynb\ninclude: [{model: big-1}]\n")
    try:
        (record,) = trials.run_sweep(load_sweep(poc)).records
    finally:
        server.shutdown()
        server.server_close()

    expected = "answers HTML, not an OpenAI-compatible API" if page else f"cannot reach http://127.0.0.1:{port}/v1"
    assert record.outcome == "error"
    assert expected in record.error
    for path in poc.rglob("*"):
        assert not path.is_file() or ENV_KEY.encode() not in path.read_bytes(), path


class _Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>Please log in</html>")

    def log_message(self, *_):
        pass


def test_run_is_one_trial_without_a_parent(poc):
    """One notebook, one run, with the parameters given beside the sweep's fixed ones; its report is printed. Again, nothing runs."""
    arguments = ("run", poc, "-p", "retrieval=bm25", "-p", "split=test")
    done = _invoke(*arguments)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bm25 400 abstain: 1.000 (0.439 to 1.000, n = 3, 0 failed)")
    assert _invoke(*arguments).stdout == done.stdout
    with sqlite3.connect(poc / "mlflow.db") as database:
        assert database.execute("SELECT name, status FROM runs").fetchall() == [("retrieval = bm25, split = test", "FINISHED")]
        assert database.execute("SELECT value FROM tags WHERE key = 'poclab.split'").fetchall() == [("test",)]
        assert database.execute("SELECT value FROM params WHERE key = 'context_chars'").fetchall() == [("500",)]
        assert database.execute("SELECT count(*) FROM tags WHERE key = 'mlflow.parentRunId'").fetchone() == (0,)
    database.close()


def test_freeze_prints_edition_splits_and_lock(make_poc, tmp_path, run_poclab):
    """A fresh set, the same again, then an edited one with --new-edition."""
    poc = make_poc(tmp_path / "animals")
    (poc / "cases.lock.json").unlink()
    done = run_poclab("freeze", poc)
    lock = json.loads((poc / "cases.lock.json").read_text())

    assert done.returncode == 0
    assert done.stdout == f"animals: edition 1 (the first), 8 dev and 3 test cases\nlock {lock['digest']}\n"
    assert _invoke("freeze", poc).stdout.endswith("; unchanged\n")
    assert "warning: " in done.stderr  # 11 cases are few

    cases = poc / "cases.jsonl"
    cases.write_text(cases.read_text().replace('"chimneys"', '"chimneys", "roofs"', 1))
    second = _invoke("freeze", poc, "--new-edition").stdout
    assert "animals: edition 2, 8 dev" in second and "since the edition before: 1 changed: q02" in second


def test_help_lists_the_verbs_in_the_order_of_the_weeks(run_poclab):
    """new, freeze, run, sweep, ui; on 80 columns no sentence is cut."""
    done = run_poclab("--help", COLUMNS="80")
    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()]

    assert done.returncode == 0
    assert listed == ["new", "freeze", "run", "sweep", "ui"]
    assert "..." not in done.stdout.partition("Commands:")[2]


class TestUi:
    def test_prints_links_to_runs_chart_traces_and_the_two_best(self, ui, swept):
        """The side-by-side view names the two best of the sweep: they are equal, so the earlier first."""
        base = f"http://127.0.0.1:{ui.port}/#/experiments/1"
        links = dict(line.split(": ", 1) for line in ui.lines if ": http" in line)
        records = trials.run_sweep(load_sweep(swept[0])).records
        best = {record.run_id for record in records[1:]}

        assert links["runs"] == f"{base}/evaluation-runs"
        assert links["chart"].startswith(f"{base}/evaluation-runs?")
        assert links["traces"] == f"{base}/traces"
        (side,) = [address for address in links.values() if "compareToRunUuid" in address]
        ids = side.partition("selectedRunUuid=")[2].split("&compareToRunUuid=")
        assert side.startswith(f"{base}/evaluation-runs?")
        assert set(ids) == best

    def test_serves_mlflow(self, ui):
        """The page and its health are there, on loopback."""
        assert ui.pages["/health"] == "OK"
        assert "<title>MLflow</title>" in ui.pages["/"]

    def test_ends_with_ctrl_c_and_leaves_no_process(self, ui):
        """The server has workers; none may stay behind."""
        assert ui.running
        assert ui.orphans == []
        assert ui.code == 130
        assert "Traceback" not in ui.errors

    def test_of_a_store_on_a_server_is_that_server(self, poc, run_poclab):
        """There is nothing to start; the message says where to look."""
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            address = f"http://127.0.0.1:{server.getsockname()[1]}"
            _refused(run_poclab("ui", poc, MLFLOW_TRACKING_URI=address), f"open {address} in a browser")

    def test_says_when_the_port_is_taken(self, swept, run_poclab):
        """The next port is offered."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            _refused(run_poclab("ui", swept[0], "--port", port), f"port {port} is taken", f"poclab ui --port {port + 1}")


def test_an_evaluation_through_a_server_leaves_the_same_as_into_a_database(ui, swept):
    """MLFLOW_TRACKING_URI of a real `mlflow server`: run, numbers, dataset, prompt, artifacts, one trace per case with its parts."""
    from poclab.tracking import store, tracking_uri

    client = store.connect(tracking_uri(swept[0]))
    run = client.get_run(ui.report.run_id)
    found = client.search_traces(locations=[run.info.experiment_id], run_id=run.info.run_id, max_results=50)
    by_case = {trace.info.tags["poclab.case"]: trace for trace in found}

    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "served"
    assert run.data.metrics["accuracy"] == round(10 / 11, 6)
    assert run.inputs.dataset_inputs[0].dataset.digest == ui.report.lock_digest[:32]
    assert run.data.tags["poclab.prompt.prompt"] == "prompts:/served-plain/1"
    assert {"report.json", "version.json", "cases.jsonl", "prompts"} <= {one.path for one in client.list_artifacts(run.info.run_id)}
    assert ui.report.link == f"http://127.0.0.1:{ui.port}/#/runs/{run.info.run_id}"
    assert len(found) == len(by_case) == 11
    trace, result = by_case["q02"], next(one for one in ui.report.results if one.case_id == "q02")
    assert (trace.info.trace_id, trace.info.client_request_id) == (result.trace_id, result.request_id)
    assert sorted(span.span_type for span in trace.data.spans) == ["CHAIN", "CHAT_MODEL", "RETRIEVER", "TOOL"]
    assert {one.name for one in trace.info.assessments} == {"contains", "expected_answers", "expected_evidence"}
    assert trace.info.token_usage["input_tokens"] == result.calls[0].tokens_in
    assert by_case["q09"].info.state == "ERROR"
