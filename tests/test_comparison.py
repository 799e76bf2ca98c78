import dataclasses
import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import poclab
from poclab import scores
from poclab.comparison import compare
from poclab.errors import FrozenError, InputError
from poclab.scores import Score
from poclab.system import Prompt, Reply, Version
from test_report import HOSTILE, Elements, call, report, result

#: One letter per case: right, wrong, half right, failed, or a score that does not apply.
VALUES = {"1": 1.0, "0": 0.0, "h": 0.5, "F": 0.0, "-": None}
PATTERNS = st.text("10hF", min_size=1, max_size=12)
#: Fixed and broken cases of four trials.
MOVED = ((18, 3), (17, 3), (18, 4), (17, 4))
PAIRS = st.integers(1, 12).flatmap(lambda n: st.tuples(*[st.text("10hF", min_size=n, max_size=n)] * 2))


def results(pattern, **more):
    return [
        result(
            f"q{place:03}",
            VALUES[one],
            failure="crashed" if one == "F" else None,
            reply=Reply({"1": "yes", "F": ""}.get(one, "no")),
            **more,
        )
        for place, one in enumerate(pattern)
    ]


def side(pattern, name="plain", /, **more):
    """The report of a version whose case number i ended as the letter i of the pattern says."""
    return report(*results(pattern), **{"version": Version(name, variant=name), **more})


def only(comparison):
    (candidate,) = comparison.candidates
    return candidate


def first(comparison):
    return only(comparison).scores[0]


def test_reports_of_different_frozen_sets_are_refused():
    """Numbers on other cases are no comparison; the message names both editions, and what to do."""
    other = side("11", "new", lock_digest="fedcba9876543210", edition=2)

    with pytest.raises(FrozenError) as refused:
        compare(side("10"), other)

    assert refused.value.message == (
        "'plain' and 'new' were scored on different cases: edition 1 (lock 0123456789ab) and edition 2 (lock fedcba987654)"
    )
    assert refused.value.fix == "evaluate both on the same edition"


def test_a_set_that_was_never_frozen_is_called_so():
    """It has no edition to name."""
    with pytest.raises(FrozenError, match=r"edition 1 \(lock 0123456789ab\) and a set that is not frozen \(lock fedcba987654\)"):
        compare(side("10"), side("11", "new", lock_digest="fedcba9876543210", edition=None))


@pytest.mark.parametrize("place", [0, 1])
def test_a_partial_report_is_refused_on_either_side(place):
    """The cases that were not reached are not those that would have been wrong."""
    both = [side("10"), side("11", "new")]
    both[place] = dataclasses.replace(both[place], planned=5)

    with pytest.raises(InputError, match=f"the report of '{('plain', 'new')[place]}' is partial: 2 of 5 cases were answered"):
        compare(*both)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"split": "test"}, "were scored on different splits: dev and test"),
        ({"results": results("1"), "planned": 1}, "answered different cases of the same set"),
        ({"results": results("11", case_digest="edited")}, "answered different cases of the same set"),
        ({"score_names": ("f1",)}, "the reports have no score in common"),
    ],
    ids=["split", "fewer cases", "edited cases", "scores"],
)
def test_what_cannot_be_paired_is_refused_in_words(change, words):
    """A comparison is case by case: another split, another case, another wording of one, or another score is none."""
    change = {**change, **({"results": tuple(change["results"])} if "results" in change else {})}

    with pytest.raises(InputError, match=words):
        compare(side("10"), dataclasses.replace(side("11", "new"), **change))


def test_a_split_that_was_never_made_is_called_all():
    """A set without splits is all of its cases: no message names a `None`."""
    with pytest.raises(InputError, match="on different splits: all and dev"):
        compare(side("10", split=None), side("11", "new"))


def test_a_run_is_not_compared_with_itself():
    """It would find no difference, and somebody believed that to be a result."""
    with pytest.raises(InputError, match="both are run abc"):
        compare(side("10", run_id="abc"), side("11", run_id="abc"))
    with pytest.raises(InputError, match="run b is given twice"):
        compare(side("10", run_id="a"), side("11", run_id="b"), side("11", run_id="c"), side("11", run_id="b"))


def test_one_report_is_nothing_to_compare():
    """The error says what to type."""
    with pytest.raises(InputError, match=r"nothing to compare with\n  fix: name two runs or more"):
        compare(side("10"))


def test_different_documents_and_repeats_are_named():
    """They are allowed, and part of the difference; a reader is told. One corpus and one repeat need no note."""
    other = dataclasses.replace(side("1111", "new"), corpus_digest="c1" * 32, repeats=3)
    notes = compare(side("1010"), other).notes

    assert any(note.startswith("different corpora: c1c1c1c1c1c1, none:") for note in notes)
    assert "repeats (1, 3) are averaged within a case first" in notes
    assert len(compare(side("1010"), side("1111", "new")).notes) == 1


def test_the_note_says_what_the_numbers_are():
    """How many cases, which lock, that intervals are not adjusted, and by how much the word is."""
    (one,) = compare(side("10"), side("11", "new")).notes
    (twelve,) = compare(side("10"), side("11", "new"), comparisons=12).notes

    assert one.startswith(
        "2 dev cases, lock 0123456789ab. Differences are candidate minus baseline with a 95% interval that is not adjusted"
    )
    assert one.endswith("(one comparison).")
    assert "Holm over 12 comparisons" in twelve
    assert compare(side("10", split=None), side("11", "new", split=None)).notes[0].startswith("2 cases, lock")


def test_a_pair_out_of_a_sweep_says_why_its_p_is_larger_than_beside_the_others():
    """McNemar of 18/3, 17/3, 18/4, 17/4 is .0014896, .0025768, .0043435, .0071974; times 4, 3, 2, 1 by Holm, the last not below the one before.

    Alone, the p of the three others is not known, so that 17/4 gets the largest factor: .0071974 * 4.
    """
    base = side("0" * 18 + "1" * 4)
    four = [side("1" * up + "0" * (18 - up) + "0" * down + "1" * (4 - down), f"{up}/{down}") for up, down in MOVED]
    together, alone = compare(base, *four), compare(base, four[-1], comparisons=4)

    assert [one.scores[0].p for one in together.candidates] == pytest.approx([0.0059586, 0.0077305, 0.0086870, 0.0086870], abs=1e-6)
    assert first(alone).p == pytest.approx(0.0287895, abs=1e-6)
    assert together.notes[0].endswith("(Holm over 4 comparisons, for all trials that were started).")
    assert "; 3 of them are not shown here and count as larger p, the cautious way: shown together, p may be smaller)." in alone.notes[0]


def test_cases_are_paired_by_id_whatever_the_order_of_results():
    """The first case fixed, the third broken: also when one report holds its results backwards."""
    baseline, candidate = side("0110"), side("1100", "new")
    backwards = dataclasses.replace(candidate, results=candidate.results[::-1])

    for found in (compare(baseline, candidate), compare(baseline, backwards)):
        assert [move.case_id for move in only(found).fixed] == ["q000"]
        assert [move.case_id for move in only(found).broken] == ["q002"]
        assert first(found).paired.difference.value == 0


def mirrored(pair):
    low, value, high = (getattr(pair.difference, edge) for edge in ("low", "value", "high"))
    return pytest.approx((-high, -value, -low), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(PAIRS)
@example(("0" * 6, "1" * 6))
def test_swapping_the_sides_mirrors_everything(patterns):
    """No side is favoured: the difference and its edges change sign, p stays, better is worse, and what was fixed is broken."""
    before, after = side(patterns[0]), side(patterns[1], "new")
    one, other = compare(before, after), compare(after, before)
    pair = first(one).paired.difference

    assert (pair.low, pair.value, pair.high) == mirrored(first(other).paired)
    assert first(one).p == first(other).p
    assert first(one).word == {"better": "worse", "worse": "better"}.get(first(other).word, first(other).word)
    assert [move.case_id for move in only(one).fixed] == [move.case_id for move in only(other).broken]
    assert [move.case_id for move in only(one).broken] == [move.case_id for move in only(other).fixed]


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_cases_does_not_matter(patterns, order):
    """A shuffled set is the same set: the same numbers, the same word, the same cases."""
    before, after = side(patterns[0]), side(patterns[1], "new")
    places = list(range(before.n))
    order.shuffle(places)
    shuffled = [dataclasses.replace(one, results=tuple(one.results[place] for place in places)) for one in (before, after)]

    one, other = compare(before, after), compare(*shuffled)

    assert first(one) == first(other)
    assert {move.case_id for move in only(one).fixed} == {move.case_id for move in only(other).fixed}


class Answers:
    """Says what a pattern says of each case: `yes`, `no`, something half right, nothing, or it raises."""

    def __init__(self, pattern):
        self.said = dict(enumerate(pattern))

    def __call__(self, inputs):
        said = self.said[int(inputs["question"])]
        if said == "F":
            raise RuntimeError("the system is down")
        return {"1": "yes it is", "0": "no", "h": "yes or no", "-": "I don't know."}[said]


CASES = [
    poclab.Case(f"q{place}", {"question": str(place)}, {"abstain": True} if place % 3 == 2 else {"answers": ["yes it is"]})
    for place in range(6)
]


@settings(max_examples=25, deadline=None)
@given(st.text("10h-F", min_size=6, max_size=6), st.text("10h-", min_size=6, max_size=6), st.integers(0, 5))
def test_a_failed_case_can_never_raise_a_score(of_baseline, of_candidate, place):
    """Whatever a version said on a case: had it crashed instead, no score of it is higher, and no difference turns its way."""
    of_failed = f"{of_candidate[:place]}F{of_candidate[place + 1 :]}"
    scorers = [scores.exact(), scores.contains(), scores.token_f1(), scores.abstains()]
    baseline, candidate, failed = (
        poclab.evaluate(Answers(one), CASES, scorers, version=poclab.Version(name))
        for name, one in (("baseline", of_baseline), ("candidate", of_candidate), ("failed", of_failed))
    )
    before, after = compare(baseline, candidate, failed).candidates

    assert failed.failed == 1
    for one, other in zip(before.scores, after.scores, strict=True):
        assert other.after.value <= one.after.value
        assert other.after.n == one.after.n
        assert other.paired.difference.value <= one.paired.difference.value + 1e-12


def test_six_of_120_cases_all_one_way_are_told():
    """Exact McNemar by hand: 2 * (1/2)^6 = 0.03125 is below 0.05."""
    found = first(compare(side("0" * 6 + "1" * 114), side("1" * 120, "new")))

    assert (found.p, found.word) == (0.03125, "better")
    assert first(compare(side("1" * 120), side("0" * 6 + "1" * 114, "new"))).word == "worse"


def test_five_of_120_cases_are_not_told_and_the_number_of_cases_is_named():
    """2 * (1/2)^5 = 0.0625 is not. Connor (1987) with a difference and a spread of 5/120 = 0.041667, by hand:

    (1.959964 * sqrt(0.041667) + 0.841621 * sqrt(0.041667 - 0.001736)) / 0.041667 = 13.638, squared 186.0, and 24 more: 210.
    """
    found = first(compare(side("0" * 5 + "1" * 115), side("1" * 120, "new")))

    assert (found.p, found.word) == (0.0625, "cannot tell (about 210 cases needed)")


def test_what_was_not_told_asks_for_more_cases_than_there_are():
    """Five of five, all fixed: the formula asks for 5, and five do not tell it (0.0625); six would (0.03125)."""
    assert first(compare(side("00000"), side("11111", "new"))).word == "cannot tell (about 6 cases needed)"


def test_no_difference_asks_for_no_number_of_cases():
    """Equal inputs, or as many fixed as broken: p = 1, and no number of cases would tell a difference of 0."""
    for after in ("1100", "0011", "1010"):
        found = first(compare(side("1100"), side(after, "new")))
        assert (found.p, found.word) == (1.0, "cannot tell (no difference seen)")
        assert found.paired.difference.value == 0


def test_the_best_of_twelve_trials_is_not_called_better():
    """Eleven comparisons with one baseline: 0.03125 * 11 = 0.34375. Alone, the same candidate is better."""
    baseline, best = side("0" * 6 + "1" * 34), side("1" * 40, "best")
    others = [side("0" * 6 + "1" * 34, f"trial {number}") for number in range(10)]

    found = compare(baseline, *others, best)

    assert found.comparisons == 11
    assert found.candidates[-1].scores[0].p == pytest.approx(0.34375)
    assert found.candidates[-1].scores[0].word.startswith("cannot tell (about ")
    assert {one.scores[0].p for one in found.candidates[:-1]} == {1.0}
    assert first(compare(baseline, best)).word == "better"


def test_all_trials_that_were_started_count_not_only_those_that_are_shown():
    """The winner of twelve trials, compared alone, pays for all of them; a number below what is shown changes nothing."""
    baseline, best = side("0" * 6 + "1" * 34), side("1" * 40, "best")

    assert first(compare(baseline, best, comparisons=11)).p == pytest.approx(0.34375)
    assert first(compare(baseline, best, comparisons=11)).word != "better"
    for fewer in (None, 0, 1):
        assert first(compare(baseline, best, comparisons=fewer)).p == 0.03125


def test_the_number_of_cases_is_that_of_the_corrected_test():
    """Connor (1987) by hand, 6 and 5 of 40 fixed among 11 comparisons: the smallest p is held against 0.05 / 11, the next against 0.05 / 10.

    z = 2.83760: ((z * sqrt(0.15) + 0.841621 * sqrt(0.1275)) / 0.15)^2 + 1 / 0.15 = 93.7.
    z = 2.80703: ((z * sqrt(0.125) + 0.841621 * sqrt(0.109375)) / 0.125)^2 + 1 / 0.125 = 111.4.
    """
    baseline = side("0" * 6 + "1" * 34)
    six, five = compare(baseline, side("1" * 40, "six"), side("0" + "1" * 39, "five"), comparisons=11).candidates

    assert six.scores[0].word == "cannot tell (about 94 cases needed)"
    assert five.scores[0].word == "cannot tell (about 112 cases needed)"


def test_holm_goes_down_the_steps():
    """Nine and six cases fixed, of two comparisons: 2 * 2/2^9 = 0.0078125, then 1 * 2/2^6 = 0.03125: both are better."""
    baseline = side("0" * 9 + "1" * 31)
    nine, six = compare(baseline, side("1" * 40, "nine"), side("1" * 6 + "0" * 3 + "1" * 31, "six")).candidates

    assert [(one.scores[0].p, one.scores[0].word) for one in (nine, six)] == [(0.0078125, "better"), (0.03125, "better")]


def test_a_lucky_trial_among_equal_ones_is_rarely_called_better():
    """Twelve versions that are right by the toss of a coin, 120 times over: in at most 1 family of 20 a false word.

    Without the correction some trial has a p of 0.05 or less in every third family: the draws do hold lucky ones.
    """
    coin, told, lucky = random.Random(20261123), 0, 0
    for _ in range(120):
        twelve = [side("".join(coin.choice("01") for _ in range(30)), f"trial {number}") for number in range(12)]
        found = [one.scores[0] for one in compare(*twelve).candidates]
        told += any(not one.word.startswith("cannot tell") for one in found)
        lucky += any(one.paired.p <= 0.05 for one in found)

    assert told <= 6
    assert lucky >= 24


def versions(old, new):
    return only(compare(side("1", version=old), side("1", version=new)))


def test_only_the_parameters_that_differ_are_shown():
    """A name that says what was tried; a parameter that one side lacks had its default; the same values are no change."""
    found = versions(Version("a", model="m-1", k=3, chunk=400), Version("b", model="m-1", k=5, overlap=50))

    assert found.changed == {"k": ("3", "5"), "chunk": ("400", "(not set)"), "overlap": ("(not set)", "50")}
    assert found.name == "k 3 -> 5, chunk 400 -> (not set), overlap (not set) -> 50"
    assert versions(Version("a", k=3), Version("b", k=3)).name == "nothing that the versions name"


def test_a_prompt_is_named_by_its_file_and_by_its_text_when_only_that_changed():
    """Another file is another name; the same file with another text shows the digests, since the name says nothing."""
    old, new = Prompt("prompts/plain.md", "{{question}}"), Prompt("prompts/plain.md", "Briefly: {{question}}")
    other = Prompt("prompts/abstain.md", "{{question}} or nothing")

    assert versions(Version("a", prompt=old), Version("b", prompt=other)).name == "prompt prompts/plain.md -> prompts/abstain.md"
    assert versions(Version("a", prompt=old), Version("b", prompt=new)).changed == {
        "prompt": (f"prompts/plain.md ({old.digest[:8]})", f"prompts/plain.md ({new.digest[:8]})")
    }
    assert versions(Version("a", prompt=old), Version("b", prompt=Prompt("moved.md", old.text))).changed == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x" * 80 + "a", "x" * 80 + "b"),
        (1, "1"),
        (True, "True"),
        ("p.md", Prompt("p.md", "text")),
        ("(not set)", None),
        ([1, "2"], "[1, '2']"),
    ],
)
def test_values_that_are_written_alike_are_told_apart(old, new):
    """Long instructions that differ at their end, a number and its text: they read alike, and are another version."""
    before, after = Version("a", x=old), Version("b", **({} if new is None else {"x": new}))
    shown = versions(before, after).changed["x"]

    assert shown[0] != shown[1]
    assert all(len(one) < 80 for one in shown)


def test_a_parameter_that_is_none_is_not_one_that_is_absent():
    """Two versions with different digests are never said to differ in nothing."""
    assert versions(Version("a"), Version("b", top_k=None)).changed == {"top_k": ("(not set)", "None")}


def priced(name, *, cost=None, latency=1.0, pattern="1111"):
    calls = () if cost is None else (call(cost_usd=cost),)
    return side(pattern, name, results=tuple(dataclasses.replace(one, calls=calls, latency_s=latency) for one in results(pattern)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (0.01, 0.1, "10 x the cost"),
        (0.1, 0.01, "0.1 x the cost"),
        (0.01, 1.0, "100 x the cost"),
        (0.001, 1.2345, "1234 x the cost"),
        (0.0, 0.0, "the same cost"),
        (None, 0.1, "cost unknown"),
        (0.1, None, "cost unknown"),
        (0.0, 0.1, "cost no longer 0"),
    ],
)
def test_what_a_change_costs_stands_beside_what_it_gains(old, new, words):
    """A point for ten times the price must look like it; unknown is not nothing, and nothing is not unknown."""
    found = compare(priced("a", cost=old), priced("b", cost=new))

    assert words in only(found).price.split(", ")
    assert words in repr(found)
    assert words in found._repr_html_()


def test_latency_stands_beside_the_scores_without_a_word():
    """Twice as slow: the ratio of both quantiles, and no verdict about it."""
    found = compare(priced("a", latency=0.5), priced("b", latency=1.0))

    assert (only(found).ratios["p50"], only(found).ratios["p95"], only(found).ratios["cost"]) == (2.0, 2.0, None)
    assert only(found).price == "2 x the p50, 2 x the p95, cost unknown"
    assert [change.score for change in only(found).scores] == ["exact"]


def test_failures_are_shown_on_both_sides():
    """One failed before, two after, so that a change that trades answers for crashes is seen; the answer of a failed case is its failure and error."""
    before = side(
        "F11", results=tuple(dataclasses.replace(one, error="Traceback\nKeyError: 'n'" if one.failure else "") for one in results("F11"))
    )
    found = compare(before, side("1FF", "new"))

    assert "ok 2 -> 1, crashed 1 -> 2" in repr(found)
    assert "crashed 1 -&gt; 2" in found._repr_html_()
    assert (only(found).fixed[0].before, only(found).fixed[0].after) == ("(crashed: KeyError: 'n')", "yes")


def two_scores(pattern, name="plain", lost=()):
    scored = [
        dataclasses.replace(
            one, scores={**one.scores, "judged": Score(None, "", "the judge is down") if one.case_id in lost else Score(1.0)}
        )
        for one in results(pattern)
    ]
    return side(pattern, name, results=tuple(scored), score_names=("exact", "judged"))


def test_a_score_that_could_not_be_given_has_no_number_but_the_others_have():
    """On either side; the reason stands where the number would be, and in a note."""
    for before, after in (((), ("q001",)), (("q001",), ())):
        found = compare(two_scores("000000", lost=before), two_scores("111111", "new", lost=after))
        exact, judged = only(found).scores

        assert exact.word == "better"
        assert (judged.word, judged.paired, judged.p) == ("no number", None, None)
        assert judged.problem == "judged is incomplete: 1 case(s) could not be scored: q001: the judge is down"
        assert "no number: judged is incomplete" in repr(found)
        assert any("judged is incomplete: 1 case(s)" in note for note in found.notes)


def test_a_first_score_without_a_number_has_no_fixed_and_broken_cases():
    """Nothing is said about cases by a score that is incomplete; the comparison is shown all the same, alone and among many."""
    lost = dataclasses.replace(two_scores("11", "lost", lost=("q000",)), score_names=("judged", "exact"))
    whole = [dataclasses.replace(two_scores("11", name), score_names=("judged", "exact")) for name in ("plain", "whole")]
    alone, among = compare(whole[0], lost), compare(*whole, lost)

    assert (only(alone).fixed, only(alone).broken, only(alone).tags) == ((), (), ())
    assert only(alone).scores[1].paired is not None
    assert repr(among).index("no difference seen") < repr(among).index("no number: judged is incomplete")
    json.dumps(alone.to_json(), allow_nan=False)
    assert list(alone.frame()["word"]) == ["no number", "cannot tell (no difference seen)"]


def test_a_trial_without_a_number_counts_among_the_comparisons():
    """It was started: the p of the other one is doubled. 2 * 0.03125 = 0.0625."""
    lost = dataclasses.replace(two_scores("1" * 6, "lost", lost=("q000",)), score_names=("judged",))
    both = [
        dataclasses.replace(two_scores(pattern, name), score_names=("judged",)) for pattern, name in (("0" * 6, "plain"), ("1" * 6, "b"))
    ]
    worst = dataclasses.replace(both[0], results=tuple(dataclasses.replace(one, scores={"judged": Score(0.0)}) for one in both[0].results))

    assert compare(worst, both[1], lost).candidates[0].scores[0].p == 0.0625


def test_a_score_counts_only_the_cases_it_applies_to():
    """Two of four cases: n = 2, which is shown where it is not all cases. One that applies to none has no number."""
    two = side("11--", "new"), side("10--", "other")
    found = compare(side("01--"), two[0])

    assert first(found).paired.difference.n == 2
    assert [move.case_id for move in only(found).fixed] == ["q000"]
    assert ", n = 2)" in repr(found) and ", n = 2)" in only(found).verdict and ", n = 2)" in repr(compare(side("01--"), *two))
    assert "n = 4)" not in repr(compare(side("0101"), side("1101", "new")))
    assert "exact applies to none of the 2 cases" in first(compare(side("--"), side("--", "new"))).problem


def test_the_first_score_is_told_by_tag():
    """Three lookups 1/3 -> 3/3, one summary 1 -> 0: what a mean hides. A tag has its own n, and no word."""
    tags = [{"kind": "lookup"}] * 3 + [{"kind": "summary"}]

    def tagged(pattern, name):
        return side(
            pattern, name, results=tuple(dataclasses.replace(one, tags=tag) for one, tag in zip(results(pattern), tags, strict=True))
        )

    found = compare(tagged("1001", "plain"), tagged("1110", "new"))
    lookup, summary = only(found).tags

    assert (lookup.tag, lookup.before, lookup.after, lookup.difference.n) == ("kind: lookup", pytest.approx(1 / 3), 1.0, 3)
    assert (summary.tag, summary.before, summary.after, summary.difference.value) == ("kind: summary", 1.0, 0.0, -1.0)
    assert "kind: lookup   3  0.333   1.000  +0.667" in repr(found)
    assert "by tag" in found._repr_html_()


def test_a_tag_knows_the_clusters():
    """Four paraphrases of one question tell nothing about others of that kind: the interval is all that is possible."""
    tagged = [
        side(pattern, results=tuple(dataclasses.replace(one, cluster="c", tags={"kind": "lookup"}) for one in results(pattern)))
        for pattern in ("0000", "1111")
    ]
    (tag,) = only(compare(*tagged)).tags

    assert (tag.difference.low, tag.difference.value, tag.difference.high) == (-1.0, 1.0, 1.0)


def test_repeats_are_averaged_within_their_case():
    """Three repeats of six cases are six observations: all fixed from 1/3 to 1 gives p = 2 * (1/2)^6, not (1/2)^18."""

    def asked(name, *answers):
        return side(
            "1",
            name,
            results=tuple(
                result(f"q{case}", value, repeat=index, reply=Reply(f"answer {value:g}"))
                for case in range(6)
                for index, value in enumerate(answers)
            ),
            planned=18,
            repeats=3,
        )

    found = compare(asked("plain", 0.0, 1.0, 0.0), asked("new", 1.0, 1.0, 1.0))

    assert (first(found).paired.difference.n, first(found).p) == (6, 0.03125)
    assert only(found).fixed[0].values == (pytest.approx(1 / 3), 1.0)
    assert (only(found).fixed[0].before, only(found).fixed[0].after) == ("answer 0 | answer 1", "answer 1")


def test_cases_of_a_cluster_are_one_observation():
    """Eight fixed cases in two clusters of four: the sign-flip test over two sums has a p of 2 * (1/2)^2 = 0.5, not 2 * (1/2)^8."""

    def clustered(pattern, name):
        return side(
            pattern, name, results=tuple(dataclasses.replace(one, cluster=f"c{place // 4}") for place, one in enumerate(results(pattern)))
        )

    assert first(compare(clustered("0" * 8, "plain"), clustered("1" * 8, "new"))).p == 0.5
    assert first(compare(side("0" * 8), side("1" * 8, "new"))).p == 2 / 2**8


def test_the_json_form_holds_everything():
    """JSON values alone, every fixed and broken case, also those that the table leaves out, and p before the correction."""
    found = compare(side("0" * 25 + "1" * 5), side("1" * 25 + "0" * 5, "new"), comparisons=2)
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    (one,) = data["candidates"]

    assert (data["comparisons"], data["alpha"], data["split"], data["baseline"]["lock"]) == (2, 0.05, "dev", "0123456789abcdef")
    assert [move["case_id"] for move in one["fixed"]] == [f"q{place:03}" for place in range(25)]
    assert [move["case_id"] for move in one["broken"]] == [f"q{place:03}" for place in range(25, 30)]
    assert one["fixed"][0] == {"case_id": "q000", "question": "q000?", "before": "no", "after": "yes", "values": [0.0, 1.0]}
    assert one["scores"][0]["p"] == pytest.approx(2 * one["scores"][0]["paired"]["p"])
    assert one["changed"] == {"variant": ["plain", "new"]}
    assert one["ratios"] == {"cost": None, "p50": 1.0, "p95": 1.0}


def test_a_price_that_is_no_longer_nothing_is_json_too():
    """There is no number of times that anything is nothing."""
    found = compare(priced("a", cost=0.0), priced("b", cost=0.1))

    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["candidates"][0]["ratios"]["cost"] is None


def test_long_lists_of_cases_are_cut_where_they_are_shown():
    """Twenty of 25, and where the others are."""
    found = compare(side("0" * 25), side("1" * 25, "new"))

    assert "fixed: 25 (the first 20; `to_json()` holds all)" in repr(found)
    assert "q019" in repr(found)
    assert "q020" not in repr(found)
    assert "q020" not in found._repr_html_()


def test_the_frame_has_a_line_per_candidate_and_score():
    """Both values, the difference with its edges, p, the word, cases, ratios, and the parameters that differ."""
    table = compare(two_scores("000000"), two_scores("111110", "new"), two_scores("000000", "same")).frame()

    assert list(table.columns) == [
        *("run", "version", "score", "baseline", "candidate", "n", "difference", "low", "high", "p", "word"),
        *("fixed", "broken", "failed", "cost_ratio", "p50_ratio", "p95_ratio", "variant"),
    ]
    assert list(zip(table["version"], table["score"], strict=True)) == [
        *(("new", "exact"), ("new", "judged"), ("same", "exact"), ("same", "judged"))
    ]
    assert table.iloc[0][["baseline", "candidate", "n", "difference", "p", "fixed", "broken", "failed"]].to_list() == [
        *(0.0, pytest.approx(5 / 6), 6, pytest.approx(5 / 6), 0.125, 5, 0, 0)
    ]


def test_a_parameter_cannot_take_the_place_of_a_column():
    """Versions are named by the user: one with a parameter `p`, `n` or `run` keeps its numbers."""
    found = compare(side("0", version=Version("a")), side("1", version=Version("b", p=7, n=8, word="w")))
    row = found.frame().iloc[0]

    assert (row["p"], row["n"], row["word"]) == (1.0, 1, first(found).word)
    assert (row["parameter:p"], row["parameter:n"], row["parameter:word"]) == ("7", "8", "w")


def test_one_candidate_is_shown_case_by_case():
    """What changed, both numbers, p and word, the price, and every case that moved with what both sides answered."""
    lines = repr(compare(side("0110"), side("1111", "new"))).splitlines()

    assert lines[0] == "plain -> new: variant plain -> new"
    assert lines[1].split() == ["score", "before", "after", "difference", "p", "word"]
    assert lines[2].startswith("exact  0.500 (0.150 to 0.850)  1.000 (0.510 to 1.000)  +0.500 (")
    assert lines[4:7] == ["", "fixed: 2", "case  question  before  after"]
    assert lines[7] == "q000  q000?     no      yes"
    assert "broken: 0" in lines


def test_many_candidates_tell_what_their_cases_failed_by():
    """Wrong answers may be traded for crashes: the table says which failures there are, in text and HTML."""
    base = report(result("q1", 1.0), result("q2", 0.0), result("q3", 0.0))
    crash = report(result("q1", 1.0), result("q2", 0.0, failure="crashed"), result("q3", 0.0, failure="crashed"), version=Version("a"))
    late = report(result("q1", 1.0), result("q2", 0.0, failure="crashed"), result("q3", 0.0, failure="timeout"), version=Version("b"))
    found = compare(base, crash, late)

    for text in (repr(found), found._repr_html_()):
        assert "2 (crashed 2)" in text and "2 (crashed 1, timeout 1)" in text


def test_many_candidates_are_a_table_with_the_largest_difference_first():
    """What was tried in columns of its own: `=` where it is as in the baseline."""
    base = side("0000", version=Version("base", k=3, model="m"))
    worse, best = (
        side("0000", version=Version("x", k=5, model="m")),
        side("1111", version=Version("y", k=3, model="n"), run_id="0123456789"),
    )

    lines = repr(compare(base, worse, best)).splitlines()

    assert lines[0] == "baseline: base: 0.000 (0.000 to 0.490, n = 4, 0 failed) by exact"
    assert lines[1].split()[:3] == ["exact", "difference", "p"]
    assert lines[1].split()[-3:] == ["model", "k", "run"]
    assert lines[2].split()[-3:] == ["n", "=", "01234567"]
    assert lines[3].split()[-2:] == ["=", "5"]


def hostile(pattern, name, **more):
    found = [
        dataclasses.replace(
            one, case_id=f"{HOSTILE}{place}", inputs={"question": HOSTILE}, tags={HOSTILE: HOSTILE}, reply=Reply(f"{pattern} {HOSTILE}")
        )
        for place, one in enumerate(results(pattern))
    ]
    return side(pattern, results=tuple(found), version=Version(f"{name} {HOSTILE}", **{HOSTILE: f"{name} {HOSTILE}"}), **more)


def hostile_comparisons():
    before, after = hostile("0110", "a", corpus_digest=HOSTILE, lock_digest=HOSTILE), hostile("1F01", "b", lock_digest=HOSTILE)
    lost = [
        dataclasses.replace(
            one, results=tuple(dataclasses.replace(r, scores={"exact": Score(None, HOSTILE, HOSTILE)}) for r in one.results)
        )
        for one in (before, after)
    ]
    links = [HOSTILE, HOSTILE]
    return [
        *(compare(before, after, links=links), compare(before, after, after, links=links)),
        *(compare(*lost, links=links), compare(*lost, lost[1], links=links)),
    ]


@pytest.mark.parametrize("found", hostile_comparisons(), ids=["one", "many", "one without a number", "many without a number"])
def test_nothing_that_somebody_wrote_is_markup(found):
    """Names, parameters, questions, replies, tags, errors, corpora, links: a browser sees them as text alone."""
    page = found._repr_html_()
    seen = Elements(page)

    assert seen.tags <= {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "a"}
    assert seen.attributes <= {"class", "style", "open", "href"}
    assert "<script" not in page
    assert "<img" not in page
    assert seen.text.count("<script>alert(1)</script>") >= 2
    assert page.startswith("<div class='tex2jax_ignore mathjax_ignore'")


@pytest.mark.parametrize("found", hostile_comparisons(), ids=["one", "many", "one without a number", "many without a number"])
def test_nothing_that_somebody_wrote_drives_a_terminal(found):
    """Of control characters only the line ends of the form itself reach the terminal."""
    assert all(char.isprintable() for line in repr(found).split("\n") for char in line)


def test_hostile_text_is_data_in_json_and_frame():
    """It is kept as it was given, for whoever reads it as data."""
    for found in hostile_comparisons():
        json.dumps(found.to_json(), allow_nan=False)
        assert len(found.frame()) == len(found.candidates)


def test_the_link_leads_to_both_runs():
    """Where runs are recorded, the page where MLflow shows them side by side."""
    found = compare(side("10"), side("11", "new"), links=["http://127.0.0.1/#/compare?a='1'"])

    assert repr(found).splitlines()[-2] == "http://127.0.0.1/#/compare?a='1'"
    page = found._repr_html_()
    assert (
        "<a href='http://127.0.0.1/#/compare?a=&#x27;1&#x27;'" in page and ">new beside the baseline, case by case, in MLflow</a>" in page
    )
    assert found.to_json()["candidates"][0]["link"] == "http://127.0.0.1/#/compare?a='1'"


def test_a_brief_report_is_compared_as_the_whole_one(tmp_path):
    """What a sweep reads back holds all that a comparison says."""
    both = [hostile("0110", "a"), hostile("1F01", "b")]
    brief = [poclab.Report.load(one.shortened().save(tmp_path / f"{place}.json")) for place, one in enumerate(both)]

    assert compare(*brief).to_json() == compare(*both).to_json()


def test_a_score_that_depends_on_the_reply_cannot_be_compared():
    """A version cannot look better by making a score not apply to the cases it gets wrong; the other scores are compared."""
    lazy = report(result("q1", 1.0), result("q2", None), version=Version("lazy"))
    honest = report(result("q1", 1.0), result("q2", 0.0), version=Version("honest"))

    (change,) = only(compare(honest, lazy)).scores
    assert change.word == "no number"
    assert "exact applies to different cases on the two sides (q2)" in change.problem


def test_a_case_that_failed_where_a_score_does_not_apply_is_left_out():
    """One crash on a case without evidence does not take the number of an evidence score away."""
    before = report(result("q1", 1.0), result("q2", None))
    after = report(result("q1", 0.0), result("q2", 0.0, failure="crashed"), version=Version("other"))

    (change,) = only(compare(before, after)).scores
    assert change.paired.difference.value == -1.0
    assert change.paired.difference.n == 1


def test_long_answers_are_cut_alike_in_whole_and_brief_reports():
    """Comparisons read brief reports; one that was just made is whole. Both say the same."""
    reply, other = Reply("a" * 600 + "b"), Reply("a" * 600 + "c")
    before, after = report(result("q1", 0.0, reply=reply)), report(result("q1", 1.0, reply=other), version=Version("other"))

    assert compare(before, after).to_json() == compare(before.shortened(), after.shortened()).to_json()


def test_a_rounding_error_is_no_difference():
    """A mean of repeats such as 0.1 + 0.2 against 0.3 is neither fixed nor broken, and no number of cases would tell it."""
    before, after = (
        report(result("q1", 0.3), result("q2", 0.3)),
        report(result("q1", 0.1 + 0.2), result("q2", 0.3), version=Version("other")),
    )

    found = only(compare(before, after))
    assert (found.fixed, found.broken) == ((), ())
    assert found.scores[0].word == "cannot tell (no difference seen)"


def test_a_hopeless_number_of_cases_is_not_spelt_out():
    """A gain of one case in a thousand that changed both ways: nobody labels the millions that it would take."""
    pattern = "01" * 500
    other = "10" * 499 + "11"

    assert only(compare(side(pattern), side(other, "new"))).scores[0].word == "cannot tell (more than 100,000 cases needed)"
