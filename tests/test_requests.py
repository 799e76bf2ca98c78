"""Whose rules a request obeys, and what makes two requests the same."""

import json
import threading

import pytest

import poclab
from conftest import CHARTER
from endpoint import Endpoint
from poclab import freezing, models, requests, scores
from poclab.errors import InputError
from poclab.ledger import LEDGER, Ledger, entries
from poclab.system import CaseContext

PRICES = "prices: {m: {input: 1.0, output: 4.0, on: 2026-11-25, source: the test endpoint}}\n"


@pytest.fixture(scope="module")
def served():
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(served):
    served.configure(faults=[])
    served.reset()
    return served


@pytest.fixture
def cases(tmp_path):
    (tmp_path / "charter.yaml").write_text(CHARTER + PRICES)
    lines = ({"id": f"q{i:02}", "inputs": {"question": f"case {i:02}"}, "expected": {"answers": ["a"]}, "split": "dev"} for i in range(20))
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    freezing.freeze(tmp_path / "cases.jsonl")
    return poclab.TestSet.load(tmp_path / "cases.jsonl").split("dev")


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
    assert endpoint.counts()["requests"] == 0


def test_a_budget_without_a_ledger_is_refused(endpoint, tmp_path, monkeypatch):
    """A sweep's budget in the environment, and no POC to be found: nothing is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POCLAB_BUDGET", "sweep")
    client = models.client(base_url=endpoint.url, api_key="sk-0123456789")

    with pytest.raises(InputError, match="no POC here"):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], max_tokens=5)
    assert endpoint.counts()["requests"] == 0
