import pytest

from poclab.cases import Case
from poclab.errors import InputError
from poclab.reviews import Review, Settlement, agreement, counted, disagreements, follows, is_first, label_digest, read_entry

ASKED = {"question": "Where do storks nest?"}


def case(number=1, **expected):
    return Case(f"q{number}", ASKED, expected or {"answers": ["chimneys"]}, label={"by": "Ada"})


def review(of, mark, answers=("roofs",), by="Grace"):
    return Review(of.id, label_digest(of), by, "2026-11-26", not of.abstain, answers, mark)


def settlement(old, new, way="second"):
    return Settlement(old.id, label_digest(old), "Linus", "2026-11-27", way, label_digest(new))


# --- what follows


@pytest.mark.parametrize(
    ("expected", "answers", "mark"),
    [
        ({"answers": ["chimneys"]}, ["The Chimneys."], "agree"),
        ({"answers": ["roofs", "chimneys"]}, ["nests", "chimneys"], "agree"),
        ({"answers": ["chimneys"]}, ["on chimneys"], None),
        ({"answers": ["chimneys"]}, [], "unanswerable"),
        ({"abstain": True}, [], "agree"),
        ({"abstain": True}, ["chimneys"], "disagree"),
        ({"data": {"place": "chimney"}}, ["chimneys"], None),
        ({"data": {"place": "chimney"}}, [], "unanswerable"),
    ],
)
def test_a_mark_follows_where_nobody_has_to_look(expected, answers, mark):
    """One of the two says unanswerable, or an answer equals one as `exact` compares them: case, articles and punctuation aside."""
    assert follows(case(**expected), answers) == mark


# --- which reviews count


def test_an_edited_case_needs_a_new_review():
    """A review is of what was judged; other answers make it another case."""
    old, new = case(), case(answers=["roofs"])

    assert counted([old], [review(old, "disagree")]) == (review(old, "disagree"),)
    assert counted([new], [review(old, "disagree")]) == ()


def test_a_split_and_tags_do_not_undo_a_review():
    """Freezing gives each case a split: what was reviewed before is reviewed."""
    frozen = Case("q1", ASKED, {"answers": ["chimneys"]}, {"kind": "lookup"}, "test", label={"by": "Ada"})

    assert counted([frozen], [review(case(), "agree")]) == (review(case(), "agree"),)


def test_the_last_line_of_a_labeller_counts():
    """An answer without a mark is followed by the same with one: that is one review, whoever writes the name how."""
    waits, marked = review(case(), None), review(case(), "agree", by="grace ")

    assert counted([case()], [waits, marked]) == (marked,)


def test_a_settled_case_stays_a_disagreement_that_was():
    """Taking the second label over does not make the first labeller right: agreement would always come to 1."""
    old, new = case(), case(answers=["roofs"])
    entries = [review(old, "disagree"), settlement(old, new)]

    assert counted([new], entries) == (review(old, "disagree"),)
    assert agreement(counted([new], entries)).share.value == 0.0
    assert disagreements([new], entries) == ()


def test_a_case_that_was_settled_and_then_edited_needs_a_new_review():
    """The settlement led to a label that is not there any more."""
    old, new, edited = case(), case(answers=["roofs"]), case(answers=["trees"])

    assert counted([edited], [review(old, "disagree"), settlement(old, new)]) == ()


def test_reviews_of_cases_that_are_gone_do_not_count():
    """A case that left the set takes its reviews along."""
    assert counted([], [review(case(), "agree")]) == ()


def test_disagreements_wait_until_they_are_settled_oldest_first():
    """Agreement and answers without a mark are no disagreement; settling a case settles all that was said of it until then."""
    one, two = case(1), case(2, abstain=True)
    first, second, third = review(one, "disagree"), review(two, "disagree"), review(one, "unanswerable", (), by="Edsger")
    said = [first, review(one, "agree", by="Barbara"), second, third, review(two, None, by="Barbara")]

    assert disagreements([one, two], said) == (first, second, third)
    assert disagreements([one, two], [*said, settlement(one, one, "first")]) == (second,)
    later = review(one, "disagree", by="Donald")
    assert disagreements([one, two], [*said, settlement(one, one, "first"), later]) == (second, later)


def test_a_settlement_that_did_not_reach_the_case_settles_nothing():
    """It is written before the case: when the process is killed in between, the disagreement is still there, and is settled again."""
    old, new = case(), case(answers=["roofs"])
    entries = [review(old, "disagree"), settlement(old, new)]
    assert disagreements([old], entries) == (review(old, "disagree"),)

    for way, now in (("first", old), ("second", new)):
        assert disagreements([now], [*entries, settlement(old, now, way)]) == ()
        assert counted([now], [*entries, settlement(old, now, way)]) == (review(old, "disagree"),)


def test_a_name_is_one_however_its_accent_is_encoded():
    """A Mac writes it in two characters: nobody reviews an own label that way, or counts twice."""
    waits, marked = review(case(), None, by="Zo\u00eb"), review(case(), "agree", by="Zoe\u0308")

    assert is_first(Case("q1", ASKED, {"answers": ["a"]}, label={"by": "Zo\u00eb"}), "zoe\u0308")
    assert counted([case()], [waits, marked]) == (marked,)


# --- numbers


def test_agreement_has_its_interval_and_says_what_kappa_is():
    """8 of 10 agree; Wilson's interval for that is 0.490 to 0.943 (z = 1.96). Of 10 pairs 8 are (yes, yes), one is (yes, no), one (no, no).

    Kappa: observed .9, by chance .9 * .8 + .1 * .2 = .74, so .16 / .26 = 0.615.
    """
    cases = [case(number) for number in range(9)] + [case(9, abstain=True)]
    marks = [("agree", ("chimneys",))] * 7 + [("disagree", ("roofs",)), ("unanswerable", ()), ("agree", ())]
    found = agreement([review(one, mark, answers) for one, (mark, answers) in zip(cases, marks, strict=True)])

    assert str(found) == "agreement 0.800 (0.490 to 0.943, n = 10); kappa on answerable 0.615 (n = 10)"
    assert found.counts == {(True, True): 8, (True, False): 1, (False, False): 1}


def test_two_reviews_of_one_case_are_no_two_cases():
    """Several reviewers of the same cases agree with each other: the interval is wider than that of as many cases."""
    cases = [case(number) for number in range(10)]
    once = [review(one, "agree" if number < 8 else "disagree") for number, one in enumerate(cases)]
    twice = [*once, *(review(one, mark.mark, by="Barbara") for one, mark in zip(cases, once, strict=True))]

    assert agreement(twice).share.low <= agreement(once).share.low


def test_answers_that_wait_for_a_mark_are_named():
    """Agreement follows by itself, disagreement is picked: until all are compared the share is of those that agree."""
    found = agreement([review(case(1), "agree", ("chimneys",)), review(case(2), None)])

    assert str(found).startswith("agreement 1.000 (0.207 to 1.000, n = 1), 1 still to be compared; kappa on answerable undefined")


def test_without_reviews_there_is_no_agreement():
    """Nothing is said, rather than 0 or nan."""
    assert str(agreement([])) == "no reviews yet"
    assert str(agreement([review(case(), None)])) == (
        "agreement: no marks yet; kappa on answerable undefined, since all labels say answerable (n = 1)"
    )


def test_an_undefined_kappa_says_what_all_say():
    """Two answers may differ, and still both say that there is one: that is no contradiction to an agreement of 0."""
    nothing = case(1, abstain=True)

    assert "kappa on answerable undefined, since all labels say answerable (n = 1)" in str(agreement([review(case(), "disagree")]))
    assert "undefined, since all labels say unanswerable (n = 1)" in str(agreement([review(nothing, "agree", ())]))


# --- lines


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mark": "maybe"}, "line 3: 'mark' is 'maybe'"),
        ({"answers": "roofs"}, "line 3: 'answers' is 'roofs'"),
        ({"answers": [1]}, "line 3: 'answers' is"),
        ({"evidence": "roofs"}, "line 3: 'evidence' is 'roofs'"),
        ({"answerable": "yes"}, "line 3: 'answerable' is 'yes'"),
        ({"by": None}, "line 3: 'by' is None"),
        ({"digset": "x"}, "line 3: unknown key 'digset'\n  fix: did you mean 'digest'"),
        ({"settled": "third"}, "line 3: unknown key"),
    ],
)
def test_a_line_that_cannot_be_understood_is_refused(change, words):
    """The record of who said what is not guessed at."""
    line = {"case": "q1", "digest": "d", "by": "Grace", "on": "2026-11-26", "answerable": True, "answers": ["roofs"]}

    assert (read_entry(line, where="line 3").answers, read_entry(line, where="line 3").evidence) == (("roofs",), ())
    with pytest.raises(InputError, match=words):
        read_entry({**line, **change}, where="line 3")
    with pytest.raises(InputError, match="line 3: expected a JSON object, found list"):
        read_entry([], where="line 3")
    with pytest.raises(InputError, match="'settled' is 'third'"):
        read_entry({"case": "q1", "digest": "d", "by": "L", "on": "2026-11-26", "settled": "third", "becomes": "e"}, where="line 3")
