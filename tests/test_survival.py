"""What a drill says in the report, the decision and the handoff."""

import json

import pytest

import poclab
from conftest import CHARTER, SIGNED, copy_poc, invoke
from poclab import handover
from poclab.errors import InputError
from poclab.experiment import decide
from poclab.faults import FAULTS
from poclab.report import Report

PARAMETERS = ("-p", "retrieval=bm25", "-p", "prompt=prompts/abstain.md")


@pytest.fixture(scope="module")
def drilled(make_poc, tmp_path_factory):
    """A POC whose charter asks for survival, with a run of one version and its drill, and then a part of one under another seed."""
    poc = make_poc(tmp_path_factory.mktemp("survival") / "animals", store=True)
    survival = "criteria:\n  - {metric: survival, at_least: 0.01, split: dev}"
    (poc / "charter.yaml").write_text(CHARTER.replace("criteria:", survival) + SIGNED)
    ran = invoke("run", poc, *PARAMETERS)
    assert ran.returncode == 0, ran.stderr
    for more in ([], ["--fault", "500", "--seed", "1"]):
        done = invoke("drill", poc, *PARAMETERS, "--timeout", "1", *more)
        assert done.returncode == 0, done.stderr
    return poc


def test_a_drill_is_kept_with_the_run_and_shown_in_its_report(drilled):
    """The row says how much survived, and what fewest cases did."""
    run_id = poclab.runs(drilled).iloc[-1]["run_id"]
    report = poclab.load_run(run_id, drilled)
    shares = {case: [row["cases"][case] for row in report.drill["rows"] if case in row["cases"]] for case in report.by_case}
    expected = sum(sum(met) / len(met) for met in shares.values()) / len(shares)

    assert report.estimate("survival").value == pytest.approx(expected)
    assert report.estimate("survival").n == 8
    assert len(report.drill["rows"]) == len(FAULTS) and report.drill["seed"] == 0
    # No request is a stream, and no answer is JSON, which four faults spoil.
    assert "survived, with seed 0; 10 of 15 faults apply; fewest: " in repr(report)


def test_a_version_that_was_drilled_before_has_the_row_at_once(drilled, tmp_path):
    """The order of the two does not matter: the next run of this version takes the drill with it, as a metric, too."""
    poc = copy_poc(drilled, tmp_path / "animals")
    done = invoke("run", poc, *PARAMETERS, "-p", "repeats=1")

    assert done.returncode == 0, done.stderr
    assert "drill: " in done.stdout


def test_a_criterion_on_survival_is_held_against_the_drill(drilled):
    """The line says of how many faults it is. One that was not drilled cannot tell, and says what to do."""
    run_id = poclab.runs(drilled).iloc[-1]["run_id"]
    told = {verdict.criterion.metric: verdict for verdict in decide(drilled, run_id).verdicts}

    assert str(told["survival"]) == "met (10 of 15 faults apply)"
    assert told["survival"].estimate.n == 8
    other = invoke("run", drilled, "-p", "retrieval=none", "-p", "prompt=prompts/abstain.md")
    assert other.returncode == 0, other.stderr
    latest = poclab.runs(drilled).iloc[-1]["run_id"]
    told = {verdict.criterion.metric: verdict for verdict in decide(drilled, latest).verdicts}
    assert (told["survival"].word, told["survival"].more) == ("cannot tell", "this version was not drilled: `poclab drill`")


def test_the_handoff_has_the_drill_and_verifies(drilled, tmp_path):
    """A section with each fault, made from the evidence alone."""
    run_id = next(row["run_id"] for _, row in poclab.runs(drilled).iterrows())
    made = handover.handoff(drilled, run_id, out=tmp_path / "handoff")
    text = (made.folder / "handoff.md").read_text()

    assert text.count("10 of 15 faults apply") == 3  # the criterion, the results, the drill
    assert "## Drill" in text and "empty\\_retrieval" in text
    assert json.loads((made.folder / "evidence" / "dev" / "drill.json").read_text())["rows"]
    assert handover.verify(made.folder).holds


def test_a_drill_of_another_version_is_not_taken(drilled, tmp_path):
    """Nor one of other cases, of another system under that version, or of some faults alone: a file that lies there says what it is about."""
    run_id = next(row["run_id"] for _, row in poclab.runs(drilled).iterrows())
    report = poclab.load_run(run_id, drilled)
    found = json.loads(next((drilled / ".poclab" / "drills").glob("*-0/drill.json")).read_text())
    plain = Report.load(report.save(tmp_path / "report.json"))
    digests = ({name: "0" * 64} for name in ("lock_digest", "code_digest", "corpus_digest"))
    assert plain.drilled(next((drilled / ".poclab" / "drills").glob("*-0"))).drill
    for change in (*digests, {"whole": False}, {"version": {**found["version"], "digest": "0" * 64}}):
        (tmp_path / "drill.json").write_text(json.dumps({**found, **change}))
        assert plain.drilled(tmp_path).drill is None
    with pytest.raises(InputError, match="not drilled"):
        plain.estimate("survival")


def test_held_out_cases_have_no_survival(tmp_path):
    """A criterion on it is about dev; the charter says so."""
    (tmp_path / "charter.yaml").write_text("criteria: [{metric: survival, at_least: 0.9}]\n")
    with pytest.raises(InputError, match="held-out cases are not drilled") as caught:
        poclab.Charter.load(tmp_path)

    assert caught.value.fix == "split: dev"
