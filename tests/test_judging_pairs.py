import re
from dataclasses import replace

import pytest

from judged import ASKED, RUBRIC, poc_of, report_of, wait_for_workers
from poclab import Judge, TestSet
from poclab.errors import EndpointError, InputError
from poclab.judging import Pairwise, Preference, pairwise
from poclab.judging.judge import FIRST, SECOND, TIE
from poclab.stats import mean_estimate
from poclab.system import Reply

#: The judge that counts words prefers the reply with the larger share of these.
EXPECTED = {"answers": ["alpha beta gamma delta"]}


@pytest.fixture
def poc(tmp_path):
    return poc_of(tmp_path / "poc", 6, expected=EXPECTED)


def cases_of(poc):
    return TestSet.load(poc / "cases.jsonl")


def test_the_better_reply_is_preferred_in_both_orders(poc):
    """A tie is half; the share is that of the second run, with its interval and n."""
    before = report_of(poc, ["alpha", "alpha", "alpha", "alpha beta", "alpha", "alpha"], name="before")
    after = report_of(poc, ["alpha beta", "alpha beta", "beta", "alpha", "alpha beta", "alpha beta"], name="after")
    found = pairwise(Judge(RUBRIC), before, after, cases_of(poc))
    assert [one.word for one in found.words.values()] == [SECOND, SECOND, TIE, FIRST, SECOND, SECOND]
    assert found.counts == {FIRST: 1, SECOND: 4, TIE: 1, "unscored": 0}
    assert (found.turned, found.names) == ([], ("before", "after"))
    assert found.share == mean_estimate([1.0, 1.0, 0.5, 0.0, 1.0, 1.0])
    assert repr(found).startswith("correctness: after preferred to before: 0.750 (")
    assert repr(found).endswith("4 to 1, 1 ties, of which 0 turned with the order, 0 unscored")


def test_a_judge_that_turns_with_the_order_has_ties(poc, endpoint, monkeypatch):
    """The endpoint takes the reply that stands first, whatever it says: each pair is a tie, and counted as turned."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    found = pairwise(Judge(ASKED), report_of(poc), report_of(poc, ["beta"] * 6), cases_of(poc))
    assert found.counts == {FIRST: 0, SECOND: 0, TIE: 6, "unscored": 0}
    assert found.turned == [f"q{place:02}" for place in range(6)]
    assert found.share.value == 0.5
    assert endpoint.counts()["answered"] == 12


def test_pairs_without_a_verdict_are_in_no_share(poc, endpoint, monkeypatch):
    """One order without a verdict is enough; without any pair that has one there is no share."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    endpoint.configure(faults=[{"kind": "refusal", "match": "(?s)case 0[13].*<reply_a>\nalpha", "times": None}])
    found = pairwise(Judge(ASKED), report_of(poc), report_of(poc, ["beta"] * 6), cases_of(poc))
    assert [name for name, one in found.words.items() if one.word is None] == ["q01", "q03"]
    assert (found.share.n, found.counts["unscored"]) == (4, 2)
    assert "q01" not in found.turned

    endpoint.configure(faults=[{"kind": "refusal", "match": "case", "times": None}])
    found = pairwise(Judge(ASKED), report_of(poc), report_of(poc, ["gamma"] * 6), cases_of(poc))
    assert (found.share, found.counts["unscored"]) == (None, 6)
    assert "no verdict" in repr(found)
    assert repr(found).endswith("6 unscored: the judge refused: I'm sorry, but I can't help with that.")


def test_identical_replies_are_a_tie_without_asking(poc, endpoint, monkeypatch):
    """Nobody pays twice to learn that a reply is as good as itself; passages that the judge is shown may differ, and then it is asked."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    found = pairwise(Judge(ASKED), report_of(poc), report_of(poc, ["beta"] + ["alpha"] * 5), cases_of(poc))
    assert (found.counts[TIE], found.turned) == (6, ["q00"])
    assert endpoint.counts()["answered"] == 2

    rubric = replace(ASKED, shows=("question", "passages", "reply"))
    before, after = (report_of(poc, [Reply("alpha", contexts=[one])] * 6) for one in ("p1", "p2"))
    pairwise(Judge(rubric), before, after, cases_of(poc))
    assert endpoint.counts()["answered"] == 14


def test_only_cases_that_both_runs_answered_are_asked(poc):
    """The first try of each; no case that failed."""
    before, after = report_of(poc, failed=("q00",)), report_of(poc, failed=("q01",))
    again = replace(after, results=(*after.results, *(replace(one, repeat=1) for one in after.results)))
    assert list(pairwise(Judge(RUBRIC), before, again, cases_of(poc)).words) == ["q02", "q03", "q04", "q05"]


def test_runs_of_other_cases_are_refused(poc, tmp_path):
    """And such as have no case in common."""
    cases = cases_of(poc)
    with pytest.raises(InputError, match="the runs are not on these cases\n  fix: evaluate both versions on one edition"):
        pairwise(Judge(RUBRIC), report_of(poc), replace(report_of(poc), lock_digest="0"), cases)
    every = tuple(one.id for one in cases)
    with pytest.raises(InputError, match="no case has a reply in both runs\n  fix: evaluate both versions on the same split"):
        pairwise(Judge(RUBRIC), report_of(poc, failed=every[:3]), report_of(poc, failed=every[3:]), cases)
    bare = poc_of(tmp_path / "bare", 3, expected={"data": {"a": 1}})
    with pytest.raises(InputError, match="no case has a reply in both runs"):
        pairwise(Judge(RUBRIC), report_of(bare), report_of(bare), cases_of(bare))


def test_clusters_widen_the_share(tmp_path):
    """Paraphrases are no further cases."""
    poc = poc_of(tmp_path / "poc", 6, clusters=("a", "a", "b", "b", "c", "c"), expected=EXPECTED)
    replies = ["alpha", "alpha", "alpha beta", "alpha beta", "alpha", "alpha"]
    found = pairwise(Judge(RUBRIC), report_of(poc, ["alpha beta"] * 6), report_of(poc, replies), cases_of(poc))
    assert found.share.high - found.share.low > (plain := mean_estimate([0.0, 0.0, 0.5, 0.5, 0.0, 0.0])).high - plain.low


def test_a_refused_key_ends_it(poc, endpoint, monkeypatch):
    """It is no tie, and no pair without a verdict."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    endpoint.configure(faults=[{"kind": "401", "match": "case", "times": None}])
    with pytest.raises(EndpointError, match="HTTP 401"):
        pairwise(Judge(ASKED), report_of(poc), report_of(poc, ["beta"] * 6), cases_of(poc))
    wait_for_workers()


def test_names_are_shown_as_text():
    """A version may be called anything."""
    found = Pairwise("j", ("\x1b[2J", "b\0"), {"q1": Preference(None, False, ("", ""))}, None)
    assert not re.search(r"[\x00-\x1f]", repr(found))
