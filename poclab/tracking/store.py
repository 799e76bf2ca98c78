"""Runs, their numbers, inputs, prompts and artifacts in an MLflow store. Imported only where MLflow is wanted.

Everything a run holds was computed by poclab; MLflow aggregates nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from poclab.errors import StoreError
from poclab.files import digest, read_json_lines
from poclab.redaction import conceal_json, shown
from poclab.tracking import SQLITE

#: What MLflow is told before it is imported: no telemetry, and no price list from the network.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
#: The names of parameters and tags that MLflow takes, from no more than 250 characters.
NAMES = re.compile(r"\w[\w.\- :]*(?:/\w[\w.\- :]*)*")
LONGEST_NAME = 200
EXPERIMENT_TAGS = {"mlflow.experimentKind": "genai_development"}
#: How the address of a registered prompt begins.
PROMPTS = "prompts:/"
#: The tag of a dataset that holds all dev cases of a lock; and how many cases are mirrored: MLflow looks each up before it writes it.
MIRRORED, MOST_MIRRORED = "poclab.lock", 1000
NOT_MIRRORED = "not mirrored"
RUN_TAGS = {"mlflow.runType": "genai_evaluate"}


def connect(uri: str) -> Any:
    """Return an MLflow client for a store; a fresh database is set up by one process at a time.

    Raises:
        StoreError: the store does not answer, or is of another schema.
    """
    os.environ.update(SETTINGS)
    import mlflow

    # No `mlflow.set_tracking_uri` here: it sets an environment variable, and the next POC would be recorded in this one's store.
    try:
        with _alone(uri):
            client = mlflow.MlflowClient(uri)
            client.search_experiments(max_results=1)
    except Exception as error:  # SQLAlchemy, sqlite3, HTTP: every backend has its own errors for "does not work"
        path = uri.removeprefix(SQLITE)
        locked = "database is locked" in str(error)
        fix = f"`mlflow db upgrade {uri}`, or move {path} away: a new one is made" if path != uri else "check MLFLOW_TRACKING_URI"
        fix = "wait for the program that uses it, and try again" if locked else fix
        raise StoreError(f"{shown(uri)}: MLflow cannot use this store: {first_line(error)}", fix=fix) from None
    _forget_places()
    return client


def check(uri: str, experiment: str) -> None:
    """Refuse a store in which no run of this experiment could begin.

    Raises:
        StoreError: it does not answer, is of another schema, or the experiment was deleted.
    """
    found = connect(uri).get_experiment_by_name(experiment)
    if found:
        _refuse_deleted(uri, found)


def _forget_places() -> None:
    """Have MLflow look up again where artifacts lie: it remembers by run, and the store of a copied POC has the same runs, elsewhere."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    # Several processes that meet a fresh sqlite store crash each other's migrations; on any store they would make the same things twice.
    from filelock import FileLock

    with FileLock(Path(tempfile.gettempdir(), f"poclab-{digest(uri)[:16]}.lock")):
        yield


def begin(uri: str, run: Mapping[str, Any]) -> dict[str, str]:
    """Open an experiment and a run in it, or take the run named by `run["run_id"]`; return their ids.

    `run` holds `experiment`, `artifact_location` (or None), `name`, `tags`, `params`, `prompts`, `dataset`, and perhaps `mirror`.
    """
    client = connect(uri)
    experiment_id = _experiment(client, uri, run["experiment"], run["artifact_location"])
    tags = {**RUN_TAGS, **run["tags"]}
    run_id = run["run_id"] or client.create_run(experiment_id, run_name=run["name"], tags=tags).info.run_id
    try:
        if run["run_id"]:
            annotate(uri, run_id, tags)
        for prompt in run["prompts"]:
            _link_prompt(client, uri, prompt, run_id)
        if run["params"]:
            _log_batch(client, run_id, params={_label(key): value for key, value in run["params"].items()})
        if run["dataset"]:
            _log_dataset(client, run_id, run["dataset"])
        if run.get("mirror"):
            annotate(uri, run_id, {"poclab.dataset": _mirrored(client, uri, experiment_id, run["mirror"])})
    except Exception:
        with contextlib.suppress(Exception):  # whoever asked learns of the first error, and does not know this run
            client.set_terminated(run_id, "FAILED")
        raise
    return {"run_id": run_id, "experiment_id": experiment_id}


def finish(uri: str, run_id: str, artifacts: Path, end: Mapping[str, Any]) -> None:
    """Log metrics and tags in one batch, the folder of artifacts, and end the run."""
    import mlflow

    _forget_places()
    client = mlflow.MlflowClient(uri)
    _log_batch(client, run_id, metrics=end["metrics"], tags=end["tags"])
    client.log_artifacts(run_id, str(artifacts))
    client.set_terminated(run_id, end["status"])


def annotate(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    import mlflow

    _log_batch(mlflow.MlflowClient(uri), run_id, tags=tags)


def end(uri: str, run_id: str, status: str) -> None:
    connect(uri).set_terminated(run_id, status)


def close(uri: str, run_ids: Sequence[str]) -> None:
    """End runs that nobody ends any more, or whose result nobody has; those that are not there, or ended without one, stay as they are."""
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    for run_id in run_ids:
        with contextlib.suppress(MlflowException):
            if client.get_run(run_id).info.status in ("RUNNING", "FINISHED"):
                client.set_terminated(run_id, "KILLED")


def log_files(uri: str, run_id: str, files: Mapping[str, str]) -> None:
    """Log files: path to the folder in the run's artifacts (empty: their root)."""
    import mlflow

    _forget_places()
    for path, folder in files.items():
        mlflow.MlflowClient(uri).log_artifact(run_id, path, folder or None)


def _experiment(client: Any, uri: str, name: str, artifact_location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    with _alone(uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return client.create_experiment(name, artifact_location=artifact_location, tags=EXPERIMENT_TAGS)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)  # another machine was first
    _refuse_deleted(uri, found)
    return found.experiment_id


def _refuse_deleted(uri: str, experiment: Any) -> None:
    if experiment.lifecycle_stage != "active":
        raise StoreError(
            f"{shown(uri)}: the experiment {experiment.name!r} was deleted",
            fix=f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`",
        )


def _log_batch(
    client: Any,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, 0) for key, value in (metrics or {}).items()],
        params=[Param(key, value) for key, value in (params or {}).items()],
        tags=[RunTag(key, value) for key, value in (tags or {}).items()],
    )


def _log_dataset(client: Any, run_id: str, dataset: Mapping[str, str]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entity = Dataset(dataset["name"], dataset["digest"], "poclab", dataset["source"])
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "evaluation")])])


def _mirrored(client: Any, uri: str, experiment_id: str, mirror: Mapping[str, str]) -> str:
    """Return the name of the dataset that shows the dev cases of a frozen set, made once for each lock; or why there is none.

    A dataset of MLflow can be edited, so nothing reads it. Held-out cases are not in it: a label that is looked at is tuned on.
    """
    from mlflow.tracing.client import TracingClient

    name = f"{_label(mirror['name'])} dev {mirror['lock'][:12]}"
    try:
        with _alone(uri):
            found = client.search_datasets([experiment_id], filter_string=f"name = '{name}'")
            if not found or MIRRORED not in (found[0].tags or {}):  # the last thing that is written: without it some cases are missing
                records = [_dataset_record(case) for case in _dev_cases(Path(mirror["cases"]))]
                dataset = found[0] if found else client.create_dataset(name, experiment_id)
                TracingClient(uri).store.upsert_dataset_records(dataset.dataset_id, records)
                client.set_dataset_tags(dataset.dataset_id, {MIRRORED: mirror["lock"], "poclab.edition": mirror["edition"]})
    except Exception as error:  # the run is worth more than what shows its cases once more
        return f"{NOT_MIRRORED}: {first_line(error)}"
    return name


def _dev_cases(path: Path) -> list[dict[str, Any]]:
    cases = [conceal_json(case) for _, case in read_json_lines(path) if case.get("split") == "dev"]
    if len(cases) > MOST_MIRRORED:
        raise StoreError(f"{len(cases)} cases are more than {MOST_MIRRORED}")
    return cases


def _dataset_record(case: Mapping[str, Any]) -> dict[str, Any]:
    tags = {"poclab.case": case["id"], **{str(key): str(value) for key, value in case.get("tags", {}).items()}}
    expected = {"expected": case["expected"]}
    return {"inputs": case["inputs"], "expectations": expected, "tags": tags, "source": {"source_type": "HUMAN", "source_data": {}}}


def _link_prompt(client: Any, uri: str, prompt: Mapping[str, str], run_id: str) -> None:
    """Link a run to the registered version of a prompt, or say why not: its text is an artifact of the run all the same."""
    import mlflow
    from mlflow.tracking._model_registry.client import ModelRegistryClient

    said = register(uri, prompt, client)
    if said.startswith(PROMPTS):
        mlflow.set_tracking_uri(uri)  # MLflow looks for the run in its global store. Only the recorder's process comes here.
        ModelRegistryClient(uri, uri).link_prompt_version_to_run(*said.removeprefix(PROMPTS).split("/"), run_id)
    annotate(uri, run_id, {f"poclab.prompt.{_label(prompt['key'])}": said})


def register(uri: str, prompt: Mapping[str, str], client: Any = None) -> str:
    """Register a prompt; return its address, or why the registry does not take it."""
    client = client or connect(uri)  # before anything else is imported: it says how
    from mlflow.exceptions import MlflowException

    try:
        return f"{PROMPTS}{'/'.join(map(str, _register(client, uri, prompt)))}"
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        return f"not registered: {first_line(error)}"


def _register(client: Any, uri: str, prompt: Mapping[str, str]) -> tuple[str, str]:
    """Return name and version of a registered prompt; the same text is registered once, found by its digest's alias."""
    name, alias = _label(prompt["name"], re.compile(r"[A-Za-z0-9_.-]+")), f"sha256-{digest(prompt['text'])[:16]}"
    with _alone(uri):
        version = _registered(client, name, alias)
        if version is None:
            version = client.register_prompt(name, prompt["text"], commit_message=prompt["file"])
            client.set_prompt_alias(name, alias, version.version)
    return name, version.version


def alias(uri: str, names: Iterable[str], aliases: Mapping[str, Sequence[str]]) -> None:
    """Let each alias point to the given versions (`prompts:/name/version`), and of the prompts of these names to no other."""
    client = connect(uri)
    for alias_name, places in aliases.items():
        held = dict(place.removeprefix(PROMPTS).rsplit("/", 1) for place in places)
        for name in names:
            if name not in held and _registered(client, name, alias_name):
                client.delete_prompt_alias(name, alias_name)
        for name, version in held.items():
            client.set_prompt_alias(name, alias_name, int(version))


def _registered(client: Any, name: str, alias: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_prompt_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _label(name: str, takes: re.Pattern[str] = NAMES) -> str:
    """Return a name that MLflow takes: the name itself, or what is left of it in plain letters, told apart by its digest."""
    if takes.fullmatch(name) and len(name) <= LONGEST_NAME:
        return name
    return f"{re.sub('[^A-Za-z0-9_]+', '-', name)[:LONGEST_NAME]}-{digest(name)[:8]}".lstrip("-")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, without keys: MLflow's and SQLAlchemy's go on with statements and traces."""
    told = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]  # SQLAlchemy: see below
    return shown((told or [type(error).__name__])[0])[:300]
