"""What became of a case that the endpoint, or the system, failed: its class, in every way that it can come about."""

import asyncio
import contextvars
import gzip
import json
import threading
import time

import httpx2
import openai
import pytest

import poclab
from conftest import CHARTER, completion, plain_cases
from poclab import freezing, scores
from poclab.errors import StoreError
from poclab.inspection import inspect
from poclab.ledger import LEDGER, Ledger, entries
from poclab.transport import adapter


@pytest.fixture
def cases(tmp_path, monkeypatch, make_store):
    monkeypatch.setenv("POCLAB_POC", str(tmp_path))
    make_store(tmp_path)
    return plain_cases(tmp_path, 12)


def clients(script, made=openai.OpenAI, http=httpx2.Client):
    """Return a client whose endpoint answers in this process, as `script(request)` says."""
    transport = adapter(httpx2)(lambda: httpx2.MockTransport(script))
    return made(api_key="sk-0123456789", base_url="http://server/v1", max_retries=0, http_client=http(transport=transport))


def answering(script):
    client = clients(script)
    return lambda inputs: ask(client, inputs["question"])


def ask(client, text, **more):
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **more).choices[0].message.content


def outcomes(system, cases, **options):
    report = poclab.evaluate(system, cases, [scores.exact()], version=poclab.Version("v", model="m"), **options)
    return {name: count for name, count in report.outcomes.items() if count}


def events(*lines):
    return "".join(f"data: {line if isinstance(line, str) else json.dumps(line)}\n\n" for line in lines).encode()


def streamed(content, headers=None):
    """Return a response whose content comes as it is read."""
    return httpx2.Response(200, headers=headers or {"content-type": "text/event-stream"}, stream=httpx2.ByteStream(content))


def delta(text, reason=None):
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}  # fmt: skip


# --- what the endpoint did


def test_a_request_that_was_never_let_out_failed_by_the_limit(cases):
    """The endpoint refuses one after the other: whoever still waits at the end of its time was not slow; one may be on its way then."""
    busy = threading.Lock()

    def script(request):
        if not busy.acquire(blocking=False):
            return httpx2.Response(429, json={"error": {"message": "slow down"}})
        try:
            threading.Event().wait(0.6)
            return httpx2.Response(429, json={"error": {"message": "slow down"}})
        finally:
            busy.release()

    assert outcomes(answering(script), cases, timeout_s=2, workers=12)["rate_limited"] >= 11


def test_one_refusal_among_calls_side_by_side_is_the_endpoints(cases):
    """The call that was refused is not the last one to end."""

    def script(request):
        if b"refuse" in request.content:
            return httpx2.Response(429, json={"error": {"message": "no"}}, headers={"x-should-retry": "false"})
        return httpx2.Response(200, json=completion("a"))

    async def system(inputs):
        async with clients(script, openai.AsyncOpenAI, httpx2.AsyncClient) as client:

            async def one(text, wait_s):
                await asyncio.sleep(wait_s)
                return await client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

            done = await asyncio.gather(one("refuse", 0), one("fine", 0.05), return_exceptions=True)
            raise done[0]

    assert outcomes(system, cases) == {"rate_limited": 12}


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ({"code": 429, "message": "no"}, "rate_limited"),
        ({"code": "rate_limit_exceeded", "message": "no"}, "rate_limited"),
        ({"code": 503, "message": "no"}, "server_error"),
        ({"type": "overloaded_error", "message": "no"}, "server_error"),
        ({"type": "server_error", "code": None, "message": "no"}, "server_error"),
        ({"code": "odd", "message": "no"}, "crashed"),
    ],
)
def test_an_error_inside_of_a_stream_has_the_class_of_its_status(cases, error, outcome):
    """It comes with status 200, after the first word."""

    def script(request):
        return streamed(events(delta("a"), {"error": error}))

    client = clients(script)

    def system(inputs):
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": inputs["question"]}], stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert outcomes(system, cases) == {outcome: 12}
    assert not list(entries(Ledger.open(cases.poc / LEDGER)))


def test_an_error_in_words_inside_of_an_answer_is_asked_again(cases):
    """`{"error": "overloaded"}` with status 200, once per case: then the answer comes."""
    seen = set()

    def script(request):
        if request.content in seen:
            return httpx2.Response(200, json=completion("a"))
        seen.add(request.content)
        return httpx2.Response(200, json={"error": "overloaded"})

    assert outcomes(answering(script), cases) == {"ok": 12}


def test_a_time_limit_of_the_systems_own_around_a_call_is_a_timeout(cases):
    """As the client's own limit is."""

    async def script(request):
        await asyncio.sleep(5)

    async def system(inputs):
        async with clients(script, openai.AsyncOpenAI, httpx2.AsyncClient) as client:
            return await asyncio.wait_for(client.chat.completions.create(model="m", messages=[]), 0.1)

    assert outcomes(system, cases, workers=12) == {"timeout": 12}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (completion(None, refusal="I will not."), "refused"),
        (completion(None, "content_filter"), "refused"),
        (completion(None, "length"), "truncated"),
        (completion(None), "malformed_output"),
    ],
)
def test_an_answer_without_a_text_is_classed_by_why(cases, answer, outcome):
    """A system that hands the missing text on returns no reply; the endpoint had said why there is none."""
    assert outcomes(answering(lambda request: httpx2.Response(200, json=answer)), cases) == {outcome: 12}


def test_a_prompt_that_the_endpoint_filters_is_refused(cases):
    """Azure and others say so by status 400."""
    error = {"error": {"message": "filtered", "code": "content_filter"}}

    assert outcomes(answering(lambda request: httpx2.Response(400, json=error)), cases) == {"refused": 12}


@pytest.mark.parametrize(
    "content", [b'{"choices": "\xff\xfe"}', b'{"choices": ' + b"9" * 5000 + b"}", b'{"a": ' * 3000 + b"1" + b"}" * 3000]
)
def test_a_whole_body_that_nobody_can_read_is_not_asked_again(cases, content):
    """It did not break off: the next would be the same, and paid."""
    asked = []

    def script(request):
        asked.append(request)
        return httpx2.Response(200, content=content, headers={"content-type": "application/json"})

    outcomes(answering(script), poclab.TestSet(cases.cases[:1], path=cases.path))
    assert len(asked) == 1


# --- what the system did


class Unreadable(Exception):
    """An error that fails at being looked at."""

    def __str__(self):
        raise RuntimeError("no text")

    def __getattr__(self, name):
        raise RuntimeError("no attribute")


def test_an_error_that_cannot_be_read_ends_no_evaluation(cases):
    """Whatever a system raises is a case that crashed."""

    def system(inputs):
        raise Unreadable

    assert outcomes(system, cases) == {"crashed": 12}


def test_the_first_line_of_a_group_of_errors_says_what_happened(cases):
    """Not the margin that Python draws around it."""

    def system(inputs):
        raise ExceptionGroup("two", [ValueError("one"), KeyError("the other")])

    report = poclab.evaluate(system, cases, [scores.exact()], version=poclab.Version("v"))
    assert report.failures == ["12 crashed: KeyError: 'the other' (first: case q00)"]


def test_a_system_that_swallows_a_refused_key_stops_the_evaluation(cases):
    """Its made-up answers are none of the model's: the first five cases all met what every case will meet."""
    client = clients(lambda request: httpx2.Response(401, json={"error": {"message": "no"}}))

    def system(inputs):
        try:
            return ask(client, inputs["question"])
        except openai.APIError:
            return "a"

    with pytest.raises(poclab.errors.EndpointError, match="the endpoint refuses the API key"):
        outcomes(system, cases)


def test_replies_in_spite_of_a_failed_call_are_told(cases):
    """They count as what they are, and the report says how many there are."""
    client = clients(lambda request: httpx2.Response(400, json={"error": {"message": "no"}}))

    def system(inputs):
        try:
            return ask(client, inputs["question"])
        except openai.APIError:
            return "a"

    report = poclab.evaluate(system, cases, [scores.exact()], version=poclab.Version("v", model="m"))
    assert "12 case(s) have a reply though the last model call met: crashed 12" in str(report)


# --- what is recorded


@pytest.mark.parametrize(
    "answer",
    [{}, {"choices": []}, completion("a", "error"), {"choices": None, "usage": {}}],
    ids=["nothing", "no choice", "an error as the reason", "null"],
)
def test_an_answer_that_says_nothing_is_not_recorded(cases, answer):
    """It is asked for again the next time."""
    client = clients(lambda request: httpx2.Response(200, json=answer))
    client.chat.completions.create(model="m", messages=[])

    assert not list(entries(Ledger.open(cases.poc / LEDGER)))


@pytest.mark.parametrize("kind", ["text/plain", "application/json", None])
def test_a_stream_of_another_type_is_recorded_and_replayed(cases, kind):
    """Some endpoints do not call a stream by its name; it is asked for once."""
    asked = []

    def script(request):
        asked.append(request)
        return streamed(events(delta("a"), delta("b", "stop"), "[DONE]"), {"content-type": kind} if kind else {})

    client = clients(script)
    for _ in range(2):
        stream = client.chat.completions.create(model="m", messages=[], stream=True)
        assert "".join(chunk.choices[0].delta.content for chunk in stream) == "ab"
    assert len(asked) == 1


def test_a_stream_of_another_type_is_drilled_as_a_stream(cases):
    """Half of it breaks off under its reader, whatever it is called."""
    client = clients(lambda request: streamed(events(delta("a"), delta("", "stop"), "[DONE]"), {"content-type": "text/plain"}))

    def system(inputs):
        asked = [{"role": "user", "content": inputs["question"]}]
        return "".join(chunk.choices[0].delta.content for chunk in client.chat.completions.create(model="m", messages=asked, stream=True))

    found = poclab.drill(system, cases, [scores.exact()], faults=["half_stream"])
    assert list(found.rows[0].cases.values()) == [True] * 12


def test_a_compressed_stream_is_recorded(cases):
    """Though it was asked for as it is."""
    content = gzip.compress(events(delta("a"), delta("b", "stop"), "[DONE]"))
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    asked = []
    client = clients(lambda request: asked.append(request) or streamed(content, headers))
    for _ in range(2):
        stream = client.chat.completions.create(model="m", messages=[], stream=True)
        assert "".join(chunk.choices[0].delta.content for chunk in stream) == "ab"

    assert len(asked) == 1


def test_a_stream_that_a_case_drops_unread_holds_nothing_up(cases):
    """The next evaluation asks at once; the claim of the first is gone with its case."""
    client, kept = clients(lambda request: streamed(events(delta("a"), delta("b", "stop"), "[DONE]"))), []

    def system(inputs):
        asked = [{"role": "user", "content": inputs["question"]}]
        kept.append(client.chat.completions.create(model="m", messages=asked, stream=True))
        return "a"

    first, again = (outcomes(system, cases, timeout_s=5) for _ in range(2))
    assert first == again == {"ok": 12}


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": Unshowable()},
        {"attributes": None},
        {"attributes": {"tokens_in": "many"}},
        {"attributes": {(1, 2): Unshowable()}},
        {"id": "my own"},
        {"start_ns": "now"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_a_system_sets_on_a_step_loses_no_trace(cases, change):
    """Each case has its trace, with the step in it; the strange value is shown as well as it can be."""

    def system(inputs):
        with poclab.system.step("look", "TOOL") as step:
            for name, value in change.items():
                setattr(step, name, value)
        return "a"

    report = poclab.evaluate(system, cases, [scores.exact()], version=poclab.Version("v"))
    assert [span["name"] for span in inspect(report.results[3].trace_id, cases.poc).trace["spans"]] == ["v", "look"]


@pytest.mark.parametrize("name", ["0123456789abcdef0123456789abcdef", "tr-0123456789abcdef0123456789abcdef", "it's one"])
def test_a_case_is_traced_by_whatever_name_it_has(make_store, tmp_path, name):
    """One that looks like a request's id, or holds a quote."""
    make_store(tmp_path)
    (tmp_path / "charter.yaml").write_text(CHARTER)
    (tmp_path / "cases.jsonl").write_text(json.dumps({"id": name, "inputs": {"question": "?"}, "expected": {"answers": ["a"]}}) + "\n")
    freezing.freeze(tmp_path / "cases.jsonl")
    cases = poclab.TestSet.load(tmp_path / "cases.jsonl")
    report = poclab.evaluate(lambda inputs: "a", cases, [scores.exact()], version=poclab.Version("v"))

    assert inspect(name, tmp_path).trace["trace_id"] == report.results[0].trace_id


def test_tokens_that_the_endpoint_did_not_say_are_not_shown_as_none_at_all(cases):
    """Ten in, and out nobody knows: the trace says ten in, and nothing of out."""
    answer = {**completion("a"), "usage": {"prompt_tokens": 10}}
    client = clients(lambda request: httpx2.Response(200, json=answer))
    report = poclab.evaluate(lambda inputs: ask(client, "?"), cases, [scores.exact()], version=poclab.Version("v", model="m"))
    span = inspect(report.results[0].trace_id, cases.poc).trace["spans"][1]

    assert span["attributes"]["tokens_in"] == 10
    assert not {"tokens", "tokens_out"} & set(span["attributes"])


# --- again


def test_a_call_beside_one_that_is_replayed_has_all_of_its_time(cases):
    """Two side by side, one of which failed: when it is asked again, the recorded half does not use up the case's time."""
    broken = [True]

    async def script(request):
        await asyncio.sleep(1.2)
        if broken[0] and b"second" in request.content:
            return httpx2.Response(500, json={}, headers={"x-should-retry": "false"})
        return httpx2.Response(200, json=completion("a"))

    async def system(inputs):
        async with clients(script, openai.AsyncOpenAI, httpx2.AsyncClient) as client:
            asked = ([{"role": "user", "content": f"{which} {inputs['question']}"}] for which in ("first", "second"))
            done = await asyncio.gather(*(client.chat.completions.create(model="m", messages=one) for one in asked))
            return done[1].choices[0].message.content

    two = poclab.TestSet(cases.cases[:2], path=cases.path)
    first = outcomes(system, two, timeout_s=2.2)
    broken[0] = False
    again = outcomes(system, two, timeout_s=2.2, retry_failed=True)

    assert (first, again) == ({"server_error": 2}, {"ok": 2})


def test_an_answer_that_was_not_kept_takes_no_place(cases):
    """A system asks again when it was told nothing: in a replay the first answer that is there is the one that it got."""
    asked = []

    def script(request):
        asked.append(request)
        return httpx2.Response(200, json={**completion("a"), "choices": []} if len(asked) % 2 else completion("a"))

    client = clients(script)

    def system(inputs):
        for _ in range(3):
            given = client.chat.completions.create(model="m", messages=[{"role": "user", "content": inputs["question"]}])
            if given.choices:
                return given.choices[0].message.content

    first = outcomes(system, cases, workers=1)
    replayed = outcomes(system, cases, mode="replay")

    assert (first, replayed, len(asked)) == ({"ok": 12}, {"ok": 12}, 24)


@pytest.mark.parametrize(
    ("error", "raised", "outcome"),
    [
        ({"code": 400, "message": "the prompt is too long"}, openai.BadRequestError, "crashed"),
        ({"code": "invalid_prompt", "message": "the prompt is too long"}, openai.BadRequestError, "crashed"),
        ({"code": "content_filter", "message": "the prompt is too long"}, openai.BadRequestError, "refused"),
    ],
)
def test_an_error_inside_of_an_answer_is_raised_with_its_words(cases, error, raised, outcome):
    """With status 200 around it the SDK would see an answer without choices, or a connection that broke."""
    content, headers = json.dumps({"error": error}).encode(), {"content-type": "Application/JSON"}
    client = clients(lambda request: streamed(content, headers))
    for more in ({}, {"stream": True}):
        with pytest.raises(raised, match="the prompt is too long"):
            client.chat.completions.create(model="m", messages=[], **more)

    assert outcomes(lambda inputs: ask(client, inputs["question"]), cases) == {outcome: 12}


def test_a_stream_that_a_thread_reads_on_after_the_reply_is_paid_once(cases):
    """The case has its reply, and its thread reads the rest: what came is kept, and replayed the next time."""
    asked, threads = [], []

    def script(request):
        asked.append(request)
        return streamed(events(delta("a"), delta("b", "stop"), "[DONE]"))

    client = clients(script)

    def system(inputs):
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": inputs["question"]}], stream=True)

        def read():
            time.sleep(0.3)
            list(stream)

        threads.append(threading.Thread(target=contextvars.copy_context().run, args=[read]))
        threads[-1].start()
        return "a"

    for _ in range(2):
        outcomes(system, cases, workers=12)
        for thread in threads:
            thread.join()

    assert len(asked) == 12


def test_a_ledger_that_fails_at_a_stream_that_was_left_ends_the_evaluation_with_its_report(cases, monkeypatch):
    """All of the answer came, its reader left before the last event, and the disk is full: what is known is kept, and the error told."""
    client, kept = clients(lambda request: streamed(events(delta("a"), delta("b", "stop"), "[DONE]"))), []

    def system(inputs):
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": inputs["question"]}], stream=True)
        kept.append(stream)
        next(stream), next(stream)
        return "a"

    def full(*_):
        raise StoreError("nothing can be written", fix="free some space")

    monkeypatch.setattr(Ledger, "record", full)
    with pytest.raises(StoreError, match="nothing can be written"):
        outcomes(system, cases, workers=1)
    assert next(cases.poc.rglob("report.json"))
