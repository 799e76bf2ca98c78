"""Whose rules a request obeys, and what makes two requests the same."""

import json
import subprocess
import sys
import threading

import httpx
import pytest

import poclab
from conftest import CHARTER, PRICES, completion, plain_cases
from poclab import models, redaction, requests, scores
from poclab.errors import InputError
from poclab.ledger import LEDGER, Ledger, entries
from poclab.system import CaseContext
from poclab.transport import adapter


@pytest.fixture
def cases(make_store, tmp_path):
    make_store(tmp_path)
    return plain_cases(tmp_path, 20)


def in_a_thread(work):
    """Run `work` in a thread that knows of no case, and return what came of it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(outcome(work)))
    thread.start()
    thread.join()
    return found[0]


def outcome(work):
    try:
        return work()
    except Exception as error:
        return error


def threaded(endpoint):
    """A system that asks its model in a thread of its own, and swallows what goes wrong there."""
    client = models.client(base_url=endpoint.url, api_key="sk-0123456789")

    def ask(question):
        asked = [{"role": "user", "content": question}]
        return client.chat.completions.create(model="m", messages=asked, max_tokens=50).choices[0].message.content

    return lambda inputs: str(in_a_thread(lambda: ask(inputs["question"])))


def evaluated(endpoint, cases, **options):
    return poclab.evaluate(threaded(endpoint), cases, [scores.exact()], version=poclab.Version("v", model="m"), **options)


def test_a_thread_without_a_case_is_recorded_where_its_evaluation_is(endpoint, cases, monkeypatch):
    """From a folder of no POC, too; and its cost is in no case's cost, so that each cost is unknown, and says why."""
    monkeypatch.chdir("/")
    first, again = evaluated(endpoint, cases), evaluated(endpoint, cases)

    assert endpoint.counts()["billed"] == 20
    assert len(list(entries(Ledger.open(cases.poc / LEDGER)))) == 20
    assert (first.calls_outside, first.total("cost_usd"), first.spent_usd) == (20, None, None)
    assert "20 model call(s) were asked by threads that know of no case" in str(first)
    assert first.content_digest() == again.content_digest()
    with pytest.raises(InputError, match="asked by threads that know of no case"):
        first.estimate("cost_usd_per_case")


def test_a_thread_without_a_case_keeps_the_budget_and_ends_the_evaluation(endpoint, cases, monkeypatch):
    """A call may cost 200 millionths of a dollar for its answer, and some for its prompt; twice that is not enough for 20."""
    monkeypatch.chdir("/")
    report = evaluated(endpoint, cases, max_cost_usd=0.0004, workers=1)

    assert 0 < endpoint.counts()["bill_usd"] <= 0.0004
    assert report.partial
    assert "the budget of $0.0004 is used up" in report.stopped


def test_nobody_guesses_whose_budget_a_thread_uses(endpoint, cases):
    """Two evaluations are under way, each with its own; a call that either could have asked is refused before it is sent."""
    both = [CaseContext(poc=cases.poc, budget=name) for name in ("a", "b")]
    with requests.ruling(both[0]), requests.ruling(both[1]):
        found = threaded(endpoint)({"question": "whose?"})

    assert "2 evaluations are under way" in found
    assert all("2 evaluations are under way" in str(one.stop) for one in both)  # both are told, whatever the system makes of it
    assert endpoint.counts()["requests"] == 0


def test_what_is_asked_by_hand_beside_an_evaluation_is_none_of_its_calls(cases, folder):
    """No system runs in the main thread: a prompt that is tried there has neither its mode nor its budget, and leaves its cost known."""
    outside = CaseContext(poc=cases.poc, mode="replay", budget="none such")
    server = Scripted(answered)
    with requests.ruling(outside):
        assert server.ask().status_code == 200

    assert (outside.calls, outside.stop, len(server.seen)) == ([], None, 1)


def test_a_budget_without_a_ledger_is_refused(endpoint, tmp_path, monkeypatch):
    """A sweep's budget in the environment, and no POC to be found: nothing is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POCLAB_BUDGET", "sweep")
    client = models.client(base_url=endpoint.url, api_key="sk-0123456789")

    with pytest.raises(InputError, match="no POC here"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], max_tokens=5)
    assert endpoint.counts()["requests"] == 0


# --- what makes two requests the same


class Scripted:
    """An endpoint inside this process that answers as `script(request)` says, under one of the HTTP libraries."""

    def __init__(self, script, **client):
        self.seen = []
        network = httpx.MockTransport(lambda request: self.seen.append(request) or script(request))
        self.client = httpx.Client(transport=adapter(httpx)(lambda: network), follow_redirects=True, **client)

    def ask(self, url="http://server/v1/chat/completions", text="hello", **more):
        headers = {name.lower(): value for name, value in more.pop("headers", {}).items()}
        body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": text}], **more}
        return self.client.post(url, json=body, headers=headers)


def answered(request, text="fine", **more):
    return httpx.Response(200, json=completion(text) | more)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "charter.yaml").write_text(CHARTER + PRICES)
    monkeypatch.setenv("POCLAB_POC", str(tmp_path))
    return tmp_path


def test_the_query_of_an_address_tells_requests_apart_and_a_secret_in_it_does_not(folder):
    """A version or a provider in the query asks somebody else; a key there is nobody else, and is never kept."""
    server = Scripted(answered)
    for query in ("", "?provider=a", "?provider=b", "?provider=b&key=sk-1234567890abcdef", "?provider=b&key=sk-another-key-012"):
        server.ask(f"http://server/v1/chat/completions{query}")

    assert len(server.seen) == 3
    assert "sk-" not in str(list(entries(Ledger.open(folder / LEDGER))))


def test_a_redirected_answer_is_that_of_the_address_asked_first(folder):
    """A replay asks that one, and finds it."""

    def script(request):
        if request.url.path.startswith("/old"):
            return httpx.Response(307, headers={"location": "http://server/new/v1/chat/completions"})
        return answered(request)

    server = Scripted(script)
    first, again = server.ask("http://server/old/v1/chat/completions"), server.ask("http://server/old/v1/chat/completions")

    assert (first.json(), len(server.seen)) == (again.json(), 2)
    assert [one.endpoint for one in entries(Ledger.open(folder / LEDGER))] == ["http://server/old/v1"]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://server/v1/chat/completions/", "application/json"),
        ("http://server/v1/chat/completions", "Application/JSON"),
        ("http://server/v1/chat/completions", "application/vnd.api+json"),
    ],
)
def test_unusual_spellings_of_a_request_are_recorded(folder, url, kind):
    """A slash at the end, and any type that is JSON's."""
    server = Scripted(answered)
    for _ in range(2):
        server.ask(url, headers={"content-type": kind})

    assert len(server.seen) == 1


def test_a_number_that_json_has_not_is_refused_before_it_is_sent(folder):
    """NaN has no canonical text, so that its answer could not be found again."""
    server = Scripted(answered)
    content = '{"model": "m", "temperature": NaN, "messages": []}'

    with pytest.raises(InputError, match="holds NaN"):
        server.client.post("http://server/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert not server.seen


# --- what is a secret


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("X-Title", "Quarterly numbers", False),
        ("x-tenant", "acme-corporation", False),
        ("HTTP-Referer", "https://example.org/app1", False),
        ("Authorization", "Bearer anything", False),
        ("x-request-id", "0123456789abcdef0123456789abcdef", False),
        ("Authorization", "Bearer sk-secret-77", True),
        ("x-goog-api-key", "letmein99", True),
        ("cookie", "session=abc12345", True),
        ("x-odd", "sk-proj-0123456789abcdef", True),
        ("x-author", "Anna Berg 2026", False),
        ("x-max-tokens", "10000000", False),
        ("x-tokenizer", "cl100k_base", False),
        ("x-portkey-provider", "openai-east-2", False),
        ("x-deployment", "gpt-4o-mini-2024-07-18", False),
        ("anthropic-version", "2023-06-01", False),
        ("idempotency-key", "stainless-python-retry-7a1b", False),
        ("x-portkey-api-key", "my-secret-77", True),
    ],
)
def test_a_header_is_concealed_by_its_name_or_when_it_looks_like_a_key(folder, monkeypatch, name, value, secret):
    """An answer that quotes an ordinary header is kept, and comes back, as it was."""
    monkeypatch.setattr(redaction, "_remembered", set())
    echoed = value.removeprefix("Bearer ")
    Scripted(lambda request: answered(request, f"you said {echoed}")).ask(headers={name: value})

    assert (echoed.encode() not in next(entries(Ledger.open(folder / LEDGER))).content) == secret


@pytest.mark.parametrize(
    ("given", "secret"),
    [
        ({"headers": {"authorization": "my-secret-77"}}, "my-secret-77"),
        ({"headers": {"authorization": 'Token token="my-secret-77"'}}, "my-secret-77"),
        ({"headers": {"authorization": "Basic dXNlcjpteS1zZWNyZXQtNzc="}}, "my-secret-77"),
        ({"headers": {"cookie": "theme=dark; session=my-secret-77"}}, "my-secret-77"),
        ({"headers": {"x-trace-token": "my-secret-77"}}, "my-secret-77"),
        ({"url": "http://server/v1/chat/completions?api_key=my-secret-77"}, "my-secret-77"),
        ({"url": "http://user:my-secret-77@server/v1/chat/completions"}, "my-secret-77"),
    ],
)
def test_a_key_is_known_in_whatever_form_it_travels(folder, monkeypatch, given, secret):
    """An endpoint that echoes it, or an error that quotes the address, gets it nowhere."""
    monkeypatch.setattr(redaction, "_remembered", set())
    Scripted(lambda request: answered(request, f"you said {secret}")).ask(**given)

    assert secret.encode() not in next(entries(Ledger.open(folder / LEDGER))).content


def test_a_key_in_pieces_or_escapes_is_not_kept(folder, monkeypatch):
    """Over the events of a stream, or with a letter written as its number: the texts of what is kept hold none, and it stays an answer."""
    monkeypatch.setattr(redaction, "_remembered", {"my-secret-77"})
    deltas = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("my-se", "cret-", "77 ")]
    last = {"choices": [{"index": 0, "delta": {"content": "bye"}, "finish_reason": "stop"}]}
    stream = "".join(f"data: {json.dumps(one)}\n\n" for one in (*deltas, last)) + "data: [DONE]\n\n"

    def script(request):
        if json.loads(request.content).get("stream"):
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=httpx.ByteStream(stream.encode()))
        return httpx.Response(200, content=answered(request, "my-secret-77").content.replace(b"my-s", b"my-\\u0073"))

    server = Scripted(script)
    assert server.ask(stream=True).text == stream
    assert server.ask().json()["choices"][0]["message"]["content"] == "my-secret-77"
    again = [server.ask(stream=True).text, server.ask().text]
    kept = [json.loads(line[6:])["choices"][0]["delta"]["content"] for line in again[0].split("\n") if line.startswith("data: {")]

    assert (len(server.seen), "".join(kept)) == (2, "(key removed) bye")
    assert json.loads(again[1])["choices"][0]["message"]["content"] == "(key removed)"


def test_a_key_that_is_a_number_leaves_an_answer_readable(folder, monkeypatch):
    """Its digits stand in a number of the answer, too: texts lose them, the JSON stays whole."""
    monkeypatch.setattr(redaction, "_remembered", {"12345678"})
    server = Scripted(lambda request: answered(request, "12345678", seed=0.12345678))
    server.ask()
    again = server.ask().json()

    assert len(server.seen) == 1
    assert (again["choices"][0]["message"]["content"], again["seed"]) == ("(key removed)", 0.12345678)


FORK = """
import os, sys
from poclab import models
client = models.client(base_url=sys.argv[1], api_key="sk-0123456789")
def ask(name):
    asked = [{"role": "user", "content": "ANSWER:{" + name + "}"}]
    return client.chat.completions.create(model="m", messages=asked, max_tokens=50).choices[0].message.content
assert ask("before") == "before"
children = []
for process in range(4):
    if not (child := os.fork()):
        wrong = sum(ask(f"{process} {number}") != f"{process} {number}" for number in range(20))
        os._exit(wrong)
    children.append(child)
wrong = sum(ask(f"parent {number}") != f"parent {number}" for number in range(20))
print(wrong + sum(os.waitpid(child, 0)[1] for child in children))
"""


def test_a_client_that_was_forked_reads_no_answer_of_another_process(endpoint, folder):
    """Parent and four children go on with one client, whose connection was open: each gets the answers to its own questions."""
    done = subprocess.run([sys.executable, "-c", FORK, endpoint.url], capture_output=True, text=True, timeout=60)

    assert (done.stdout.strip(), done.returncode) == ("0", 0), done.stderr
    assert endpoint.counts()["billed"] == 1 + 5 * 20
