import functools
import math

import pytest

import poclab
from conftest import plain_cases
from poclab import models, scores
from poclab.evaluation import Plan
from poclab.judging import Rubric
from poclab.projection import SAMPLE, Amount, Projection, _further, project, shown, summary, total
from poclab.tables import money


@pytest.fixture
def cases(make_store, tmp_path):
    make_store(tmp_path)
    return plain_cases(tmp_path, 40)


def system(endpoint):
    client = models.client(base_url=endpoint.url, api_key="sk-0123456789")

    def answer(inputs):
        asked = [{"role": "user", "content": inputs["question"]}]
        return client.chat.completions.create(model="m", messages=asked, max_tokens=50).choices[0].message.content

    return answer


def projected(endpoint, cases, asked=None, judges=(), **options):
    asked = asked or system(endpoint)
    make_plan = functools.partial(Plan, asked, cases, [scores.exact(), *judges], poclab.Version("v", model="m"), timeout_s=20)
    return project(make_plan, workers=4, **options)


def test_nothing_known_asks_five_cases_and_foresees_the_rest(endpoint, cases):
    """All cases are alike here, so the projection is exact: 35 calls more, at what five cost."""
    found = projected(endpoint, cases)
    bill = endpoint.counts()["bill_usd"]

    assert endpoint.counts()["billed"] == SAMPLE == 5
    assert (found.cases, found.recorded, found.sampled, found.left) == (40, 0, 5, 35)
    assert (found.calls.value, found.calls.low, found.calls.high) == (35, 35, 35)
    assert found.sampled_usd == pytest.approx(bill)
    assert found.cost_usd.value == pytest.approx(7 * bill)
    poclab.evaluate(system(endpoint), cases, [scores.exact()], version=poclab.Version("v", model="m"))
    assert endpoint.counts()["billed"] == 40
    assert endpoint.counts()["bill_usd"] == pytest.approx(bill + found.cost_usd.value)


def test_what_the_ledger_holds_is_not_to_pay_and_shows_what_the_rest_takes(endpoint, cases):
    """Ten answers are there: thirty are to come, and none was asked to find that out."""
    poclab.evaluate(system(endpoint), poclab.TestSet(cases.cases[:10], path=cases.path), [scores.exact()], version=poclab.Version("v"))
    asked = endpoint.counts()["requests"]
    found = projected(endpoint, cases)

    assert endpoint.counts()["requests"] == asked == 10
    assert (found.recorded, found.sampled, found.calls.value) == (10, 0, 30)


def test_an_answer_that_waits_for_its_judge_alone_is_not_to_pay_again(endpoint, cases, monkeypatch):
    """All 40 answers are there, and a judge is new: five verdicts are paid to find out, and 35 are to come."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    rubric = Rubric("tone", 1, {"fit": 1, "unfit": 0}, "Say how it sounds.", "m", ("question", "reply"), parameters={"max_tokens": 50})
    poclab.evaluate(system(endpoint), cases, [scores.exact()], version=poclab.Version("v", model="m"))
    before = endpoint.counts()["bill_usd"]
    found = projected(endpoint, cases, judges=[poclab.Judge(rubric)])

    assert (endpoint.counts()["billed"], found.recorded, found.sampled) == (45, 0, 5)
    assert (found.calls.value, found.calls.low, found.calls.high) == (35, 35, 35)
    assert found.sampled_usd == pytest.approx(endpoint.counts()["bill_usd"] - before)


def test_a_sample_that_fails_is_told_and_shows_nothing(endpoint, cases):
    """An endpoint that refuses gives no number: unknown, and why."""
    endpoint.configure(faults=[{"kind": "401", "match": "case", "times": None}])
    found = projected(endpoint, cases)

    assert found.sampled_usd is None or found.sampled_usd == 0
    assert "crashed" in found.problem


def test_the_sample_obeys_the_budget_of_the_evaluation(endpoint, cases):
    """What a call may cost, 50 tokens out at 4 dollars per million and more, is above it: nothing is asked."""
    found = projected(endpoint, cases, max_cost_usd=0.0001)

    assert endpoint.counts()["requests"] == 0
    assert found.problem.startswith("budget: the budget of $0.0001 is used up")


def test_what_a_failed_sample_cost_is_told(endpoint, cases):
    """Its answers came, and then the system raised: five are on the bill, and none shows what a case takes."""
    answer = system(endpoint)

    def fails(inputs):
        raise ValueError(answer(inputs))

    found = projected(endpoint, cases, fails)

    assert (endpoint.counts()["billed"], found.sampled, found.cost_usd) == (5, 0, None)
    assert found.sampled_usd == pytest.approx(endpoint.counts()["bill_usd"])
    assert any(line.startswith(f"to find this out, {money(found.sampled_usd)} was paid") for line in summary([found]))


def test_the_range_is_a_prediction_interval():
    """By hand: 4 values of mean 2 and standard deviation 2/sqrt(3); t of 3 degrees at 97.5% is 3.1824; 12 more: s * sqrt(12 + 144/4)."""
    found = _further([1.0, 3.0, 1.0, 3.0], 12)
    reach = 3.182446 * (2 / math.sqrt(3)) * math.sqrt(12 + 36)

    assert found.value == 24
    assert found.high == pytest.approx(24 + reach, rel=1e-6)
    assert found.low == max(0, 24 - reach)


@pytest.mark.parametrize(("values", "cases", "expected"), [([], 3, None), ([1.0, None], 3, None), ([], 0, Amount(0, 0, 0))])
def test_what_is_not_known_is_unknown(values, cases, expected):
    """A call without a price makes the sum unknown; nothing left is 0, whatever is known."""
    assert _further(values, cases) == expected


def test_a_sum_with_an_unknown_part_is_unknown():
    """And is shown as such."""
    one = Projection(1, 0, 0, 0.0, Amount(1, 1, 1), None, None, Amount(2, 1, 3))

    assert total([one, one], "cost_usd") == Amount(4, 2, 6)
    assert total([one, one], "tokens_in") is None
    assert shown("tokens_in", None) == "unknown"
    assert shown("cost_usd", Amount(2, 1, 3)) == "$2.0000 ($1.0000 to $3.0000)"
