"""What an evaluation leaves in MLflow, read back with MLflow's own client; design, section 7."""

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from mlflow.tracing.client import TracingClient

import poclab
from conftest import CHARTER, DOCUMENTS, ENV_KEY, GIVEN_KEY, PROMPTS
from poclab import scores
from poclab.files import digest
from poclab.tracking import store, tracking_uri


@pytest.fixture(scope="module")
def client(recorded):
    return store.connect(tracking_uri(recorded[0]))


@pytest.fixture(scope="module")
def run(recorded, client):
    return client.get_run(recorded[1].run_id)


@pytest.fixture(scope="module")
def artifacts(recorded, client, tmp_path_factory):
    """The folder of the run's artifacts, downloaded through MLflow."""
    return Path(client.download_artifacts(recorded[1].run_id, "", tmp_path_factory.mktemp("artifacts")))


def test_one_evaluation_is_one_run_in_the_experiment_of_its_poc(recorded, client, run):
    """The experiment keeps its artifacts inside the POC, whatever characters the path has, and is shown as an evaluation."""
    poc, _ = recorded
    experiment = client.get_experiment_by_name("animals")

    assert [one.info.run_id for one in client.search_runs([experiment.experiment_id])] == [run.info.run_id]
    assert experiment.tags["mlflow.experimentKind"] == "genai_development"
    assert (poc / "mlartifacts" / run.info.run_id / "artifacts" / "report.json").is_file()
    assert run.data.tags["mlflow.runType"] == "genai_evaluate"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "look-up")


def test_tags_name_everything_that_the_numbers_depend_on(recorded, run):
    """Lock, split, version, charter and environment by full digest; the commit, and that the tree was not clean."""
    poc, report = recorded
    tags = {key.removeprefix("poclab."): value for key, value in run.data.tags.items() if key.startswith("poclab.")}

    assert tags["lock"] == json.loads((poc / "cases.lock.json").read_text())["digest"]
    assert (tags["edition"], tags["split"], tags["repeats"], tags["partial"]) == ("1", "dev", "2", "false")
    assert tags["version"] == report.version.digest
    assert tags["charter"] == poclab.Charter.load(poc).digest
    assert tags["content"] == report.content_digest()
    assert len(tags["environment"]) == 64
    assert tags["git_commit"] == (poc.parent / ".git/refs/heads").glob("*").__next__().read_text().strip()
    assert tags["git_dirty"] == "true"


def test_parameters_are_those_of_the_version(run):
    """Texts as they are, other values as JSON, a prompt by its name, a long one by its digest (whole in version.json)."""
    assert run.data.params == {
        "model": "offline/extractive",
        "prompt": "prompts/plain.md",
        "limits": "[1, 2]",
        "note": f"sha256 {digest('n' * 600)}",
        "hint": "never (key removed)",
    }


def test_metrics_carry_their_interval(run):
    """7 of 8 cases are right: the crashed q09 counts as wrong. Wilson's 95% interval of 7/8 is (0.529, 0.978)."""
    metrics = run.data.metrics

    assert metrics["accuracy"] == metrics["contains"] == 0.875
    assert (round(metrics["accuracy_low"], 3), round(metrics["accuracy_high"], 3)) == (0.529, 0.978)
    assert (metrics["failed"], metrics["failed_share"], metrics["cases"]) == (2, 0.125, 8)
    assert metrics["latency_p50_s"] <= metrics["latency_p95_s"]
    assert all(f"{name}_{edge}" in metrics for name in ("contains", "abstains", "failed_share") for edge in ("low", "high"))
    assert all(value == round(value, 6) for value in metrics.values())


def test_no_metric_has_a_group_of_its_own(recorded, run):
    """MLflow charts only groups where there are some (`outcome/ok`), and the accuracy nowhere. 14 of 16 results are right, two crashed."""
    _, report = recorded

    assert (run.data.metrics["outcome_ok"], run.data.metrics["outcome_crashed"]) == (14, 2)
    assert run.data.metrics == report.metrics()
    assert not any("/" in name for name in run.data.metrics)


def test_offline_answers_cost_nothing_and_their_tokens_are_summed(recorded, run):
    """14 answered calls; a token is 4 characters, rounded up, so the prompts of the 7 cases count exactly."""
    blocks = "\n".join(f'<passage source="{number}">{text}</passage>' for number, text in enumerate(DOCUMENTS.values()))
    asked = PROMPTS["abstain.md"].replace("{{context}}", blocks)
    questions = {one.inputs["question"] for one in recorded[1].results if one.failure is None}

    assert len(questions) == 7
    assert run.data.metrics["tokens_in"] == 2 * sum(-(-len(asked.replace("{{question}}", question)) // 4) for question in questions)
    assert run.data.metrics["cost_usd"] == run.data.metrics["cost_usd_per_case"] == 0


def test_the_frozen_set_is_the_dataset_of_the_run(recorded, run):
    """Its digest is the first 32 hex digits of the lock's: MLflow takes no more than 36."""
    (one,) = run.inputs.dataset_inputs
    lock = recorded[1].lock_digest

    assert (one.dataset.name, one.dataset.digest) == ("animals", lock[:32])
    assert json.loads(one.dataset.source) == {"lock": lock}
    assert [(tag.key, tag.value) for tag in one.tags] == [("mlflow.data.context", "evaluation")]


def test_the_dev_cases_are_mirrored_once_for_each_lock(recorded, client, run):
    """To be looked at in MLflow's tab: inputs, expected values, tags. No label of a held-out case is, and a second run makes no second one."""
    (found,) = client.search_datasets([run.info.experiment_id])
    records, _ = TracingClient(tracking_uri(recorded[0])).store._load_dataset_records(found.dataset_id, max_results=None)
    dev = {case.id: case for case in poclab.TestSet.load(recorded[0] / "cases.jsonl").split("dev")}

    assert found.name == run.data.tags["poclab.dataset"] == f"animals dev {recorded[1].lock_digest[:12]}"
    assert found.tags["poclab.lock"] == recorded[1].lock_digest
    assert {one.tags["poclab.case"]: dict(one.inputs) for one in records} == {name: dict(case.inputs) for name, case in dev.items()}
    assert {one.tags["poclab.case"]: one.expectations for one in records}["q01"]["expected"]["answers"] == ["fifteen"]

    again = poclab.evaluate(lambda inputs: "fifteen", poclab.TestSet.load(recorded[0] / "cases.jsonl").split("dev"), [scores.contains()])
    client.delete_run(again.run_id)
    assert len(client.search_datasets([run.info.experiment_id])) == 1


def test_what_cannot_or_must_not_be_mirrored_stops_no_run(make_poc, monkeypatch, tmp_path):
    """The store refuses datasets: the run says so. Texts that are taken out of traces are not to be shown in another tab."""
    poc = make_poc(tmp_path / "animals", store=True)
    with contextlib.closing(sqlite3.connect(poc / "mlflow.db")) as database, database:
        database.execute("CREATE TRIGGER no BEFORE INSERT ON evaluation_datasets BEGIN SELECT RAISE(ABORT, 'not today'); END")
    cases, client = poclab.TestSet.load(poc / "cases.jsonl"), store.connect(tracking_uri(poc))
    refused, redacted = (
        client.get_run(poclab.evaluate(lambda inputs: "fifteen", cases, [scores.contains()], **more).run_id)
        for more in ({}, {"redact": str})
    )

    assert refused.info.status == "FINISHED"
    assert refused.data.tags["poclab.dataset"].startswith("not mirrored: ")
    assert "poclab.dataset" not in redacted.data.tags


def test_an_alias_of_a_prompt_moves(recorded, client):
    """Of the prompts that are named only those that are given have it; a prompt of somebody else keeps its own."""
    uri = tracking_uri(recorded[0])
    for name in ("zoo-a", "zoo-b", "zoo-other"):
        client.register_prompt(name, "{{question}}")
    client.set_prompt_alias("zoo-other", "champion", 1)
    for champion in ("prompts:/zoo-a/1", "prompts:/zoo-b/1"):
        store.alias(uri, ["zoo-a", "zoo-b"], {"champion": [champion]})

    assert ["champion" in client.get_prompt_version(name, "1").aliases for name in ("zoo-a", "zoo-b", "zoo-other")] == [False, True, True]


def test_artifacts_hold_all_that_is_needed_to_look_again(recorded, artifacts):
    """Report, version, all cases of the lock, which holds for all of them alone, the lock, charter, prompt, difference from the commit, and the packages."""
    poc, report = recorded
    found = {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*") if path.is_file()}

    assert found == {
        "report.json",
        "brief.json",
        "version.json",
        "cases.jsonl",
        "cases.lock.json",
        "charter.yaml",
        "prompts/prompt/plain.md",
        "git.diff",
        "environment.json",
    }
    assert poclab.Report.load(artifacts / "report.json") == report
    assert json.loads((artifacts / "version.json").read_text())["parameters"]["note"] == "n" * 600
    assert (artifacts / "cases.jsonl").read_text() == (poc / "cases.jsonl").read_text()
    assert json.loads((artifacts / "cases.lock.json").read_text()) == json.loads((poc / "cases.lock.json").read_text())
    assert (artifacts / "charter.yaml").read_text() == CHARTER
    assert (artifacts / "prompts/prompt/plain.md").read_text() == PROMPTS["plain.md"]


def test_the_surroundings_are_packages_and_files_never_variables(artifacts):
    """The difference from the commit is whole but for keys; an untracked file stands with its digest; no variable is written."""
    environment = json.loads((artifacts / "environment.json").read_text())

    assert environment["packages"]["mlflow"]
    assert environment["git"]["untracked"] == {"draft.md": digest("not added yet\n")}
    assert "+key = '(key removed)' or '(key removed)'" in (artifacts / "git.diff").read_text()
    assert "plain-value-77" not in (artifacts / "environment.json").read_text()
    assert "ZOO_PLAIN" not in (artifacts / "environment.json").read_text()


def test_key_values_are_nowhere(recorded):
    """Neither a key of the environment nor one handed to the client is in any byte left behind: store, artifacts, work folder."""
    poc, _ = recorded
    found = [path for path in poc.rglob("*") if path.is_file()]

    assert any(path.name == "mlflow.db" for path in found)
    for path in found:
        content = path.read_bytes()
        assert ENV_KEY.encode() not in content, path
        assert GIVEN_KEY.encode() not in content, path


def test_a_prompt_is_registered_once_per_text(recorded, client, run):
    """A second run with the same text links the same version, wherever the text lies; an edited text is version 2."""
    poc, _ = recorded
    cases = poclab.TestSet.load(poc / "cases.jsonl").cases[:1]
    here = poclab.TestSet(cases, path=poc / "cases.jsonl")

    def prompt_of(text):
        version = poclab.Version("again", prompt=poclab.Prompt("elsewhere/plain.md", text))
        report = poclab.evaluate(lambda inputs: "fifteen", here, [scores.contains()], version=version)
        name = client.get_run(report.run_id).data.tags["poclab.prompt.prompt"]
        client.delete_run(report.run_id)
        return name

    assert run.data.tags["poclab.prompt.prompt"] == "prompts:/animals-plain/1"
    assert prompt_of(PROMPTS["plain.md"]) == "prompts:/animals-plain/1"
    assert prompt_of("Shorter: {{question}}") == "prompts:/animals-plain/2"
    assert client.get_prompt_version("animals-plain", "1").template == PROMPTS["plain.md"]


@pytest.mark.parametrize("folder", ["größe", "gräße"])
def test_names_and_texts_that_mlflow_refuses_stop_no_run(make_poc, recorded, client, monkeypatch, tmp_path, folder):
    """MLflow takes few characters: names are spelt in them and kept apart by a digest; a text that is too long is an artifact only."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(recorded[0]))
    poc = make_poc(tmp_path / folder)
    cases = poclab.TestSet(poclab.TestSet.load(poc / "cases.jsonl").cases[:1], path=poc / "cases.jsonl")
    prompts = {"short": poclab.Prompt("prompts/prüfung.md", "{{question}}"), "long/": poclab.Prompt("l.md", "x" * 100_001)}
    version = poclab.Version("v", **prompts, **{"a b!#": 1, "n" * 300: 2, "top k/first": 3})
    run = client.get_run(poclab.evaluate(lambda inputs: "fifteen", cases, [scores.contains()], version=version).run_id)

    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "short": "prompts/prüfung.md",
        f"long--{digest('long/')[:8]}": "l.md",
        f"a-b--{digest('a b!#')[:8]}": "1",
        f"{'n' * 200}-{digest('n' * 300)[:8]}": "2",
        "top k/first": "3",
    }
    assert run.data.tags["poclab.prompt.short"] == f"prompts:/gr-e-pr-fung-{digest(f'{folder}-prüfung')[:8]}/1"
    assert "100000" in run.data.tags[f"poclab.prompt.long--{digest('long/')[:8]}"]


def test_a_run_that_cannot_begin_is_not_left_running(client, recorded, tmp_path):
    """Whoever asked learns only the error: nobody else would close the run."""
    dataset = {"name": "n" * 501, "digest": "d", "source": "s"}
    run = {"experiment": "broken", "artifact_location": tmp_path.as_uri(), "run_id": None, "name": "x", "tags": {}, "params": {}}
    with pytest.raises(Exception, match="exceeds the maximum length"):
        store.begin(tracking_uri(recorded[0]), {**run, "prompts": [], "dataset": dataset})

    (found,) = client.search_runs([client.get_experiment_by_name("broken").experiment_id])
    assert found.info.status == "FAILED"


def test_an_experiment_that_another_machine_made_meanwhile_is_taken(client, recorded, monkeypatch):
    """Two that begin on one server at the same time both find none, and the second is told that it is there."""
    made = client.create_experiment("both")
    found = iter([None, client.get_experiment_by_name("both")])
    monkeypatch.setattr(type(client), "get_experiment_by_name", lambda self, name: next(found))

    assert store._experiment(client, tracking_uri(recorded[0]), "both", None) == made


def test_a_deleted_experiment_is_refused_with_the_way_back(make_poc, recorded, client, monkeypatch, tmp_path):
    """MLflow would refuse it later with a stack trace."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(recorded[0]))
    client.delete_experiment(client.create_experiment("gone"))
    gone = make_poc(tmp_path / "gone")

    with pytest.raises(poclab.PocError, match="'gone' was deleted.*\n.*fix: `mlflow experiments restore"):
        poclab.evaluate(str, poclab.TestSet.load(gone / "cases.jsonl"), [scores.contains()])
    with pytest.raises(poclab.PocError, match="'gone' was deleted"):
        store.check(tracking_uri(None), "gone")
    store.check(tracking_uri(None), "never begun")
