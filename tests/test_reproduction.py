"""A recorded run is run again from its store: equal from its own answers, told apart and explained when anything else came in."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest

import poclab
from conftest import CHARTER, PRICES, invoke, notebook_of
from endpoint import Endpoint
from poclab import freezing, models, reproduction, scores, trials
from poclab.errors import InputError
from poclab.ledger import LEDGER, Ledger, export_file
from poclab.sweeps import load_sweep, single

SYSTEM = """\
from poclab import models

def answer(inputs, prompt):
    client = models.client()
    asked = prompt.replace("{{question}}", inputs["question"])
    said = [client.chat.completions.create(model="m", messages=[{"role": "user", "content": asked}], max_tokens=20) for _ in range(2)]
    return " / ".join(one.choices[0].message.content for one in said)
"""
CELLS = (
    ("poc: str = '.'\nsplit: str = 'dev'\nprompt: str = 'prompts/a.md'\nlength: int = 1", "parameters"),
    "import sys, poclab; sys.path.insert(0, '.'); import system; from poclab import scores",
    "cases = poclab.TestSet.load(f'{poc}/cases.jsonl')",
    "text = poclab.Prompt.load(f'{poc}/{prompt}')\n"
    "version = poclab.Version('mine', model='m', prompt=text, length=length)\n"
    "poclab.evaluate(lambda inputs: system.answer(inputs, text.text), cases.split(split), [scores.contains()], version=version)",
)
KEY = "sk-reproduced-0123456789"


def make(make_store, folder):
    for name in ("notebooks", "prompts"):
        (folder / name).mkdir(parents=True)
    (folder / "charter.yaml").write_text(CHARTER + PRICES)
    (folder / "system.py").write_text(SYSTEM)
    for name in "ab":
        (folder / f"prompts/{name}.md").write_text(f"Prompt {name}: {{{{question}}}}\n")
    (folder / "notebooks/mine.ipynb").write_text(json.dumps(notebook_of(*CELLS)))
    (folder / "sweep.yaml").write_text("notebook: notebooks/mine.ipynb\nparameters: {prompt: {values: [prompts/a.md, prompts/b.md]}}\n")
    lines = ({"id": f"q{i}", "inputs": {"question": f"case {i}"}, "expected": {"answers": ["a"]}, "split": "dev"} for i in range(4))
    more = {"id": "q9", "inputs": {"question": "case 9"}, "expected": {"answers": ["a"]}, "split": "test"}
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, more]))
    freezing.freeze(folder / "cases.jsonl")
    make_store(folder)
    return folder


def run(poc, prompt):
    """Do what `poclab run` does."""
    notebook = poc / "notebooks/mine.ipynb"
    assert not trials.run_sweep(single(poc, notebook, {"prompt": f"prompts/{prompt}.md"})).errors


@pytest.fixture(scope="module")
def made(make_store, tmp_path_factory):
    """A POC whose model never answers the same twice; a sweep of it, and a run that asked one version once more."""
    with Endpoint(random=True) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", endpoint.url)
        patch.setenv("OPENAI_API_KEY", KEY)
        poc = make(make_store, tmp_path_factory.mktemp("made") / "mine")
        trials.run_sweep(load_sweep(poc))
        patch.setenv("POCLAB_MODE", "live")
        run(poc, "b")
        patch.delenv("POCLAB_MODE")
        asked = endpoint.counts()["billed"]
        assert asked == 2 * (4 + 4 + 4)
        yield SimpleNamespace(poc=poc, endpoint=endpoint, runs=list(poclab.runs(poc)["run_id"]), asked=asked)


@pytest.fixture
def copied(made, tmp_path):
    """The files of the POC, to be changed; its store stays where it is."""
    copy = tmp_path / made.poc.name
    shutil.copytree(made.poc, copy, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts", ".poclab", f"{LEDGER}-*"))
    return copy


@pytest.fixture
def elsewhere(made, copied, monkeypatch):
    """The same, which knows the runs by the address of their store, and has an empty ledger."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made.poc / 'mlflow.db'}")
    (copied / LEDGER).unlink()
    return copied


def test_every_run_is_equal_from_its_own_answers(made):
    """Of two generations of the same requests each run gets its own; nothing is asked, and no key is needed to ask nothing."""
    first = invoke("reproduce", made.poc, made.runs[0][:8], OPENAI_API_KEY="")
    told = [first.stdout, repr(reproduction.reproduce(made.runs[-1], made.poc))]

    assert first.returncode == 0, first.stdout + first.stderr
    for one, run_id in zip(told, (made.runs[0], made.runs[-1]), strict=True):
        assert one.startswith(f"run {run_id} (mine) replayed: equal, content ")
        assert "4 results; 8 answers were asked for, all of those that were recorded" in one
        assert "not as it was" not in one and "restored" not in one
    digests = {poclab.load_run(one, made.poc).content_digest() for one in made.runs}
    assert len(digests) == 3
    assert made.endpoint.counts()["billed"] == made.asked
    assert len(poclab.runs(made.poc)) == 3


def test_what_is_another_one_here_is_restored_and_named(made, elsewhere):
    """One character of a prompt, one label, the notebook: the run's own are used, elsewhere with the exported ledger."""
    export_file(made.poc / LEDGER, elsewhere / "answers.jsonl")
    poclab.ledger.import_file(elsewhere / LEDGER, elsewhere / "answers.jsonl")
    (elsewhere / "prompts/a.md").write_text("prompt a: {{question}}\n")
    (elsewhere / "cases.jsonl").write_text((elsewhere / "cases.jsonl").read_text().replace('["a"]', '["b"]', 1))
    (elsewhere / "notebooks/mine.ipynb").write_text(json.dumps(notebook_of(*CELLS, "print('more')")))
    found = reproduction.reproduce(made.runs[0], elsewhere)

    assert found.holds, repr(found)
    assert found.restored == ("cases.jsonl", "prompts/a.md", "notebooks/mine.ipynb")
    assert found.causes == ()
    assert "restored from the run, since it is another one here: cases.jsonl, prompts/a.md" in repr(found)
    assert (elsewhere / "prompts/a.md").read_text() == "prompt a: {{question}}\n"


def test_without_the_answers_it_fails_by_a_miss(made, elsewhere):
    """It really runs: there is nothing to serve, and nothing is asked."""
    found = reproduction.reproduce(made.runs[0], elsewhere)

    assert not found.holds
    assert "no answer to this request to 'm' is recorded" in found.problem
    assert f"8 of the run's 8 answers are not in {elsewhere / LEDGER}" in found.causes[0]
    assert made.endpoint.counts()["billed"] == made.asked


@pytest.mark.parametrize(
    ("old", "new", "asked", "differ"),
    [("range(2)", "range(1)", 4, 4), ("max_tokens=20", "max_tokens=21", 0, None)],
    ids=["one call less", "another request"],
)
def test_other_code_is_named_as_the_cause(made, copied, monkeypatch, old, new, asked, differ):
    """Of the same answers it asks for fewer, and makes another reply, or it asks for what was never answered."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made.poc / 'mlflow.db'}")
    (copied / "system.py").write_text(SYSTEM.replace(old, new))
    found = reproduction.reproduce(made.runs[0], copied)

    assert not found.holds
    assert found.causes == ("system.py was edited",)
    assert found.asked_for == asked
    if differ:
        assert found.problem == ""
        assert [case for case, _, _ in found.differences()] == ["q0", "q1", "q2", "q3"]
        assert f"NOT equal: {differ} of 4 results differ" in repr(found)
        assert "not as it was then: system.py was edited" in found._repr_html_()
    else:
        assert "is recorded" in found.problem


def test_live_it_is_asked_again_compared_and_what_was_paid_is_kept(made, copied, monkeypatch):
    """Random answers are all wrong, then and now: no difference can be told. The ledger has both generations."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made.poc / 'mlflow.db'}")
    before = made.endpoint.counts()["billed"]
    found = reproduction.reproduce(made.runs[0], copied, live=True, max_cost_usd=1.0)

    assert found.holds, repr(found)
    assert made.endpoint.counts()["billed"] == before + 8
    assert "asked again: no difference can be told" in repr(found)
    assert "answered by m (fp_tests) then, by m (fp_tests) now" in repr(found)
    assert found.found.content_digest() != found.recorded.content_digest()
    names = [call.entry.partition("/")[0] for one in found.found.results for call in one.calls]
    assert all(Ledger.open(copied / LEDGER).named(f"{name}/1") for name in names)
    made.asked += 8


def test_a_mode_in_the_notebook_does_not_count(made, make_store, tmp_path):
    """It asks anew whatever it is told, and a replay all the same serves what was recorded, though a key in the prompt is kept nowhere.

    Once that prompt is gone, its requests cannot be made again, and that is said.
    """
    poc = make(make_store, tmp_path / "mine")
    (poc / "notebooks/mine.ipynb").write_text(json.dumps(notebook_of(*CELLS)).replace("version=version)", "version=version, mode='live')"))
    (poc / "prompts/b.md").write_text(f"My key is {KEY}: {{{{question}}}}\n")
    run(poc, "b")
    before = made.endpoint.counts()["billed"]
    (run_id,) = poclab.runs(poc)["run_id"]
    found = reproduction.reproduce(run_id, poc)
    (poc / "prompts/b.md").write_text("My key is none: {{question}}\n")
    keyed = reproduction.reproduce(run_id, poc)

    assert found.holds, repr(found)
    assert not keyed.holds
    assert "prompts/b.md held a key, which is kept nowhere: its requests cannot be made again" in keyed.causes
    assert made.endpoint.counts()["billed"] == before
    assert not list(poc.glob(".poclab/reproductions/*/mine"))
    made.asked = before


def test_links_are_followed_and_what_is_no_file_stays_behind(made, copied, monkeypatch, tmp_path):
    """A folder elsewhere, a link to nothing, one to itself, a pipe: the copy is made all the same."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made.poc / 'mlflow.db'}")
    (copied / "prompts").rename(tmp_path / "elsewhere")
    (copied / "prompts").symlink_to("../elsewhere")
    (copied / "nothing").symlink_to("/no/such/file")
    (copied / "again").symlink_to("..")
    os.mkfifo(copied / "pipe")
    (tmp_path / "elsewhere/a.md").write_text("Another: {{question}}\n")
    found = reproduction.reproduce(made.runs[0], copied)

    assert found.holds, repr(found)
    assert found.restored == ("prompts/a.md",)
    assert (tmp_path / "elsewhere/a.md").read_text() == "Another: {{question}}\n"


def test_a_budget_that_does_not_reach_says_so(made, copied, monkeypatch):
    """A part of a run is no result to compare."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{made.poc / 'mlflow.db'}")
    before = made.endpoint.counts()["billed"]
    found = reproduction.reproduce(made.runs[0], copied, live=True, max_cost_usd=1e-6)

    assert not found.holds
    assert "budget" in found.problem
    assert made.endpoint.counts()["billed"] == before


def test_a_run_without_a_notebook_is_refused(make_store, tmp_path):
    """What was typed into a notebook cannot be typed again."""
    poc = make(make_store, tmp_path / "other")
    cases = poclab.TestSet.load(poc / "cases.jsonl").split("dev")
    report = poclab.evaluate(lambda inputs: "a", cases, [scores.contains()], version=poclab.Version("typed"))

    with pytest.raises(InputError, match="was made by Python code.*\n.*`poclab run`"):
        reproduction.reproduce(report.run_id, poc)
    assert list((poc / ".poclab/reproductions").iterdir()) == []


def test_documents_outside_of_the_poc_are_those_of_the_run(make_poc, tmp_path):
    """As `poclab new --docs` names them: beside the POC, further up, and behind a link; others that lie there stay out of it."""
    poc = make_poc(tmp_path / "team" / "animals", store=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "team/linked").symlink_to("../elsewhere")
    for place, document in zip((tmp_path, tmp_path / "team", tmp_path / "elsewhere"), sorted((poc / "docs").iterdir()), strict=False):
        document.rename(place / document.name)
    (poc / "corpus.yaml").write_text('source: files\nglob: ["docs/*.md", "../../*.md", "../*.md", "../linked/*.md"]\n')
    assert not trials.run_sweep(single(poc, poc / "notebooks/02_evaluate.ipynb", {"split": "dev"})).errors
    found = reproduction.reproduce(poclab.runs(poc)["run_id"].iloc[-1], poc)

    assert found.holds, repr(found)
    assert found.causes == ()


def test_a_check_of_a_model_asks_nothing_where_all_is_replayed(monkeypatch):
    """Nobody listens at the address; outside of a replay that is an error."""
    monkeypatch.setenv("POCLAB_MODE", "replay")

    assert models.check("m", base_url="http://127.0.0.1:9/v1") is None
