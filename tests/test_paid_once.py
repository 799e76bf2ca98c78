"""What is paid for is paid for once and never lost: evaluations in real processes, at an endpoint that counts, fails and bills.

The short form of `tests/benchmarks/paid_once.py`. Run as a program, this file is one evaluation: `python test_paid_once.py URL POC OF`.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import poclab
from conftest import until
from endpoint import Endpoint
from poclab import freezing, models, scores
from poclab.errors import EndpointError

CASES, WORKERS = 60, 16
VERSION = poclab.Version("echo", model="m")
KEY = "sk-paid-once-0123456789"
CHARTER = """\
decision: Answer with the words that stand in the question, or do not.
uncertainty: Whether anything is paid twice.
owner: Ada Example
sponsor: Grace Example
criteria:
  - {metric: accuracy, at_least: 0.8, split: dev}
prices: {m: {input: 1.0, output: 4.0, on: 2026-11-25, source: the test endpoint}}
"""
FAULTS = [
    {"kind": "429", "share": 0.10, "retry_after_s": 0.2},
    {"kind": "500", "share": 0.05},
    {"kind": "cut_body", "share": 0.02},
    {"kind": "reset", "share": 0.01},
]
#: The endpoint is wrong about some cases; with this seed, each fault meets some of them too.
SETTINGS = {"latency_s": 0.0, "random": False, "wrong": 0.1, "key": "", "faults": [], "seed": 6}


QUESTIONS = [f"case {number}: ANSWER:{{a{number}}}" for number in range(CASES)]


@pytest.fixture(scope="module")
def frozen(make_store):
    """Return a function that makes a POC whose cases are these questions; one may come again, since each case has its number too."""

    def make(folder, questions=QUESTIONS):
        folder.mkdir(parents=True)
        (folder / "charter.yaml").write_text(CHARTER)
        lines = (
            {"id": f"q{n:02}", "inputs": {"question": text, "number": n}, "expected": {"answers": [f"a{n}"]}, "split": "dev"}
            for n, text in enumerate(questions)
        )
        (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        freezing.freeze(folder / "cases.jsonl")
        make_store(folder)
        return folder

    return make


def evaluated(system, poc, **more):
    return poclab.evaluate(system, poclab.TestSet.load(poc / "cases.jsonl").split("dev"), [scores.exact()], version=VERSION, **more)


def asking(client, **parameters):
    """Return a function that asks a text."""
    return lambda text: client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], max_tokens=50, **parameters)


def said(answer):
    return answer.choices[0].message.content


def echo(url, poc, *, key=KEY, of=1):
    """Return a system that asks the question, and writes down what was answered; it begins when `of` processes are there."""
    ask = asking(models.client(base_url=url, api_key=key))

    def answer(inputs):
        (poc / f"{os.getpid()}.here").touch()
        until(lambda: len(list(poc.glob("*.here"))) >= of, "the other process begins")
        text = said(ask(inputs["question"]))
        with (poc / "answered.txt").open("a") as file:
            file.write(inputs["question"] + "\n")
        return text

    return answer


def evaluate_as_program(url, poc, of):
    report = evaluated(echo(url, poc, of=of), poc, workers=WORKERS)
    live = sum(not call.replayed for one in report.results for call in one.calls)
    (poc / f"{os.getpid()}.json").write_text(json.dumps({"digest": report.content_digest(), "live": live}))


def started(endpoint, poc, of=1):
    return subprocess.Popen([sys.executable, __file__, endpoint.url, str(poc), str(of)], stdin=subprocess.DEVNULL)


def finished(process, poc):
    assert process.wait(90) == 0
    return json.loads((poc / f"{process.pid}.json").read_text())


def answered(poc):
    """Return the questions whose answer a system of this POC has had."""
    path = poc / "answered.txt"
    return set(path.read_text().splitlines()) if path.exists() else set()


@pytest.fixture(scope="module")
def served():
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(served):
    """An endpoint with counts at zero and no faults."""
    served.configure(**SETTINGS)
    served.reset()
    return served


@pytest.fixture(scope="module")
def undisturbed(frozen, served, tmp_path_factory):
    """The report of a run without kills and faults."""
    served.configure(**SETTINGS)
    poc = frozen(tmp_path_factory.mktemp("undisturbed") / "echo")
    report = evaluated(echo(served.url, poc), poc)
    assert 0 < report.outcomes["wrong"] < CASES // 4
    return report


# --- kill -9, and two processes


def test_a_killed_evaluation_goes_on_and_pays_nothing_twice(undisturbed, endpoint, frozen, tmp_path):
    """What was answered is never asked again, at most what was under way is, and the report is that of a run that nobody killed."""
    hanging = {"kind": "hang", "match": r"case 5\d:", "times": None, "billed": True}  # so that none is so quick that all is answered
    endpoint.configure(latency_s=0.2, faults=[hanging])
    poc, in_flight = frozen(tmp_path / "echo"), Counter()
    for enough in (CASES // 3, 2 * CASES // 3):
        process = started(endpoint, poc)
        until(lambda: len(answered(poc)) >= enough, "a third of the answers")  # noqa: B023 - called at once
        process.kill()
        process.wait()
        until(lambda: not endpoint.counts()["under_way"], "the endpoint works out what nobody reads")
        lost = set(endpoint.counts()["prompts"]) - answered(poc)
        assert 0 < len(lost) <= WORKERS
        in_flight.update(lost)
    endpoint.configure(faults=[])
    found = finished(started(endpoint, poc), poc)
    counts = endpoint.counts()

    repeated = Counter({prompt: asks["billed"] - 1 for prompt, asks in counts["prompts"].items()})
    assert repeated <= in_flight
    assert counts["billed"] == counts["requests"] <= CASES + in_flight.total()
    assert found["digest"] == undisturbed.content_digest()


def test_two_processes_on_one_ledger_share_every_call(undisturbed, endpoint, frozen, tmp_path):
    """They evaluate the same at the same time: both ask, no request is billed twice, and both reports are the same."""
    endpoint.configure(latency_s=0.25)
    poc = frozen(tmp_path / "echo")
    one, other = (finished(process, poc) for process in [started(endpoint, poc, of=2) for _ in range(2)])

    assert one["live"] > 0 and other["live"] > 0
    assert one["live"] + other["live"] == endpoint.counts()["billed"] == endpoint.counts()["requests"] == CASES
    assert one["digest"] == other["digest"] == undisturbed.content_digest()


# --- which answers are one


def test_the_same_prompt_is_another_answer_in_each_place(endpoint, frozen, tmp_path):
    """Twice within a case and in each of four cases: eight answers, no two of them alike, live and replayed."""
    endpoint.configure(random=True)
    poc = frozen(tmp_path / "same", ["the same prompt"] * 4)
    ask = asking(models.client(base_url=endpoint.url, api_key=KEY))

    def twice(inputs):
        return poclab.Reply(data={"answers": [said(ask(inputs["question"])) for _ in range(2)]})

    live, replayed = evaluated(twice, poc), evaluated(twice, poc, mode="replay")
    answers = [text for one in live.results for text in one.reply.data["answers"]]

    assert len(set(answers)) == endpoint.counts()["billed"] == endpoint.counts()["requests"] == 8
    assert replayed.content_digest() == live.content_digest()


def test_a_stream_is_replayed_as_one_and_a_cut_one_is_asked_again(endpoint, frozen, tmp_path):
    """A replay brings every piece that came; of what was cut nothing is kept, so the next run asks for that alone."""
    endpoint.configure(random=True, faults=[{"kind": "half_stream", "match": "case 2:"}])
    poc = frozen(tmp_path / "streams", QUESTIONS[:4])
    ask = asking(models.client(base_url=endpoint.url, api_key=KEY), stream=True)

    def stream(inputs):
        pieces = [chunk.choices[0].delta.content for chunk in ask(inputs["question"]) if chunk.choices]
        return poclab.Reply("".join(piece or "" for piece in pieces), data={"pieces": pieces})

    cut = evaluated(stream, poc)
    billed_at_first = endpoint.counts()["billed"]
    whole, replayed = evaluated(stream, poc), evaluated(stream, poc, mode="replay")

    assert [one.failure for one in cut.results] == [None, None, "connection", None]
    assert (billed_at_first, endpoint.counts()["billed"]) == (4, 5)
    assert [one.reply for one in whole.results if one.case_id != "q02"] == [one.reply for one in cut.results if one.case_id != "q02"]
    assert all(len(one.reply.data["pieces"]) > 2 for one in whole.results)
    assert replayed.content_digest() == whole.content_digest()


# --- an endpoint that fails


def test_faults_change_no_verdict(undisturbed, endpoint, frozen, tmp_path):
    """429, 500, cut bodies and resets cost time: the report is that of an endpoint without faults, and only what was cut is paid again."""
    endpoint.configure(faults=FAULTS)
    poc = frozen(tmp_path / "echo")
    report = evaluated(echo(endpoint.url, poc), poc, workers=WORKERS)
    counts = endpoint.counts()

    assert set(counts["faults"]) == {"429", "500", "cut_body", "reset"}
    assert report.content_digest() == undisturbed.content_digest()
    assert counts["billed"] == CASES + counts["faults"]["cut_body"] + counts["faults"]["reset"]
    assert counts["requests"] == CASES + sum(counts["faults"].values())


def test_a_refused_key_stops_the_run_at_once(endpoint, frozen, tmp_path):
    """After five cases, and those that were under way by then; the error says what to do, and does not repeat the key as the endpoint did."""
    endpoint.configure(key="sk-the-right-one", latency_s=0.05)
    poc = frozen(tmp_path / "echo")
    with pytest.raises(EndpointError, match="refuses the API key") as error:
        evaluated(echo(endpoint.url, poc), poc, workers=4)

    assert "export OPENAI_API_KEY" in str(error.value) and KEY not in str(error.value)
    assert set(endpoint.counts()["statuses"]) == {"401"}
    assert 5 <= endpoint.counts()["requests"] < CASES


if __name__ == "__main__":
    evaluate_as_program(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
