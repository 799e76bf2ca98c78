import os

import pytest

import poclab
from poclab.errors import InputError
from poclab.tracking import queries, tracking_uri


def test_runs_are_a_table_with_numbers_parameters_and_ids(recorded):
    """What a notebook plots: one line per finished evaluation."""
    poc, report = recorded
    table = poclab.runs(poc)
    line = table[table["run_id"] == report.run_id].iloc[0]

    assert (line["run"], line["split"], line["accuracy"]) == ("look-up", "dev", 0.875)
    assert (line["model"], line["lock"], line["content"]) == ("offline/extractive", report.lock_digest, report.content_digest())


def test_a_recorded_report_is_read_back_whole(recorded):
    """The run holds the same report that evaluate returned."""
    poc, report = recorded

    assert poclab.load_run(report.run_id, poc) == report


def test_the_first_characters_of_a_run_are_enough(recorded, swept):
    """Tables show eight; an abbreviation that several runs have is refused with their ids."""
    poc, report = recorded

    assert queries.report(tracking_uri(poc), report.run_id[:8], "animals") == report
    with pytest.raises(InputError, match="3 runs begin with ''\n.*[0-9a-f]{32}, "):
        queries.report(tracking_uri(swept[0]), "", "animals")


def test_an_unknown_run_is_an_error_that_tells_where_to_look(recorded):
    """A mistyped run id."""
    with pytest.raises(InputError, match="no finished run begins with 'nonsense'.*\n.*poclab.runs"):
        poclab.load_run("nonsense", recorded[0])


def test_a_sweep_lists_its_trials_and_not_itself(swept):
    """The parent run of a sweep is no evaluation."""
    table = poclab.runs(swept[0])

    assert sorted(table["accuracy"]) == [0.25, 1.0, 1.0]
    assert set(table["sweep"]) == {"sweep"}


def test_a_poc_without_runs_has_an_empty_table(poc):
    """Looking comes before the first run."""
    assert len(poclab.runs(poc)) == 0


def test_a_folder_that_is_no_poc_is_refused(tmp_path):
    """The message names the command that makes one."""
    with pytest.raises(InputError, match="no POC at .*\n.*poclab new"):
        poclab.runs(tmp_path)


def test_reading_one_store_leaves_the_next_evaluation_alone(recorded):
    """MLflow's own way to name a store sets an environment variable; then the next POC would be recorded in this one."""
    poclab.runs(recorded[0])

    assert "MLFLOW_TRACKING_URI" not in os.environ
