import asyncio
import contextlib
import contextvars
import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest

from poclab import models, transport
from poclab.errors import EndpointError
from poclab.system import CaseContext, current_case, step

KEY = "sk-test-0123456789abcdef"
HELLO = [{"role": "user", "content": "hello"}]
CHAT = {
    "id": "chatcmpl-7",
    "object": "chat.completion",
    "created": 1,
    "model": "big-1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}
SKY = '<passage source="a">The sky is blue.</passage>\nQuestion: Which colour has the sky?'


class Endpoint:
    """A local server: `answers` maps a path to (status, content type, body or list of pieces, more headers); it notes what it was asked."""

    def __init__(self, answers):
        self.asked = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                endpoint.asked.append((self.command, self.path, body, dict(self.headers)))
                status, kind, content, *headers = answers.get(
                    self.path, (404, "application/json", b'{"error": {"message": "no such path"}}')
                )
                pieces = [content] if isinstance(content, bytes) else content
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(sum(map(len, pieces))))
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                for piece in pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve():
    """Start local endpoints, and stop them at the end of the test."""
    running = []

    def start(path="/v1/chat/completions", status=200, content=CHAT, kind="application/json", headers=(), **others):
        body = json.dumps(content).encode() if isinstance(content, dict) else content
        running.append(Endpoint({path: (status, kind, body, *headers), **others}))
        return running[-1]

    yield start
    for endpoint in running:
        endpoint.stop()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    """No key, no URL and no proxy of the machine reaches a test."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def case():
    """The context of a case that is being answered."""
    context = CaseContext()
    token = current_case.set(context)
    yield context
    current_case.reset(token)


def ask(client, model="big-1", **parameters):
    return client.chat.completions.create(model=model, messages=HELLO, **parameters)


def sse(*events):
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def delta(text=None, reason=None, **more):
    choices = [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}]
    return {"id": "chatcmpl-8", "object": "chat.completion.chunk", "created": 1, "model": "big-1", "choices": choices, **more}


# --- where a request goes


def test_an_offline_model_is_answered_without_key_or_network():
    """The kit runs on a machine with neither; nothing listens at this address."""
    client = models.client(base_url="http://127.0.0.1:1/v1")
    reply = client.chat.completions.create(model="offline/extractive", messages=[{"role": "user", "content": SKY}])

    assert type(client) is openai.OpenAI
    assert reply.choices[0].message.content == "The sky is blue."


def test_an_offline_stream_says_the_same():
    """Streaming through the SDK gives the plain answer, with usage when asked for."""
    parameters = {"model": "offline/extractive", "messages": [{"role": "user", "content": SKY}]}
    chunks = list(models.client().chat.completions.create(**parameters, stream=True, stream_options={"include_usage": True}))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "The sky is blue."
    assert chunks[-1].usage.completion_tokens == 4


def test_offline_embeddings_pass_through_the_sdk():
    """The SDK asks for base64 and decodes it."""
    data = models.client().embeddings.create(model="offline/hashing", input=["sky", "grass"]).data

    assert [len(one.embedding) for one in data] == [512, 512]


def test_without_key_and_url_the_offline_models_are_listed():
    """`client.models.list()` shows what can be used right away."""
    assert [model.id for model in models.client().models.list()] == [
        "offline/extractive",
        "offline/rules",
        "offline/hashing",
        "offline/overlap-judge",
    ]


def test_an_unknown_offline_model_is_a_404_that_names_the_others():
    """It comes as the SDK's own error, as from any endpoint."""
    with pytest.raises(openai.NotFoundError, match="offline models: offline/extractive"):
        ask(models.client(), model="offline/none")


def test_a_missing_key_is_refused_before_any_traffic(case):
    """The `EndpointError` itself reaches the caller, not the SDK's 'Connection error', and no call was made."""
    with pytest.raises(EndpointError, match="no API key for model 'big-1'"):
        ask(models.client())

    assert case.calls == []


def test_a_key_given_later_counts():
    """`with_options(api_key=...)` of the SDK works on a client that was made without one."""
    with pytest.raises(openai.APIConnectionError):
        ask(models.client(max_retries=0).with_options(api_key=KEY, base_url="http://127.0.0.1:1/v1"))


@pytest.mark.parametrize("environment", [True, False])
def test_the_key_and_url_come_from_argument_or_environment(serve, monkeypatch, environment):
    """Blank space around a value, as a .env file leaves it, is not part of it."""
    endpoint = serve()
    if environment:
        monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
        monkeypatch.setenv("OPENAI_BASE_URL", f" {endpoint.url}/ ")
    reply = ask(models.client() if environment else models.client(api_key=KEY, base_url=endpoint.url))

    assert reply.choices[0].message.content == "hi"
    assert endpoint.asked[0][3]["authorization"] == f"Bearer {KEY}"


def test_a_local_server_needs_no_key(serve):
    """With a URL of one's own and no key, a placeholder is sent."""
    endpoint = serve()
    ask(models.client(base_url=endpoint.url))

    assert endpoint.asked[0][3]["authorization"] == "Bearer none"


@pytest.mark.parametrize("url", ["localhost:11434/v1", "ftp://host", "http://host:port/v1", "http://"])
def test_a_base_url_that_is_none_is_refused_at_once(url):
    """The SDK would retry and then say 'Connection error'."""
    with pytest.raises(EndpointError, match="is not a URL"):
        models.client(base_url=url)


@pytest.mark.parametrize("url", ["http://user:s3cr/etpw@host/v1", "user:s3cretpw@host/v1", "http://user:s3cr@etpw@127.0.0.1:1/v1"])
def test_a_password_in_a_url_is_not_shown(url):
    """Neither where it makes the URL unreadable nor where nobody answers."""
    with pytest.raises(EndpointError) as caught:
        models.check("big-1", api_key=KEY, base_url=url)

    assert "s3c" not in str(caught.value) and "etpw" not in str(caught.value)


@pytest.mark.parametrize("given", [{"api_key": 5}, {"base_url": b"http://host"}])
def test_a_key_that_is_no_text_is_a_type_error(given):
    """A programming mistake, named where it was made."""
    with pytest.raises(TypeError, match="api_key and base_url are texts"):
        models.client(**given)


def test_a_key_that_no_header_can_carry_is_refused_without_showing_it():
    """A key copied with typographic quotes is a common slip."""
    with pytest.raises(EndpointError) as caught:
        models.client(api_key=f"“{KEY}”")

    assert KEY not in str(caught.value)


def test_the_proxy_of_the_environment_is_used_and_its_exceptions_hold(serve, monkeypatch):
    """A client with a transport of its own ignores proxies unless told; many offices have no other way out."""
    proxy = serve(path="http://models.example/v1/chat/completions")
    monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    direct = serve()

    assert ask(models.client(base_url="http://models.example/v1")).choices[0].message.content == "hi"
    assert ask(models.client(base_url=direct.url)).choices[0].message.content == "hi"
    assert (len(proxy.asked), len(direct.asked)) == (1, 1)


def test_a_web_page_in_place_of_an_answer_is_an_endpoint_error(serve, case):
    """The SDK would return the page as a str, and the caller would fail far from the cause."""
    endpoint = serve(content=b"<!doctype html><p>Welcome", kind="text/html; charset=utf-8")
    with pytest.raises(EndpointError, match="answers HTML, not an OpenAI-compatible API"):
        ask(models.client(base_url=endpoint.url))

    assert len(endpoint.asked) == 1
    assert [(call.status, call.tokens_in) for call in case.calls] == [(200, None)]


# --- what is recorded


def test_a_call_is_recorded_with_tokens_and_answer(serve, case):
    """One call and one step per request; a price is not known here, so the cost is unknown and not 0."""
    ask(models.client(api_key=KEY, base_url=serve().url), temperature=0.2)
    (call,), (recorded,) = case.calls, case.steps

    assert (call.model, call.path, call.status, call.answered_id) == ("big-1", "/chat/completions", 200, "chatcmpl-7")
    assert (call.tokens_in, call.tokens_out, call.cost_usd) == (5, 2, None)
    assert 0 < call.latency_s < 30
    assert (recorded.kind, recorded.error) == ("CHAT_MODEL", "")
    assert recorded.inputs == {"model": "big-1", "messages": HELLO, "temperature": 0.2}
    assert recorded.outputs == CHAT
    assert recorded.attributes == {"model": "big-1", "tokens_in": 5, "tokens_out": 2, "cost_usd": None}


def test_an_offline_call_costs_nothing(case):
    """Cost 0.0 is known, not unknown; `hello` is 5 characters, so 2 tokens."""
    ask(models.client(), model="offline/extractive")

    assert (case.calls[0].cost_usd, case.calls[0].tokens_in, case.calls[0].status) == (0.0, 2, 200)


def test_a_step_lies_below_the_one_that_made_the_call(case):
    """A trace shows which part of the system asked."""
    with step("answer") as outer:
        ask(models.client(), model="offline/extractive")

    assert case.steps[0].parent == outer.id


def test_outside_an_evaluation_nothing_is_recorded(serve):
    """And the answer is passed on untouched."""
    assert current_case.get() is None
    assert ask(models.client(base_url=serve().url)).id == "chatcmpl-7"


def test_a_compressed_answer_is_recorded_as_text(serve, case):
    """Endpoints answer with gzip; caller and record both see the JSON."""
    packed = gzip.compress(json.dumps(CHAT).encode())
    reply = ask(models.client(base_url=serve(content=packed, headers=[("content-encoding", "gzip")]).url))

    assert reply.choices[0].message.content == "hi"
    assert case.steps[0].outputs == CHAT


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_is_recorded_whole_wherever_it_is_cut(serve, case, size):
    """The usage stands in the last event, and pieces end inside events and characters. U+2028 is no line end in JSON."""
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    text = sse(delta("grüß "), delta("dich\u2028"), delta(reason="stop"), {**delta(), "choices": [], "usage": usage})
    text = text.replace(b"\\u2028", "\u2028".encode()).replace(b"\\u00fc", "ü".encode())
    endpoint = serve(content=[text[at : at + size] for at in range(0, len(text), size)], kind="text/event-stream")
    heard = "".join(
        chunk.choices[0].delta.content or "" for chunk in ask(models.client(base_url=endpoint.url), stream=True) if chunk.choices
    )

    assert heard == "grüß dich\u2028"
    assert case.steps[0].outputs["choices"][0] == {"index": 0, "message": {"role": "assistant", "content": heard}, "finish_reason": "stop"}
    assert (case.calls[0].tokens_in, case.calls[0].tokens_out, case.calls[0].answered_id) == (5, 3, "chatcmpl-8")


def test_a_stream_that_is_left_early_is_recorded_as_far_as_it_came(serve, case):
    """Leaving is no failure; without the last event the tokens are unknown."""
    endpoint = serve(content=[sse(delta("one "), delta("two"))[:-14]], kind="text/event-stream")
    stream = ask(models.client(base_url=endpoint.url), stream=True)
    next(stream)
    stream.close()

    assert case.steps[0].outputs["choices"][0]["message"]["content"].startswith("one ")
    assert (case.steps[0].error, case.calls[0].tokens_out, len(case.calls)) == ("", None, 1)


def test_a_stream_read_elsewhere_belongs_to_the_case_that_asked(serve, case):
    """A generator may be finished where no case, or another, is current."""
    stream = ask(models.client(base_url=serve(content=sse(delta("x")), kind="text/event-stream").url), stream=True)
    contextvars.Context().run(list, stream)

    assert (len(case.calls), len(case.steps)) == (1, 1)


def test_a_stream_of_another_shape_still_reaches_its_reader(serve, case):
    """Some endpoints stream a list of parts (thinking, text) as content: what cannot be recorded must not fail the case."""
    parts = delta([{"type": "text", "text": "x"}])
    endpoint = serve(content=sse(parts), kind="text/event-stream")

    (chunk,) = ask(models.client(base_url=endpoint.url), stream=True)

    assert chunk.choices[0].delta.content == [{"type": "text", "text": "x"}]
    assert (case.calls[0].status, case.calls[0].tokens_in) == (200, None)
    assert "the stream cannot be recorded" in case.steps[0].error


def test_an_error_inside_a_stream_is_recorded(serve, case):
    """Its HTTP status was 200 long before."""
    endpoint = serve(content=sse(delta("one"), {"error": {"message": "overloaded"}}), kind="text/event-stream")
    with pytest.raises(openai.APIError, match="overloaded"):
        list(ask(models.client(base_url=endpoint.url), stream=True))

    assert case.steps[0].error == "overloaded"


def test_the_responses_api_is_recorded(serve, case):
    """It calls its tokens input and output, and its stream carries the whole answer in the last event."""
    answer = {"id": "resp-1", "object": "response", "output": [], "error": None, "usage": {"input_tokens": 4, "output_tokens": 6}}
    events = [{"type": "response.created", "response": {"id": "resp-1"}}, {"type": "response.completed", "response": answer}]
    plain, streamed = serve("/v1/responses", content=answer), serve("/v1/responses", content=sse(*events), kind="text/event-stream")
    models.client(base_url=plain.url).responses.create(model="big-1", input="hello")
    list(models.client(base_url=streamed.url).responses.create(model="big-1", input="hello", stream=True))

    assert [(call.path, call.tokens_in, call.tokens_out, call.answered_id) for call in case.calls] == [("/responses", 4, 6, "resp-1")] * 2
    assert [recorded.outputs for recorded in case.steps] == [answer, answer]


def test_an_embedding_is_recorded_without_its_vectors(serve, case):
    """A vector in a trace is kilobytes that nobody reads; an embedding puts out no tokens."""
    answer = {
        "object": "list",
        "model": "e-1",
        "data": [{"index": 0, "embedding": [0.5]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    client = models.client(base_url=serve("/v1/embeddings", content=answer).url)
    client.embeddings.create(model="e-1", input="hello", encoding_format="float")

    assert case.steps[0].kind == "EMBEDDING"
    assert case.steps[0].outputs == {**answer, "data": "1 vectors"}
    assert (case.calls[0].tokens_in, case.calls[0].tokens_out) == (3, 0)


def test_missing_usage_is_unknown_and_not_zero(serve, case):
    """A server that does not count must not look free."""
    ask(models.client(base_url=serve(content={**CHAT, "usage": None}).url))

    assert (case.calls[0].tokens_in, case.calls[0].tokens_out) == (None, None)


def test_a_refused_request_is_recorded_without_the_key(serve, case):
    """Some endpoints echo the key in their error; the record conceals it."""
    endpoint = serve(status=401, content={"error": {"message": f"Incorrect API key: {KEY}"}})
    with pytest.raises(openai.AuthenticationError):
        ask(models.client(api_key=KEY, base_url=endpoint.url))

    assert (case.calls[0].status, case.steps[0].error) == (401, "HTTP 401: Incorrect API key: (key removed)")
    assert KEY not in repr(case)


def test_retries_are_attempts_of_one_call(serve, case):
    """The SDK does not retry; what is retried below it is one call, which says how often it was tried. A refusal is not billed."""
    endpoint = serve(status=500, content={"error": {"message": "oops"}}, headers=[("retry-after-ms", "1")])
    with pytest.raises(openai.InternalServerError):
        ask(models.client(base_url=endpoint.url))

    assert [(call.status, call.attempts, call.lost, call.trouble) for call in case.calls] == [(500, 8, 0, "server_error")]
    assert len(endpoint.asked) == 8


def test_a_connection_error_is_recorded_with_status_0(case):
    """There was no answer; the SDK's error reaches the caller as always."""
    with pytest.raises(openai.APIConnectionError):
        ask(models.client(base_url="http://127.0.0.1:1/v1", max_retries=0))

    assert case.calls[0].status == 0
    assert case.steps[0].error.startswith("ConnectError: ")


def test_an_answer_that_was_cut_short_is_asked_again_while_there_is_time(serve, case):
    """A body cut off on the way has status 200 all the same, and the SDK does not retry it; each attempt may be billed."""
    case.deadline = time.monotonic() + 2
    endpoint = serve(content=b'{"id": "chatcmpl')
    with pytest.raises(openai.APIConnectionError):
        ask(models.client(base_url=endpoint.url))

    (call,) = case.calls
    assert (call.trouble, call.attempts, call.lost) == ("connection", len(endpoint.asked), len(endpoint.asked))
    assert len(endpoint.asked) >= 2
    assert case.steps[0].error == "CutShort: the answer broke off"


def test_the_list_of_models_is_not_recorded(serve, case):
    """It is no model call."""
    models.client(base_url=serve("/v1/models", content={"object": "list", "data": []}).url).models.list()

    assert case.steps == case.calls == []


def test_threads_share_a_client_and_each_call_finds_its_case(serve):
    """Cases run side by side with one client."""
    client, cases = models.client(base_url=serve().url), [CaseContext() for _ in range(8)]

    def answer(context):
        current_case.set(context)
        ask(client)

    threads = [threading.Thread(target=contextvars.Context().run, args=(answer, context)) for context in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [len(context.calls) for context in cases] == [1] * 8


def test_the_transport_serves_the_older_http_library_too(serve, case):
    """Other SDKs are built on httpx: the adapter is made of whichever library it is given."""
    with httpx.Client(transport=transport.adapter(httpx)(httpx.HTTPTransport)) as http_client:
        client = openai.OpenAI(api_key=KEY, base_url=serve().url, http_client=http_client)
        assert ask(client).id == "chatcmpl-7"
        ask(client, model="offline/extractive")

    assert [call.tokens_out for call in case.calls] == [2, 9]


def test_the_async_client_does_the_same(serve, case):
    """Plain, streamed, offline and without a key."""
    stream = serve(content=sse(delta("hi"), {**delta(), "choices": [], "usage": CHAT["usage"]}), kind="text/event-stream")

    async def run():
        async with models.async_client(base_url=serve().url) as client:
            assert (await ask(client)).id == "chatcmpl-7"
            await ask(client, model="offline/extractive")
        async with models.async_client(base_url=stream.url) as client:
            assert [chunk.id async for chunk in await ask(client, stream=True)] == ["chatcmpl-8"] * 2
        async with models.async_client() as client:
            with pytest.raises(EndpointError, match="no API key"):
                await ask(client)

    asyncio.run(run())

    assert [(call.status, call.tokens_out) for call in case.calls] == [(200, 2), (200, 9), (200, 2)]
    assert [recorded.error for recorded in case.steps] == ["", "", ""]


# --- check


def test_check_passes_an_endpoint_that_lists_models(serve):
    """One GET with the key; a model that the list does not name may be an alias, and passes."""
    endpoint = serve("/v1/models", content={"object": "list", "data": [{"id": "other"}]})
    models.check("big-1", api_key=KEY, base_url=endpoint.url)

    assert [(method, path, body) for method, path, body, _ in endpoint.asked] == [("GET", "/v1/models", b"")]


def test_check_returns_what_the_endpoint_lists_and_how_long_it_took(serve):
    """Whoever wants to know more than that it passed need not ask again."""
    endpoint = serve("/v1/models", content={"object": "list", "data": [{"id": "other"}, {"no": "id"}]})
    found = models.check("big-1", base_url=endpoint.url)

    assert (found.status, found.models) == (200, ("other",))
    assert 0 < found.latency_s < 10


MODEL = 200, "application/json", b'{"id": "other"}'


@pytest.mark.parametrize(
    ("model", "by_name", "answer"),
    [
        ("other", {}, True),  # as listed
        ("alias", {}, None),  # no model can be asked for by its name there
        ("alias", {"/v1/models/other": MODEL}, False),
        ("an/alias", {"/v1/models/other": MODEL, "/v1/models/an/alias": MODEL}, True),
        ("alias", {"/v1/models/other": MODEL, "/v1/models/alias": (200, "text/html", b"<html>Welcome")}, None),
    ],
)
def test_a_model_is_known_unknown_or_neither(serve, monkeypatch, model, by_name, answer):
    """An alias stands in no list, so a model is unknown only to an endpoint that finds others by their names."""
    endpoint = serve("/v1/models", content={"data": [{"id": "other"}]}, **by_name)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)

    assert models.known(model, models.check(model)) is answer


@pytest.mark.parametrize("status", [404, 405])
def test_check_passes_an_endpoint_without_a_list(serve, status):
    """Some serve only what they must."""
    found = models.check("big-1", base_url=serve("/v1/models", status=status, content={"error": "no"}).url)

    assert (found.status, found.models, models.known("big-1", found)) == (status, None, None)


def test_check_names_the_nearest_offline_model():
    """No request is needed to know."""
    models.check("offline/extractive")
    with pytest.raises(EndpointError, match="did you mean 'offline/extractive'"):
        models.check("offline/extractiv")


def test_check_wants_a_key():
    """Nothing is sent without one."""
    with pytest.raises(EndpointError, match="no API key for model 'big-1'\n  fix: export OPENAI_API_KEY.* for an agent 'offline/rules'"):
        models.check("big-1")


@pytest.mark.parametrize(
    ("kind", "content", "found"),
    [("text/html", b"<html>Welcome", "answers HTML"), ("text/plain", b"Ollama is running", "something that is not JSON")],
)
def test_check_refuses_what_is_no_api(serve, kind, content, found):
    """The usual cause is a base URL without /v1."""
    endpoint = serve("/v1/models", content=content, kind=kind)
    with pytest.raises(EndpointError, match=found) as caught:
        models.check("big-1", base_url=endpoint.url)

    assert "OPENAI_BASE_URL" in caught.value.fix and "/v1" in caught.value.fix


def test_check_finds_a_forgotten_v1(serve):
    """A 404 alone passes; with a list one step below, the address is certainly short of it."""
    endpoint = serve("/v1/models", content={"data": []})
    with pytest.raises(EndpointError) as caught:
        models.check("big-1", base_url=endpoint.url.removesuffix("/v1"))

    assert caught.value.fix == f"export OPENAI_BASE_URL={endpoint.url}"


@pytest.mark.parametrize("status", [401, 403])
def test_check_reports_a_refused_key_without_showing_it(serve, status):
    """Not even when the endpoint echoes it."""
    endpoint = serve("/v1/models", status=status, content={"error": {"message": KEY}})
    with pytest.raises(EndpointError, match=f"refuses the API key \\(HTTP {status}\\)") as caught:
        models.check("big-1", api_key=KEY, base_url=endpoint.url)

    assert KEY not in str(caught.value)


def test_check_refuses_an_endpoint_that_is_down(serve):
    """A gateway answers 503 while the model behind it loads."""
    with pytest.raises(EndpointError, match="is not available"):
        models.check("big-1", base_url=serve("/v1/models", status=503, content={}).url)


def test_check_reports_a_refused_connection():
    """The message has the address, without its password, and the reason; the fix names the variable to set."""
    with pytest.raises(EndpointError, match="cannot reach http://127.0.0.1:1/v1/models: .*refused") as caught:
        models.check("big-1", base_url="http://user:secret@127.0.0.1:1/v1")

    assert "OPENAI_BASE_URL" in caught.value.fix and "secret" not in str(caught.value)


def test_check_does_not_wait_for_ever():
    """An address that takes the connection and never answers is out of reach too."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(EndpointError, match="no answer within 0.05 s"):
        models.check("big-1", base_url=f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout_s=0.05)


def test_check_waits_no_longer_than_it_was_told():
    """An endpoint that sends a header now and then never breaks the library's timeout, which is for each read."""
    ended = threading.Event()

    def drip():
        connection, _ = server.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            for _ in range(100):
                if ended.wait(0.05):
                    return
                connection.sendall(b"x-still: here\r\n")
            connection.sendall(b"content-length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(EndpointError, match=r"no answer within 0\.3 s"):
                models.check("big-1", base_url=f"http://127.0.0.1:{server.getsockname()[1]}/v1", timeout_s=0.3)
        finally:
            ended.set()
            thread.join()


def test_threads_that_ask_at_once_share_one_network():
    """Sixteen workers begin together; each connection pool of their own would read the certificates again."""
    made = []

    def connect():
        made.append(httpx.MockTransport(lambda request: httpx.Response(200, text="fine")))
        time.sleep(0.05)
        return made[-1]

    with httpx.Client(transport=transport.adapter(httpx)(connect)) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: client.get("http://server/").text, range(16)))

    assert (answers, len(made)) == (["fine"] * 16, 1)
