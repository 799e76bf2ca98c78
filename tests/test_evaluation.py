import concurrent.futures
import contextlib
import errno
import json
import socket
import time

import openai
import pydantic
import pytest

import poclab
from conftest import CHARTER, PRICES
from poclab import Case, freezing, models, scores
from poclab.errors import EndpointError, InputError, StoreError
from poclab.evaluation import outcome_of
from poclab.ledger import LEDGER, Ledger
from poclab.recording import Recording
from poclab.report import OUTCOMES, Report
from poclab.scores import Score
from poclab.system import Call, CaseContext, Reply, Step

KEY = "sk-the-right-key-1"
VERSION = poclab.Version("echo", model="m")


@pytest.fixture
def endpoint(served):
    served.configure(random=False, wrong=0.0, faults=[], latency_s=0.0, key="", models=[], limit=0)
    served.reset()
    return served


@pytest.fixture
def cases(make_store, tmp_path):
    """Sixty frozen cases, of which the endpoint knows the answer of each."""
    folder = tmp_path / "echo"
    folder.mkdir()
    make_store(folder)
    (folder / "charter.yaml").write_text(CHARTER + PRICES)
    lines = (
        {"id": f"q{i:02}", "inputs": {"question": f"case {i:02}: ANSWER:{{a{i}}}"}, "expected": {"answers": [f"a{i}"]}, "split": "dev"}
        for i in range(60)
    )
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    freezing.freeze(folder / "cases.jsonl")
    return poclab.TestSet.load(folder / "cases.jsonl").split("dev")


def system(endpoint, key=KEY, model="m"):
    client = models.client(base_url=endpoint.url, api_key=key)

    def answer(inputs):
        message = {"role": "user", "content": inputs["question"]}
        return client.chat.completions.create(model=model, messages=[message], max_tokens=50).choices[0].message.content

    return answer


def evaluate(endpoint, cases, given=None, **more):
    return poclab.evaluate(system(endpoint), cases, given or [scores.exact()], version=VERSION, **{"workers": 8, **more})


# --- paid once


def test_an_evaluation_run_again_asks_nothing_and_says_the_same(endpoint, cases):
    """The second costs nothing now, and shows what its answers cost when they were paid: that is what a criterion judges."""
    first, second = evaluate(endpoint, cases), evaluate(endpoint, cases)

    assert endpoint.counts()["billed"] == 60
    assert second.content_digest() == first.content_digest()
    assert first.spent_usd == pytest.approx(endpoint.counts()["bill_usd"])
    assert (second.spent_usd, second.total("cost_usd")) == (0.0, first.total("cost_usd"))
    assert second.estimate("cost_usd_per_case") == first.estimate("cost_usd_per_case")
    assert "paid now: $0.0000" in repr(second)
    assert all(call.replayed and call.entry for one in second.results for call in one.calls)


def test_a_judge_is_paid_apart(endpoint, cases):
    """What a scorer asks is recorded and priced, and is none of the system's cost."""
    client = models.client(base_url=endpoint.url, api_key=KEY)

    def judged(case, reply):
        asked = [{"role": "user", "content": f"Is {reply.text} right? ANSWER:{{yes}}"}]
        said = client.chat.completions.create(model="m", messages=asked, max_tokens=5).choices[0].message.content
        return Score(said == "yes", said, "as the judge says")

    plain = evaluate(endpoint, cases)
    found = poclab.evaluate(system(endpoint), cases, [scores.exact(), judged], version=VERSION)

    assert found.total("cost_usd") == plain.total("cost_usd")
    assert found.judge_cost_usd == pytest.approx(endpoint.counts()["bill_usd"] - plain.total("cost_usd"))
    assert found.metrics()["judge_cost_usd"] > 0


def test_reports_keep_calls_of_system_and_judge(endpoint, cases, tmp_path):
    """To a file and back, nothing of what was paid is lost."""
    found = evaluate(endpoint, cases)
    again = Report.load(found.save(tmp_path / "report.json"))

    assert [one.calls for one in again.results] == [one.calls for one in found.results]
    assert again.outcomes == found.outcomes


# --- the budget of an evaluation


def test_a_budget_stops_an_evaluation_that_can_go_on(endpoint, cases):
    """The endpoint's own bill stays below; the report is partial and says why; with more money the rest is asked, and only that."""
    one_call = 0.00035  # 50 tokens out at 4 dollars a million, and about 130 bytes in at 1 dollar; in fact it costs a thirtieth
    stopped = evaluate(endpoint, cases, max_cost_usd=0.0006, workers=4)
    bill = endpoint.counts()["bill_usd"]
    billed = endpoint.counts()["billed"]
    whole = evaluate(endpoint, cases, max_cost_usd=1.0)

    assert stopped.partial
    assert 0.0006 - 4 * one_call <= bill <= 0.0006
    assert "the budget of" in repr(stopped)
    assert stopped.outcomes["budget"] >= 1
    assert whole.outcomes["ok"] == 60
    assert endpoint.counts()["billed"] == 60
    assert billed < 60


@pytest.mark.parametrize("usd", [0, -1, True, "5", float("inf"), float("nan")])
def test_a_budget_is_a_number_of_dollars(endpoint, cases, usd):
    """Refused before anything is asked."""
    with pytest.raises(InputError, match="max_cost_usd"):
        evaluate(endpoint, cases, max_cost_usd=usd)


def test_a_budget_needs_a_poc():
    """It is kept in a ledger; a set in memory has none."""
    with pytest.raises(InputError, match="a budget is kept in a POC's ledger"):
        poclab.evaluate(str, [Case("q", {"question": "?"}, {"answers": ["a"]})], [scores.exact()], max_cost_usd=1.0)


# --- what stops a run at once


@pytest.mark.parametrize(
    ("settings", "said", "fix"),
    [({"key": "sk-another-key-99"}, "HTTP 401", "OPENAI_API_KEY"), ({"models": ["other"]}, "HTTP 404", "model's name")],
)
def test_the_same_fatal_error_on_the_first_cases_stops_the_run(endpoint, cases, settings, said, fix):
    """Sixty cases would meet what the first ones met; the error says what to do."""
    endpoint.configure(latency_s=0.05, **settings)
    with pytest.raises(EndpointError, match=f"all of the first 5 case.s. failed by the same: {said}") as caught:
        evaluate(endpoint, cases, workers=2)

    assert fix in caught.value.fix
    assert endpoint.counts()["requests"] < 60  # ten that tell it, and those begun until it is noticed; all would be 120


def test_an_endpoint_that_is_not_there_stops_the_run(cases, unused_port):
    """A refused connection is tried twice, and not for a minute on each case."""
    client = models.client(base_url=f"http://127.0.0.1:{unused_port}/v1", api_key=KEY)
    began = time.monotonic()
    with pytest.raises(EndpointError, match="the connection is refused"):
        poclab.evaluate(
            lambda inputs: client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}]),
            cases,
            [scores.exact()],
            version=VERSION,
        )

    assert time.monotonic() - began < 20


def test_one_right_answer_keeps_the_run_going(endpoint, cases):
    """An error that only some cases meet is theirs, and counts as wrong."""
    endpoint.configure(faults=[{"kind": "401", "match": f"case {i:02}", "times": None} for i in range(1, 50)])
    found = evaluate(endpoint, cases, workers=1)

    assert found.outcomes["crashed"] == 49
    assert found.outcomes["ok"] == 11


def test_a_damaged_ledger_stops_before_the_first_case(endpoint, cases):
    """Nothing is asked whose answer could not be kept."""
    (cases.poc / LEDGER).write_text("no ledger")
    with pytest.raises(StoreError, match="ledger"):
        evaluate(endpoint, cases)

    assert endpoint.counts()["requests"] == 0


# --- outcomes


def test_every_failure_of_the_endpoint_has_its_class(endpoint, cases):
    """Each case says what the endpoint did, when it did it until the case's time ran out; a wrong answer is something else."""
    faults = {"429": "rate_limited", "500": "server_error", "reset": "connection", "cut_json": "connection", "hang": "timeout"}
    endpoint.configure(faults=[{"kind": kind, "match": f"case {i:02}", "times": None} for i, kind in enumerate(faults)])
    found = evaluate(endpoint, cases, timeout_s=5, workers=60)

    assert [one.outcome for one in found.results[:6]] == [*faults.values(), "ok"]
    assert found.failed == 5
    assert found.metrics()["outcome_connection"] == 2
    assert "outcomes: ok 55, rate_limited 1, timeout 1, connection 2, server_error 1" in repr(found)


def test_a_crash_after_an_error_that_was_handled_is_a_crash(endpoint, cases):
    """The system lived with the endpoint's error, and then failed by itself: that must not be asked again."""
    endpoint.configure(faults=[{"kind": "500", "match": "case", "times": None, "retry_after_s": 600}])  # longer than a case has
    client = models.client(base_url=endpoint.url, api_key=KEY)

    def answer(inputs):
        with contextlib.suppress(openai.InternalServerError):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": inputs["question"]}])
        raise KeyError("no such thing")

    found = poclab.evaluate(answer, poclab.TestSet(cases.cases[:3]), [scores.exact()], version=VERSION)

    assert [one.outcome for one in found.results] == ["crashed"] * 3


WRONG = Score(False, "", "")


@pytest.mark.parametrize(
    ("reply", "score", "context", "outcome"),
    [
        ("yes", Score(True, "", ""), {}, "ok"),
        ("yes", Score(0.5, "", ""), {}, "ok"),
        ("yes", Score(0.4, "", ""), {}, "wrong"),
        ("yes", None, {}, "ok"),
        ("I don't know.", WRONG, {}, "abstained"),
        ("", WRONG, {}, "abstained"),
        ("yes", WRONG, {"calls": [Call("m", "/p", 0.1, 200, stopped="refused")]}, "refused"),
        ("yes", WRONG, {"calls": [Call("m", "/p", 0.1, 200, stopped="truncated"), Call("m", "/p", 0.1, 200)]}, "truncated"),
        ("yes", WRONG, {"steps": [Step("find", "RETRIEVER", 0, outputs=[])]}, "empty_retrieval"),
        ("yes", WRONG, {"steps": [Step("find", "RETRIEVER", 0, outputs=["passage"])]}, "wrong"),
    ],
)
def test_the_outcome_says_why_a_reply_is_not_right(reply, score, context, outcome):
    """The most telling of what is known; a right answer is `ok` whatever else happened."""
    assert outcome_of(Reply(reply), score, CaseContext(**context)) == outcome
    assert outcome in OUTCOMES


def test_an_answer_that_was_cut_at_its_limit_is_truncated(endpoint, cases):
    """The endpoint says `length`, and the case says so."""
    client = models.client(base_url=endpoint.url, api_key=KEY)

    def answer(inputs):
        asked = [{"role": "user", "content": "ANSWER:{one two three four five six seven eight}"}]
        return client.chat.completions.create(model="m", messages=asked, max_tokens=1).choices[0].message.content

    found = poclab.evaluate(answer, cases, [scores.exact()], version=VERSION)

    assert found.outcomes["truncated"] == 60


class Answer(pydantic.BaseModel):
    answer: str


@pytest.mark.parametrize(
    ("prompt", "limit", "fault", "outcome"),
    [
        ("ANSWER:{no JSON at all}", 50, None, "malformed_output"),
        ("ANSWER:{[1, 2]}", 50, None, "malformed_output"),
        ('ANSWER:{{"answer": "one two three"}}', 3, None, "truncated"),
        ("ANSWER:{no}", 50, "refusal", "refused"),
    ],
)
def test_a_system_that_cannot_read_an_answer_says_why(endpoint, cases, prompt, limit, fault, outcome):
    """What is no JSON, or of another schema, is malformed; half of it was cut at its limit, and a refusal is no JSON either."""
    endpoint.configure(faults=[{"kind": fault, "match": "ANSWER", "times": None}] if fault else [])
    client = models.client(base_url=endpoint.url, api_key=KEY)

    def ask(create, **more):
        return create(model="m", messages=[{"role": "user", "content": prompt}], max_tokens=limit, **more).choices[0].message

    def parsing(inputs):
        return ask(client.chat.completions.parse, response_format=Answer).parsed.answer

    def validating(inputs):
        return Answer.model_validate_json(ask(client.chat.completions.create).content or "{}").answer

    def loading(inputs):
        return json.loads(ask(client.chat.completions.create).content or "")["answer"]

    def handing_on(inputs):
        return ask(client.chat.completions.create).content

    part = poclab.TestSet(cases.cases[:2])

    def stripping(inputs):
        return ask(client.chat.completions.create).content.strip()

    refused = [handing_on, stripping] if fault else []
    wanted = [validating, *([loading] if "[" not in prompt else []), *refused, *([parsing] if limit == 3 else [])]
    found = [poclab.evaluate(one, part, [scores.exact()], version=VERSION) for one in wanted]

    assert [[(one.outcome, one.failure) for one in report.results] for report in found] == [[(outcome, outcome)] * 2] * len(wanted)
    assert f"failed: 2 {outcome}" in repr(found[0])


def test_a_file_of_the_systems_own_that_is_no_json_is_a_crash(cases):
    """Nothing was asked: no answer can be to blame."""
    found = poclab.evaluate(lambda inputs: json.loads("{"), poclab.TestSet(cases.cases[:2]), [scores.exact()], version=VERSION)

    assert found.outcomes["crashed"] == 2


@pytest.mark.parametrize(
    ("answer", "outcome", "said"),
    [
        ("503 Busy", "server_error", "httpx.HTTPStatusError: Server error '503 Busy' for url "),
        ("429 Slow down", "rate_limited", "httpx.HTTPStatusError: Client error '429 Slow down' for url "),
        ("422 No", "crashed", "httpx.HTTPStatusError: Client error '422 No' for url "),
        ("", "connection", "httpx.RemoteProtocolError: Server disconnected without sending a response."),
        (None, "connection", "httpx.ConnectError: [Errno 111] Connection refused"),
        ("hangs", "timeout", "httpx.ReadTimeout: timed out"),
    ],
)
def test_what_a_service_of_ones_own_does_has_its_class(cases, unused_port, answer, outcome, said):
    """A system behind HTTP fails as an endpoint does, so that what was only unavailable can be asked again."""
    import httpx

    with contextlib.ExitStack() as stack:
        port = unused_port if answer is None else stack.enter_context(one_answer(answer))

        def system(inputs):
            return httpx.post(f"http://127.0.0.1:{port}/ask", json=dict(inputs), timeout=0.3).raise_for_status().text

        (result,) = poclab.evaluate(system, cases.cases[:1], [scores.exact()], version=VERSION).results

    assert result.outcome == outcome
    assert result.problem.startswith(said)


@contextlib.contextmanager
def one_answer(status):
    """Serve one request on loopback: its port. Without a status the connection is closed, with `hangs` it is kept."""
    with socket.create_server(("127.0.0.1", 0)) as listening, concurrent.futures.ThreadPoolExecutor(1) as pool:

        def serve():
            connection, _ = listening.accept()
            with connection:
                asked = connection.recv(1 << 16)
                if status == "hangs":
                    while asked:
                        asked = connection.recv(1 << 16)
                elif status:
                    connection.sendall(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())

        served = pool.submit(serve)
        yield listening.getsockname()[1]
        served.result(5)


def test_a_stream_that_is_cut_inside_of_an_event_failed_at_the_connection(endpoint, cases):
    """The SDK cannot read the event, and leaves: the endpoint is to blame, and the case may be asked again."""
    endpoint.configure(faults=[{"kind": "cut_json", "match": "case 00", "times": 1}])
    client = models.client(base_url=endpoint.url, api_key=KEY)

    def answer(inputs):
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": inputs["question"]}], max_tokens=50, stream=True
        )
        return "".join(event.choices[0].delta.content or "" for event in stream if event.choices)

    first = poclab.evaluate(answer, cases, [scores.exact()], version=VERSION)
    again = poclab.evaluate(answer, cases, [scores.exact()], version=VERSION, retry_failed=True)

    assert (first.outcomes["connection"], first.outcomes["ok"], first.results[0].calls[0].lost) == (1, 59, 1)
    assert (again.outcomes["ok"], again.retried) == (60, 1)


def test_a_disk_that_fills_up_is_told_with_the_way_out(endpoint, cases, monkeypatch):
    """What was answered is in the ledger: the same call goes on from there."""

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 3

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, text):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(text)

    begun = Recording.__init__

    def fill(self, *given):
        begun(self, *given)
        self.records = Full(self.records)

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="No space left on device\n  fix: free some space"):
        patch.setattr(Recording, "__init__", fill)
        evaluate(endpoint, cases)
    found = evaluate(endpoint, cases)

    assert found.outcomes["ok"] == 60
    assert endpoint.counts()["billed"] == 60


# --- asking again what the endpoint failed


def test_only_what_the_endpoint_failed_is_asked_again(endpoint, cases):
    """The wrong, the crashed and the timed-out case keep their results: to roll the dice again would raise the score."""
    endpoint.configure(
        random=True,
        faults=[
            {"kind": "500", "match": "case 0[0-4]", "times": 100},
            {"kind": "hang", "match": "case 05", "times": 1},
            {"kind": "401", "match": "case 06", "times": 1},
        ],
    )
    first = evaluate(endpoint, cases, timeout_s=4, workers=60)
    requests = endpoint.counts()["requests"]
    endpoint.configure(random=False, faults=[])
    again = evaluate(endpoint, cases, retry_failed=True)

    assert first.outcomes["server_error"] == 5
    assert endpoint.counts()["requests"] - requests == 5
    assert [one.outcome for one in again.results[:7]] == ["ok"] * 5 + ["timeout", "crashed"]
    assert [one.reply for one in again.results[7:]] == [one.reply for one in first.results[7:]]
    assert again.retried == 5
    assert "5 case(s) that the endpoint had failed were asked again" in repr(again)
    assert again.metrics()["retried"] == 5


def test_what_a_budget_left_is_asked_and_counted_as_retried_only_where_it_failed(endpoint, cases):
    """Cases that had no turn are not asked again: they are asked."""
    stopped = evaluate(endpoint, cases, max_cost_usd=0.0006, workers=4)
    again = evaluate(endpoint, cases, retry_failed=True)

    assert stopped.partial and not again.partial
    assert again.outcomes["ok"] == 60
    assert again.retried == stopped.outcomes["budget"]
    assert endpoint.counts()["billed"] == 60


def test_kept_replies_are_scored_by_the_scorers_of_now(endpoint, cases):
    """A score that was added or edited since stands for all cases, not for those alone that were asked again; and nothing is paid twice."""
    endpoint.configure(faults=[{"kind": "500", "match": "case 0[0-4]", "times": 100}, {"kind": "401", "match": "case 06", "times": 1}])
    first = evaluate(endpoint, cases, timeout_s=4, workers=60, given=[scores.Scorer("mine", lambda case, reply: 0.0)])
    paid = endpoint.counts()["bill_usd"]
    endpoint.configure(faults=[])
    again = evaluate(endpoint, cases, retry_failed=True, given=[scores.Scorer("mine", lambda case, reply: 1.0), scores.exact()])

    assert first.mean("mine") == 0
    assert (again.mean("mine"), again.estimate("exact").n, again.mean("exact")) == (59 / 60, 60, 59 / 60)
    assert again.spent_usd == pytest.approx(endpoint.counts()["bill_usd"] - paid)
    assert again.total("cost_usd") == pytest.approx(endpoint.counts()["bill_usd"])


def test_a_case_that_was_kept_is_traced_to_where_it_was_asked(endpoint, cases):
    """The trace of the run that kept it holds its scores; what happened is in the first one, which its ids lead to."""
    from poclab.inspection import inspect

    endpoint.configure(faults=[{"kind": "500", "match": "case 00", "times": 100}])
    first = evaluate(endpoint, cases, timeout_s=4, workers=60)
    endpoint.configure(faults=[])
    again = evaluate(endpoint, cases, retry_failed=True)
    one = again.results[7]

    assert one.request_id == first.results[7].request_id
    for asked in (one.case_id, one.request_id):
        assert inspect(asked, cases.poc).trace["trace_id"] == first.results[7].trace_id
    assert "kept_from" in str(inspect(one.trace_id, cases.poc).trace["tags"])


def test_without_anything_to_retry_it_says_so(endpoint, cases):
    """Neither a version that never ran nor a run that the endpoint did not fail."""
    (cases.poc / "mlflow.db").unlink()
    with pytest.raises(InputError, match="has no run on these cases to retry"):
        evaluate(endpoint, cases, retry_failed=True)
    evaluate(endpoint, cases)
    with pytest.raises(InputError, match="the endpoint failed no case"):
        evaluate(endpoint, cases, retry_failed=True)


# --- one request, whole


def test_the_request_id_leads_to_everything(endpoint, cases):
    """From the report to the trace and the ledger entry: prompt, answer, tokens, dollars, score; in a few seconds."""
    from poclab.inspection import inspect

    report = evaluate(endpoint, cases)
    one = report.results[7]
    began = time.process_time()
    text = repr(inspect(one.request_id, cases.poc))

    assert time.process_time() - began < 15  # 2.7 s on a quiet machine; MLflow is imported within
    for part in ("case q07, repeat 0: ok", one.request_id, "[user] case 07: ANSWER:{a7}", "[assistant] a7", "score exact = True", "ledger"):
        assert part in text
    assert f"cost_usd {one.calls[0].cost_usd}" in text
    assert Ledger.open(cases.poc / LEDGER).of_case(request_id=one.request_id)[0].name in text
    assert "more trace" not in text and repr(inspect("q07", cases.poc)) == text


@pytest.mark.parametrize("stream", [False, True])
def test_a_case_without_a_trace_is_shown_from_the_ledger(endpoint, cases, stream):
    """Its prompt and its answer, which may have been a stream."""
    from poclab.inspection import inspect

    client = models.client(base_url=endpoint.url, api_key=KEY)

    def answer(inputs):
        asked = [{"role": "user", "content": inputs["question"]}]
        reply = client.chat.completions.create(model="m", messages=asked, max_tokens=50, stream=stream)
        return "".join(chunk.choices[0].delta.content or "" for chunk in reply) if stream else reply.choices[0].message.content

    poclab.evaluate(answer, cases, [scores.exact()], version=VERSION, traces="none")
    text = repr(inspect("q07", cases.poc))

    assert "no trace is stored" in text
    assert "[user] case 07: ANSWER:{a7}" in text and "[assistant] a7" in text


def test_an_unknown_id_is_refused(cases):
    """With what an id looks like; quotes in it reach no query."""
    from poclab.inspection import inspect

    for asked in ("q99", "' OR 1=1 --", "0" * 32):
        with pytest.raises(InputError, match="no trace and no answer"):
            inspect(asked, cases.poc)


# --- what a system hides


def hiding(endpoint):
    """Return a system that answers something whatever happens."""
    asked = system(endpoint)

    def answer(inputs):
        try:
            return asked(inputs)
        except Exception:
            return "sorry, I don't know"

    return answer


def test_a_budget_that_a_system_hides_stops_the_run_all_the_same(endpoint, cases):
    """An answer that nobody gave has no verdict."""
    found = poclab.evaluate(hiding(endpoint), cases, [scores.exact()], version=VERSION, max_cost_usd=0.0006, workers=2)

    assert found.partial and "the budget of" in found.stopped
    assert found.outcomes["budget"] >= 1
    assert found.outcomes["abstained"] == 0


def test_a_fallback_that_works_does_not_stop_a_run(endpoint, cases):
    """The preferred model is not there, another one answers each case: nothing is fatal about that."""
    endpoint.configure(models=["m"])
    client = models.client(base_url=endpoint.url, api_key=KEY)

    def answer(inputs):
        asked = [{"role": "user", "content": inputs["question"]}]
        with contextlib.suppress(openai.NotFoundError):
            client.chat.completions.create(model="preferred", messages=asked)
        return client.chat.completions.create(model="m", messages=asked).choices[0].message.content

    assert poclab.evaluate(answer, cases, [scores.exact()], version=VERSION).outcomes["ok"] == 60


def test_a_judge_that_is_refused_stops_the_run(endpoint, cases):
    """Its answers are missed on every case; a system that is paid for nothing is not asked on."""
    endpoint.configure(models=["m"], latency_s=0.05)
    client = models.client(base_url=endpoint.url, api_key=KEY)

    def judged(case, reply):
        client.chat.completions.create(model="judge", messages=[{"role": "user", "content": "?"}])

    with pytest.raises(EndpointError, match="all of the first 5"):
        poclab.evaluate(system(endpoint), cases, [judged], version=VERSION, workers=2)

    assert endpoint.counts()["billed"] < 60  # those begun until it is noticed; all would be 60


def test_threads_of_a_system_are_held_to_the_budget(endpoint, cases):
    """They have no case of their own, since nobody carried it into them; the money is the same."""
    from concurrent.futures import ThreadPoolExecutor

    asked = system(endpoint)

    def answer(inputs):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asked, inputs).result()

    poclab.evaluate(answer, cases, [scores.exact()], version=VERSION, max_cost_usd=0.0006, workers=2)

    assert endpoint.counts()["bill_usd"] <= 0.0006
