import contextlib
import datetime
import json
import shutil
import socket
import sqlite3
import subprocess
from dataclasses import replace

import pytest

import poclab
from conftest import CHARTER, SIGNED, SWEEP, copy_poc, invoke, notebook_of, plain_cases
from poclab import checkup, trials
from poclab.archive import Archive
from poclab.checkup import machine
from poclab.checkup.findings import Finding
from poclab.errors import InputError
from poclab.judging import Calibration, Rubric, calibration_path
from poclab.judging.calibration import Pair
from poclab.judging.labels import labels_digest
from poclab.judging.rubric import TEMPLATES
from poclab.ledger import LEDGER, Ledger
from poclab.sweeps import load_sweep

KEY = "sk-doctor-4b8f01c2d6a97e35"
TODAY = datetime.date.today()
AGREED = "data: {source: five pages, pii: {agreed_by: Ada Example, on: 2026-11-23, where: the pages hold none}}\n"
PRICED = f"prices: {{m: {{input: 1.0, output: 4.0, on: {TODAY}, source: the test endpoint}}}}\n"
READY = CHARTER + SIGNED + AGREED
PAID = SWEEP.replace("fixed: {", "fixed: {model: m, ").replace("jobs: 2", "jobs: 2, max_cost_usd: 5")


@pytest.fixture
def ready(poc):
    """A POC with a whole charter, which asks no endpoint."""
    (poc / "charter.yaml").write_text(READY)
    return poc


@pytest.fixture
def paid(ready, endpoint, monkeypatch):
    """A POC whose sweep asks the model m of an endpoint that serves it and wants a key, with a price and a budget."""
    endpoint.configure(models=["m"], key=KEY)
    (ready / "charter.yaml").write_text(READY + PRICED)
    (ready / "sweep.yaml").write_text(PAID)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return ready


def findings(poc, name, **options):
    return [one for one in checkup.examine(poc, **options).findings if one.name == name]


def finding(poc, name, **options):
    """Return the one finding of that name."""
    (found,) = findings(poc, name, **options)
    return found


def states(poc, **options):
    return {one.name: one.state for one in checkup.examine(poc, **options).findings}


# --- the whole


def test_a_poc_that_is_ready_fails_nothing(ready):
    """Each check has its line, in the order of the work; eleven cases and no git only weaken what comes out."""
    found = checkup.examine(ready)

    assert [one.name for one in found.findings] == list(checkup.CHECKS)
    assert {one.name for one in found.findings if one.state != "ok"} == {"git", "test set"}
    assert not found.failed
    assert found.sentence == "nothing would fail later; 2 to look at"


def test_looking_makes_neither_store_nor_ledger(ready):
    """They are made by the first run and the first answer."""
    assert (finding(ready, "store").told, finding(ready, "ledger").told) == ("made at the first run", "made at the first answer")
    assert not (ready / "mlflow.db").exists() and not (ready / LEDGER).exists()


def test_a_line_is_followed_by_what_to_type(tmp_path):
    """The columns are aligned, and a fix stands below what is not ok, each of its lines under the one before."""
    told = checkup.Checkup(tmp_path, (Finding("key", "ok", "is set"), Finding("charter", "failed", "lacks owner", "write it:\nowner: ...")))

    assert repr(told).splitlines() == [
        f"checkup of {tmp_path}",
        "ok      key      is set",
        "failed  charter  lacks owner",
        "        fix: write it:",
        "             owner: ...",
        "1 of 2 would fail later",
    ]


def test_the_command_ends_with_1_where_something_would_fail(poc, ready):
    """And with 0 where nothing would; a folder that is no POC is wrong input."""
    done = invoke("doctor", ready)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "nothing would fail later; 2 to look at")

    (poc / "charter.yaml").write_text(CHARTER)
    done = invoke("doctor", cwd=poc / "docs")
    assert done.returncode == 1 and "failed   charter        lacks signed" in done.stdout

    done = invoke("doctor", poc.parent)
    assert done.returncode == 2 and "no POC at" in done.stderr


def test_without_a_poc_there_is_nothing_to_look_at(tmp_path):
    """The only thing that is raised."""
    with pytest.raises(InputError, match="no POC at"):
        checkup.examine(tmp_path)


def test_a_new_poc_would_fail_at_its_signature_and_its_freeze_alone(tmp_path):
    """`poclab new` makes an example that nobody signed; all else is in order."""
    invoke("new", tmp_path / "mine")

    assert {name for name, state in states(tmp_path / "mine").items() if state == "failed"} == {"charter", "test set"}


def test_what_breaks_a_check_is_a_finding(ready):
    """A package that is missing, or a mistake of poclab's: the other checks go on."""

    def broken(subject):
        yield Finding("first", "ok", "found before")
        raise ZeroDivisionError("by nothing")

    found = list(checkup._findings("first", broken, checkup.Subject(ready, 1.0), []))

    assert [(one.state, one.told) for one in found] == [
        ("ok", "found before"),
        ("failed", "this check broke: ZeroDivisionError: by nothing"),
    ]


def test_hostile_texts_are_shown_as_text(ready):
    """Names in the charter and of models come from files; none drives a terminal, none is markup."""
    hostile = "\x1b[2J<script>alert(1)</script>"
    (ready / "charter.yaml").write_text(READY.replace("Grace Example, on", f"{json.dumps(hostile)}, on"))
    (ready / "sweep.yaml").write_text(SWEEP.replace("fixed: {", f"fixed: {{model: {json.dumps('offline/' + hostile)}, "))
    found = checkup.examine(ready)

    assert r"signed by \x1b[2J<script>" in repr(found) and "\x1b" not in repr(found)
    assert "unknown offline model" in repr(found)
    assert "&lt;script&gt;alert(1)" in found._repr_html_() and "<script" not in found._repr_html_()


# --- what was agreed


def test_an_unsigned_charter_fails_with_the_questions_to_answer(ready):
    """`decide` and `handoff` would refuse it at the end of the six weeks."""
    (ready / "charter.yaml").write_text((CHARTER + AGREED).replace("owner: Ada Example", 'owner: ""'))
    found = finding(ready, "charter")

    assert (found.state, found.told) == ("failed", "lacks owner, signed: `poclab decide` and `poclab handoff` refuse it")
    assert found.fix.splitlines() == [
        f"write the answers into {ready / 'charter.yaml'}:",
        "Who decides when the numbers are in? (owner)",
        "Who agreed to these numbers, on which day, and where is it written down? (signed: {by: ..., on: ..., where: ...})",
    ]


def test_a_charter_that_cannot_be_read_hides_no_other_finding(ready):
    """What depends on it points there; the sweep is looked at all the same."""
    (ready / "charter.yaml").write_text("decision: [")
    found = {one.name: one for one in checkup.examine(ready).findings}

    assert found["charter"].state == "failed" and "charter.yaml, line 1, column 12: not YAML" in found["charter"].told
    assert found["charter"].fix == f"mend it, and look again: poclab doctor {ready}"
    assert (found["personal data"].told, found["personal data"].fix) == ("not looked at", "mend this first: charter")
    assert found["sweep"].state == "ok"


def test_a_criterion_on_a_number_that_no_run_has_fails(swept, tmp_path):
    """As `decide --confirm` would refuse it; before a first run the notebook's source says what it may give."""
    poc = copy_poc(swept[0], tmp_path / "animals")
    (poc / "charter.yaml").write_text(READY)
    run_id = Archive.open(poc).winner()["run_id"]
    assert finding(poc, "criteria") == Finding("criteria", "ok", f"each is on a number that run {run_id} has")

    for split in ("dev", "test"):
        (poc / "charter.yaml").write_text(READY.replace("accuracy, at_least: 0.8, split: test", f"helpfull, at_least: 0.8, split: {split}"))
        found = finding(poc, "criteria")
        assert (found.state, found.told.partition(": ")[2]) == (
            "failed",
            "no score 'helpfull' is given: there are contains, evidence_recall, abstains",
        )
    (poc / "mlflow.db").unlink()
    assert finding(poc, "criteria").told.endswith(" scores nothing by the name helpfull")  # by its source: there is no run


def test_before_a_run_the_source_of_the_notebook_tells_what_has_a_number(ready):
    """A judge that the charter asks for, and nothing scores by, is a warning until it is fixed in the sweep file."""
    (ready / "charter.yaml").write_text(READY.replace("accuracy, at_least", "tone, at_least"))
    found, sweep = finding(ready, "criteria"), ready / "sweep.yaml"
    sweep.write_text(sweep.read_text().replace("fixed: {", "fixed: {judge: tone, "))

    assert (found.state, found.told) == ("warning", "02_evaluate.ipynb scores nothing by the name tone")
    assert finding(ready, "criteria") == Finding("criteria", "ok", "whether each has a number, a first run on these cases shows")


def test_nobody_named_for_personal_data_is_a_warning(ready):
    """It refuses nothing, and somebody will ask."""
    assert finding(ready, "personal data").told == "agreed by Ada Example on 2026-11-23: the pages hold none"
    (ready / "charter.yaml").write_text(CHARTER + SIGNED)
    found = finding(ready, "personal data")

    assert found.state == "warning" and "pii: {agreed_by: ..., on: " in found.fix


def test_what_looks_like_personal_data_is_named(ready):
    """By its case, and never by its value; five are enough to see what it is."""
    lines = (ready / "cases.jsonl").read_text().replace("?", "? Write to ada@example.org")
    (ready / "cases.jsonl").write_text(lines)
    _, found = findings(ready, "personal data")

    assert found.state == "warning"
    assert found.told.startswith("case 'q01' may hold an e-mail address; ") and found.told.endswith("; and 6 more")
    assert "ada@" not in found.told


# --- the cases


def test_a_set_that_is_not_frozen_fails(ready):
    """What depends on the lock points to it."""
    (ready / "cases.lock.json").unlink()
    found = {one.name: one for one in checkup.examine(ready).findings}

    assert found["test set"].state == "failed" and "`poclab freeze`" in found["test set"].fix
    assert found["documents"].fix == found["sweep"].fix == "mend this first: test set"
    assert found["evidence"].state == "ok"


def test_an_edited_case_and_an_edited_lock_fail(ready):
    """The case is named, and how to put it back."""
    whole = (ready / "cases.jsonl").read_text()
    (ready / "cases.jsonl").write_text(whole.replace("chimneys", "roofs", 1))
    found = finding(ready, "test set")
    assert found.state == "failed" and "1 changed: q02" in found.told and "git checkout" in found.fix

    (ready / "cases.jsonl").write_text(whole)
    lock = ready / "cases.lock.json"
    lock.write_text(lock.read_text().replace('"edition": 1', '"edition": 2'))
    assert "not a lock that poclab wrote, or edited since" in finding(ready, "test set").told


def test_sixty_cases_are_enough_and_a_split_without_one_fails(ready):
    """Under fifty is a warning; without held-out cases nothing can be decided."""
    few = finding(ready, "test set")
    assert few.state == "warning" and few.told.startswith(f"8 dev and 3 test cases, as they were frozen on {TODAY} (edition 1); under 50")

    (ready / "cases.lock.json").unlink()
    plain_cases(ready, 60)
    found = finding(ready, "test set")
    assert (found.state, found.told) == ("failed", "cases.jsonl: no case has the split 'test'")

    (ready / "cases.lock.json").unlink()
    (ready / "cases.jsonl").write_text((ready / "cases.jsonl").read_text().replace('"split": "dev"', '"split": "test"', 20))
    invoke("freeze", ready)
    assert finding(ready, "test set") == Finding("test set", "ok", f"40 dev and 20 test cases, as they were frozen on {TODAY} (edition 1)")


def test_a_key_in_the_cases_fails(ready, monkeypatch):
    """A handoff takes them as they are, and refuses them."""
    monkeypatch.setenv("ZOO_API_KEY", "nest on chimneys 7")
    (ready / "cases.jsonl").write_text((ready / "cases.jsonl").read_text().replace("nest on chimneys", "nest on chimneys 7"))
    (ready / "docs/storks.md").write_text("Storks nest on chimneys 7. In winter they fly to Africa.\n")
    invoke("freeze", ready, "--new-edition")
    found = findings(ready, "test set")[0]

    assert (found.state, found.told) == ("failed", "cases.jsonl holds the value of a key: `poclab handoff` refuses it")


def test_other_documents_are_a_warning_and_lost_evidence_fails(ready):
    """Documents may change; a phrase that is in none of them cannot be found by any retrieval."""
    assert finding(ready, "evidence").told == "8 phrases, each found in the documents"
    (ready / "docs/news.md").write_text("A new page.\n")
    found = states(ready)
    assert (found["documents"], found["evidence"]) == ("warning", "ok")

    (ready / "docs/storks.md").write_text("Storks live elsewhere.\n")
    found = finding(ready, "evidence")
    assert found.state == "failed" and "q02" in found.told


def test_no_documents_are_a_warning(ready):
    """A system of one's own may need none."""
    (ready / "corpus.yaml").unlink()
    found = states(ready)

    assert (found["documents"], found["evidence"]) == ("warning", "warning")


# --- what is going to run


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("retrieval: {values", "retrieva: {values", "unknown parameter 'retrieva'"),
        ("limits:", "screen: {cases: 30}\nlimits:", "screen.cases is 30, and dev has 8"),
        ("02_evaluate", "02_evaluat", "notebooks/02_evaluat.ipynb: no such file"),
    ],
)
def test_a_sweep_that_would_be_refused_fails(ready, old, new, words):
    """The models that it would ask are then not known."""
    (ready / "sweep.yaml").write_text(SWEEP.replace(old, new))
    found = {one.name: one for one in checkup.examine(ready).findings}

    assert found["sweep"].state == "failed" and words in found["sweep"].told and found["sweep"].fix


def test_a_file_that_only_the_notebook_names_is_looked_for_too(ready):
    """Its default is what a run takes that is told nothing else."""
    shutil.rmtree(ready / "prompts")
    (ready / "sweep.yaml").write_text("notebook: notebooks/02_evaluate.ipynb\nparameters: {chunk_size: {values: [200, 400]}}\n")
    found = finding(ready, "sweep")

    assert found.state == "failed" and "prompt: no file 'prompts/abstain.md'" in found.told


def test_judges_are_held_against_the_charter(ready):
    """One that nobody calibrated is to be looked at, since no criterion on it is decided; its model is one that is asked."""
    assert finding(ready, "judges").told == "the POC has no rubric of its own"
    shutil.copytree(TEMPLATES, ready / "rubrics", ignore=lambda _, names: {one for one in names if one != "tone.yaml"})
    found = {(one.name, one.told): one for one in checkup.examine(ready).findings}
    undecided = found["judges", "tone is not calibrated: no criterion on its score is decided"]
    sample = len(poclab.TestSet.load(ready).split("dev"))  # fewer than 60

    assert undecided.state == "warning" and "poclab calibrate" in undecided.fix and f"tone --sample {sample}`, label" in undecided.fix
    assert found["model", "offline/overlap-judge: answers on this machine"].state == "ok"


def test_what_mends_a_judge_is_told_as_a_command(ready):
    """An edited rubric or label is calibrated again; only where the agreement is too low is there something to read; a bound is written down."""
    shutil.copytree(TEMPLATES, ready / "rubrics", ignore=lambda _, names: {one for one in names if one != "tone.yaml"})
    rubric, again = Rubric.named("tone", ready), f"`poclab calibrate {ready} tone`"
    pair = {"person": "fit", "judge": "fit"}
    pairs = [Pair("q1", **pair), Pair("q2", **pair), Pair("q3", "unfit", "unfit"), Pair("q4", "fit", "unfit")]
    labels = ready / "rubrics/tone.labels.jsonl"
    labels.write_text('["labels"]')
    given = {"labels": dict(rubric.labels), "sampled": {"of": 4, "name": "a", "seed": 0}, "by": ("Ada",), "on": "2026-11-27"}
    given |= {
        "name": "tone",
        "rubric_version": 1,
        "model": rubric.model,
        "answered": (),
        "others": (),
        "labels_digest": labels_digest(labels),
    }
    calibration = Calibration(**given, rubric=rubric.digest, pairs=tuple(pairs))
    path = calibration_path(ready, "tone")

    def fix(found, bound="judges: {kappa_at_least: 0.6}\n"):
        found.save(path)
        charter = (ready / "charter.yaml").read_text()
        (ready / "charter.yaml").write_text(charter + bound)
        told = finding(ready, "judges").fix
        (ready / "charter.yaml").write_text(charter)
        return told

    assert fix(replace(calibration, rubric="0" * 64)) == again
    assert fix(calibration).startswith(f"read what people and judge disagree on, in {path}")
    assert fix(calibration, "") == f"write into {ready / 'charter.yaml'}: judges: {{kappa_at_least: 0.6}}"
    assert fix(replace(calibration, pairs=tuple(pairs[:2]))).startswith(
        "draw more replies, of which people do not say the same throughout: `poclab calibrate"
    )
    labels.write_text("other labels")
    assert fix(calibration) == again


def test_a_key_that_only_a_judge_needs_is_told_of_its_rubric(ready):
    """What it is to be changed in, to go without."""
    shutil.copytree(TEMPLATES, ready / "rubrics", ignore=lambda _, names: {one for one in names if one != "tone.yaml"})
    path = ready / "rubrics/tone.yaml"
    path.write_text(path.read_text().replace("offline/overlap-judge", "gpt-4o"))
    found = finding(ready, "key")

    assert found.state == "failed" and found.told == "no API key for model 'gpt-4o'"
    assert found.fix.endswith("write `model: offline/overlap-judge`, which needs none, into rubrics/tone.yaml")


def test_a_judge_of_the_sweep_that_is_no_rubric_fails(ready):
    """Before a kernel would say so."""
    sweep = ready / "sweep.yaml"
    sweep.write_text(sweep.read_text().replace("fixed: {", "fixed: {judge: typo, "))

    assert finding(ready, "sweep").state == "failed" and "judge: no rubric 'typo'" in finding(ready, "sweep").told


def test_a_broken_rubric_fails(ready):
    """With its file; the other checks go on."""
    (ready / "rubrics").mkdir()
    (ready / "rubrics/mine.yaml").write_text("name: mine\n")
    found = finding(ready, "judges")

    assert found.state == "failed" and "mine.yaml: version is missing" in found.told


def test_a_notebook_without_parameters_is_no_fault(ready):
    """It may hold the form for labels; the sweep's own is another matter."""
    assert finding(ready, "notebooks").told == "5 in notebooks/ with parameters"
    (ready / "notebooks/a.ipynb").write_text(json.dumps(notebook_of("1 + 1")))
    found = finding(ready, "notebooks")
    (ready / "sweep.yaml").write_text("notebook: notebooks/a.ipynb\nparameters: {x: {values: [1, 2]}}\n")

    assert (found.state, found.told) == (
        "ok",
        "5 in notebooks/ with parameters; a.ipynb: no cell is tagged `parameters`, for a person alone",
    )
    assert finding(ready, "sweep").state == "failed" and "Property Inspector" in finding(ready, "sweep").fix


def test_a_cell_that_is_not_python_is_named(ready):
    """A sweep would find it in each of its trials. What IPython reads is none, nor is `await`."""
    fine = "%matplotlib inline\nfiles = !ls\nif files:\n    !ls\nlen?\nawait x()", "%%bash\nls |", "(7\n% 4)"
    (ready / "notebooks/a.ipynb").write_text(json.dumps(notebook_of(("x: int = 1", "parameters"), *fine)))
    assert finding(ready, "notebooks").state == "ok"
    (ready / "notebooks/a.ipynb").write_text(json.dumps(notebook_of(("x: int = 1", "parameters"), "print(1")))

    assert finding(ready, "notebooks").told == "notebooks/a.ipynb: code cell 2 is not Python: '(' was never closed (its line 1)"


@pytest.mark.parametrize(
    ("prompt", "sweep", "told"),
    [
        ("Hello.", {}, "prompts/plain.md: no {{question}}: the model would never see the question"),
        ("{{question}} {{contxt}}", {}, "prompts/plain.md: unknown placeholder {{contxt}}"),
        ("", {"overlap": 400, "chunk_size": 400}, "version 'of sweep.yaml': overlap 400 is not below chunk_size 400"),
        ("", {"retrieval": "densse"}, "version 'of sweep.yaml': retrieval must be one of: none, bm25, dense, hybrid, found 'densse' (str)"),
    ],
)
def test_what_the_reference_system_refuses_is_found(ready, prompt, sweep, told):
    """Each trial would fail by it, one after another."""
    assert finding(ready, "versions").told == "the reference system takes all 4"
    if prompt:
        (ready / "prompts/plain.md").write_text(prompt)
    more = {"fixed": sweep, "parameters": {"prompt": {"values": ["prompts/plain.md", "prompts/abstain.md"]}}}
    (ready / "sweep.yaml").write_text(json.dumps({"notebook": "notebooks/02_evaluate.ipynb", **more}))
    found = finding(ready, "versions")

    assert found.state == "failed"
    assert found.told.partition("; ")[0] == told


def test_the_tools_and_the_world_of_an_agent_are_looked_for(tmp_path):
    """Each trial would fail without them."""
    poc = tmp_path / "desk"
    invoke("new", poc, "--agent")
    assert invoke("freeze", poc).returncode == 0
    assert finding(poc, "versions").told == "of an agent; tools that it may call: 15 of desk.py"

    (poc / "desk.py").write_text("def close(:")
    assert finding(poc, "versions").state == "failed"
    (poc / "desk.py").unlink()
    assert finding(poc, "versions").told == "desk.py: no such Python file"
    (poc / "world.sql").unlink()
    found = finding(poc, "sweep")
    assert "world: no file 'world.sql'" in found.told and found.fix == "write world.sql"


def test_the_rules_of_a_system_of_ones_own_are_not_known(ready):
    """Nothing is refused by the rules of another system."""
    (ready / "notebooks/own.ipynb").write_text(json.dumps(notebook_of(("retrieval: str = 'mine'", "parameters"), "import poclab")))
    (ready / "sweep.yaml").write_text("notebook: notebooks/own.ipynb\nparameters: {retrieval: {values: [a, b]}}\n")

    assert finding(ready, "versions").state == "ok"


@pytest.mark.parametrize(("mode", "state"), [("", "ok"), ("auto", "ok"), ("replay", "ok"), ("live", "warning"), ("lvie", "failed")])
def test_a_mode_is_told(ready, monkeypatch, mode, state):
    """An unknown one is refused by every evaluation; live pays again."""
    monkeypatch.setenv("POCLAB_MODE", mode)

    assert finding(ready, "mode").state == state


# --- the endpoint


def test_offline_models_need_neither_key_nor_endpoint(ready):
    """The kit runs on a machine with neither."""
    found = {one.name: one.told for one in checkup.examine(ready).findings}

    assert found["key"] == "none is needed" and found["endpoint"] == "none is asked" and found["price"] == "nothing is to pay"
    assert found["model"] == "offline/extractive: answers on this machine"


def test_an_endpoint_that_takes_the_key_is_told_with_its_seconds(paid, endpoint):
    """Nothing was asked of a model, and nothing is to be paid."""
    found = {one.name: one for one in checkup.examine(paid).findings if one.name in ("key", "endpoint", "price", "budget")}

    assert {one.state for one in found.values()} == {"ok"}
    assert found["key"].told == "OPENAI_API_KEY is set"
    assert found["endpoint"].told.startswith(f"{endpoint.url} answered in 0.")
    assert [one.told for one in findings(paid, "model")] == ["offline/extractive: answers on this machine", "m: served"]
    assert found["price"].told == f"m: $1 in and $4 out, per million tokens, as of {TODAY}"
    assert found["budget"].told == "$5.0000 is left of $5.0000"
    assert endpoint.counts()["billed"] == 0


def test_a_refused_key_fails_and_is_not_shown(paid, monkeypatch):
    """The endpoint repeats it in its answer; what needs the key points there."""
    wrong = "sk-wrong-8d1f2a3b4c5e6f70"
    monkeypatch.setenv("OPENAI_API_KEY", wrong)
    checked = checkup.examine(paid)
    found = {one.name: one for one in checked.findings}

    assert found["endpoint"].state == "failed" and "refuses the API key (HTTP 401)" in found["endpoint"].told
    assert found["model"].fix == "mend this first: endpoint"
    assert wrong not in repr(checked) + checked._repr_html_()


def test_a_key_in_a_file_is_not_shown(paid):
    """Whatever is quoted from charter or sweep."""
    (paid / "charter.yaml").write_text(READY.replace("by: Grace Example", f"by: {KEY}"))
    (paid / "sweep.yaml").write_text(PAID.replace("model: m", f"model: {KEY}"))
    checked = checkup.examine(paid)

    assert "signed by (key removed)" in repr(checked)
    assert KEY not in repr(checked) + checked._repr_html_()


def test_no_key_fails_before_anything_is_asked(ready, monkeypatch):
    """OpenAI's own address wants one; the address of another server may not."""
    (ready / "sweep.yaml").write_text(PAID)
    found = {one.name: one for one in checkup.examine(ready).findings}
    assert (found["key"].state, found["key"].told) == ("failed", "no API key for model 'm'")
    assert "export OPENAI_API_KEY" in found["key"].fix and found["endpoint"].fix == "mend this first: key"

    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:secret@127.0.0.1:1/v1")
    checked = checkup.examine(ready)
    found = {one.name: one for one in checked.findings}
    assert found["key"].told == "none is set, and http://127.0.0.1:1/v1 is asked without one"
    assert found["endpoint"].state == "failed" and "cannot reach http://127.0.0.1:1/v1/models" in found["endpoint"].told
    assert "secret" not in repr(checked)


def test_an_address_that_is_none_fails_at_the_key(ready, monkeypatch):
    """The client cannot be made."""
    (ready / "sweep.yaml").write_text(PAID)
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:11434")
    found = {one.name: one for one in checkup.examine(ready).findings}

    assert "is not a URL" in found["key"].told and "export OPENAI_BASE_URL" in found["key"].fix
    assert found["endpoint"].told == "not looked at"


def test_a_silent_endpoint_is_not_waited_for(paid, monkeypatch):
    """Seconds, whatever it does with the connection."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        found = finding(paid, "endpoint", timeout_s=0.1)

    assert found.state == "failed" and "no answer within 0.1 s" in found.told


def test_a_model_that_the_endpoint_does_not_know_fails(paid, endpoint):
    """Asked for it by name, it says so; the nearest one is named."""
    endpoint.configure(models=["big-1", "big-2"])
    (paid / "sweep.yaml").write_text(PAID.replace("model: m", "model: bgi-1"))
    _, found = findings(paid, "model")

    assert (found.state, found.told) == ("failed", "bgi-1: the endpoint does not serve it")
    assert found.fix == "did you mean 'big-1'? it lists: big-1, big-2"


def test_every_model_of_the_sweep_is_looked_at(paid, endpoint):
    """Those of parameters, and what embeds for dense retrieval."""
    endpoint.configure(models=["m", "n", "e"])
    values = "parameters:\n  model: {values: [n, offline/extractive]}\n  embedding: {values: [e, lsa]}\n"
    (paid / "sweep.yaml").write_text(PAID.replace("parameters:\n", values).replace("[bm25]", "[bm25, dense]"))

    assert [one.told for one in findings(paid, "model")] == [
        "offline/extractive: answers on this machine",
        "m: served",
        "n: served",
        "e: served",
    ]
    assert [one.told.partition(":")[0] for one in findings(paid, "price")] == ["m", "model 'n' at http", "model 'e' at http"]


def test_where_all_is_replayed_nothing_is_asked(paid, monkeypatch):
    """No key and no endpoint is needed."""
    monkeypatch.setenv("POCLAB_MODE", "replay")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    found = states(paid)

    assert {found[name] for name in ("mode", "key", "endpoint", "model", "price", "budget")} == {"ok"}


# --- what it costs


def test_a_model_without_a_price_fails_where_there_is_a_budget(paid):
    """Each call would be refused; without a budget only the costs are unknown, and nothing bounds them."""
    (paid / "charter.yaml").write_text(READY)
    found = finding(paid, "price")
    assert found.state == "failed" and "model 'm' at" in found.told and 'prices: {"m": {input: 1.0' in found.fix

    (paid / "sweep.yaml").write_text(PAID.replace(", max_cost_usd: 5", ""))
    found = states(paid)
    assert (found["price"], found["budget"]) == ("warning", "warning")


def test_a_price_of_long_ago_is_a_warning(paid):
    """Half a year and a day; half a year is not."""
    for days, state in ((180, "ok"), (181, "warning")):
        (paid / "charter.yaml").write_text(READY + PRICED.replace(str(TODAY), str(TODAY - datetime.timedelta(days))))
        assert finding(paid, "price").state == state


def test_a_budget_that_is_used_up_fails(paid):
    """The sweep would stop at once; what calls without an answer may have cost counts."""
    ledger, name = Ledger.open(paid / LEDGER), trials.budget_name(load_sweep(paid))
    ledger.open_budget(name, 5.0)
    ledger.write_off(ledger.reserve(name, 4.0))
    assert finding(paid, "budget").told == "$1.0000 is left of $5.0000"

    ledger.write_off(ledger.reserve(name, 1.0))
    found = finding(paid, "budget")
    assert (found.state, found.told) == ("failed", "$0.0000 is left of $5.0000")
    assert finding(paid, "ledger").told == "can be written; it holds 0 answers"
    ledger.close()


# --- what it is kept in


def test_a_damaged_ledger_fails(ready):
    """With the way to save what can be read."""
    (ready / LEDGER).write_bytes(b"no database" * 1000)
    found = finding(ready, "ledger")

    assert found.state == "failed" and "poclab ledger --recover" in found.fix

    (ready / "sweep.yaml").write_text(PAID)
    assert finding(ready, "budget").fix == "mend this first: ledger"


def test_a_store_is_current_or_fails_with_what_to_type(ready, make_store, monkeypatch):
    """The one that MLflow makes; one of another schema; a file that is none."""
    make_store(ready)
    assert finding(ready, "store") == Finding("store", "ok", "mlflow.db: can be written, and its schema is current")

    old = shutil.copy(ready / "mlflow.db", ready / "old.db")  # MLflow looks once at each
    with contextlib.closing(sqlite3.connect(old)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '1bd49d398cd23'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{old}")
    found = finding(ready, "store")
    assert found.state == "failed" and "out-of-date database schema" in found.told and f"mlflow db upgrade sqlite:///{old}" in found.fix

    old.write_text("no database, and longer than a header")
    assert "not an SQLite database" in finding(ready, "store").told


def test_a_server_that_is_not_there_fails(ready, monkeypatch, unused_port):
    """As it would at the first run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused_port}")
    found = finding(ready, "store")

    assert found.state == "failed" and "no server answers there" in found.told


def test_a_folder_that_cannot_be_written_fails(ready):
    """A file stands where the work folder should be, which also stops root."""
    shutil.rmtree(ready / ".poclab", ignore_errors=True)
    (ready / ".poclab").write_text("")

    assert finding(ready, "folder").state == "failed"


def test_a_handoff_folder_with_something_else_in_it_fails(ready):
    """`poclab handoff` would not replace it."""
    (ready / "handoff").mkdir()
    (ready / "handoff/notes.md").write_text("mine\n")
    found = finding(ready, "folder")

    assert found.state == "failed" and "holds something that is no handoff" in found.told and "poclab handoff --out" in found.fix


def test_a_commit_is_named_and_none_is_a_warning(ready):
    """What a number came from can be found again by its commit."""
    found = finding(ready, "git")
    assert found.state == "warning" and found.fix.startswith(f"git init {ready} && ")

    subprocess.run(found.fix.replace(" commit ", " -c user.name=A -c user.email=a@example.org commit -q "), shell=True, check=True)
    head = subprocess.run(["git", "-C", ready, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert finding(ready, "git") == Finding("git", "ok", f"commit {head[:12]}")
    (ready / "LOG.md").write_text("a first note\n")
    assert finding(ready, "git").told == f"commit {head[:12]}; what is not committed is kept with each run"


@pytest.mark.parametrize(
    ("free", "state", "told"),
    [
        (52_300_000_000, "ok", "52.3 GB free"),
        (1_000_000_000, "ok", "1.0 GB free"),
        (999_000_000, "warning", "999 MB free"),
        (100_000_000, "warning", "100 MB free"),
        (99_000_000, "failed", "99 MB free"),
    ],
)
def test_a_full_disk_fails(free, state, told):
    """A gigabyte is room for some sweeps; below a tenth of it nothing is begun."""
    found = machine.room(free, "/poc")

    assert (found.state, found.told, bool(found.fix)) == (state, told, state != "ok")


def test_packages_are_held_against_what_is_required():
    """One that is missing, one of another version; not those of an extra that nobody uses."""
    required = ["click>=8.2", "no-such-package>=1", "pyyaml<1", "not-there>=2; extra == 'optuna'", "nor-there; python_version < '3'"]

    assert list(machine.unmet(required)) == ["no-such-package>=1", "pyyaml<1"]
    assert list(machine.unmet(required, ["", "optuna"])) == ["no-such-package>=1", "pyyaml<1", "not-there>=2"]
    assert machine.unmet(required)["no-such-package>=1"] == "no-such-package is not installed"


@pytest.mark.parametrize(("here", "state"), [("3.10.14", "failed"), ("3.11.0", "ok"), ("3.13.9", "ok"), ("3.14.0rc1", "warning")])
def test_python_is_held_against_what_was_tested(here, state):
    """An older one is refused, a newer one is a risk."""
    assert machine.supported(here, ">=3.11", ["3.11", "3.12", "3.13"]).state == state
