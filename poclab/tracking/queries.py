"""Read recorded runs back from an MLflow store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from poclab.errors import InputError
from poclab.redaction import shown
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


def report(uri: str, run_id: str, experiment: str | None = None) -> Report:
    """Return the report that a run holds; with an experiment, the first characters of a run's id are enough, as tables show it.

    Raises:
        InputError: no such run, several, or it holds no report.
    """
    from mlflow.exceptions import MlflowException

    client = store.connect(uri)
    found = [row["run_id"] for row in runs(uri, experiment) if row["run_id"].startswith(run_id)] if experiment and len(run_id) < 32 else []
    if len(found) > 1:
        raise InputError(f"{len(found)} runs begin with {run_id!r}", fix=f"type more of one: {', '.join(found)}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Report.load(Path(client.download_artifacts((found or [run_id])[0], "report.json", folder)))
        except (MlflowException, OSError) as error:
            raise InputError(
                f"run {run_id!r} holds no report in {shown(uri)}: {store.first_line(error)}", fix="`poclab.runs()` lists the runs"
            ) from None
