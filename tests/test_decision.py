import dataclasses
import datetime
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poclab.cases import Lock
from poclab.charter import Charter, Criterion
from poclab.decision import Decision, Edit, Look, weigh
from poclab.errors import FrozenError, InputError
from poclab.scores import Score
from poclab.system import Version
from test_report import HOSTILE, Elements, call, report, result

MONDAY = datetime.date(2026, 11, 23)
SIGNED = {"by": "Grace", "on": "2026-11-20", "where": "the minutes"}


def charter(*criteria, **text):
    """A charter that can decide, about accuracy unless other criteria are given; `text` adds to or replaces what it says."""
    said = {"decision": "Ship it, or not.", "owner": "Ada", "sponsor": "Grace", "signed": SIGNED, **text}
    names = ("decision", "owner", "sponsor")
    return Charter(*(said[name] or "" for name in names), criteria, {key: value for key, value in said.items() if value is not None})


def scored(right, n, split="test", *, values=None, **more):
    """The report of a version that was right on so many of n cases; `more` goes to the report."""
    values = values or [1.0] * right + [0.0] * (n - right)
    return report(*(result(f"{split}{place}", value) for place, value in enumerate(values)), split=split, **more)


def verdict(criterion, *reports):
    (found,) = weigh(charter(criterion), reports).verdicts
    return found


def word(right, n, **bound):
    return verdict(Criterion("accuracy", **bound), scored(right, n)).word


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        ({"at_least": 0.69}, "met"),
        ({"at_least": 0.70}, "cannot tell"),
        ({"at_least": 0.82}, "cannot tell"),
        ({"at_least": 0.90}, "cannot tell"),
        ({"at_least": 0.91}, "missed"),
        ({"at_most": 0.91}, "met"),
        ({"at_most": 0.90}, "cannot tell"),
        ({"at_most": 0.70}, "cannot tell"),
        ({"at_most": 0.69}, "missed"),
    ],
)
def test_a_criterion_is_held_against_the_near_edge_of_the_interval(bound, expected):
    """41 of 50 is 0.82 and, by Wilson, 0.692 to 0.902 (as in CONVENTIONS): the value alone decides nothing."""
    assert word(41, 50, **bound) == expected


def test_an_edge_on_the_bound_has_reached_it_but_not_crossed_it():
    """`at_least` and `at_most` take the bound itself in; missed needs the whole interval beyond it."""
    edges = scored(41, 50).estimate("accuracy")

    assert word(41, 50, at_least=edges.low) == "met"
    assert word(41, 50, at_most=edges.high) == "met"
    assert word(41, 50, at_least=edges.high) == "cannot tell"
    assert word(41, 50, at_most=edges.low) == "cannot tell"


def test_sixteen_of_sixteen_is_what_it_takes_for_four_of_five():
    """Wilson's lower edge of n of n is n / (n + 3.8415): 0.7961 for 15, 0.8064 for 16."""
    assert word(15, 15, at_least=0.8) == "cannot tell"
    assert word(16, 16, at_least=0.8) == "met"


def test_the_confidence_is_the_criterions_own():
    """At 80% (z = 1.28155) 41 of 50 is 0.7406 to 0.8791 by hand: 0.74 is met, and 0.88 missed, which 95% cannot tell."""
    assert word(41, 50, at_least=0.74, confidence=0.8) == "met"
    assert word(41, 50, at_least=0.88, confidence=0.8) == "missed"
    assert word(41, 50, at_least=0.74) == word(41, 50, at_least=0.88) == "cannot tell"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0, 1), st.sampled_from([0.5, 0.8, 0.95]))
def test_a_bound_from_above_is_the_mirror_of_one_from_below(counts, bound, confidence):
    """What misses one has met the other, and no word contradicts the value itself."""
    right, n = counts
    one = verdict(Criterion("accuracy", at_least=bound, confidence=confidence), scored(right, n)).word
    other = verdict(Criterion("accuracy", at_most=bound, confidence=confidence), scored(right, n)).word

    assert one != "missed" or (other == "met" and right / n < bound)
    assert other != "missed" or (one == "met" and right / n > bound)
    assert (one == "cannot tell") <= (other != "missed")


@pytest.mark.parametrize(
    ("criterion", "scores", "more"),
    [
        # 3.8415 / (n + 3.8415) <= 0.02 from n = 189 on.
        (Criterion("failed_share", at_most=0.02), scored(40, 40), "about 149 more cases"),
        # 0.95 ** 59 is the first power below 0.05: 59 requests within the bound.
        (Criterion("latency_p95_s", at_most=2), scored(40, 40), "about 19 more requests"),
        # n / (n + 3.8415) >= 0.95 from n = 73 on.
        (Criterion("accuracy", at_least=0.95), scored(40, 40), "about 33 more cases"),
        # None of 40: it takes 73 to be sure that it is below 0.05 too.
        (Criterion("accuracy", at_least=0.05), scored(0, 40), "about 33 more cases, and then probably missed"),
        (Criterion("accuracy", at_least=0.5), scored(20, 40), "no number of cases settles it: the value is at the bound"),
    ],
    ids=["failed_share", "p95", "all right", "all wrong", "at the bound"],
)
def test_what_cannot_be_told_says_how_many_more_cases_it_takes(criterion, scores, more):
    """Worked by hand, where all cases agree: a power of 0.8 asks for no more than the edge then."""
    assert str(verdict(criterion, scores)) == f"cannot tell ({more})"


def test_cases_that_are_half_right_ask_for_cases_by_the_width_of_the_interval():
    """Twenty halves against 0.45: Wilson reaches 0.2993. Widths shrink with the root of n, and power 0.8 takes 1.4294 of them.

    20 * (0.20070 * 1.42941 / 0.05)^2 = 658.4: 659 cases in all.
    """
    found = verdict(Criterion("accuracy", at_least=0.45), scored(0, 20, values=[0.5] * 20))

    assert str(found) == "cannot tell (about 639 more cases)"


def clustered(split="test", *, clusters):
    costs = (call(cost_usd=0.01),)
    return report(*(result(f"q{place}", cluster=name, calls=costs) for place, name in enumerate(clusters)), split=split)


@pytest.mark.parametrize(("least", "more"), [(0.3, 762), (0.2, 292)])
def test_the_edge_that_faces_the_bound_is_the_one_that_has_to_move(least, more):
    """Twenty quarters: Wilson is 0.11186 to 0.46870. 20 * (0.21870 * 1.42941 / 0.05)^2 = 781.8; 20 * (0.13814 * ...)^2 = 311.9."""
    found = verdict(Criterion("accuracy", at_least=least), scored(0, 20, values=[0.25] * 20))

    # The mean is 0.25: short of 0.3, beyond 0.2.
    assert str(found) == f"cannot tell (about {more} more cases{', and then probably missed' if least > 0.25 else ''})"


@pytest.mark.parametrize("criterion", [Criterion("accuracy", at_least=0.8), Criterion("cost_usd_per_case", at_most=1)])
def test_more_cases_of_one_cluster_settle_nothing(criterion):
    """Nothing is known of the spread between clusters, however many paraphrases there are: other cases are asked for."""
    assert str(verdict(criterion, clustered(clusters=["c"] * 40))) == "cannot tell (all cases are of one cluster: label others)"


def test_cases_of_clusters_are_worth_fewer():
    """Sixteen right cases are 0.8 for certain; in eight clusters of two they are not, and more of them would be."""
    criterion = Criterion("accuracy", at_least=0.8)

    assert verdict(criterion, clustered(clusters=[None] * 16)).word == "met"
    assert str(verdict(criterion, clustered(clusters=[f"c{place // 2}" for place in range(16)]))).startswith("cannot tell (about ")


def test_one_more_case_is_the_least_that_is_asked_for():
    """Whatever the formula says, what these cases could not tell takes another one."""
    found = verdict(Criterion("accuracy", at_least=0.7), scored(41, 50))

    assert found.word == "cannot tell"
    assert int(found.more.split()[1].replace(",", "")) >= 1


def test_a_latency_is_told_by_order_statistics():
    """59 requests within 2 s show a p95 of 2 s; all of them above show that it is missed."""
    assert verdict(Criterion("latency_p95_s", at_most=2), scored(59, 59)).word == "met"
    assert verdict(Criterion("latency_p95_s", at_most=0.5), scored(59, 59)).word == "missed"
    assert verdict(Criterion("latency_p95_s", at_most=2), scored(58, 58)).word == "cannot tell"


MET, MISSED, OPEN = Criterion("accuracy", at_least=0.1), Criterion("accuracy", at_least=0.99), Criterion("accuracy", at_least=0.8)


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ((MET,), "go"),
        ((MET, MET), "go"),
        ((MET, MISSED), "no-go"),
        ((OPEN, MISSED), "no-go"),
        ((MET, OPEN), "not yet"),
        ((OPEN,), "not yet"),
    ],
)
def test_all_met_is_go_one_missed_is_no_go_and_the_rest_not_yet(criteria, expected):
    """An open criterion is never counted as met, and a missed one is not outweighed."""
    found = weigh(charter(*criteria), [scored(41, 50)])

    assert (found.word, found.go) == (expected, expected == "go")
    assert found.headline == expected
    assert repr(found).startswith(f"{expected}: Ship it, or not.\n")


QUESTIONS = {
    "decision": "What is decided, in one sentence? (decision)",
    "owner": "Who decides when the numbers are in? (owner)",
    "sponsor": "Who pays for what follows? (sponsor)",
    "criteria": "Which number, reached on which cases, means yes? (criteria)",
    "signed": "Who agreed to these numbers, on which day, and where is it written down? (signed: {by: ..., on: ..., where: ...})",
}


@pytest.mark.parametrize(
    ("missing", "criteria", "text"),
    [
        (["owner"], (MET,), {"owner": ""}),
        (["criteria"], (), {}),
        (["signed"], (MET,), {"signed": None}),
        (["signed"], (MET,), {"signed": {"by": "Grace", "on": "2026-11-20"}}),
        (["owner", "criteria", "signed"], (), {"owner": "", "signed": {}}),
        (list(QUESTIONS), (), {"decision": "", "owner": "", "sponsor": "", "signed": None}),
    ],
)
def test_an_unfinished_charter_decides_nothing_and_asks_what_it_lacks(missing, criteria, text):
    """Exactly the questions that are open, numbered, in the order of the file."""
    with pytest.raises(InputError) as refused:
        weigh(charter(*criteria, **text), [scored(41, 50)])

    head, *asked = refused.value.message.split("\n")
    assert head == f"the charter cannot decide yet: it lacks {', '.join(missing)}. To answer first:"
    assert asked == [f"  {number}. {QUESTIONS[name]}" for number, name in enumerate(missing, 1)]


def test_the_unfinished_charter_is_named_by_its_file(tmp_path):
    """The fix says where to write the answers."""
    unfinished = dataclasses.replace(charter(MET, owner=""), path=tmp_path / "charter.yaml")

    with pytest.raises(InputError, match="charter.yaml cannot decide yet(.|\n)*fix: write the answers into .*charter.yaml"):
        weigh(unfinished, [scored(41, 50)])


@pytest.mark.parametrize(
    ("reports", "error", "words"),
    [
        ([], InputError, "no report to decide on"),
        ([scored(5, 5, planned=6)], InputError, "the report of 'plain' is partial: 5 of 6"),
        ([scored(5, 5, edition=None)], FrozenError, "'plain' was scored on cases that are not frozen(.|\n)*poclab freeze"),
        ([scored(5, 5), scored(5, 5, "dev", version=Version("new", k=2))], InputError, "the reports are of different versions"),
        (
            [scored(5, 5), scored(5, 5, "dev", lock_digest="ff" * 8)],
            FrozenError,
            "the reports are of different sets of cases: 0123456789ab, f",
        ),
        ([scored(5, 5), scored(4, 5)], InputError, "two reports are of one split"),
        ([scored(5, 5), scored(5, 5, "dev", planned=6)], InputError, "is partial"),
    ],
    ids=["none", "partial", "not frozen", "versions", "locks", "splits", "second is partial"],
)
def test_what_is_no_ground_for_a_decision_is_refused(reports, error, words):
    """One version, whole, on frozen cases of one edition, once per split."""
    with pytest.raises(error, match=words):
        weigh(charter(MET), reports)


def test_a_split_that_was_never_scored_is_not_yet():
    """The criterion asks for held-out cases; numbers on dev do not stand in for them."""
    found = weigh(charter(MET, dataclasses.replace(MET, split="dev")), [scored(50, 50, "dev")])

    assert [str(one) for one in found.verdicts] == ["cannot tell (never scored on test: `poclab decide --confirm`)", "met"]
    assert found.word == "not yet"
    assert found.rows()[0] == [
        "accuracy >= 0.1 on test (95% confidence) by exact",
        "none",
        "",
        "cannot tell (never scored on test: `poclab decide --confirm`)",
    ]


def test_a_scorer_that_failed_leaves_the_decision_open():
    """An incomplete score has no number, so nothing is met by it, and it says which cases and why."""
    lost = result("q1", scores={"exact": Score(None, "", "the judge is down")})
    found = weigh(charter(MET), [report(lost, *(result(f"q{place}") for place in range(2, 60)), split="test")])

    assert str(found.verdicts[0]) == "cannot tell (exact is incomplete: 1 case(s) could not be scored: q1: the judge is down)"
    assert found.word == "not yet"


def test_a_score_that_the_report_does_not_have_leaves_the_decision_open():
    """A criterion about a score that nobody gave is not met."""
    found = verdict(Criterion("helpful", at_least=0.5), scored(50, 50))

    assert str(found) == "cannot tell (this report has no score 'helpful')"


def test_failed_cases_count_as_wrong_in_the_verdict():
    """16 of 16 would be enough for 0.8; with one of them failed it is 15 of 16."""
    failed = result("q0", failure="timeout")
    found = report(failed, *(result(f"q{place}") for place in range(1, 16)), split="test")

    assert verdict(Criterion("accuracy", at_least=0.8), found).word == "cannot tell"
    assert verdict(Criterion("accuracy", at_least=0.8), found).estimate.value == 15 / 16


@pytest.mark.parametrize(("most", "expected"), [(3, "met"), (2, "met"), (1, "missed")])
def test_a_count_is_held_against_its_bound_as_it_is(most, expected):
    """Two cases failed: that is no sample of something. No interval is shown."""
    found = weigh(
        charter(Criterion("failed", at_most=most)),
        [report(*(result(f"q{place}", failure="crashed" if place < 2 else None) for place in range(9)), split="test")],
    )

    assert found.verdicts[0].word == expected
    assert found.rows()[0][1:3] == ["2", "9"]


def priced(*costs):
    return report(*(result(f"q{place}", calls=(call(cost_usd=cost),)) for place, cost in enumerate(costs)), split="test")


def test_a_total_cost_is_a_count_too():
    """What was spent was spent: 0.75 dollars of at most 0.75. An unknown cost is not within any bound."""
    assert verdict(Criterion("cost_usd", at_most=0.75), priced(0.25, 0.25, 0.25)).word == "met"
    assert verdict(Criterion("cost_usd", at_most=0.74), priced(0.25, 0.25, 0.25)).word == "missed"
    assert str(verdict(Criterion("cost_usd", at_most=1), priced(0.25, None))).startswith("cannot tell (the cost is unknown: ")


def test_a_cost_per_case_has_an_interval():
    """Twenty cases of 0.01 dollars: Wilson of a half over 20 is 0.2993 to 0.7007, of twice the cost 0.005986 to 0.014014."""
    same = priced(*[0.01] * 20)

    for bound, expected in ((0.0141, "met"), (0.0139, "cannot tell"), (0.0061, "cannot tell"), (0.0059, "missed")):
        assert verdict(Criterion("cost_usd_per_case", at_most=bound), same).word == expected
    assert weigh(charter(Criterion("cost_usd_per_case", at_most=1)), [same]).rows()[0][1] == "0.01 (0.005986 to 0.01401)"


def test_an_unknown_cost_per_case_leaves_the_decision_open():
    """Of a call without a price nothing is known, also not that it is cheap."""
    assert verdict(Criterion("cost_usd_per_case", at_most=1), priced(0.01, None)).more.startswith("the cost is unknown")


ADOPTION = [
    "Whether people will use it.",
    "Will customers trust the answers?",
    "We do not know if staff would accept an assistant.",
    "Adoption by the sales team.",
    "whether users adopt the new search",
    "Uptake in the branches",
    "Whether there is demand for it.",
    "If clients are willing to pay.",
    "Do people like it?",
    "Whether anybody wants to use this.",
    "The index is fast enough. Retrieval was shown to work. What is left is whether our clients would want it.",
    "Whether the assistant will be adopted by the branches",
]
TECHNICAL = [
    "",
    "Whether retrieval finds the passage that holds the answer, and whether the assistant abstains when none does.",
    "Whether the answers are right often enough, and whether it says so when the pages do not answer.",
    "Whether the model can answer what customers will ask.",
    "Whether p95 stays below 2 s when many people use it at once.",
    "Whether documents can be indexed on demand.",
    "Whether it copes with the memory demand of the index.",
    "Whether it finds the questions that users would type with spelling errors.",
    "Whether the tone that the prompt adopts survives long contexts.",
    "Whether the model trusts a wrong passage.",
    "Whether it takes up to five seconds.",
    "Whether the answers that users want are in the pages. Whether the model refuses the rest.",
    "Whether questions from people like nurses are answered as well as those of doctors.",
]


def advice(uncertainty):
    return dict(weigh(charter(MET, uncertainty=uncertainty), [scored(41, 50)]).facts()).get("advice")


@pytest.mark.parametrize("uncertainty", ADOPTION)
def test_whether_people_will_use_it_takes_a_pilot(uncertainty):
    """No test set answers that, and the decision says so beside its numbers."""
    assert advice(uncertainty) == (
        "the uncertainty is whether people will use it: no test set answers that; run a pilot with a few of them, and count"
    )


@pytest.mark.parametrize("uncertainty", TECHNICAL)
def test_a_technical_uncertainty_is_given_no_advice(uncertainty):
    """It is what the cases are for, even where people and their questions are named."""
    assert advice(uncertainty) is None


@pytest.mark.parametrize(
    ("today", "shown", "headline"),
    [
        (datetime.date(2026, 11, 21), "begins in 2 day(s)", "go"),
        (MONDAY, "day 1 of 42", "go"),
        (datetime.date(2027, 1, 3), "day 42 of 42", "go"),
        (datetime.date(2027, 1, 4), "42 days, ended 1 day(s) ago", "go, after the time box: it ended 1 day(s) ago"),
        (datetime.date(2027, 1, 13), "42 days, ended 10 day(s) ago", "go, after the time box: it ended 10 day(s) ago"),
    ],
)
def test_the_time_box_is_told_and_its_end_is_in_the_headline(today, shown, headline):
    """Six weeks from Monday 23 November 2026 are 42 days, the last of them Sunday 3 January 2027."""
    found = weigh(charter(MET, timebox={"start": "2026-11-23", "weeks": 6}), [scored(41, 50)], today=today)

    assert dict(found.facts())["time box"] == shown
    assert found.headline == headline
    assert found.overdue == ("after" in headline)
    assert found.word == "go"


@pytest.mark.parametrize("timebox", [None, {}, {"start": "2026-11-23"}, {"weeks": 6}])
def test_a_charter_without_a_time_box_says_so(timebox):
    """Half of one is none."""
    found = weigh(charter(MET, timebox=timebox), [scored(41, 50)], today=MONDAY)

    assert dict(found.facts())["time box"] == "not known: the charter has none"
    assert (found.days, found.overdue, found.headline) == (None, False, "go")


def test_half_a_week_is_a_whole_day_more():
    """A box of 1.5 weeks has 11 days, not 10.5."""
    found = weigh(charter(MET, timebox={"start": "2026-11-23", "weeks": 1.5}), [scored(41, 50)], today=MONDAY)

    assert found.days == (1, 11)


def test_the_gap_between_dev_and_test_has_an_interval():
    """Newcombe (1998), Statistics in Medicine 17, 873-890, table II: 56/70 - 48/80 by method 10 is 0.0524 to 0.3339."""
    found = weigh(charter(MET), [scored(56, 70, "dev"), scored(48, 80)])

    assert (found.gap.value, found.gap.low, found.gap.high) == (
        pytest.approx(0.2),
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
    )
    assert dict(found.facts())["dev-test gap"] == "+0.200 (+0.052 to +0.334): accuracy on dev minus accuracy on test"
    assert weigh(charter(MET), [scored(48, 80), scored(56, 70, "dev")]).gap == found.gap


@pytest.mark.parametrize(("have", "lack"), [("dev", "test"), ("test", "dev")])
def test_a_gap_needs_both_splits(have, lack):
    """The one that has no number is named."""
    told = dict(weigh(charter(MET), [scored(41, 50, have)]).facts())["dev-test gap"]

    assert told == f"not known: no number of this version, by the same code, on {lack}"


@pytest.mark.parametrize("lost", ["dev", "test"])
def test_a_gap_needs_a_number_on_both_splits(lost):
    """A split whose score is incomplete has none, although it was scored."""
    broken = report(result("q1", scores={"exact": Score(None)}), split=lost)
    whole = scored(41, 50, "test" if lost == "dev" else "dev")

    assert (
        dict(weigh(charter(MET), [whole, broken]).facts())["dev-test gap"]
        == f"not known: no number of this version, by the same code, on {lost}"
    )


def look(number, **more):
    return Look(
        **{"on": "2026-11-23", "by": "ada", "version": f"v{number} (0123abcd)", "run_id": f"{number:08}ffff", "status": "FINISHED", **more}
    )


def looks(*given):
    return dict(weigh(charter(MET), [scored(41, 50)], looks=given).facts())["looks at test"]


def test_the_looks_at_held_out_cases_are_counted_and_named():
    """Who looked when, at which version, in which run; one that failed is a look too. Of many the last five are named."""
    assert looks() == "0"
    assert looks(look(1)) == "1: 2026-11-23 by ada: v1 (0123abcd) (run 00000001)"
    assert looks(look(1), look(2, status="KILLED")).endswith("; 2026-11-23 by ada: v2 (0123abcd) (run 00000002, killed)")
    many = looks(*map(look, range(7)))
    assert many.startswith("7, of 7 versions, the last 5: 2026-11-23 by ada: v2 (")
    assert many.endswith("v6 (0123abcd) (run 00000006)")


def test_without_a_store_looks_and_edits_are_not_known():
    """Not known is not none."""
    facts = dict(weigh(charter(MET), [scored(41, 50)]).facts())

    assert facts["looks at test"] == "not known: no store of runs"
    assert facts["criteria"] == "not known whether they were edited: no store of runs"


def test_an_edited_criterion_is_told_with_what_it_said():
    """Since when it said what; criteria that stayed are left out. Without an edit there is no line about it."""
    edit = Edit(("failed <= 1", "accuracy >= 0.9"), ("failed <= 1", "accuracy >= 0.8"), "2026-11-23", "2026-12-01")
    added = Edit(("a >= 1",), ("a >= 1", "b >= 1"), "2026-11-23", "2026-12-02")
    found = weigh(charter(MET), [scored(41, 50)], edits=[edit, added])

    assert [text for name, text in found.facts() if name == "criterion edited"] == [
        "accuracy >= 0.9 (since 2026-11-23) became accuracy >= 0.8 (since 2026-12-01)",
        "(nothing) (since 2026-11-23) became b >= 1 (since 2026-12-02)",
    ]
    assert found.word == "go"
    assert not {"criteria", "criterion edited"} & dict(weigh(charter(MET), [scored(41, 50)], edits=[]).facts()).keys()


def test_a_decision_names_what_it_is_about():
    """Version, run, edition, lock, signature and the digest of the charter: nobody has to ask which numbers these were."""
    asked = charter(MET)
    facts = dict(weigh(asked, [scored(41, 50, "dev"), scored(41, 50, run_id="abc")]).facts())

    assert facts["version"] == f"plain ({Version('plain', model='m-1').digest[:12]}), run abc"
    assert facts["cases"] == "edition 1, lock 0123456789ab"
    assert facts["charter"] == f"signed by Grace on 2026-11-20 (the minutes); owner Ada; digest {asked.digest[:12]}"


def whole() -> Decision:
    return weigh(
        charter(
            *(MET, MISSED, Criterion("latency_p95_s", at_most=2), Criterion("helpful", at_least=0.5), Criterion("failed", at_most=0)),
            timebox={"start": "2026-11-23", "weeks": 6},
        ),
        [scored(41, 50, run_id="r1"), scored(45, 50, "dev", run_id="r2")],
        looks=[look(1)],
        edits=[Edit(("a",), ("b",), "2026-11-23", "2026-12-01")],
        today=MONDAY,
    )


def test_the_json_form_holds_everything():
    """JSON values alone, with an open edge as null: every verdict, run, look, edit and fact."""
    data = json.loads(json.dumps(whole().to_json(), allow_nan=False))

    assert (data["word"], data["headline"], data["on"]) == (
        "no-go",
        "no-go, on criteria that were edited after the first run",
        "2026-11-23",
    )
    assert data["runs"] == {"test": "r1", "dev": "r2"}
    assert [one["word"] for one in data["verdicts"]] == ["met", "missed", "cannot tell", "cannot tell", "met"]
    assert data["verdicts"][0]["text"] == "accuracy >= 0.1 on test (95% confidence)"
    assert data["verdicts"][2]["estimate"] == {"value": 1.0, "low": 1.0, "high": None, "n": 50}
    assert data["verdicts"][3]["estimate"] is None
    assert data["gap"]["value"] == pytest.approx(0.08)
    assert data["looks"][0]["by"] == "ada"
    assert data["edits"] == [{"before": ["a"], "after": ["b"], "before_since": "2026-11-23", "after_since": "2026-12-01", "looked": False}]
    assert ["time box", "day 1 of 42"] in data["facts"]


def test_the_text_form_is_a_line_per_criterion_and_per_fact():
    """The word and the decision first; then each number with interval, n and verdict."""
    lines = repr(whole()).splitlines()

    assert lines[0] == "no-go, on criteria that were edited after the first run: Ship it, or not."
    assert lines[1].split() == ["criterion", "value", "n", "verdict"]
    assert lines[2].split("  ")[0] == "accuracy >= 0.1 on test (95% confidence) by exact"
    assert "0.820 (0.692 to 0.902)  50  met" in lines[2]
    assert "1.000 (1.000 to open)   50  cannot tell (about 9 more requests)" in lines[4]
    assert "time box: day 1 of 42" in lines


def hostile():
    lost = report(result(HOSTILE, scores={HOSTILE: Score(None, HOSTILE, HOSTILE)}), split="test", score_names=(HOSTILE,))
    named = dataclasses.replace(lost, version=Version(HOSTILE, k=1), run_id=HOSTILE, lock_digest=HOSTILE)
    asked = charter(
        Criterion(HOSTILE, at_least=0.5),
        decision=HOSTILE,
        owner=HOSTILE,
        signed=dict.fromkeys(("by", "on", "where"), HOSTILE),
        uncertainty=f"Whether people will use {HOSTILE}",
    )
    return weigh(asked, [named], looks=[Look(*[HOSTILE] * 5)], edits=[Edit((HOSTILE,), ("b",), HOSTILE, HOSTILE)], today=MONDAY)


def test_nothing_that_somebody_wrote_is_markup():
    """Criteria, names, signatures, reasons, looks: a browser sees them as text alone."""
    page = hostile()._repr_html_()
    seen = Elements(page)

    assert seen.tags <= {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert seen.attributes <= {"class", "style"}
    assert "<script" not in page
    assert "<img" not in page
    assert seen.text.count("<script>alert(1)</script>") >= 10
    assert page.startswith("<div class='tex2jax_ignore mathjax_ignore'")


def test_nothing_that_somebody_wrote_drives_a_terminal():
    """Of control characters only the line ends of the form itself reach the terminal."""
    assert all(char.isprintable() for line in repr(hostile()).split("\n") for char in line)
    json.dumps(hostile().to_json(), allow_nan=False)


def test_a_go_without_held_out_cases_says_so_in_its_headline():
    """Numbers on the cases that a prompt was tuned on are no promise; whoever reads one line reads this."""
    tuned = weigh(charter(Criterion("accuracy", at_least=0.5, split="dev")), [scored(40, 40, split="dev")])

    assert tuned.word == "go"
    assert tuned.headline == "go, on the cases it was tuned on: no criterion is about held-out ones"


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([(("a",), False)], "edited after the first run"),
        ([((), False)], "written after the first run"),
        ([((), False), (("a",), False)], "edited after the first run"),
        ([(("a",), True), (("a",), False)], "edited after the held-out cases were seen"),
        ([((), True)], "written after the held-out cases were seen"),
    ],
)
def test_the_headline_says_what_a_bar_was_moved_after(edits, words):
    """The worst of all edits, in text, HTML and JSON: a bar that was set with the held-out result in hand decides nothing anew."""
    made = [Edit(before, ("b",), "2026-11-23", "2026-12-01", looked) for before, looked in edits]
    found = weigh(charter(MET), [scored(41, 50)], edits=made)

    assert found.headline == found.to_json()["headline"] == f"go, on criteria that were {words}"
    assert words in repr(found).splitlines()[0] and words in found._repr_html_()
    assert [", after the held-out cases were seen" in str(one) for one in made] == [looked for _, looked in edits]


def test_a_signature_that_is_older_than_the_criteria_says_so():
    """Somebody signed another text than the one that decides."""
    edit = Edit(
        ("accuracy >= 0.9 on test (95% confidence)",), ("accuracy >= 0.5 on test (95% confidence)",), "2026-11-01", "2099-01-01 10:00"
    )
    told = dict(weigh(charter(Criterion("accuracy", at_least=0.5)), [scored(40, 40)], edits=[edit]).facts())

    assert ", before the criteria were edited; owner" in told["charter"]


def test_what_became_of_the_held_out_cases_stands_beside_the_verdict():
    """A set that lost the cases it got wrong is another set: the lock remembers the first edition."""

    def cases(**digests):
        return {name: {"digest": digest, "inputs": "i", "split": "dev" if name == "q0" else "test"} for name, digest in digests.items()}

    first = {"edition": 1, "cases": cases(q0="a", q1="a", q2="a", q3="a")}
    lock = Lock(2, cases(q0="b", q1="a", q2="b", q4="a"), "2026-11-25", lineage=(first,))
    told = dict(weigh(charter(MET), [scored(41, 50)], lineage=lock.since_first()).facts())

    assert told["cases"].endswith("; since edition 1: 1 of 3 held-out cases removed, 1 changed, 1 added")
    assert Lock(1, cases(q1="a"), "2026-11-25").since_first() == ""


def test_what_became_of_the_cases_and_how_many_were_asked_again_is_told():
    """Nine of fifty wrong; three cases had a second try because the endpoint had failed them: whoever decides must know."""
    facts = dict(weigh(charter(MET), [dataclasses.replace(scored(41, 50), retried=3)]).facts())

    assert facts["outcomes on test"] == "ok 41, wrong 9; 3 were asked again because the endpoint had failed them"
