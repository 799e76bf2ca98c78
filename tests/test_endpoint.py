"""The endpoint of the tests is what they take it for: it speaks the API, fails as told, survives its clients, and bills honestly."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import openai
import pydantic
import pytest

from conftest import until
from endpoint import Endpoint, Settings

WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
ENDPOINT = Path(__file__).with_name("endpoint.py")


@pytest.fixture(scope="module")
def process():
    with Endpoint() as started:
        yield started


@pytest.fixture
def endpoint(process):
    process.configure(**dataclasses.asdict(Settings()))
    process.reset()
    return process


@pytest.fixture
def client(endpoint):
    with openai.OpenAI(base_url=endpoint.url, api_key="x", max_retries=0, timeout=20) as made:
        yield made


def ask(client, text, **options):
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **options)


def said(client, text, **options):
    return ask(client, text, **options).choices[0].message.content


def streamed(client, text, **options):
    return "".join(chunk.choices[0].delta.content or "" for chunk in ask(client, text, stream=True, **options) if chunk.choices)


def test_the_answer_is_the_one_in_the_prompt(client):
    """A test knows what is right; without an answer in it, a prompt always gets the same one, and no other prompt does."""
    assert said(client, "Where? ANSWER:{Paris}") == "Paris"
    assert [choice.message.content for choice in ask(client, "Where? ANSWER:{Paris}", n=2).choices] == ["Paris", "Paris"]
    assert said(client, "one") == said(client, "one") != said(client, "two")


def test_the_bill_is_tokens_times_prices(client, endpoint):
    """20 bytes are 5 tokens, 5 bytes are 2, and 3 were spent on reasoning: 3 x 1 + 2 cached x 0.5 + 5 x 4 millionths of a dollar."""
    endpoint.configure(cached=0.4, reasoning=3)
    usage = ask(client, "hello ANSWER:{Paris}").usage
    counts = endpoint.counts()

    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (5, 2)
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (5, 3)
    assert counts["bill_usd"] == pytest.approx(24e-6)
    assert counts["prompts"]["hello ANSWER:{Paris}"]["answered"] == counts["answered"] == counts["requests"] == 1


def test_an_output_limit_cuts_the_answer(client):
    """One token is four bytes of text; an answer that was cut says so."""
    choice = ask(client, "ANSWER:{abcdefgh}", max_completion_tokens=1).choices[0]

    assert (choice.message.content, choice.finish_reason) == ("abcd", "length")


def test_a_stream_brings_the_same_answer(client):
    """In words, with the usage last when it was asked for."""
    chunks = list(ask(client, "ANSWER:{Paris is big}", stream=True, stream_options={"include_usage": True}))

    assert [chunk.choices[0].delta.content for chunk in chunks[:-2]] == ["", "Paris", " is", " big"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 3
    assert streamed(client, "ANSWER:{Paris is big}") == "Paris is big"


def test_a_tool_is_called_when_the_prompt_asks(client):
    """Whole, as a stream, and through the Responses API; with the result at hand the answer comes."""
    tools, text = [{"type": "function", "function": WEATHER}], "CALL:weather ANSWER:{Rome}"
    call = ask(client, text, tools=tools).choices[0].message.tool_calls[0]
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": text}], tools=tools) as stream:
        live = stream.get_final_completion().choices[0].message.tool_calls[0]
    item = client.responses.create(model="m", input=text, tools=[{"type": "function", **WEATHER}]).output[0]
    after = [{"role": "user", "content": text}, {"role": "assistant", "tool_calls": [call.model_dump()]}]
    after.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    answer = client.chat.completions.create(model="m", messages=after, tools=tools).choices[0]

    assert [one.arguments for one in (call.function, live.function, item)] == ['{"city": "Rome"}'] * 3
    assert (answer.message.content, answer.finish_reason) == ("Rome", "stop")


def test_json_fits_the_schema(client):
    """Structured output parses, in chat and in Responses."""

    class Place(pydantic.BaseModel):
        name: str
        kind: Literal["town", "city"]
        people: int | None
        tags: list[str]

    text = "ANSWER:{city}"
    chat = client.chat.completions.parse(model="m", messages=[{"role": "user", "content": text}], response_format=Place)
    expected = Place(name="city", kind="city", people=1, tags=["city"])

    assert chat.choices[0].message.parsed == expected
    assert client.responses.parse(model="m", input=text, text_format=Place).output_parsed == expected


def test_responses_come_whole_and_as_a_stream(client):
    """With their own usage, and incomplete when they were cut."""
    whole = client.responses.create(model="m", input="ANSWER:{Rome now}")
    with client.responses.stream(model="m", input="ANSWER:{Rome now}") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    cut = client.responses.create(model="m", input="ANSWER:{Rome now}", max_output_tokens=1)

    assert whole.output_text == final.output_text == "Rome now"
    assert deltas == ["Rome", " now"]
    assert whole.usage.output_tokens == final.usage.output_tokens == 2
    assert (cut.output_text, cut.status, cut.incomplete_details.reason) == ("Rome", "incomplete", "max_output_tokens")


def test_embeddings_are_the_same_in_both_formats(client):
    """Base64 and floats hold one vector of length 1 for each text."""
    packed = client.embeddings.create(model="m", input=["a cat", "a dog"], dimensions=8).data
    plain = client.embeddings.create(model="m", input=["a cat", "a dog"], dimensions=8, encoding_format="float").data

    assert [one.embedding for one in packed] == [one.embedding for one in plain]
    assert [sum(weight**2 for weight in one.embedding) for one in plain] == pytest.approx([1, 1])


def test_completions_and_models_are_served(client, endpoint):
    """One choice for each prompt, whole and streamed; the models are those that were named."""
    endpoint.configure(models=["m", "n"])
    chunks = client.completions.create(model="m", prompt="ANSWER:{a b}", stream=True)

    assert [one.text for one in client.completions.create(model="m", prompt=["ANSWER:{a}", "ANSWER:{b}"]).choices] == ["a", "b"]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "a b"
    assert [model.id for model in client.models.list()] == ["m", "n"]


def test_random_answers_never_agree(client, endpoint):
    """Two live calls can be told from one call and its replay."""
    endpoint.configure(random=True)
    answers = [said(client, "ANSWER:{Paris}") for _ in range(3)] + [choice.message.content for choice in ask(client, "x", n=2).choices]

    assert len(set(answers)) == 5
    assert answers[0].startswith("Paris #")


def test_a_share_of_the_prompts_is_answered_wrongly(client, endpoint):
    """Always the same ones."""
    endpoint.configure(wrong=0.5)
    first, again = ([said(client, f"{number} ANSWER:{{right}}") for number in range(40)] for _ in range(2))

    assert first == again
    assert 8 < first.count("WRONG") < 32


FAULTS = [
    ("500", said, openai.InternalServerError, "500", 0),
    ("503", said, openai.InternalServerError, "503", 0),
    ("429", said, openai.RateLimitError, "429", 0),
    ("400", said, openai.BadRequestError, "400", 0),
    ("reset", said, openai.APIConnectionError, "none", 1),
    ("hang", said, openai.APITimeoutError, "none", 0),
    ("cut_body", said, openai.APIConnectionError, "200", 1),
    ("cut_json", said, ValueError, "200", 1),
    ("cut_body", streamed, openai.APIConnectionError, "200", 1),
    ("cut_json", streamed, ValueError, "200", 1),
    ("stall", said, openai.APITimeoutError, "200", 1),
    ("stall", streamed, openai.APIConnectionError, "200", 1),
    ("half_stream", streamed, openai.APIConnectionError, "200", 1),
]


@pytest.mark.parametrize(("kind", "way", "error", "status", "billed"), FAULTS)
def test_each_fault_comes_once_and_then_the_answer(client, endpoint, kind, way, error, status, billed):
    """The client sees the failure, the bill holds what was worked out, and the next request with that prompt is answered."""
    endpoint.configure(faults=[{"kind": kind, "match": r"case 37\b"}])
    with pytest.raises(error):
        way(client.with_options(timeout=0.3) if kind in ("hang", "stall") else client, "case 37 ANSWER:{a b c}")
    counts = endpoint.counts()

    assert (counts["statuses"], counts["answered"], counts["billed"], counts["faults"]) == ({status: 1}, 0, billed, {kind: 1})
    assert way(client, "case 37 ANSWER:{a b c}") == way(client, "case 371 ANSWER:{a b c}") == "a b c"
    assert endpoint.counts()["prompts"]["case 37 ANSWER:{a b c}"]["billed"] == 1 + billed


def test_a_short_stream_ends_as_if_it_were_whole(client, endpoint):
    """Nothing tells that it is broken but its missing end, and it counts as not answered."""
    endpoint.configure(faults=[{"kind": "short_stream", "match": "."}])

    assert streamed(client, "ANSWER:{a b c d}") == "a b"
    assert (endpoint.counts()["answered"], endpoint.counts()["billed"]) == (0, 1)


@pytest.mark.parametrize("way", [said, streamed])
def test_a_slow_answer_is_whole(client, endpoint, way):
    """It takes the seconds that it was told to take."""
    endpoint.configure(faults=[{"kind": "slow", "match": ".", "seconds": 0.3}])
    start = time.monotonic()

    assert way(client, "ANSWER:{a b}") == "a b"
    assert time.monotonic() - start >= 0.3


def test_retry_after_has_three_forms(client, endpoint):
    """Seconds, a date that is not too early, and milliseconds."""
    found = {}
    for form in ("seconds", "date", "ms"):
        endpoint.configure(faults=[{"kind": "429", "match": ".", "retry_after_s": 1.5, "retry_after_form": form}])
        start = time.time()
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client, form)
        found[form] = caught.value.response.headers

    assert found["seconds"]["retry-after"] == "1.5"
    assert 1.5 <= parsedate_to_datetime(found["date"]["retry-after"]).timestamp() - start < 4
    assert found["ms"]["retry-after-ms"] == "1500"


def test_faults_follow_the_prompt_and_not_the_order(client, endpoint):
    """Two runs in different order meet the same faults, each about its share of the prompts, and none of them both."""
    endpoint.configure(faults=[{"kind": "429", "share": 0.3}, {"kind": "500", "share": 0.2}])
    first, again = {}, {}
    for found, order in ((first, range(60)), (again, reversed(range(60)))):
        endpoint.reset()
        for number in order:
            with contextlib.suppress(openai.APIStatusError):
                found[number] = said(client, f"case {number}")
        statuses = endpoint.counts()["statuses"]

    assert first == again
    assert 8 <= statuses["429"] <= 28
    assert 4 <= statuses["500"] <= 20


def test_several_faults_of_one_prompt_come_in_turn(client, endpoint):
    """A request can fail in one way, then in another, then be answered."""
    endpoint.configure(faults=[{"kind": "429", "match": "37", "times": 2}, {"kind": "500", "match": "37"}])
    for error in (openai.RateLimitError, openai.RateLimitError, openai.InternalServerError):
        with pytest.raises(error):
            ask(client, "case 37")

    assert said(client, "case 37")


def test_a_wrong_key_is_refused_and_echoed(client, endpoint):
    """As some endpoints do, so that a test can see whether the key gets any further. Nothing is billed."""
    endpoint.configure(key="right")
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided: sk-wrong") as caught:
        ask(client.with_options(api_key="sk-wrong"), "x")

    assert caught.value.code == "invalid_api_key"
    assert said(client.with_options(api_key="right"), "x")
    assert (endpoint.counts()["billed"], endpoint.counts()["statuses"]) == (1, {"401": 1, "200": 1})


def test_an_unknown_model_is_not_found(client, endpoint):
    """With OpenAI's code for it."""
    endpoint.configure(models="a,b")
    with pytest.raises(openai.NotFoundError, match="`m` does not exist") as caught:
        ask(client, "x")

    assert caught.value.code == "model_not_found"


def test_a_spent_quota_is_told_from_a_rate_limit(client, endpoint):
    """Both are 429; only the code says that waiting does not help."""
    endpoint.configure(quota_usd=1e-9)
    said(client, "x")
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, "y")

    assert (caught.value.code, caught.value.type) == ("insufficient_quota", "insufficient_quota")


def test_more_requests_under_way_than_the_limit_are_refused(client, endpoint):
    """While one hangs, a limit of one refuses the next."""
    endpoint.configure(limit=1, faults=[{"kind": "hang", "match": "first"}])
    with socket.create_connection(("127.0.0.1", endpoint.port)) as waiting:
        waiting.sendall(posted("first"))
        until(lambda: endpoint.counts()["under_way"] == 1, "a request under way")
        with pytest.raises(openai.RateLimitError):
            ask(client, "second")
    until(lambda: endpoint.counts()["under_way"] == 0, "the hanging client is gone")

    assert said(client, "second")
    assert endpoint.counts()["most_under_way"] == 2


def posted(text):
    body = f'{{"model": "m", "messages": [{{"role": "user", "content": "{text}"}}]}}'
    return f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


def test_hostile_texts_reach_the_client(client, endpoint):
    """Control characters and markup; half a surrogate pair, which no file can hold; a refusal; nothing at all; no usage."""
    endpoint.configure(faults=[{"kind": kind, "match": kind} for kind in ("hostile", "surrogate", "empty", "refusal", "no_usage")])

    assert "\x1b[2J" in said(client, "hostile ANSWER:{a}")
    assert said(client, "surrogate ANSWER:{a}") == "a \ud83d"
    assert said(client, "empty") == ""
    assert ask(client, "refusal").choices[0].message.refusal.startswith("I'm sorry")
    assert ask(client, "no_usage").usage is None


def test_a_compressed_answer_is_the_same(client, endpoint):
    """The client asks for gzip by itself."""
    endpoint.configure(gzip=True)
    raw = client.chat.completions.with_raw_response.create(model="m", messages=[{"role": "user", "content": "ANSWER:{a}"}])

    assert raw.headers["content-encoding"] == "gzip"
    assert raw.parse().choices[0].message.content == "a"


def test_the_work_for_a_killed_client_is_billed(client, endpoint):
    """An endpoint does not know that nobody listens any more; it bills, counts no answer, and serves the next."""
    endpoint.configure(latency_s=0.5)
    code = f"import socket, time; s = socket.create_connection(('127.0.0.1', {endpoint.port})); s.sendall({posted('killed')!r}); time.sleep(99)"
    doomed = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: endpoint.counts()["under_way"] == 1, "a request under way")
    doomed.kill()
    doomed.wait()
    until(lambda: endpoint.counts()["under_way"] == 0, "the answer is worked out")
    asks = endpoint.counts()["prompts"]["killed"]

    assert (asks["requests"], asks["answered"], asks["billed"]) == (1, 0, 1)
    assert said(client, "next")


def test_it_ends_with_its_test_however_that_ends():
    """A killed test leaves no endpoint behind."""
    code = "from endpoint import Endpoint; import time\nwith Endpoint() as one: print(one.port, flush=True); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ENDPOINT.parent, stdout=subprocess.PIPE, text=True) as parent:
        port = int(parent.stdout.readline())
        socket.create_connection(("127.0.0.1", port)).close()
        parent.kill()

    def refused():
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionError:
            return True

    assert until(refused, "nobody listens")


def test_the_command_line_takes_every_setting():
    """`python tests/endpoint.py` prints the port, and Ctrl-C ends it without a traceback."""
    options = ["--port", "0", "--key", "right", "--models", "a,b", "--limit", "3", "--random", "--wrong", "1", "--latency-s", "0.01"]
    options += ["--faults", '[{"kind": 500, "match": "x"}]']
    command = [sys.executable, str(ENDPOINT), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        with openai.OpenAI(base_url=url, api_key="right", max_retries=0) as client:
            answer = client.chat.completions.create(model="a", messages=[{"role": "user", "content": "y"}])
            with pytest.raises(openai.InternalServerError):
                client.chat.completions.create(model="b", messages=[{"role": "user", "content": "x"}])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)

    assert answer.choices[0].message.content.startswith("WRONG #")
    assert errors == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency": 1}, "latency"),
        ({"faults": [{"kind": "hung", "match": "x"}]}, "no such fault: 'hung'"),
        ({"faults": [{"kind": "hang"}]}, "needs a share or a match"),
        ({"faults": [{"kind": "hang", "share": 0.7}, {"kind": "reset", "share": 0.7}]}, "more than 1"),
        ({"faults": [{"kind": "hang", "match": "("}]}, "unterminated"),
    ],
)
def test_a_setting_that_does_not_exist_is_an_error(endpoint, settings, message):
    """A typing mistake does not become a test without faults."""
    with pytest.raises(ValueError, match=message):
        endpoint.configure(**settings)


def processor_s(pid):
    """Return the seconds that a process has had of a processor."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_it_is_fast_enough_to_measure_others(endpoint, capsys):
    """An answer takes the endpoint less than 2 ms of a processor, whatever else the machine does; the figure is printed."""

    def drive(name):
        with socket.create_connection(("127.0.0.1", endpoint.port)) as connection, connection.makefile("rb") as answers:
            for number in range(250):
                connection.sendall(posted(f"{name} {number}"))
                lines = iter(answers.readline, b"\r\n")
                length = next(int(line.split()[1]) for line in list(lines) if line.startswith(b"content-length"))
                answers.read(length)

    threads = [threading.Thread(target=drive, args=(name,)) for name in range(8)]
    start, used_s = time.monotonic(), processor_s(endpoint.process.pid)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = 2000 / (time.monotonic() - start)
    with capsys.disabled():
        print(f"\nthe endpoint answers {rate:,.0f} requests a second")

    assert endpoint.counts()["answered"] == 2000
    assert processor_s(endpoint.process.pid) - used_s < 4
