import dataclasses

import pytest

from poclab.errors import InputError
from poclab.results import Record, Results
from poclab.sweeps import Sweep, Trial


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


def test_trials_that_are_one_version_are_named_by_what_it_lacks(tmp_path):
    """The notebook swept `style`, and did not hand it to its version: no comparison could tell the two apart."""
    points = ({"style": "a", "size": 1}, {"style": "b", "size": 1}, {"style": "a", "size": 2})
    trials = tuple(Trial(one, f"trial {n}") for n, one in enumerate(points))
    sweep = Sweep("sweep", tmp_path, tmp_path / "x.ipynb", "accuracy", True, trials, False, 1)

    def noted(*versions):
        found = tuple(
            Record(f"t{n}", one.name, one.parameters, "ok", version=version)
            for n, (one, version) in enumerate(zip(trials, versions, strict=True))
        )
        return Results(sweep, found, 3, None, "lock", None).notes()

    told = "Some trials are one version, which has no style: where the system uses it, poclab.Version(..., style=style).\n"
    assert told in noted("v1", "v1", "v2")
    assert "one version" not in noted("v1", "v2", "v3")


def test_the_frame_holds_numbers(tmp_path):
    """Whoever plots the table, or filters it, has nothing to parse; an open edge and an unknown cost are no number."""
    table = _ranked(tmp_path, 0.4, 0.9).frame()

    assert list(table.columns) == ["rank", "accuracy", "low", "high", "n", "failed", "p95_s", "cost_usd", "state", "run_id"]
    assert table["accuracy"].tolist() == [0.9, 0.4]
    assert (table["low"] == 0.1).all() and table["high"].isna().all() and table["cost_usd"].isna().all()
    assert repr(table).splitlines()[1].split() == ["1", "0.900", "0.100", "8", "0", "1.000", "unknown"]


def test_a_parameter_with_the_name_of_a_column_does_not_replace_it(tmp_path):
    """What was varied is called `n`, like how many cases there are."""
    found = _ranked(tmp_path, 0.4, 0.9)
    records = tuple(dataclasses.replace(one, parameters={"n": place}) for place, one in enumerate(found.records))
    trials = tuple(Trial(one.parameters, one.name) for one in records)
    row = dataclasses.replace(found, records=records, sweep=dataclasses.replace(found.sweep, trials=trials)).frame().iloc[0]

    assert (row["n"], row["parameter:n"]) == (8, 1)
