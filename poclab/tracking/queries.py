"""Read recorded runs back from an MLflow store."""

from __future__ import annotations

import contextlib
import datetime
import math
import shutil
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poclab.errors import InputError, StoreError
from poclab.report import DRILL_FILE, Report
from poclab.tracking import SQLITE, store

BRIEF = "brief.json"
#: MLflow's `ViewType`: runs that were not deleted, and all of them.
ACTIVE, EVERY = 1, 3


def runs(uri: str, experiment: str | None, *, every: bool = False) -> list[dict[str, Any]]:
    """Return the evaluations of an experiment (None: of all), the oldest first: ids, name, start, status, tags, params, metrics, artifacts.

    The finished ones; with `every` also those that failed, were killed, are under way, or were deleted since.
    """
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return []  # looking makes no store
    client = store.connect(uri)
    found = client.search_experiments() if experiment is None else filter(None, [client.get_experiment_by_name(experiment)])
    places = [one.experiment_id for one in found]
    if not places:
        return []
    query = "tags.`mlflow.runType` = 'genai_evaluate'" + ("" if every else " AND attributes.status = 'FINISHED'")
    rows, token = [], None
    while True:
        page = client.search_runs(
            places,
            query,
            run_view_type=EVERY if every else ACTIVE,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        rows += [_row(run) for run in page]
        token = page.token
        if not token:
            return rows


def _row(run: Any) -> dict[str, Any]:
    info, data = run.info, run.data
    tags = {key.removeprefix("poclab."): value for key, value in data.tags.items() if key.startswith("poclab.")}
    return {
        "run_id": info.run_id,
        "experiment_id": info.experiment_id,
        "name": info.run_name,
        "started": datetime.datetime.fromtimestamp(info.start_time / 1000),
        "status": info.status,
        "deleted": info.lifecycle_stage != "active",
        "by": data.tags.get("mlflow.user"),
        "parent": data.tags.get("mlflow.parentRunId"),
        "tags": tags,
        "params": dict(data.params),
        "metrics": {key: value for key, value in data.metrics.items() if math.isfinite(value)},
        "artifacts": info.artifact_uri,
    }


def briefs(uri: str, rows: Sequence[Mapping[str, Any]]) -> list[Report]:
    """Return the brief report of each of these runs; the whole one of a run that has no brief one.

    Raises:
        InputError: a run that holds neither.
    """
    return [_brief(uri, row) for row in rows]


def _brief(uri: str, row: Mapping[str, Any]) -> Report:
    beside = _folder(uri, row["run_id"], row["artifacts"])
    if beside and (beside / BRIEF).is_file():
        return Report.load(beside / BRIEF).drilled(beside)  # nothing is to be copied
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = Report.load(_downloaded(uri, row["run_id"], BRIEF, Path(folder)))
            with contextlib.suppress(InputError, StoreError):  # few are drilled
                _downloaded(uri, row["run_id"], DRILL_FILE, Path(folder))
            return found.drilled(Path(folder))
        except (InputError, StoreError):
            return report(uri, row["run_id"])


def report(uri: str, run_id: str, experiment: str | None = None) -> Report:
    """Return the report that a run holds; with an experiment, the first characters of a run's id are enough, as tables show it.

    Raises:
        InputError: no such run, several, or it holds no report.
    """
    found = match(run_id, runs(uri, experiment))["run_id"] if experiment and len(run_id) < 32 else run_id
    with tempfile.TemporaryDirectory() as folder:
        loaded = Report.load(_downloaded(uri, found, "report.json", Path(folder)))
        with contextlib.suppress(InputError, StoreError):
            _downloaded(uri, found, DRILL_FILE, Path(folder))
        return loaded.drilled(Path(folder))


def download(uri: str, run_id: str, folder: Path) -> None:
    """Copy all artifacts of a run into a folder, which is made."""
    folder.mkdir(parents=True)
    _downloaded(uri, run_id, "", folder)


def _downloaded(uri: str, run_id: str, name: str, folder: Path) -> Path:
    """Copy an artifact, or without a name all of them, into a folder, and return where it is."""
    from mlflow.exceptions import MlflowException

    client = store.connect(uri)
    try:
        beside = _folder(uri, run_id, client.get_run(run_id).info.artifact_uri)
        if beside is None:
            return Path(client.download_artifacts(run_id, name, str(folder)))
        copy = shutil.copytree if (beside / name).is_dir() else shutil.copyfile
        return Path(copy(beside / name, folder / name, **({"dirs_exist_ok": True} if copy is shutil.copytree else {})))
    except (MlflowException, OSError) as error:
        raise InputError(
            f"run {run_id!r} holds no {name or 'artifacts'} in the store: {store.first_line(error)}", fix="`poclab history` lists the runs"
        ) from None


def _folder(uri: str, run_id: str, artifacts: str) -> Path | None:
    """Return where the artifacts of a run lie on this machine: where the store says, else beside a database that was moved with its POC."""
    if not artifacts.startswith("file:"):
        return None
    said = Path(urllib.parse.unquote(urllib.parse.urlsplit(artifacts).path))
    moved = Path(uri.removeprefix(SQLITE)).parent / "mlartifacts" / run_id / "artifacts"
    return next((folder for folder in (said, moved) if folder.is_dir()), None)


def match(run_id: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the run whose id begins so.

    Raises:
        InputError: no run does, or several do.
    """
    found = [row for row in rows if row["run_id"].startswith(run_id)]
    if len(found) > 1:
        raise InputError(f"{len(found)} runs begin with {run_id!r}", fix=f"type more of one: {', '.join(row['run_id'] for row in found)}")
    if not found:
        raise InputError(f"no finished run begins with {run_id!r}", fix="`poclab history`, or poclab.runs(), lists the runs")
    return found[0]


def trace(uri: str, experiment: str, kind: str, value: str) -> tuple[dict[str, Any] | None, int]:
    """Return the newest trace with this `request_id` (its own id), `client_request_id` or `case`, and how many there are.

    One of a case that was kept from an earlier run shows nothing but its scores, and counts only where there is no other.
    """
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return None, 0
    client = store.connect(uri)
    place = client.get_experiment_by_name(experiment)
    if place is None:
        return None, 0
    quote = "'" if "'" not in value else '"'
    if quote in value or not value.isprintable():
        return None, 0  # MLflow's filters have no way to write it
    query = f"{'tags.`poclab.case`' if kind == 'case' else f'trace.{kind}'} = {quote}{value}{quote}"
    found = client.search_traces(
        locations=[place.experiment_id], filter_string=query, max_results=500, order_by=["timestamp_ms DESC"], include_spans=False
    )
    found = [one for one in found if "poclab.kept_from" not in one.info.tags] or found
    return (_trace(client.get_trace(found[0].info.trace_id)), len(found)) if found else (None, 0)


def _trace(one: Any) -> dict[str, Any]:
    info, spans = one.info, sorted(one.data.spans, key=lambda span: span.start_time_ns)
    root = next(span for span in spans if span.parent_id is None)
    depths = {root.span_id: 0}
    for span in spans:  # a parent begins before what is below it
        depths.setdefault(span.span_id, depths.get(span.parent_id, 0) + 1)
    feedback = [given for given in info.assessments or [] if getattr(given, "feedback", None)]
    expected = [given.expectation.value for given in info.assessments or [] if getattr(given, "expectation", None)]
    return {
        "trace_id": info.trace_id,
        "request_id": info.client_request_id,
        "run_id": info.trace_metadata.get("mlflow.sourceRun"),
        "experiment_id": info.experiment_id,
        "name": info.tags.get("mlflow.traceName"),
        "state": str(info.state.value),
        "tags": dict(info.tags),
        "start_ns": root.start_time_ns,
        "took_s": (root.end_time_ns - root.start_time_ns) / 1e9,
        "spans": [_span(span, depths[span.span_id]) for span in spans],
        "scores": [{"name": given.name, "value": given.feedback.value, "reason": given.rationale, **_judged(given)} for given in feedback],
        "expected": next((value for value in expected if isinstance(value, dict)), {}),
    }


def _judged(given: Any) -> dict[str, Any]:
    """Return the label of a judge's feedback, the digest of its rubric and its trace; nothing of another one."""
    found = {name: (given.metadata or {}).get(f"poclab.{name}") for name in ("label", "rubric", "judge_trace")}
    return found if found["rubric"] else {}


def _span(span: Any, depth: int) -> dict[str, Any]:
    shown = {key: span.get_attribute(key) for key in span.attributes if not key.startswith("mlflow.")}
    usage, cost = span.get_attribute("mlflow.chat.tokenUsage"), span.get_attribute("mlflow.llm.cost")
    shown |= {"tokens": f"{usage['input_tokens']} + {usage['output_tokens']}"} if usage else {}
    shown |= {"cost_usd": cost["total_cost"]} if cost else {}
    return {
        "name": span.name,
        "kind": span.span_type,
        "depth": depth,
        "start_ns": span.start_time_ns,
        "end_ns": span.end_time_ns,
        "inputs": span.inputs,
        "outputs": span.outputs,
        "attributes": shown,
        "error": span.status.description or "",
    }
