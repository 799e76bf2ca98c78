"""The traces of an evaluation, read back with MLflow's own client."""

import copy
import json
import uuid

import pytest

from conftest import ENV_KEY, GIVEN_KEY
from poclab.tracking import store, traces, tracking_uri


@pytest.fixture(scope="module")
def stored(recorded):
    """Every trace of the recorded run, with its spans, by (case, repeat)."""
    import mlflow

    poc, report = recorded
    client = mlflow.MlflowClient(tracking_uri(poc))
    experiment = client.get_experiment_by_name("animals").experiment_id
    found = client.search_traces(locations=[experiment], run_id=report.run_id, max_results=100)
    assert len(found) == 16
    return {(one.info.tags["poclab.case"], one.info.tags["poclab.repeat"]): one for one in found}


def test_there_is_one_trace_per_case_and_repeat(recorded, stored):
    """Exactly one, and the report names it."""
    _, report = recorded

    assert {(one.case_id, str(one.repeat)): one.trace_id for one in report.results} == {
        key: trace.info.trace_id for key, trace in stored.items()
    }


def test_the_request_id_leads_from_the_report_to_the_trace(recorded, stored):
    """The id under which a case was asked is the trace's client request id."""
    for one in recorded[1].results:
        assert stored[one.case_id, str(one.repeat)].info.client_request_id == one.request_id


def test_the_root_span_has_inputs_and_outputs(stored):
    """What was asked and what came back."""
    trace = stored["q02", "0"]
    root = trace.data.spans[0]

    assert root.parent_id is None
    assert root.inputs == {"question": "Where do storks nest?"}
    assert "chimneys" in root.outputs
    assert trace.info.request_preview == '{"question": "Where do storks nest?"}'
    assert trace.info.state == "OK"


def test_every_step_and_model_call_is_a_span_below_its_caller(stored):
    """open < read < root, and the model call < root, each with its type."""
    spans = {span.name: span for span in stored["q02", "0"].data.spans}
    root = stored["q02", "0"].data.spans[0]
    kinds = sorted(span.span_type for span in spans.values())

    assert kinds == ["CHAIN", "CHAT_MODEL", "RETRIEVER", "TOOL"]
    assert spans["read"].parent_id == root.span_id
    assert spans["open"].parent_id == spans["read"].span_id
    (call,) = [span for span in spans.values() if span.span_type == "CHAT_MODEL"]
    assert call.parent_id == root.span_id
    assert all(root.start_time_ns <= span.start_time_ns <= span.end_time_ns <= root.end_time_ns for span in spans.values())


def test_tokens_and_cost_are_summed_by_mlflow(recorded, stored):
    """The numbers of the trace are those of the report's calls."""
    for one in recorded[1].results:
        info = stored[one.case_id, str(one.repeat)].info
        if one.failure:
            assert info.token_usage is None
        else:
            (call,) = one.calls
            assert info.token_usage["input_tokens"] == call.tokens_in
            assert info.token_usage["output_tokens"] == call.tokens_out
            assert json.loads(info.trace_metadata["mlflow.trace.cost"])["total_cost"] == 0


def test_scores_are_feedback_of_the_run_and_expected_values_are_expectations(recorded, stored):
    """Value and reason of each score, bound to the run, so that MLflow's side-by-side view finds them."""
    found = {one.name: one for one in stored["q02", "0"].info.assessments}

    assert set(found) == {"contains", "abstains", "expected"}
    assert found["contains"].feedback.value is True
    assert "chimneys" in found["contains"].rationale
    assert found["contains"].metadata["mlflow.assessment.sourceRunId"] == recorded[1].run_id
    assert found["expected"].expectation.value["answers"] == ["chimneys"]
    assert found["contains"].source.source_id == "poclab"


def test_a_case_that_crashed_is_an_error_with_its_scores(stored):
    """The trace of a failed case is there, says why without any key, and carries the zero that it counts."""
    trace = stored["q09", "1"]
    text = str(trace.to_dict())

    assert trace.info.state == "ERROR"
    assert trace.info.tags["poclab.outcome"] == "crashed"
    assert {one.name: one.feedback.value for one in trace.info.assessments if one.feedback}["contains"] == 0
    assert "no opera" in text
    assert ENV_KEY not in text
    assert GIVEN_KEY not in text


RECORD = {
    "request_id": "r" * 32,
    "case_id": "q1",
    "repeat": 0,
    "failure": None,
    "outcome": "ok",
    "error": "",
    "name": "version",
    "inputs": {"question": "Wie groß? 🦉" * 200},
    "outputs": "ü" * 3000,
    "expected": {"answers": ["a", "b"], "data": {"n": 1.5}, "abstain": False},
    "start_ns": 1_700_000_000_123_456_789,
    "end_ns": 1_700_000_001_987_654_321,
    "scores": {
        "right": {"value": True, "answer": "a", "reason": "contains 'a'"},
        "share": {"value": 0.25, "answer": "", "reason": ""},
        "lost": {"value": None, "answer": "", "reason": "the scorer failed"},
    },
    "steps": [
        {
            "name": "chat",
            "kind": "CHAT_MODEL",
            "start_ns": 1_700_000_000_200_000_000,
            "end_ns": 1_700_000_000_300_000_000,
            "inputs": {"messages": [{"role": "user", "content": "?"}]},
            "outputs": {"choices": []},
            "attributes": {"model": "m", "tokens_in": 7, "tokens_out": 3, "cost_usd": 0.25, "status": 200},
            "error": "",
            "id": "00000000000000a1",
            "parent": None,
        },
        {
            "name": "tool",
            "kind": "TOOL",
            "start_ns": 1_700_000_000_250_000_000,
            "end_ns": 1_700_000_000_260_000_000,
            "inputs": None,
            "outputs": None,
            "attributes": {},
            "error": "ValueError: no",
            "id": "00000000000000a2",
            "parent": "00000000000000a1",
        },
    ],
}
FAILED = {
    **RECORD,
    "failure": "timeout",
    "outcome": "timeout",
    "error": "no reply within 1 s",
    "outputs": None,
    "scores": {},
    "expected": {},
    "steps": [],
}


def _without_ids(trace):
    """Return a trace as a dict in which what is new in every trace stands as a word."""
    text = json.dumps(trace.to_dict(), sort_keys=True, default=str)
    ids = {trace.info.trace_id: "TRACE", trace.info.trace_id.removeprefix("tr-"): "NUMBER"}
    ids |= {one.assessment_id: "ASSESSMENT" for one in trace.info.assessments}
    for old, new in ids.items():
        text = text.replace(old, new)
    data = json.loads(text)
    for span in data["data"]["spans"]:
        # Base 64 of the trace's number, and of the root's id, which is the end of it.
        span.pop("trace_id", None)
        span.pop("span_id", None)
        span.pop("parent_span_id", None)
    return data


@pytest.mark.parametrize("record", [RECORD, FAILED], ids=["answered", "failed"])
def test_both_ways_of_writing_store_the_same(recorded, record):
    """The rows written in bulk are those that MLflow itself writes: its own reader finds no difference."""
    from mlflow.tracing.client import TracingClient

    uri = tracking_uri(recorded[0])
    client = TracingClient(uri)
    experiment = store.connect(uri).get_experiment_by_name("animals").experiment_id
    read = []
    for begin in (traces.begin_each, traces.begin_bulk):
        one = {**copy.deepcopy(record), "trace_id": f"tr-{uuid.uuid4().hex}"}
        begin(client, [traces._trace_info(one, experiment, "no-run")])
        client.log_spans(experiment, traces._spans(one, experiment))
        read.append(client.get_trace(one["trace_id"]))

    assert _without_ids(read[0]) == _without_ids(read[1])
    each, bulk = read
    assert (
        [span.name for span in bulk.data.spans]
        == [span.name for span in each.data.spans]
        == ["version", *(s["name"] for s in record["steps"])]
    )
    assert bulk.info.token_usage == each.info.token_usage
    assert sorted(one.name for one in bulk.info.assessments) == sorted(one.name for one in each.info.assessments)


def test_traces_in_bulk_are_found_by_the_same_searches(recorded, stored):
    """MLflow's filters read columns and metadata of their own; the UI lives on them."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri(recorded[0]))
    experiment = client.get_experiment_by_name("animals").experiment_id

    def found(query):
        return {(one.info.tags["poclab.case"], one.info.tags["poclab.repeat"]) for one in client.search_traces([experiment], query)}

    assert found(f"run_id = '{recorded[1].run_id}' AND tags.`poclab.case` = 'q03'") == {("q03", "0"), ("q03", "1")}
    assert found("trace.status = 'ERROR' AND tags.`poclab.outcome` = 'crashed'") == {("q09", "0"), ("q09", "1")}
    assert found("trace.name = 'look-up'") == set(stored)
    assert found("feedback.contains = 'true'") == set(stored) - {("q09", "0"), ("q09", "1")}
