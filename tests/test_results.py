import pytest

from poclab.errors import InputError
from poclab.results import Record, Results
from poclab.sweeps import Sweep


def _ranked(tmp_path, *values):
    """Return the results of a sweep by hand: a trial for each value of its metric, None where the score could not be given."""
    p95 = {"value": 1.0, "low": None, "high": None, "n": 8}
    estimates = [
        {"latency_p95_s": p95} | ({} if one is None else {"accuracy": {"value": one, "low": 0.1, "high": None, "n": 8}}) for one in values
    ]
    found = tuple(Record(f"t{n}", f"trial {n}", {}, "ok", estimates=one) for n, one in enumerate(estimates))
    sweep = Sweep("sweep", tmp_path, tmp_path / "x.ipynb", "accuracy", True, (), False, 1)
    return Results(sweep, found, len(found), None, "lock", None)


def test_a_trial_without_the_metric_does_not_hide_the_others(tmp_path):
    """A scorer that failed on one case of one trial leaves that trial last, without a number; the others are ranked."""
    rows = list(_ranked(tmp_path, None, 0.4, 0.9).rows())

    assert [(row["accuracy"], row["interval"]) for row in rows] == [("0.900", "0.100 to open"), ("0.400", "0.100 to open"), ("none", "")]


def test_a_metric_that_no_report_has_is_refused(tmp_path):
    """A ranking by nothing would look like a result."""
    with pytest.raises(InputError, match="the reports have no metric 'accuracy'\n.*use one of: latency_p95_s"):
        _ranked(tmp_path, None, None).ranked()
