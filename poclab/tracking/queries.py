"""Read recorded runs back from an MLflow store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from poclab.errors import InputError
from poclab.report import Report
from poclab.tracking import store


def runs(uri: str, experiment: str) -> list[dict[str, Any]]:
    """Return the finished evaluations of an experiment, the oldest first: ids, name, start, tags, params and metrics."""
    client = store.connect(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    query = "tags.`mlflow.runType` = 'genai_evaluate' AND attributes.status = 'FINISHED'"
    rows, token = [], None
    while True:
        page = client.search_runs([found.experiment_id], query, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token)
        rows += [_row(run) for run in page]
        token = page.token
        if not token:
            return rows


def _row(run: Any) -> dict[str, Any]:
    info, data = run.info, run.data
    tags = {key.removeprefix("poclab."): value for key, value in data.tags.items() if key.startswith("poclab.")}
    ids = {"run_id": info.run_id, "experiment_id": info.experiment_id, "name": info.run_name, "started_ms": info.start_time}
    return {**ids, "tags": tags, "params": dict(data.params), "metrics": dict(data.metrics)}


def report(uri: str, run_id: str) -> Report:
    """Return the report that a run holds.

    Raises:
        InputError: no such run, or it holds no report.
    """
    client = store.connect(uri)
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            return Report.load(Path(client.download_artifacts(run_id, "report.json", folder)))
        except (MlflowException, OSError) as error:
            raise InputError(
                f"run {run_id!r} holds no report in {uri}: {store.first_line(error)}", fix="`poclab.runs()` lists the runs"
            ) from None
