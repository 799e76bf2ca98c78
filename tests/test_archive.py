"""The recorded runs of a POC, read back: looks at the held-out cases, edited criteria, started trials, the last sweep."""

import datetime
import getpass
import json
import time

import pytest

import poclab
from conftest import CHARTER, SIGNED, copy_poc, notebook_of
from poclab import experiment, scores, sweeps, trials
from poclab.archive import Archive
from poclab.charter import Charter
from poclab.errors import InputError
from poclab.tracking import store, tracking_uri

TODAY = datetime.date.today().isoformat()


def _client(poc):
    return store.connect(tracking_uri(poc))


def _begin(poc, name, parent=None, **tags):
    """Begin a run as the recorder does, with these tags of poclab's, and return its id."""
    client = _client(poc)
    experiment_id = client.get_experiment_by_name(poc.name).experiment_id
    time.sleep(0.002)  # MLflow orders runs by the millisecond they began in
    own = {f"poclab.{key}": value for key, value in tags.items()} | ({"mlflow.parentRunId": parent} if parent else {})
    return client.create_run(experiment_id, run_name=name, tags={"mlflow.runType": "genai_evaluate", **own}).info.run_id


def _end(poc, run_id, status="FINISHED", **metrics):
    for name, value in metrics.items():
        _client(poc).log_metric(run_id, name, value)
    _client(poc).set_terminated(run_id, status)


def _trial(poc, name, trial, status="FINISHED", sweep="sweep", accuracy=0.5, params=None, parent="f" * 32):
    lock = Archive.open(poc).finished[0]["tags"]["lock"]
    run_id = _begin(poc, name, parent, sweep=sweep, trial=trial, lock=lock, split="dev")
    for key, value in (params or {}).items():
        _client(poc).log_param(run_id, key, value)
    _end(poc, run_id, status, **({"accuracy": accuracy} if status == "FINISHED" else {}))
    return run_id


def _guess(poc, split, name="guesses", reply="no idea"):
    cases = poclab.TestSet.load(poc / "cases.jsonl")
    cases = cases if split == "all" else cases.split(split)
    return poclab.evaluate(lambda inputs: reply, cases, [scores.contains()], version=poclab.Version(name))


@pytest.fixture
def nothing_yet(swept, tmp_path):
    """A POC of which nothing was recorded yet, in a store that is there."""
    return Archive(tmp_path / "nothing_yet", tracking_uri(swept[0]))


@pytest.fixture
def swept_copy(swept, tmp_path):
    """The swept POC, to be changed."""
    return copy_poc(swept[0], tmp_path / "animals")


class TestLooks:
    def test_at_the_held_out_cases_are_told_with_who_when_and_which_version(self, decided):
        """Whoever decides sees how often the held-out cases were scored, and by whom."""
        archive = Archive.open(decided.poc)
        (look,) = archive.looks()
        digest = archive.find(decided.run_id)["tags"]["version"]

        assert (look.on, look.run_id, look.status) == (look.on, decided.run_id, "FINISHED")
        assert look.on.startswith(TODAY)
        assert look.version == f"bm25 400 abstain (version {digest[:8]})"
        assert look.by not in ("", "(not known)")

    def test_count_when_they_failed_were_killed_or_were_deleted(self, decided_copy, monkeypatch):
        """A look cannot be taken back: not by a crash, not by Ctrl-C, not by deleting the run in MLflow."""
        monkeypatch.setenv("LOGNAME", "eve")
        deleted = _guess(decided_copy, "test").run_id
        _client(decided_copy).delete_run(deleted)
        for status in ("FAILED", "KILLED"):
            _end(decided_copy, _begin(decided_copy, status.lower(), split="test"), status)
        looks = Archive.open(decided_copy).looks()

        assert [look.status for look in looks] == ["FINISHED", "DELETED", "FAILED", "KILLED"]
        assert (looks[1].by, looks[1].run_id) == ("eve", deleted)
        assert looks[1].version.startswith("guesses (")

    def test_of_the_whole_set_count_and_of_dev_do_not(self, decided_copy):
        """Scoring all cases shows the held-out ones too."""
        whole = _guess(decided_copy, "all")
        _guess(decided_copy, "dev")

        assert [look.run_id for look in Archive.open(decided_copy).looks()][1:] == [whole.run_id]

    def test_are_those_of_a_trial_that_fails_before_it_scores_too(self, swept_copy):
        """The notebook may print the held-out cases and then stop: the trial is tagged before its kernel starts."""
        poc = swept_copy
        (poc / "notebooks/stops.ipynb").write_text(
            json.dumps(notebook_of(("split: str = 'test'", "parameters"), "raise RuntimeError('no')"))
        )
        assert trials.run_sweep(sweeps.single(poc, poc / "notebooks/stops.ipynb", {})).errors
        (look,) = Archive.open(poc).looks()

        assert look.status == "FAILED"
        assert (look.version, look.by) == ("defaults (version not known)", getpass.getuser())

    def test_stand_in_the_decision(self, decided_copy):
        """In a line beside the verdict, with what became of a run that did not finish."""
        failed = _begin(decided_copy, "again", split="test")
        _end(decided_copy, failed, "FAILED")
        told = dict(experiment.decide(decided_copy).facts())["looks at test"]

        assert told.startswith(f"2, of 2 versions: {TODAY} ")
        assert f"{failed[:8]}, failed)" in told


class TestEdits:
    def test_of_criteria_are_told_with_both_texts_and_dates(self, decided_copy):
        """A bar that was lowered after the first run shows in this decision, before any run has seen it."""
        (decided_copy / "charter.yaml").write_text(CHARTER.replace("0.8", "0.4") + SIGNED)
        (edit,) = experiment.decide(decided_copy).edits

        assert edit.before == ("accuracy >= 0.8 on test (95% confidence)",)
        assert edit.after == ("accuracy >= 0.4 on test (95% confidence)",)
        assert edit.before_since.startswith(TODAY) and edit.after_since.startswith(TODAY)
        assert "accuracy >= 0.8" in repr(experiment.decide(decided_copy))

    def test_say_whether_held_out_cases_had_been_seen(self, swept_copy):
        """The run that first saw new criteria may be the first look itself: then they were there before it."""
        for number, split in (("0.7", "test"), ("0.6", "dev")):
            _guess(_written(swept_copy, CHARTER.replace("0.8", number) + SIGNED), split)
        last = Charter.load(_written(swept_copy, CHARTER.replace("0.8", "0.5") + SIGNED))

        assert [(edit.after[0][12:15], edit.looked) for edit in Archive.open(swept_copy).edits(last)] == [
            ("0.7", False),
            ("0.6", True),
            ("0.5", True),
        ]

    def test_show_in_every_later_decision(self, decided_copy):
        """Also when a run has used the new criteria since, and when they were changed back."""
        (decided_copy / "charter.yaml").write_text(CHARTER.replace("0.8", "0.4") + SIGNED)
        _guess(decided_copy, "dev")
        archive, lower = Archive.open(decided_copy), Charter.load(decided_copy)
        (decided_copy / "charter.yaml").write_text(CHARTER + SIGNED)

        assert [edit.after for edit in archive.edits(lower)] == [lower.criteria_texts]
        assert [edit.after[0][:15] for edit in archive.edits(Charter.load(decided_copy))] == ["accuracy >= 0.4", "accuracy >= 0.8"]

    def test_that_a_failed_or_deleted_run_has_seen_count(self, decided_copy):
        """Deleting the run that used other criteria does not make them go away."""
        (decided_copy / "charter.yaml").write_text(CHARTER.replace("0.8", "0.9") + SIGNED)
        run_id = _guess(decided_copy, "dev").run_id
        _client(decided_copy).delete_run(run_id)
        (decided_copy / "charter.yaml").write_text(CHARTER + SIGNED)

        assert len(Archive.open(decided_copy).edits(Charter.load(decided_copy))) == 2

    def test_are_none_when_only_the_order_or_another_key_changed(self, decided_copy):
        """What decides is the same."""
        two = "  - {metric: failed_share, at_most: 0.1}\n"
        first = Charter.load(_written(decided_copy, CHARTER + two + SIGNED))
        _guess(decided_copy, "dev")
        head, _, one = CHARTER.partition("criteria:\n")
        other = Charter.load(_written(decided_copy, f"{head}volume_per_month: 5\ncriteria:\n{two}{one}{SIGNED}"))
        archive = Archive.open(decided_copy)

        assert first.criteria == other.criteria[::-1]
        assert archive.edits(other) == archive.edits(first)

    def test_are_none_before_the_first_run(self, nothing_yet, swept):
        """Until something was scored, the charter is being written."""
        assert nothing_yet.edits(Charter.load(swept[0])) == []


def _written(poc, text):
    (poc / "charter.yaml").write_text(text)
    return poc


class TestTrialsStarted:
    def test_are_all_of_the_sweep(self, swept):
        """Two of three are compared: the third was tried too."""
        archive = Archive.open(swept[0])
        ids = [row["run_id"] for row in archive.finished[:2]]

        assert archive.trials_started(ids) == 3

    def test_count_those_that_failed_and_those_that_were_deleted(self, swept_copy):
        """Neither a crash nor a deletion makes the search smaller."""
        _client(swept_copy).delete_run(Archive.open(swept_copy).finished[2]["run_id"])
        _trial(swept_copy, "chunk_size 400 -> 1", "t-failed", "FAILED")
        _trial(swept_copy, "chunk_size 400 -> 2", "t-killed", "KILLED")
        archive = Archive.open(swept_copy)

        assert len(archive.finished) == 2
        assert archive.trials_started([archive.finished[0]["run_id"]]) == 5

    def test_count_a_trial_once_that_failed_and_ran_again(self, swept_copy):
        """Also when its notebook was mended in between, which makes its id another one."""
        _trial(swept_copy, "overlap 0 -> 50", "t-before", "FAILED")
        _trial(swept_copy, "overlap 0 -> 50", "t-before", "FAILED")
        _trial(swept_copy, "overlap 0 -> 50", "t-after")
        archive = Archive.open(swept_copy)

        assert archive.trials_started([archive.finished[0]["run_id"]]) == 4

    def test_leave_out_single_runs_and_other_sweeps(self, swept_copy):
        """`poclab run` is no search; the trials of another sweep count when they are compared."""
        single = _trial(swept_copy, "defaults", "t-single", sweep="run", parent=None)
        other = _trial(swept_copy, "baseline", "t-other", sweep="wide")
        archive = Archive.open(swept_copy)
        first = archive.finished[0]["run_id"]

        assert archive.trials_started([first]) == 3
        assert archive.trials_started([single]) == 0
        assert archive.trials_started([first, other]) == 4

    def test_are_those_of_a_sweep_file_of_any_name(self, swept_copy):
        """`poclab sweep run.yaml` is a search too, although `poclab run` is none."""
        ids = [_trial(swept_copy, name, f"t-{name}", sweep="run") for name in ("baseline", "overlap 0 -> 50")]
        archive = Archive.open(swept_copy)

        assert archive.trials_started(ids) == 2
        assert [row["run_id"] for row in archive.sweep()] == ids


class TestTheLastSweep:
    def test_leaves_out_what_an_edited_prompt_replaced(self, swept_copy):
        """The same point, run again after an edit, stands for its older run: a winner has to be a version that is still there."""
        winner = Archive.open(swept_copy).winner()
        later = _trial(swept_copy, winner["name"], "t-edited", accuracy=0.75, params=winner["params"])
        archive = Archive.open(swept_copy)

        assert [row["run_id"] for row in archive.sweep() if row["name"] == winner["name"]] == [later]
        assert archive.winner()["name"] == "retrieval none -> bm25, prompt abstain -> plain"
        assert archive.trials_started([later]) == 4

    def test_has_one_baseline_and_keeps_points_whose_names_are_alike(self, swept_copy):
        """Two prompts of one file name in two folders are two points; a baseline with another default is still the baseline."""
        winner = Archive.open(swept_copy).winner()
        other = _trial(swept_copy, winner["name"], "t-alike", params=winner["params"] | {"prompt": "more/abstain.md"})
        baseline = _trial(swept_copy, "baseline", "t-baseline", params={"chunk_size": "800"})
        names = {row["run_id"]: row["name"] for row in Archive.open(swept_copy).sweep()}

        assert names[other] == names[winner["run_id"]] == winner["name"]
        assert [run_id for run_id, name in names.items() if name == "baseline"] == [baseline]

    def test_leaves_out_a_point_that_the_file_no_longer_has(self, swept_copy):
        """What `poclab compare` shows are the trials of the sweep as it was run last; as comparisons all count that were ever begun."""
        text = (swept_copy / "sweep.yaml").read_text()
        kept, new = "{values: [prompts/abstain.md]}", "{values: [200, 400]}"
        text = text.replace("{values: [prompts/abstain.md, prompts/plain.md]}", f"{kept}\n  chunk_size: {new}")
        (swept_copy / "sweep.yaml").write_text(text.replace("{retrieval: none,", "{retrieval: none, chunk_size: 400,"))
        trials.run_sweep(sweeps.load_sweep(swept_copy))
        archive = Archive.open(swept_copy)

        assert {(one["params"]["retrieval"], one["params"]["chunk_size"]) for one in archive.sweep()} == {
            ("none", "400"),
            ("bm25", "200"),
            ("bm25", "400"),
        }
        assert archive.trials_started([archive.winner()["run_id"]]) == 4  # three, and one that is new

    def test_is_won_by_the_best_and_of_equal_ones_by_the_first(self, swept):
        """Which of two equal ones it is does not depend on the day."""
        archive = Archive.open(swept[0])

        assert archive.winner()["name"] == "retrieval none -> bm25"
        assert archive.winner("accuracy", maximize=False)["name"] == "baseline"

    def test_has_no_winner_by_a_metric_that_no_trial_has(self, swept, nothing_yet):
        """The message names the metric, and what makes a sweep."""
        with pytest.raises(InputError, match="no sweep has ended whose trials have the metric 'exact'\n.*poclab sweep"):
            Archive.open(swept[0]).winner("exact")
        with pytest.raises(InputError, match="no sweep has ended"):
            nothing_yet.winner()

    def test_has_the_winner_that_people_label(self, swept_copy, nothing_yet):
        """What a judge is calibrated on is what is decided on; runs that came later are not."""
        winner = Archive.open(swept_copy).winner()["run_id"]
        _guess(swept_copy, "dev")

        assert Archive.open(swept_copy).to_label() == winner
        with pytest.raises(InputError, match="no finished run on the dev cases as they are frozen now"):
            nothing_yet.to_label()


class TestTheRunToDecideOn:
    def test_is_the_last_on_held_out_cases(self, decided_copy):
        """What was scored there last is what somebody wants to know about."""
        assert Archive.open(decided_copy).candidate()["tags"]["name"] == "bm25 400 abstain"
        report = _guess(decided_copy, "test")

        assert Archive.open(decided_copy).candidate()["run_id"] == report.run_id

    def test_is_the_winner_of_the_sweep_until_there_is_one(self, swept, nothing_yet):
        """And without any run there is nothing to decide on."""
        assert Archive.open(swept[0]).candidate()["name"] == "retrieval none -> bm25"
        with pytest.raises(InputError, match="no finished run to decide on\n.*poclab run"):
            nothing_yet.candidate()

    def test_brings_the_run_of_its_version_on_the_other_split(self, decided):
        """The gap between dev and test needs both."""
        archive = Archive.open(decided.poc)
        (report,) = archive.reports([archive.candidate()])
        (other,) = archive.other_splits([report])

        assert (other["tags"]["split"], other["tags"]["version"]) == ("dev", report.version.digest)
        assert archive.other_splits([report, *archive.reports([other])]) == []

    def test_brings_one_that_the_same_rubrics_judged_before_a_newer_one(self, decided_copy):
        """A rubric that was edited, tried and put back leaves a run of the same version that was scored by other words."""
        archive = Archive.open(decided_copy)
        (report,) = archive.reports([archive.candidate()])
        (other,) = archive.other_splits([report])
        same = {key: other["tags"][key] for key in ("version", "lock", "corpus", "code", "score") if key in other["tags"]}
        _end(decided_copy, _begin(decided_copy, "judged", split="dev", judges='{"tone": "0123456789ab"}', **same))
        archive = Archive.open(decided_copy)

        assert archive.finished[-1]["name"] == "judged"
        assert [row["run_id"] for row in archive.other_splits([report])] == [other["run_id"]]


def test_a_run_without_a_brief_report_is_read_whole(swept_copy):
    """Runs that an older poclab recorded are compared as well."""
    archive = Archive.open(swept_copy)
    before = archive.reports(archive.finished)
    for path in swept_copy.glob("mlartifacts/**/brief.json"):
        path.unlink()
    after = archive.reports(archive.finished)

    assert all(one.brief for one in before) and not any(one.brief for one in after)
    assert [one.estimates["accuracy"] for one in after] == [one.estimates["accuracy"] for one in before]


def test_a_run_with_no_report_at_all_is_an_error_in_words(swept_copy):
    """The artifacts were cleaned away."""
    for path in swept_copy.glob("mlartifacts/**/*.json"):
        path.unlink()
    archive = Archive.open(swept_copy)
    with pytest.raises(InputError, match=r"run '[0-9a-f]{32}' holds no report.json in the store.*\n.*poclab history"):
        archive.reports(archive.finished)


def test_an_address_is_given_where_both_runs_are_in_the_store(swept):
    """The link names both runs; for a report of elsewhere there is none."""
    archive = Archive.open(swept[0])
    one, other = (row["run_id"] for row in archive.finished[:2])

    assert archive.link(one, other).endswith(f"/evaluation-runs?selectedRunUuid={one}&compareToRunUuid={other}")
    assert archive.link(one, None) == archive.link("f" * 32, other) == ""


class TestLinks:
    def test_lead_to_the_two_best_and_the_last_run_where_there_was_no_sweep(self, make_poc, tmp_path):
        """Of versions that a notebook made: 6 cases are answered, 2 are to abstain from."""
        poc = make_poc(tmp_path / "animals", store=True)
        cases, replies = poclab.TestSet.load(poc / "cases.jsonl").split("dev"), ("I don't know.", "nothing")
        good, bad = (
            poclab.evaluate(lambda inputs, reply=reply: reply, cases, [scores.contains()], version=poclab.Version("v", reply=reply)).run_id
            for reply in replies
        )
        place = f"#/experiments/{Archive.open(poc).finished[0]['experiment_id']}"

        assert Archive.open(poc).links() == {
            "runs": f"{place}/evaluation-runs",
            "charts": f"{place}/evaluation-runs?viewMode=charts",
            "the two best, case by case": f"{place}/evaluation-runs?selectedRunUuid={good}&compareToRunUuid={bad}",
            "failing traces of the last run": f"{place}/runs/{bad}/traces?filter=TAG%3A%3A%21%3D%3A%3Aok%3A%3Apoclab.outcome",
        }

    def test_do_not_fail_for_a_metric_that_no_trial_has(self, swept_copy):
        """Of such a sweep nobody is the champion; the two best versions are shown beside each other."""
        for row in Archive.open(swept_copy).sweep():
            _client(swept_copy).set_tag(row["run_id"], "poclab.metric", "exact")

        assert list(Archive.open(swept_copy).links())[2:] == ["the two best, case by case", "failing traces of the last run"]

    def test_are_none_before_the_first_run(self, nothing_yet):
        """There is nothing to look at."""
        assert nothing_yet.links() == {}
