import asyncio
import json
import threading
import time

import httpx
import httpx2
import openai
import pytest

from endpoint import Endpoint
from poclab import models
from poclab.errors import EndpointError, InputError, StoreError
from poclab.ledger import LEDGER, BudgetError, Ledger
from poclab.system import CaseContext, current_case
from poclab.transport import adapter

PRICES = "prices: {m: {input: 1.0, cached_input: 0.5, output: 4.0, on: 2026-11-25, source: the test endpoint}}\n"


@pytest.fixture(scope="module")
def served():
    with Endpoint(random=True) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(served):
    """An endpoint whose answers never agree, with counts at zero and no faults."""
    served.configure(random=True, faults=[], latency_s=0.0, key="", models=[], cached=0.0, reasoning=0, gzip=False)
    served.reset()
    return served


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A POC that calls outside of cases are recorded in, too."""
    (tmp_path / "charter.yaml").write_text(PRICES)
    monkeypatch.setenv("POCLAB_POC", str(tmp_path))
    return tmp_path


def client(endpoint, **options):
    return models.client(base_url=endpoint.url, api_key="sk-test-0123456789", **options)


def ask(given, text="hello", **parameters):
    return given.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **parameters).choices[0].message.content


class case:
    """Answer what is inside as one case."""

    def __init__(self, folder, name="q1", **more):
        self.context = CaseContext(case_id=name, poc=folder, **{"deadline": time.monotonic() + 20, **more})

    def __enter__(self):
        self.token = current_case.set(self.context)
        return self.context

    def __exit__(self, *_):
        current_case.reset(self.token)


# --- paid once


def test_an_answer_is_asked_for_once(endpoint, folder):
    """The second time it comes from the ledger, word for word, also through a new client."""
    first, second = ask(client(endpoint)), ask(client(endpoint))

    assert first == second
    assert endpoint.counts()["billed"] == 1


def test_the_same_prompt_twice_in_a_case_is_two_answers_live_and_replayed(endpoint, folder):
    """Sampling stays sampling; a replay gives the same two in the same order."""
    with case(folder):
        live = [ask(client(endpoint)), ask(client(endpoint))]
    with case(folder, mode="replay"):
        replayed = [ask(client(endpoint)), ask(client(endpoint))]

    assert live[0] != live[1]
    assert replayed == live
    assert endpoint.counts()["billed"] == 2


def test_two_cases_share_no_answer(endpoint, folder):
    """What one case was told says nothing about the next."""
    with case(folder, "q1"):
        one = ask(client(endpoint))
    with case(folder, "q2"):
        other = ask(client(endpoint))

    assert one != other


def test_a_repeat_is_another_answer(endpoint, folder):
    """Repeats measure how much answers vary."""
    with case(folder, repeat=0):
        one = ask(client(endpoint))
    with case(folder, repeat=1):
        other = ask(client(endpoint))

    assert one != other


def test_another_parameter_or_endpoint_is_another_request(endpoint, folder):
    """The key holds the body and the address, and never the API key."""
    with Endpoint(random=True) as elsewhere:
        given = [
            ask(client(endpoint)),
            ask(client(endpoint), temperature=0.5),
            ask(models.client(base_url=elsewhere.url, api_key="sk-another-key-1")),
        ]
    again = ask(models.client(base_url=endpoint.url, api_key="sk-another-key-1"))

    assert len(set(given)) == 3
    assert again == given[0]


def test_a_failed_attempt_does_not_count_as_an_occurrence(endpoint, folder):
    """A system that asks again after an error gets in a replay what it got then, not the answer after it."""
    endpoint.configure(faults=[{"kind": "400", "match": "hello", "times": 1}])
    with case(folder):
        with pytest.raises(openai.BadRequestError):
            ask(client(endpoint))
        live = ask(client(endpoint))
    with case(folder, mode="replay"):
        assert ask(client(endpoint)) == live


def test_threads_that_ask_the_same_at_once_make_one_call(endpoint, folder):
    """Outside of cases the same prompt has one answer, whoever asks first; the others wait for it."""
    endpoint.configure(latency_s=0.2)
    given, answers = client(endpoint), []
    threads = [threading.Thread(target=lambda: answers.append(ask(given))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(answers) == 8
    assert len(set(answers)) == 1
    assert endpoint.counts()["billed"] == 1


def test_live_asks_again_and_keeps_both(endpoint, folder):
    """The new answer is a generation of its own; without being told, the oldest counts."""
    first, second = ask(client(endpoint)), ask(client(endpoint, mode="live"))

    assert first != second
    assert ask(client(endpoint)) == first
    assert endpoint.counts()["billed"] == 2


def test_replay_never_asks(endpoint, folder):
    """A miss is an error that says what to do, and no request is made."""
    with pytest.raises(EndpointError, match="no answer to this request to 'm' is recorded") as caught:
        ask(client(endpoint, mode="replay"))

    assert "mode auto" in caught.value.fix
    assert endpoint.counts()["requests"] == 0


def test_a_changed_offline_model_is_not_answered_from_the_ledger(folder, monkeypatch):
    """Its code is part of the key: another version of poclab may answer otherwise."""
    from poclab import offline

    def once():
        with case(folder) as context:
            models.client().chat.completions.create(model="offline/extractive", messages=[{"role": "user", "content": "Sky?"}])
        return context.calls[0]

    first, second = once(), once()
    monkeypatch.setattr(offline, "fingerprint", lambda model="": "another")

    assert (first.replayed, second.replayed, once().replayed) == (False, True, False)


def test_every_way_of_asking_is_recorded_and_replayed(endpoint, folder):
    """Chat with tools and structured output, Responses, completions and embeddings: each is billed once and parsed the same twice."""
    given = client(endpoint)
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    ways = [
        lambda: ask(given),
        lambda: (
            given.chat.completions.create(model="m", messages=[{"role": "user", "content": "CALL:look_up"}], tools=[tool])
            .choices[0]
            .message.tool_calls[0]
            .function.name
        ),
        lambda: json.loads(
            ask(given, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}})
        )["answer"],
        lambda: given.responses.create(model="m", input="hello").output_text,
        lambda: given.completions.create(model="m", prompt="hello").choices[0].text,
        lambda: given.embeddings.create(model="m", input=["hello", "you"]).data[1].embedding[:3],
        lambda: given.embeddings.create(model="m", input=["hello"], encoding_format="float").data[0].embedding[:3],
    ]
    live = [way() for way in ways]

    assert [way() for way in ways] == live
    assert endpoint.counts()["billed"] == len(ways)


def test_a_stream_is_recorded_and_replayed_as_a_stream(endpoint, folder):
    """Piece by piece as it came, the usage in the last event included."""

    def pieces():
        chunks = given.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "ANSWER:{one two three four}"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        return [(chunk.choices[0].delta.content if chunk.choices else "", chunk.usage and chunk.usage.total_tokens) for chunk in chunks]

    given = client(endpoint)
    live = pieces()

    assert len(live) > 3
    assert pieces() == live
    assert list(events(given)) == list(events(given))
    assert endpoint.counts()["billed"] == 2


def events(given):
    return [event.type for event in given.responses.create(model="m", input="hello", stream=True)]


def test_the_pieces_of_a_stream_pass_as_they_come(endpoint, folder):
    """The first half is there while the other is still to come: recording does not hold the stream back."""
    endpoint.configure(faults=[{"kind": "stall", "match": "ANSWER"}])
    asked = [{"role": "user", "content": "ANSWER:{one two three four}"}]
    with client(endpoint).chat.completions.create(model="m", messages=asked, stream=True) as stream:
        arrived = [next(stream).choices[0].delta.content for _ in range(2)]

    assert "".join(arrived).startswith("one")


def test_a_stream_is_durable_before_its_last_event_passes(endpoint, folder):
    """Whoever has seen the end finds the answer in the ledger."""
    seen = []
    with case(folder, "q1"):
        for chunk in client(endpoint).chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True):
            seen.append((chunk.choices[0].finish_reason, len(Ledger.open(folder / LEDGER).of_case(case_id="q1"))))

    assert seen[0] == (None, 0)
    assert Ledger.open(folder / LEDGER).of_case(case_id="q1")


@pytest.mark.parametrize("fault", ["half_stream", "short_stream"])
def test_a_stream_that_was_cut_is_an_error_and_not_recorded(endpoint, folder, fault):
    """Also one that ends as if all were well, which the SDK does not notice: half an answer is no answer."""
    endpoint.configure(faults=[{"kind": fault, "match": "hello"}])
    with case(folder) as context, pytest.raises((openai.APIConnectionError, openai.APIError, httpx2.HTTPError)):
        list(client(endpoint).chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], stream=True))

    assert (context.calls[0].trouble, context.calls[0].lost, context.calls[0].entry) == ("connection", 1, None)
    assert Ledger.open(folder / LEDGER).of_case(case_id="q1") == []


def test_the_async_client_and_the_older_http_library_share_the_ledger(endpoint, folder):
    """Any SDK that takes an HTTP client gets all of it: one answer, paid once, for all four."""

    async def through(made):
        async with made:
            return (
                (await made.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])).choices[0].message.content
            )

    older = openai.OpenAI(base_url=endpoint.url, api_key="k", max_retries=0, http_client=models.http_client(httpx))
    older_async = openai.AsyncOpenAI(base_url=endpoint.url, api_key="k", max_retries=0, http_client=models.async_http_client(httpx))
    given = {
        ask(client(endpoint)),
        ask(older),
        asyncio.run(through(models.async_client(base_url=endpoint.url, api_key="k"))),
        asyncio.run(through(older_async)),
    }

    assert len(given) == 1
    assert endpoint.counts()["billed"] == 1


def test_coroutines_that_ask_the_same_at_once_make_one_call(endpoint, folder):
    """They wait on the event loop, and do not block it."""
    endpoint.configure(latency_s=0.1)

    async def many():
        async with models.async_client(base_url=endpoint.url, api_key="k") as given:
            asked = [given.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}]) for _ in range(10)]
            return {one.choices[0].message.content for one in await asyncio.gather(*asked)}

    assert len(asyncio.run(many())) == 1
    assert endpoint.counts()["billed"] == 1


def test_a_cancelled_coroutine_leaves_no_claim(endpoint, folder):
    """Whoever asks next does not wait for one that has gone."""
    endpoint.configure(latency_s=0.5)

    async def cancelled():
        async with models.async_client(base_url=endpoint.url, api_key="k") as given:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(given.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}]), 0.1)

    asyncio.run(cancelled())
    began = time.monotonic()
    ask(client(endpoint))

    assert time.monotonic() - began < 5


# --- what is told of a call


def test_a_call_tells_tokens_cost_and_entry(endpoint, folder):
    """By hand: the reply's usage times 1 dollar a million in, 0.5 cached, 4 out; replayed it names what it cost when it was paid."""
    endpoint.configure(cached=0.5, reasoning=10)
    with case(folder) as live:
        ask(client(endpoint))
    with case(folder) as again:
        ask(client(endpoint))
    (one,), (other,) = live.calls, again.calls

    assert one.tokens_reasoning == 10
    assert one.cost_usd == pytest.approx((one.tokens_in - one.tokens_cached + 0.5 * one.tokens_cached + 4 * one.tokens_out) / 1e6)
    assert one.cost_usd == pytest.approx(endpoint.counts()["bill_usd"])
    assert "2026-11-25" in one.priced_on
    assert (other.replayed, other.cost_usd, other.entry, other.latency_s) == (True, one.cost_usd, one.entry, pytest.approx(one.latency_s))
    assert Ledger.open(folder / LEDGER).named(one.entry).request_id == live.request_id


def test_an_answer_carries_the_request_id(endpoint, folder):
    """It is on the reply, streamed or not, live or replayed, on the ledger entry and the log line."""
    asked = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    for _ in range(2):
        with case(folder, request_id="7" * 32) as context:
            raw = client(endpoint).chat.completions.with_raw_response.create(**asked)
            with client(endpoint).chat.completions.with_streaming_response.create(**asked, stream=True) as stream:
                stream.read()

        assert raw.headers["x-poclab-request-id"] == stream.headers["x-poclab-request-id"] == context.request_id
    assert len(Ledger.open(folder / LEDGER).of_case(request_id=context.request_id)) == 2
    assert [one.case_id for one in Ledger.open(folder / LEDGER).of_case(request_id=context.request_id)] == ["q1"] * 2


def test_a_key_that_an_endpoint_repeats_is_in_no_error_and_no_log_line(endpoint, folder, caplog):
    """Outside of an evaluation, too: the SDK's error holds what the endpoint said, and the HTTP library logs each address."""
    endpoint.configure(key="right")
    address = endpoint.url.replace("://", "://ada:pass-word-4711@") + "?api_key=sk-in-the-address-1"
    given = models.client(base_url=address.partition("?")[0], api_key="sk-wrong-key-0815", default_query={"api_key": "sk-in-the-address-1"})
    with caplog.at_level("INFO"):
        for call in (lambda: ask(given), given.models.list):
            with pytest.raises(openai.AuthenticationError) as caught:
                call()
            assert "sk-wrong-key-0815" not in repr(caught.value) + str(caught.value) + str(caught.value.body)
            assert "(key removed)" in str(caught.value)

    assert "HTTP Request: POST" in caplog.text
    assert [secret for secret in ("4711", "0815", "sk-in-the") if secret in caplog.text] == []


def test_replayed_answers_delay_a_case_as_they_did(endpoint, folder):
    """One after the other they add up; side by side the slowest counts, if the replay asks them side by side as well."""
    endpoint.configure(latency_s=0.1)

    def side_by_side(given, context):
        def one(text):
            token = current_case.set(context)
            ask(given, text)
            current_case.reset(token)

        threads = [threading.Thread(target=one, args=[text]) for text in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    given = client(endpoint)
    for mode in ("auto", "replay"):
        with case(folder, mode=mode) as context:
            side_by_side(given, context)
            ask(given, "c")
            ask(given, "d")

    a, b, c, d = (call.latency_s for call in context.calls)
    assert max(a, b) + c + d - 1e-6 <= context.delay_s <= a + b + c + d + 1e-6
    assert min(a, b, c, d) >= 0.1


def test_unknown_usage_or_price_is_unknown_cost(endpoint, folder):
    """Never 0: neither without the reply's usage nor for a model that has no price here."""
    endpoint.configure(faults=[{"kind": "no_usage", "match": "uncounted", "times": None}])
    with case(folder) as context:
        ask(client(endpoint), "uncounted")
        client(endpoint).chat.completions.create(model="unpriced", messages=[{"role": "user", "content": "hello"}])

    assert [call.cost_usd for call in context.calls] == [None, None]


# --- what is retried


def test_a_429_is_retried_after_what_it_asks_for(endpoint, folder):
    """In seconds, as a date and in milliseconds; a refusal is not billed."""
    for form, wait_s in (("seconds", 1), ("ms", 0.3), ("date", 1)):
        endpoint.reset()
        endpoint.configure(faults=[{"kind": "429", "match": form, "retry_after_s": wait_s, "retry_after_form": form}])
        began = time.monotonic()
        with case(folder) as context:
            ask(client(endpoint), form)

        assert wait_s * 0.9 <= time.monotonic() - began < wait_s + 8
        assert (context.calls[0].attempts, context.calls[0].lost, context.calls[0].trouble) == (2, 0, "")


@pytest.mark.parametrize(("fault", "lost"), [("500", 0), ("503", 0), ("reset", 1), ("cut_body", 1), ("cut_json", 1)])
def test_what_the_endpoint_fails_is_asked_again(endpoint, folder, fault, lost):
    """A cut body too, which has status 200 and which the SDK does not retry; what may be billed is counted as lost."""
    endpoint.configure(faults=[{"kind": fault, "match": "hello"}])
    with case(folder) as context:
        ask(client(endpoint))

    assert [(call.status, call.attempts, call.lost) for call in context.calls] == [(200, 2, lost)]


def test_the_deadline_of_the_case_holds_over_all_attempts(endpoint, folder):
    """A 429 that asks for more time than there is fails at once, and a hang fails with the deadline."""
    endpoint.configure(faults=[{"kind": "429", "match": "later", "retry_after_s": 300, "times": None}, {"kind": "hang", "match": "hang"}])
    began = time.monotonic()
    with case(folder, deadline=began + 200) as context, pytest.raises(openai.RateLimitError):
        ask(client(endpoint), "later")
    assert time.monotonic() - began < 100
    began = time.monotonic()
    with case(folder, deadline=began + 1) as late, pytest.raises(openai.APITimeoutError):
        ask(client(endpoint), "hang")

    assert 0.9 < time.monotonic() - began < 100
    assert [call.trouble for call in (*context.calls, *late.calls)] == ["rate_limited", "timeout"]


def test_a_refused_key_is_not_retried_and_fatal(endpoint, folder):
    """The same would meet every further request; the message of the endpoint echoes the key, ours does not."""
    endpoint.configure(key="sk-the-right-key-1")
    with case(folder) as context, pytest.raises(openai.AuthenticationError):
        ask(client(endpoint))

    assert context.fatal[0].startswith("HTTP 401")
    assert "OPENAI_API_KEY" in context.fatal[1]
    assert endpoint.counts()["requests"] == 1


# --- the budget


def budget(folder, usd):
    Ledger.open(folder / LEDGER).open_budget("b", usd)
    return {"budget": "b"}


def test_a_call_that_could_pass_the_budget_is_not_made(endpoint, folder):
    """By hand: the answer may have 1,000 tokens at 4 dollars a million: 0.4 cents is too much for 0.3."""
    with case(folder, **budget(folder, 0.003)) as context, pytest.raises(BudgetError, match="budget of"):
        ask(client(endpoint), max_tokens=1000)

    assert endpoint.counts()["requests"] == 0
    assert context.calls[0].status == 0


def test_what_a_call_cost_is_settled(endpoint, folder):
    """After the answer only what it cost is spent, and a refusal gives everything back."""
    endpoint.configure(faults=[{"kind": "400", "match": "refused", "times": None}])
    with case(folder, **budget(folder, 0.01)):
        ask(client(endpoint), max_tokens=1000)
        with pytest.raises(openai.BadRequestError):
            ask(client(endpoint), "refused", max_tokens=1000)
    spent = Ledger.open(folder / LEDGER).spent("b")

    assert spent.settled_usd == pytest.approx(endpoint.counts()["bill_usd"], abs=1e-9)
    assert (spent.in_flight_usd, spent.unanswered_usd) == (0, 0)


def test_an_attempt_that_may_be_billed_stays_spent(endpoint, folder):
    """The cut answer was worked out: its reservation is kept in full, and the next attempt has one of its own."""
    endpoint.configure(faults=[{"kind": "cut_json", "match": "hello"}])
    with case(folder, **budget(folder, 0.02)):
        ask(client(endpoint), max_tokens=1000)
    spent = Ledger.open(folder / LEDGER).spent("b")

    assert spent.unanswered_usd > 0.004
    assert spent.used_usd >= endpoint.counts()["bill_usd"]


def test_a_replayed_answer_needs_no_budget(endpoint, folder):
    """It is paid for already."""
    with case(folder):
        live = ask(client(endpoint), max_tokens=1000)
    with case(folder, **budget(folder, 1e-9)):
        assert ask(client(endpoint), max_tokens=1000) == live


@pytest.mark.parametrize(
    ("model", "limit", "said"), [("unpriced", {"max_tokens": 5}, "has no price"), ("m", {}, "without a limit|no limit|limit")]
)
def test_what_cannot_be_bounded_is_refused(endpoint, folder, model, limit, said):
    """A model without a price, and a call without an output limit; the message says what to add."""
    with case(folder, **budget(folder, 1.0)), pytest.raises(InputError, match=said) as caught:
        client(endpoint).chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}], **limit)

    assert caught.value.fix
    assert endpoint.counts()["requests"] == 0


def test_offline_models_cost_nothing_under_a_budget(folder):
    """They need neither limit nor price."""
    with case(folder, **budget(folder, 1e-9)) as context:
        models.client().chat.completions.create(model="offline/extractive", messages=[{"role": "user", "content": "Sky?"}])

    assert context.calls[0].cost_usd == 0


# --- a ledger that cannot be used


def test_a_damaged_ledger_is_refused_before_the_call(endpoint, folder):
    """What was paid for is in it: it is neither ignored nor made anew."""
    (folder / LEDGER).write_bytes(b"not a database at all, but long enough to be one" * 100)
    with pytest.raises(StoreError, match=r"ledger"):
        ask(client(endpoint))

    assert endpoint.counts()["requests"] == 0
    assert (folder / LEDGER).read_bytes().startswith(b"not a database")


# --- what an attack found


def test_budget_and_gate_do_not_wait_for_each_other(endpoint, folder):
    """Each of twenty calls is refused once, the gate is at 1, and there is room for two reservations: all are answered."""
    endpoint.configure(latency_s=0.02, faults=[{"kind": "429", "match": "case", "times": 1, "retry_after_s": 0.05}])
    given, done = client(endpoint), []
    room = budget(folder, 0.0013)

    def one(number):
        with case(folder, f"q{number}", **room):
            done.append(ask(given, f"case {number}", max_tokens=100))

    threads = [threading.Thread(target=one, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(done) == 20


def test_a_redirected_request_is_answered_and_costs_one_reservation(endpoint, folder):
    """The SDK follows a 307 with the same body; the first leg is neither a call nor billed."""
    import http.server

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(307)
            self.send_header("location", f"{endpoint.url}/chat/completions")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with case(folder, **budget(folder, 0.01)) as context:
            ask(models.client(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="sk-0123456789"), max_tokens=50)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    assert [call.status for call in context.calls] == [200]
    assert Ledger.open(folder / LEDGER).spent("b").unanswered_usd == 0


def test_prices_are_read_before_anything_is_paid(endpoint, folder):
    """A charter that cannot be read is an error before the call: afterwards the paid answer would be lost."""
    (folder / "charter.yaml").write_text("prices: [\n")
    with pytest.raises(InputError):
        ask(client(endpoint))

    assert endpoint.counts()["requests"] == 0


def test_a_stream_of_two_choices_that_ends_after_one_is_cut(endpoint, folder):
    """Each choice that was asked for has its finish reason, or the stream was not whole."""
    endpoint.configure(faults=[{"kind": "short_stream", "match": "hello", "times": None}])
    with pytest.raises((openai.APIConnectionError, httpx2.HTTPError)):
        list(client(endpoint).chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], n=2, stream=True))


def test_a_trickling_answer_meets_the_deadline(endpoint, folder):
    """Each part comes in time, the whole does not: the system gets its error by then."""
    endpoint.configure(faults=[{"kind": "stall", "match": "hello", "times": None}])  # for as long as the client waits
    began = time.monotonic()
    with case(folder, deadline=began + 1), pytest.raises(openai.APITimeoutError):
        ask(client(endpoint))

    assert time.monotonic() - began < 30


def test_what_is_not_bounded_is_not_asked_under_a_budget(endpoint, folder):
    """Images and other paths cost money that no tokens bound."""
    with case(folder, **budget(folder, 1.0)), pytest.raises(InputError, match="cannot bound a call to"):
        client(endpoint).images.generate(model="m", prompt="a cat")

    assert endpoint.counts()["requests"] == 0


def test_a_mode_that_does_not_exist_is_refused(endpoint, folder, monkeypatch):
    """A slip in the environment must not pay for what was to be replayed."""
    monkeypatch.setenv("POCLAB_MODE", "Replay")
    with pytest.raises(InputError, match="POCLAB_MODE is 'Replay'"):
        ask(client(endpoint))


def test_a_stream_left_at_its_last_word_is_recorded(endpoint, folder):
    """Many readers stop at the finish reason, and do not wait for the mark behind it."""
    given = client(endpoint)
    for _ in range(2):
        with given.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], stream=True) as stream:
            next(chunk for chunk in stream if chunk.choices and chunk.choices[0].finish_reason)

    assert endpoint.counts()["billed"] == 1


def test_the_limit_of_the_client_holds_outside_of_cases(endpoint, folder):
    """A call that is tried in a notebook may take as long as its client allows, and no longer."""
    seen = []

    class Network(httpx2.BaseTransport):
        def handle_request(self, request):
            seen.append(request.extensions["timeout"]["read"])
            return httpx2.Response(400, json={"error": {"message": "seen"}})

    given = openai.OpenAI(
        base_url=endpoint.url, api_key="k", timeout=900, max_retries=0, http_client=httpx2.Client(transport=adapter(httpx2)(Network))
    )
    with pytest.raises(openai.BadRequestError):
        ask(given)

    assert seen == [900]
