"""Addresses within MLflow's UI, from their `#` on: so a link in a description holds wherever the store is served."""

from __future__ import annotations

from urllib.parse import quote

#: What the traces of a run are filtered by, in the UI's own words: column, comparison, value, and the tag's name.
FAILING = "TAG::!=::ok::poclab.outcome"


def runs(experiment_id: str) -> str:
    """Return where evaluations are listed. The page of all runs hides the trials of a sweep below it."""
    return f"#/experiments/{experiment_id}/evaluation-runs"


def charts(experiment_id: str) -> str:
    """Return where evaluations are drawn against each other, the newest first. The page of all runs draws no trial of a sweep."""
    return f"{runs(experiment_id)}?viewMode=charts"


def run(experiment_id: str, run_id: str) -> str:
    """Return where one run is described."""
    return f"#/experiments/{experiment_id}/runs/{run_id}"


def failing(experiment_id: str, run_id: str) -> str:
    """Return where the traces of a run are listed whose outcome is not `ok`. The page of all traces takes no such filter from an address."""
    return f"{run(experiment_id, run_id)}/traces?filter={quote(FAILING, safe='')}"


def trace(experiment_id: str, trace_id: str) -> str:
    """Return where one trace is shown."""
    return f"#/experiments/{experiment_id}/traces?selectedEvaluationId={trace_id}"


def side_by_side(experiment_id: str, run_id: str, other: str) -> str:
    """Return where two runs are shown case by case."""
    return f"{runs(experiment_id)}?selectedRunUuid={run_id}&compareToRunUuid={other}"
