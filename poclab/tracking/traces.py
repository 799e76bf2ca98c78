"""Write the traces of an evaluation into MLflow in bulk, from the records that the runner left.

One trace per case and repeat: a root span with inputs and outputs, a span per step, scores as feedback, expected values
as expectations. Two ways lead there and store the same: `begin_each` hands every trace to MLflow's tracing client;
`begin_bulk` writes the rows of a whole batch in one transaction, which needs a database store and the very version of
MLflow it was tested with. Nothing here runs in the process that answers the cases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

#: MLflow versions whose tables are known to be those that `begin_bulk` fills.
BULK_VERSIONS = ("3.17.2",)
BATCH = 50
COUNTS = ("tokens_in", "tokens_out")
PREVIEW = 1000
RUN_KEY = "mlflow.sourceRun"
ASSESSMENT_RUN_KEY = "mlflow.assessment.sourceRunId"


def write(uri: str, records: Sequence[Mapping[str, Any]], *, experiment_id: str, run_id: str) -> None:
    """Write one trace per record, a batch at a time."""
    import mlflow
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracing.client import TracingClient

    client = TracingClient(uri)
    # A server (a REST store) takes traces one by one: its database is its own.
    begin = begin_bulk if mlflow.__version__ in BULK_VERSIONS and isinstance(client.store, SqlAlchemyStore) else begin_each
    for start in range(0, len(records), BATCH):
        batch = [one for record in records[start : start + BATCH] for one in (record, *_of_judges(record, run_id))]
        begin(client, [_trace_info(record, experiment_id, run_id) for record in batch])
        client.log_spans(experiment_id, [span for record in batch for span in _spans(record, experiment_id)])


def begin_each(client: Any, infos: Sequence[Any]) -> None:
    """Store what is known of each trace but its spans, one transaction each."""
    for info in infos:
        client.start_trace(info)


def begin_bulk(client: Any, infos: Sequence[Any]) -> None:
    """Store the same rows as `begin_each`, in one transaction: a fifth of its processor time."""
    from mlflow.store.tracking.dbmodels.models import SqlAssessments, SqlTraceInfo, SqlTraceMetadata, SqlTraceTag
    from sqlalchemy import insert

    tables: dict[Any, list[dict[str, Any]]] = {SqlTraceInfo: [], SqlTraceTag: [], SqlTraceMetadata: [], SqlAssessments: []}
    experiment = client.store.get_experiment(infos[0].experiment_id)
    for info in infos:
        for table, rows in _rows(client.store, experiment, info).items():
            tables[table] += rows
    with client.store.ManagedSessionMaker(read_only=False) as session:
        for table, rows in tables.items():
            if rows:
                session.execute(insert(table), rows)


def _rows(store: Any, experiment: Any, info: Any) -> dict[Any, list[dict[str, Any]]]:
    from mlflow.store.tracking.dbmodels.models import (
        PROMOTED_TRACE_METADATA_KEYS,
        SqlAssessments,
        SqlTraceInfo,
        SqlTraceMetadata,
        SqlTraceTag,
    )
    from mlflow.store.tracking.utils.trace_analytics import TOKEN_COLUMN_BY_KEY, analytics_columns_from_metadata
    from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey

    trace = {
        "request_id": info.trace_id,
        "experiment_id": info.experiment_id,
        "timestamp_ms": info.request_time,
        "execution_time_ms": info.execution_duration,
        "status": info.state.value,
        "client_request_id": info.client_request_id,
        "request_preview": info.request_preview,
        "response_preview": info.response_preview,
        "trace_name": info.tags[TraceTagKey.TRACE_NAME],
        **dict.fromkeys([*TOKEN_COLUMN_BY_KEY.values(), "input_cost", "output_cost", "total_cost"]),
        **analytics_columns_from_metadata(info.trace_metadata),
    }
    location = store._get_trace_artifact_location_tag(experiment, info.trace_id)
    tags = {**info.tags, location.key: location.value}
    metadata = {**info.trace_metadata, TraceMetadataKey.TRACE_INFO_FINALIZED: "true"}
    return {
        SqlTraceInfo: [trace],
        SqlTraceTag: [_entry(info, *one) for one in tags.items() if one[0] != TraceTagKey.TRACE_NAME],
        SqlTraceMetadata: [_entry(info, *one) for one in sorted(metadata.items()) if one[0] not in PROMOTED_TRACE_METADATA_KEYS],
        SqlAssessments: [_assessment_row(SqlAssessments, assessment, info) for assessment in info.assessments],
    }


def _entry(info: Any, key: str, value: str) -> dict[str, str]:
    return {"request_id": info.trace_id, "key": key, "value": value}


def _assessment_row(table: Any, assessment: Any, info: Any) -> dict[str, Any]:
    entity = table.from_mlflow_entity(assessment)
    row = {column.key: getattr(entity, column.key) for column in table.__table__.columns}
    row["valid"] = True if row["valid"] is None else row["valid"]
    return {**row, "trace_id": info.trace_id, "experiment_id": int(info.experiment_id), "trace_timestamp_ms": info.request_time}


def _of_judges(record: Mapping[str, Any], run_id: str) -> list[dict[str, Any]]:
    """Return the record of what judges were asked about a case, where they were.

    It is a trace of its own, which their feedback names: MLflow sums the tokens of a trace. It is none of the run's, whose traces are cases.
    """
    judging = record.get("judging")
    if not judging:
        return []
    given = {name: score["value"] for name, score in record["scores"].items() if score.get("source")}
    about = {"judged_case": record["case_id"], "judged_trace": record["trace_id"], "judged_run": run_id}
    named = {"name": f"judges of {record['name']}", "request_id": f"{record['request_id']}-judges", "outputs": given, "error": ""}
    return [{"case_id": record["case_id"], "inputs": record["inputs"], **named, **judging, "about": about, "scores": {}}]


def _trace_info(record: Mapping[str, Any], experiment_id: str, run_id: str) -> Any:
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    return TraceInfo(
        trace_id=record["trace_id"],
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=record["start_ns"] // 1_000_000,
        execution_duration=(record["end_ns"] - record["start_ns"]) // 1_000_000,
        state=TraceState.ERROR if record["error"] else TraceState.OK,
        request_preview=_preview(record["inputs"]),
        response_preview=_preview(record["outputs"]),
        client_request_id=record["request_id"],
        trace_metadata=_metadata(record, run_id),
        tags=_tags(record),
        assessments=_assessments(record, run_id),
    )


def _metadata(record: Mapping[str, Any], run_id: str) -> dict[str, str]:
    metadata = {"mlflow.trace_schema.version": "3", "mlflow.source.type": "LOCAL", **({} if "about" in record else {RUN_KEY: run_id})}
    usage = [step["attributes"] for step in record["steps"] if _counted(step["attributes"])]
    if usage:
        metadata["mlflow.trace.tokenUsage"] = json.dumps(_tokens(*(sum(one[name] for one in usage) for name in COUNTS)))
    costs = [step["attributes"]["cost_usd"] for step in record["steps"] if step["attributes"].get("cost_usd") is not None]
    if costs:
        metadata["mlflow.trace.cost"] = json.dumps({"input_cost": 0.0, "output_cost": 0.0, "total_cost": sum(costs)})
    return metadata


def _tags(record: Mapping[str, Any]) -> dict[str, str]:
    tags = {"mlflow.traceName": record["name"], "mlflow.trace.spansLocation": "TRACKING_STORE"}
    about = record.get("about") or {
        "case": record["case_id"],
        "repeat": str(record["repeat"]),
        "outcome": record["outcome"],
        "kept_from": record.get("kept_from"),
    }
    return {**tags, **{f"poclab.{key}": value for key, value in about.items() if value}}


def _assessments(record: Mapping[str, Any], run_id: str) -> list[Any]:
    from mlflow.entities import AssessmentSource, Expectation, Feedback

    metadata, end_ms = {ASSESSMENT_RUN_KEY: run_id}, record["end_ns"] // 1_000_000
    common = {"create_time_ms": end_ms, "last_update_time_ms": end_ms, "trace_id": record["trace_id"]}
    code = {"source": AssessmentSource(source_type="CODE", source_id="poclab"), "metadata": metadata}
    found: list[Any] = [
        Feedback(
            name=name,
            value=score["value"],
            rationale=score["reason"],
            error=None if score["value"] is not None else score["reason"],
            **(_of_judge(record, score, metadata) if score.get("source") else code),
            **common,
        )
        for name, score in record["scores"].items()
    ]
    # One, not one for each key: MLflow's tables show ten columns, and leave out scores before anything else.
    return found if "about" in record else [*found, Expectation(name="expected", value=record["expected"], **code, **common)]


def _of_judge(record: Mapping[str, Any], score: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return whose feedback a judge's is, by its rubric's digest, the label that it gave, and where the trace of its calls is."""
    from mlflow.entities import AssessmentSource

    trace = (record.get("judging") or {}).get("trace_id")
    told = {"rubric": score["source"], "label": score["answer"], "judge_trace": trace}
    more = {f"poclab.{key}": value for key, value in told.items() if value}
    return {"source": AssessmentSource(source_type="LLM_JUDGE", source_id=score["source"][:12]), "metadata": {**metadata, **more}}


def _spans(record: Mapping[str, Any], experiment_id: str) -> list[Any]:
    kind = "EVALUATOR" if "about" in record else "CHAIN"
    root = {**record, "id": record["trace_id"][-16:], "kind": kind, "parent": None, "attributes": {"case": record["case_id"]}}
    return [_span(one, record["trace_id"], root["id"], experiment_id) for one in (root, *record["steps"])]


def _span(step: Mapping[str, Any], trace_id: str, root_id: str, experiment_id: str) -> Any:
    from mlflow.entities import Span
    from mlflow.tracing.utils import build_otel_context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Status, StatusCode

    number = int(trace_id.removeprefix("tr-"), 16)
    parent = None if step["id"] == root_id else step["parent"] or root_id
    attributes = {
        "mlflow.traceRequestId": trace_id,
        "mlflow.experimentId": experiment_id,
        "mlflow.spanType": step["kind"],
        "mlflow.spanInputs": step["inputs"],
        "mlflow.spanOutputs": step["outputs"],
        **_model_attributes(step["attributes"]),
    }
    return Span(
        ReadableSpan(
            name=step["name"],
            context=build_otel_context(number, int(step["id"], 16)),
            parent=build_otel_context(number, int(parent, 16)) if parent else None,
            start_time=step["start_ns"],
            end_time=step["end_ns"],
            attributes={key: json.dumps(value, ensure_ascii=False) for key, value in attributes.items() if value is not None},
            status=Status(StatusCode.ERROR, step["error"]) if step["error"] else Status(StatusCode.OK),
            resource=Resource.get_empty(),
        )
    )


def _model_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step's attributes with those of a model call under the names that MLflow sums and shows."""
    counted = _counted(attributes)
    taken = ("cost_usd", "model", *(COUNTS if counted else ()))
    found = {key: value for key, value in attributes.items() if key not in taken}
    if attributes.get("model"):
        found |= {"mlflow.llm.model": attributes["model"], "mlflow.message.format": "openai"}
    if counted:
        found["mlflow.chat.tokenUsage"] = _tokens(*(attributes[name] for name in COUNTS))
    if attributes.get("cost_usd") is not None:
        found["mlflow.llm.cost"] = {"input_cost": 0.0, "output_cost": 0.0, "total_cost": attributes["cost_usd"]}
    return found


def _counted(attributes: Mapping[str, Any]) -> bool:
    """Tell whether both counts of a model call are known: MLflow's form has no word for one that is not."""
    return all(attributes.get(name) is not None for name in COUNTS)


def _tokens(tokens_in: int, tokens_out: int) -> dict[str, int]:
    return {"input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


def _preview(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= PREVIEW else text[: PREVIEW - 3] + "..."


def count(uri: str, experiment_id: str, run_id: str) -> int:
    """Return how many traces the store holds for a run."""
    import mlflow
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracing.client import TracingClient

    store = TracingClient(uri).store
    if mlflow.__version__ in BULK_VERSIONS and isinstance(store, SqlAlchemyStore):
        from mlflow.store.tracking.dbmodels.models import SqlTraceMetadata

        with store.ManagedSessionMaker(read_only=True) as session:
            return session.query(SqlTraceMetadata).filter_by(key=RUN_KEY, value=run_id).count()
    found, token = 0, None
    while True:
        page = mlflow.MlflowClient(uri).search_traces(
            locations=[experiment_id], run_id=run_id, include_spans=False, max_results=500, page_token=token
        )
        found, token = found + len(page), page.token
        if not token:
            return found
