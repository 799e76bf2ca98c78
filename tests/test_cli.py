"""The command line as a person uses it: a process, its exit code, what it prints."""

import contextlib
import json
import re
import shutil
import socket
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from conftest import CHARTER, ENV_KEY, SIGNED, SWEEP, copy_poc, invoke
from poclab import trials
from poclab.cli import _Group
from poclab.sweeps import load_sweep


def _refused(done, *words):
    """Assert that a command ended as wrong input does: exit code 2, a message with these words, no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stdout + done.stderr
    for word in words:
        assert word in done.stderr


class TestSweep:
    def test_prints_each_trial_then_the_ranked_table_and_where_to_look(self, swept):
        """The last line is the address of the MLflow UI, and the command that serves it."""
        folder, done = swept
        lines = done.stdout.splitlines()

        assert lines[0] == "3 trials to run, 2 at a time"
        assert [line[:5] for line in lines[1:4]] == ["[1/3]", "[2/3]", "[3/3]"]
        assert lines[5].split() == ["rank", "accuracy", "interval", "n", "failed", "p95_s", "cost_usd", "retrieval", "prompt", "run"]
        assert lines[6].startswith("1     1.000     0.676 to 1.000  8  0")
        assert "0.250     0.071 to 0.591" in lines[8]
        assert "baseline" in lines[8]
        assert lines[-1] == f"MLflow UI: http://127.0.0.1:5000/#/experiments/1/evaluation-runs (served by `poclab ui {folder}`)"
        # ipykernel may say so when it is shut down in the middle of a message.
        assert not done.stderr or done.stderr.startswith("ERROR:tornado.general")

    def test_that_is_finished_runs_nothing_again(self, swept, run_poclab):
        """Exit code 0, the same table, no kernel and no MLflow."""
        folder, first = swept
        done = run_poclab("sweep", folder, timeout=30)

        assert done.returncode == 0
        assert "3 of 3 trials, 0 of them run now" in done.stdout
        assert done.stdout.splitlines()[1:5] == first.stdout.splitlines()[5:9]

    def test_dry_run_says_what_is_to_pay_and_begins_no_run(self, poc):
        """No store, no run, no executed notebook; five cases of each trial were asked to find out, and nothing of them is to pay again."""
        done = invoke("sweep", poc, "--dry-run")

        assert done.returncode == 0, done.stderr
        assert "3 trials, 3 to run, 2 at a time" in done.stdout
        assert re.search(r"to pay: \$0.0000 for \d+ cases: [\d,]+ calls", done.stdout)
        assert "to find this out, $0.0000 was paid: 15 cases were asked, and are in the ledger now" in done.stdout
        assert not (poc / "mlflow.db").exists()
        assert not list(poc.rglob("executed.ipynb"))

    def test_is_found_from_inside_the_poc(self, swept):
        """Like git: the folder above counts."""
        done = invoke("sweep", "--dry-run", "--jobs", "3", cwd=swept[0] / "prompts")

        assert done.returncode == 0, done.stderr
        assert "3 trials, 0 to run, 3 at a time" in done.stdout

    def test_with_trials_that_cannot_run_ends_with_2_and_says_why(self, poc):
        """No key for a model of an endpoint, and a prompt with an unknown placeholder: both are told, in words."""
        (poc / "prompts/typo.md").write_text("Answer from {{contxt}}: {{question}}\n")
        (poc / "sweep.yaml").write_text(
            "notebook: notebooks/02_evaluate.ipynb\nlimits: {jobs: 2}\ninclude: [{model: big-1}, {prompt: prompts/typo.md}]\n"
        )
        done = invoke("sweep", poc)

        _refused(
            done, "no API key for model 'big-1'", "export OPENAI_API_KEY", "prompts/typo.md: unknown placeholder {{contxt}}", "{{context}}"
        )
        assert "no trial ended well" in done.stdout


class TestBadInput:
    def test_a_folder_that_is_no_poc(self, tmp_path, run_poclab):
        """The message says what is missing and how to make one."""
        for verb in ("sweep", "run"):
            _refused(run_poclab(verb, tmp_path), f"no POC at {tmp_path}", "there is no charter.yaml", "poclab new DIR")
        for verb in ("plan", "freeze", "doctor", "compare", "history", "decide", "handoff", "ui"):
            _refused(invoke(verb, tmp_path), f"no POC at {tmp_path}", "there is no charter.yaml", "poclab new DIR")

    def test_a_folder_that_is_not_there(self, tmp_path, run_poclab):
        """A mistyped path."""
        _refused(run_poclab("sweep", tmp_path / "typo"), "typo: no such folder")
        for verb in ("plan", "compare", "history", "decide", "handoff"):
            _refused(invoke(verb, tmp_path / "typo"), "typo: no such folder")

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
        _refused(invoke("run", swept[0], "-p", pair), *words)

    @pytest.mark.parametrize("verb", ["new", "plan", "freeze", "doctor", "run", "sweep", "history", "ui"])
    def test_a_name_that_no_file_can_have(self, verb):
        """300 characters, pasted by mistake."""
        _refused(invoke(verb, "x" * 300), "xxx: ")

    def test_a_poc_that_only_the_environment_names(self, tmp_path, monkeypatch):
        """The variable is named, and no file is read as a sweep."""
        monkeypatch.setenv("POCLAB_POC", str(tmp_path))
        for verb in ("plan", "freeze", "doctor", "run", "sweep", "compare", "history", "decide", "handoff", "ui"):
            _refused(invoke(verb), f"POCLAB_POC is '{tmp_path}': there is no charter.yaml", "unset POCLAB_POC")

    def test_what_the_system_refuses(self):
        """A full disk, a file that became a folder: the system's own words, and no traceback."""
        group = _Group(commands=[click.Command("read", callback=lambda: Path("/").read_text())])
        done = CliRunner().invoke(group, ["read"])

        assert (done.exit_code, done.stderr) == (2, "error: [Errno 21] Is a directory: '/'\n")

    def test_that_would_drive_the_terminal_is_printed_escaped(self, tmp_path):
        """Names, ids and error texts come from files and endpoints; the lines of a message stay lines."""
        done = invoke("freeze", tmp_path / "\x1b]0;title\x07")

        _refused(done, r"\x1b]0;title\x07: no such folder" + "\n  fix: ")
        assert invoke("new", tmp_path / "\x1b[2J").stdout.partition("\n")[0].endswith(r"\x1b[2J'")

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
        (poc / "charter.yaml").write_text(CHARTER + SIGNED)
        for verb in ("compare", "history", "decide", "handoff"):
            _refused(invoke(verb, poc), "mlflow.db: not an SQLite database", "mv mlflow.db")

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
            done = invoke(*arguments)
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
    done = invoke(*arguments)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bm25 400 abstain: 1.000 (0.439 to 1.000, n = 3, 0 failed)")
    assert invoke(*arguments).stdout == f"this was run before, and nothing is asked again; POCLAB_MODE=live asks again\n{done.stdout}"
    with sqlite3.connect(poc / "mlflow.db") as database:
        assert database.execute("SELECT name, status FROM runs").fetchall() == [("split dev -> test", "FINISHED")]
        assert database.execute("SELECT value FROM tags WHERE key = 'poclab.split'").fetchall() == [("test",)]
        assert database.execute("SELECT value FROM params WHERE key = 'context_chars'").fetchall() == [("500",)]
        assert database.execute("SELECT count(*) FROM tags WHERE key = 'mlflow.parentRunId'").fetchone() == (0,)
    database.close()


class TestPlan:
    def test_prints_how_many_cases_the_charter_takes(self, swept):
        """A row per expectation, and a sentence on what the cases at hand can show; 16 of 16 are the fewest above 0.8."""
        done = invoke("plan", swept[0])
        lines = done.stdout.splitlines()

        assert (done.returncode, done.stderr) == (0, "")
        assert lines[0].split("  ")[0] == "criterion"
        assert lines[3].split()[-4:] == ["1", "16", "3", "0%"]
        assert "3 test cases cannot show accuracy as met whatever comes out (it takes 16)" in lines[-1]

    def test_needs_no_poc_for_a_target(self, tmp_path, monkeypatch):
        """Before there is a folder; what should be small is a bound from above."""
        monkeypatch.chdir(tmp_path)

        assert "accuracy >= 0.8 on test (95% confidence)  1            16" in invoke("plan", "--target", "0.8", "--expect", "1").stdout
        for metric in ("failed_share", "failed", "latency_p95_s", "cost_usd_per_case"):
            assert f"{metric} <= 0.5 on test" in invoke("plan", "--metric", metric, "--target", "0.5").stdout

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (("--target", "1.2"), "accuracy lies between 0 and 1"),
            (("--target", "nan"), "accuracy lies between 0 and 1"),
            (("--target", "0.8", "--expect", "0.7"), "no number of cases would show it"),
            (("--target", "0.8", "--power", "2"), "--power 0.8"),
            (("--target", "0.8", "--confidence", "95"), "confidence 95"),
            (("--metric", "acuracy", "--target", "0.8"), "did you mean 'accuracy'?"),
        ],
    )
    def test_refuses_what_no_number_of_cases_can_show(self, arguments, word):
        """In words, with what to type."""
        _refused(invoke("plan", *arguments), word)


class TestCompare:
    def test_prints_the_last_sweep_against_its_baseline(self, swept):
        """A line per trial, corrected for all that were started, and the address of the first beside the baseline."""
        done = invoke("compare", swept[0])
        lines = done.stdout.splitlines()

        assert (done.returncode, done.stderr) == (0, "")
        assert lines[0] == "baseline: none 400 abstain: 0.250 (0.071 to 0.591, n = 8, 0 failed) by contains"
        assert [line[:58] for line in lines[2:4]] == ["1.000 (0.676 to 1.000)  +0.750 (+0.189 to +1.000)  0.0625 "] * 2
        assert lines[4].startswith("first: http://127.0.0.1:5000/#/experiments/1/evaluation-runs?selectedRunUuid=")
        assert "Holm over 2 comparisons" in lines[-1]

    def test_of_two_runs_prints_what_was_fixed(self, swept, monkeypatch):
        """Found from the folder, the runs named by how their ids begin."""
        monkeypatch.chdir(swept[0] / "prompts")
        rows = {line.split()[-1]: line for line in swept[1].stdout.splitlines()[6:9]}
        baseline = next(run for run, line in rows.items() if "baseline" in line)
        other = next(run for run, line in rows.items() if "plain" in line)
        done = invoke("compare", baseline, other)

        assert done.returncode == 0, done.stderr
        assert "none 400 abstain -> bm25 400 plain: retrieval none -> bm25, prompt prompts/abstain.md -> prompts/plain.md" in done.stdout
        assert "fixed: 6\n" in done.stdout and "broken: 0\n" in done.stdout

    def test_prints_json_that_other_programs_read(self, swept):
        """All of it, and nothing else on the line."""
        done = invoke("compare", swept[0], "--json")
        found = json.loads(done.stdout, parse_constant=pytest.fail)

        assert (found["comparisons"], len(found["candidates"])) == (2, 2)
        assert [len(one["fixed"]) for one in found["candidates"]] == [6, 6]

    def test_draws_the_chart_where_it_is_told(self, swept, tmp_path):
        """A PNG file, beside the table."""
        done = invoke("compare", swept[0], "--chart", tmp_path / "forest.png")

        assert done.stdout == invoke("compare", swept[0]).stdout
        assert (tmp_path / "forest.png").read_bytes().startswith(b"\x89PNG")
        _refused(invoke("compare", swept[0], "--chart", tmp_path / "missing/forest.png"), "missing/forest.png")

    @pytest.mark.parametrize("verb", ["compare", "decide", "handoff"])
    def test_of_an_unknown_run_says_where_they_are_listed(self, decided, verb):
        """A mistyped id."""
        _refused(invoke(verb, decided.poc, "zzz", "yyy"), "no finished run begins with 'zzz'", "poclab history")


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("compare", ("no sweep with two trials to compare", "`poclab sweep`")),
        ("history", ("no runs yet", "`poclab run`")),
        ("decide", ("no finished run to decide on", "`poclab sweep`")),
        ("handoff", ("no finished run to decide on", "`poclab sweep`")),
    ],
)
def test_before_the_first_run_the_next_command_is_named(decided, tmp_path, verb, words):
    """Looking makes no store."""
    early = copy_poc(decided.poc, tmp_path / "early")
    (early / "mlflow.db").unlink()

    _refused(invoke(verb, early), *words)
    assert not (early / "mlflow.db").exists()


def test_a_renamed_poc_finds_its_runs(decided, tmp_path):
    """They are on its cases, in its own database, under the name that the folder had."""
    done = invoke("history", copy_poc(decided.poc, tmp_path / "renamed"))

    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines()[1:5]] == ["dev", "dev", "dev", "test"]


def test_a_moved_poc_finds_its_runs(decided, tmp_path):
    """The store names the old place; what lies beside the database is read."""
    moved = tmp_path / "animals"
    shutil.copytree(decided.poc, moved)
    shutil.rmtree(moved / "handoff")
    with contextlib.closing(sqlite3.connect(moved / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, 'file:///gone')", (decided.poc.as_uri(),))
    done = invoke("decide", moved, "--json")

    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["runs"]["test"] == decided.run_id


def test_history_prints_each_run_and_where_the_chart_is(decided_copy):
    """What changed at it, and its number with interval and n."""
    done = invoke("history", decided_copy)
    lines = done.stdout.splitlines()

    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0].split() == ["on", "split", "version", "accuracy", "interval", "n", "failed", "changed", "run"]
    assert [line.split()[2] for line in lines[1:5]] == ["dev", "dev", "dev", "test"]
    assert "bm25 400 abstain" in lines[4] and "1.000" in lines[4]
    assert lines[-1] == f"chart: {decided_copy / '.poclab/charts/history.png'}"


class TestDecide:
    def test_prints_the_verdict_and_what_stands_beside_it(self, decided):
        """Exit code 1 is not yet: 3 of 3 is 0.439 to 1."""
        done = invoke("decide", decided.poc)
        lines = done.stdout.splitlines()

        assert (done.returncode, done.stderr) == (1, "")
        assert lines[0] == "not yet: Answer questions about animals from five short pages, or do not."
        assert lines[2].startswith("accuracy >= 0.8 on test (95% confidence) by contains  1.000 (0.439 to 1.000)  3  cannot tell (about ")
        facts = ["version", "cases", "outcomes on test", "outcomes on dev", "looks at test", "dev-test gap", "time box", "charter"]
        assert [line.partition(":")[0] for line in lines[3:11]] == facts
        assert lines[5] == "outcomes on test: ok 3"
        assert lines[7].startswith("looks at test: 1: ")

    def test_ends_with_0_for_go_and_with_1_for_no_go(self, decided_copy):
        """A script can go by it. The whole of 0.439 to 1 is at least 0.43, so it misses a bound of at most 0.43."""
        (decided_copy / "charter.yaml").write_text(CHARTER.replace("0.8", "0.43") + SIGNED)
        go = invoke("decide", decided_copy)
        (decided_copy / "charter.yaml").write_text(CHARTER.replace("accuracy, at_least: 0.8", "contains, at_most: 0.43") + SIGNED)
        no_go = invoke("decide", decided_copy)

        assert (go.returncode, go.stdout.partition(":")[0]) == (0, "go, on criteria that were edited after the held-out cases were seen")
        assert (no_go.returncode, no_go.stdout.partition(",")[0]) == (1, "no-go")
        assert "criterion edited: accuracy >= 0.8 on test (95% confidence) (since 20" in go.stdout

    def test_prints_json_that_other_programs_read(self, decided):
        """The word, the verdicts, the runs and the looks."""
        done = invoke("decide", decided.poc, decided.run_id[:8], "--json")
        found = json.loads(done.stdout, parse_constant=pytest.fail)

        assert done.returncode == 1
        assert (found["word"], found["runs"]["test"], len(found["looks"])) == ("not yet", decided.run_id, 1)

    def test_that_confirms_says_that_it_was_done_before(self, decided):
        """The second call scores nothing; what it says of it is not part of what is printed for a program."""
        done = invoke("decide", decided.poc, "--confirm", "--json")

        assert done.returncode == 1
        assert f"run {decided.run_id}; not again" in done.stderr
        assert len(json.loads(done.stdout)["looks"]) == 1

    def test_refuses_an_unsigned_charter_with_its_questions(self, swept):
        """Also before it would confirm."""
        for arguments in ((), ("--confirm",)):
            _refused(invoke("decide", swept[0], *arguments), "cannot decide yet: it lacks signed", "1. Who agreed to these numbers")
        _refused(invoke("handoff", swept[0]), "cannot decide yet")


class TestHandoff:
    def test_prints_where_it_is_and_its_digest(self, decided_copy, tmp_path):
        """And on which run the digest is kept."""
        done = invoke("handoff", decided_copy, "--out", tmp_path / "out")
        digest = json.loads((tmp_path / "out/digests.json").read_text())["folder"]

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[0] == f"handoff: {tmp_path / 'out/handoff.html'}"
        assert f"folder digest {digest}, kept on run " in done.stdout

    def test_is_verified_with_0_where_it_holds_1_where_not_and_2_where_there_is_none(self, decided, decided_copy, tmp_path):
        """Each check on a line; the reason beside the one that does not hold."""
        good = invoke("handoff", "--verify", decided.handoff.folder)
        (decided_copy / "handoff/evidence/corpus.yaml").unlink()
        bad = invoke("handoff", "--verify", decided_copy / "handoff")

        assert good.returncode == 0, good.stdout
        assert {line[:4] for line in good.stdout.splitlines() if line[:2] in ("ok", "NO")} == {"ok  "}
        assert decided.handoff.digest in good.stdout
        assert bad.returncode == 1
        assert "NO  every file is what its digest says: evidence/corpus.yaml is missing" in bad.stdout
        _refused(invoke("handoff", "--verify", tmp_path), "no handoff there: there is no digests.json")

    def test_into_a_folder_of_something_else_is_refused(self, decided_copy):
        """With another folder to name."""
        _refused(invoke("handoff", decided_copy, "--out", decided_copy / "docs"), "holds something that is no handoff", "--out FOLDER")


def test_freeze_prints_edition_splits_and_lock(make_poc, tmp_path, run_poclab):
    """A fresh set, the same again, then an edited one with --new-edition."""
    poc = make_poc(tmp_path / "animals")
    (poc / "cases.lock.json").unlink()
    done = run_poclab("freeze", poc)
    lock = json.loads((poc / "cases.lock.json").read_text())

    assert done.returncode == 0
    assert done.stdout == f"animals: edition 1 (the first), 8 dev and 3 test cases\nlock {lock['digest']}\n"
    assert invoke("freeze", poc).stdout.endswith("; unchanged\n")
    assert "warning: " in done.stderr  # 11 cases are few

    cases = poc / "cases.jsonl"
    cases.write_text(cases.read_text().replace('"chimneys"', '"chimneys", "roofs"', 1))
    second = invoke("freeze", poc, "--new-edition").stdout
    assert "animals: edition 2, 8 dev" in second and "since the edition before: 1 changed: q02" in second


def test_help_lists_the_verbs_in_the_order_of_the_weeks(run_poclab):
    """From the charter to the handoff; on 80 columns no sentence is cut."""
    done = run_poclab("--help", COLUMNS="80")
    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()]

    assert done.returncode == 0
    assert listed == [
        "new",
        "plan",
        "freeze",
        "doctor",
        "run",
        "sweep",
        "compare",
        "history",
        "drill",
        "calibrate",
        "decide",
        "handoff",
        "reproduce",
        "trace",
        "ledger",
        "ui",
    ]
    assert "..." not in done.stdout.partition("Commands:")[2]


class TestUi:
    def test_prints_links_to_runs_charts_champion_and_failing_traces(self, ui, swept):
        """Side by side are the baseline and the first of the two best trials; of its traces those that are not ok."""
        base = f"http://127.0.0.1:{ui.port}/#/experiments/1"
        links = dict(line.split(": ", 1) for line in ui.lines if ": http" in line)
        baseline, best, _ = (record.run_id for record in trials.run_sweep(load_sweep(swept[0])).records)

        assert links == {
            "runs": f"{base}/evaluation-runs",
            "charts of the trials": f"{base}/evaluation-runs?viewMode=charts",
            "baseline and champion, case by case": f"{base}/evaluation-runs?selectedRunUuid={best}&compareToRunUuid={baseline}",
            "failing traces of the champion": f"{base}/runs/{best}/traces?filter=TAG%3A%3A%21%3D%3A%3Aok%3A%3Apoclab.outcome",
        }

    def test_serves_mlflow(self, ui):
        """The page and its health are there, on loopback."""
        assert ui.pages["/health"] == "OK"
        assert "<title>MLflow</title>" in ui.pages["/"]

    def test_mlflows_assistant_has_no_shell_of_this_machine(self, ui):
        """It reads traces, which may tell it what to run."""
        assert "MLFLOW_ENABLE_ASSISTANT_SANDBOX=true" in ui.settings

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
    assert run.data.tags["poclab.dataset"] == f"served dev {ui.report.lock_digest[:12]}"
    assert {"report.json", "version.json", "cases.jsonl", "prompts"} <= {one.path for one in client.list_artifacts(run.info.run_id)}
    assert ui.report.link == f"http://127.0.0.1:{ui.port}/#/runs/{run.info.run_id}"
    assert len(found) == len(by_case) == 11
    trace, result = by_case["q02"], next(one for one in ui.report.results if one.case_id == "q02")
    assert (trace.info.trace_id, trace.info.client_request_id) == (result.trace_id, result.request_id)
    assert sorted(span.span_type for span in trace.data.spans) == ["CHAIN", "CHAT_MODEL", "RETRIEVER", "TOOL"]
    assert {one.name for one in trace.info.assessments} == {"contains", "expected"}
    assert trace.info.token_usage["input_tokens"] == result.calls[0].tokens_in
    assert by_case["q09"].info.state == "ERROR"


def test_what_the_endpoint_failed_is_asked_again_by_the_command(make_poc, tmp_path):
    """A run that the endpoint half failed says so, is not run again as it is, and mends with --retry-failed alone, at no more than that."""
    poc = make_poc(tmp_path / "animals", store=True)
    asked, answer = [], {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}]}  # fmt: skip

    class Server(BaseHTTPRequestHandler):
        broken = True

        def do_GET(self):
            self.say(200, {"data": []})

        def do_POST(self):
            prompt = self.rfile.read(int(self.headers["content-length"]))
            asked.append(prompt)
            failed = self.broken and b"storks" in prompt.lower().partition(b"question: ")[2]
            self.say(*((500, {}) if failed else (200, answer)))

        def say(self, status, said):
            data = json.dumps(said).encode()
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(data)), "x-should-retry": "false"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    given = ("run", poc, "-p", "model=m", "-p", "retrieval=bm25")
    environment = {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1", "OPENAI_API_KEY": "sk-0123456789"}
    first, again = (invoke(*given, **environment) for _ in range(2))
    before = len(asked)
    Server.broken = False
    retried = invoke(*given, "--retry-failed", **environment)
    server.shutdown()
    server.server_close()

    assert first.returncode == again.returncode == retried.returncode == 0, first.stderr + retried.stderr
    assert "the endpoint failed 2 case(s) of 1 trial(s): --retry-failed asks these again" in first.stdout
    assert "nothing is asked again" in again.stdout and before == 8
    assert "2 case(s) that the endpoint had failed were asked again" in retried.stdout
    assert "server_error" not in retried.stdout and "--retry-failed" not in retried.stdout
    assert len(asked) == 10
