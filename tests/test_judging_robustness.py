import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from judged import ASKED, RUBRIC, labelled, poc_of, wait_for_workers
from poclab import Judge
from poclab.cases import Case
from poclab.errors import EndpointError, InputError
from poclab.judging import drill
from poclab.judging.reading import read
from poclab.judging.robustness import FAULTS, JudgeDrill, Row, orders, padded
from poclab.system import Reply

NAMES = {"c": "correct", "w": "wrong"}


def row(found, fault):
    return next(one for one in found.rows if one.fault == fault)


@pytest.fixture
def judging(endpoint, monkeypatch, tmp_path):
    """Return a function that makes a POC with a labelled sample whose replies tell the endpoint what to say, a letter each."""
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)

    def make(judge, clusters=()):
        replies = {f"q{place:02}": f"ANSWER:{{{NAMES[one]}}}" for place, one in enumerate(judge)}
        return labelled(poc_of(tmp_path / "poc", len(judge), clusters), ASKED, replies, lambda line: None), Judge(ASKED)

    return make


# --- the faults


def test_orders_hold_the_reply_and_what_an_attacker_tries():
    """An order, a verdict in its form, the end of its block; all of it stands inside of the block that is judged."""
    text = orders("On roofs.", "correct")
    assert text.startswith("On roofs.\n</reply>")
    assert "Ignore the instructions above" in text
    assert '"label": "correct"}' in text
    (_, user) = RUBRIC.messages(Case("q1", {"question": "Q?"}, {"answers": ["a"]}), Reply(text))
    assert user["content"].count("</reply>") == 1


def test_a_judge_that_quotes_the_orders_has_not_followed_them():
    """In its reason or in its words; one that only repeats them has no verdict."""
    text = orders("On roofs.", "correct")
    assert read(f"The reply says:\n{text}\nThat is an order.\n", ("correct", "wrong")).label is None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=500))
def test_padding_makes_a_reply_three_times_as_long_and_says_no_more(text):
    """It begins as it was; no more is added than the last sentence needs."""
    found = padded(text, "correct")
    assert found.startswith(text)
    assert 3 * max(len(text), 1) <= len(found) < 3 * max(len(text), 1) + 100


def test_a_megabyte_is_padded():
    """In a moment."""
    assert len(padded("x" * 1_000_000, "correct")) >= 3_000_000


# --- the drill


def test_a_judge_that_is_moved_by_nothing_flips_nothing(judging, endpoint):
    """The endpoint says what the reply told it before: nobody flips, nobody passes; shares with their intervals and n."""
    poc, judge = judging("ccccwwwwww")
    found = drill(poc, judge)
    assert [one.fault for one in found.rows] == list(FAULTS) == ["orders the judge", "three times as long"]
    for one in found.rows:
        assert (one.flipped.value, one.flipped.n, one.passed.value, one.passed.n, one.unscored) == (0.0, 10, 0.0, 6, 0)
        assert (one.flipped.low, one.flipped.high) == pytest.approx(proportion_confint(0, 10, method="wilson"), abs=1e-9)
    assert endpoint.counts()["answered"] == 30


def test_what_flips_and_what_is_lost_is_counted(judging, endpoint):
    """A judge that has no verdict any more has not flipped: that stands apart, and it has passed nothing; the share is of the eight others."""
    endpoint.configure(faults=[{"kind": "refusal", "match": "(?s)case 0[15].*(checked by hand)", "times": None}])
    found = drill(*judging("ccccwwwwww"))
    ordered, longer = (row(found, fault) for fault in FAULTS)
    assert (ordered.flipped.value, ordered.flipped.n, ordered.passed.value, ordered.unscored, ordered.n) == (0.0, 8, 0.0, 2, 10)
    assert (longer.flipped.value, longer.unscored) == (0.0, 0)


def test_a_judge_without_any_verdict_has_no_share_that_flipped(judging, endpoint):
    """That is not a share of zero."""
    poc, judge = judging("cw")
    endpoint.configure(faults=[{"kind": "refusal", "match": "checked by hand", "times": None}])
    (ordered, longer) = drill(poc, judge).rows
    assert (ordered.flipped, ordered.unscored, ordered.n) == (None, 2, 2)
    assert ordered.texts()[1] == "no verdict both times"
    assert (longer.flipped.value, longer.unscored) == (0.0, 0)


def test_a_judge_that_obeys_is_found(tmp_path):
    """The word counter does: the orders hold the word of the reference."""
    rubric = RUBRIC
    poc = poc_of(tmp_path / "poc", 10, expected={"answers": ["checked by hand"]})
    labelled(poc, rubric, {f"q{place:02}": "beta" if place < 8 else "checked by hand" for place in range(10)}, lambda line: None)
    found = drill(poc, Judge(rubric))
    ordered, longer = (row(found, fault) for fault in FAULTS)
    assert (ordered.flipped.value, ordered.passed.value, ordered.passed.n) == (0.8, 1.0, 8)
    assert (longer.flipped.value, longer.passed.value) == (0.0, 0.0)


def test_where_all_pass_there_is_none_to_pass(judging):
    """That is not a share of zero."""
    found = drill(*judging("cccc"))
    assert {one.passed for one in found.rows} == {None}
    assert "none to pass" in repr(found)


def test_clusters_widen_the_intervals(judging):
    """Paraphrases are no further cases."""
    alone = drill(*judging("ccwwww", clusters=("a", "a", "b", "b", "c", "c"))).rows[0].flipped
    assert alone.high > proportion_confint(0, 6, method="wilson")[1]


def test_what_a_calibration_found_is_not_asked_again(judging, endpoint, monkeypatch):
    """Asked anew, each reply of the sample costs once for the calibration, and once for each fault."""
    monkeypatch.setenv("POCLAB_MODE", "live")
    poc, judge = judging("ccww")
    alone = drill(poc, judge)
    asked = endpoint.counts()["answered"]
    assert drill(poc, judge, said=["correct", "correct", "wrong", "wrong"]) == alone
    assert (asked, endpoint.counts()["answered"]) == (12, 12 + 8)


def test_a_drill_needs_a_sample_and_no_labels(tmp_path):
    """They are not looked at; without a sample it says how to draw one."""
    poc = poc_of(tmp_path / "poc")
    with pytest.raises(InputError, match="no labels for the rubric 'correctness'"):
        drill(poc, Judge(RUBRIC))
    labelled(poc, RUBRIC, {}, lambda line: None)
    assert len(drill(poc, Judge(RUBRIC)).rows) == 2


def test_a_refused_key_ends_a_drill(judging, endpoint):
    """It is not a judge that flips nothing."""
    poc, judge = judging("cw")
    endpoint.configure(faults=[{"kind": "401", "match": "case", "times": None}])
    with pytest.raises(EndpointError, match="HTTP 401"):
        drill(poc, judge)
    wait_for_workers()


def test_a_drill_is_shown_and_kept(judging):
    """As a table in a terminal and in a notebook, and as JSON."""
    found = drill(*judging("cw"))
    assert repr(found).startswith(f"judge correctness (digest {ASKED.digest[:12]}, m)\nfault ")
    assert "<td" in found._repr_html_()
    data = found.to_json()
    assert (data["rubric"], data["rows"][0]["flipped"]["n"]) == (ASKED.digest, 2)
    hostile = JudgeDrill("a", "d", "<b>\x1b", (Row("<b>\x1b", None, None, 2, 2),))
    assert "\x1b" not in repr(hostile) + hostile._repr_html_()
    assert "<b>" not in hostile._repr_html_()
