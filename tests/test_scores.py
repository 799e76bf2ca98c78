import functools
import math
from decimal import Decimal

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab import scores
from poclab.cases import Case
from poclab.errors import InputError
from poclab.scores import Score, Scorer, abstained, as_score, as_scorer, last_number, normalise
from poclab.system import Passage, Reply

ANSWER_SCORES = [scores.exact, scores.token_f1, scores.contains, scores.number]
#: What the pieces of a label are made of: words, articles, punctuation, in a mix that often normalises to little or nothing.
TEXTS = st.text(alphabet=st.sampled_from("ab1 .-'“ß\nThe"), max_size=12)


def case(*answers, **expected):
    return Case("q1", {"question": "?"}, {**({"answers": list(answers)} if answers else {}), **expected})


def value(scorer, reply, *answers, **expected):
    score = scorer(case(*answers, **expected), reply if isinstance(reply, Reply) else Reply(reply))
    return score.value if score else None


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's\thouse!", "cats house"),
        ("well-known", "wellknown"),
        ("3.14", "314"),
        ("1,000", "1000"),
        ("-3", "3"),
        ("a theory an anthem", "theory anthem"),
        ("A.", ""),
        ("U.S.A.", "usa"),
        ("the", ""),
        ("“quoted” — dash…", "“quoted” — dash…"),
        ("¿Qué?", "¿qué"),
        ("L'Été", "lété"),
        ("x_1 + y", "x1 y"),
        ("Vitamin A", "vitamin"),
        ("a-b", "ab"),
        ("", ""),
    ],
)
def test_normalising_follows_the_official_steps(text, normal):
    """SQuAD's normalize_answer: lower case, ASCII punctuation removed without a space, then articles, then white space."""
    assert normalise(text) == normal


@given(TEXTS)
def test_a_normalised_text_is_bare_words(text):
    """The result has single spaces, no ASCII punctuation, no capitals: comparing two of them compares words."""
    normal = normalise(text)

    assert normal == " ".join(normal.split()) == normal.lower()
    assert not set(normal) & set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


@pytest.mark.parametrize(
    ("gold", "reply", "f1"),
    [
        ("the cat sat", "cat sat down", 0.8),  # 2 shared, of 2 expected and 3 given: 4/5
        ("cat cat dog", "cat dog dog", 2 / 3),  # a multiset: cat once, dog once: 4/6
        ("a b c", "x y", 0),
        ("well-known author", "well known author", 0.4),  # wellknown author / well known author: 2/5
        ("3.5 million", "35 million", 1),  # the official script drops the point
        ("1,000", "1000", 1),
        ("3.5", "3", 0),
        ("“yes”", "yes", 0),  # only ASCII punctuation is removed
        ("the", "an", 1),  # v2.0: both sides empty
        ("the", "cat", 0),
        ("cat", "The.", 0),
    ],
)
def test_token_f1_is_the_official_one(gold, reply, f1):
    """SQuAD 2.0 compute_f1, worked by hand: 2 * shared / (expected + given); 1 when both sides have no words left."""
    assert value(scores.token_f1(), reply, gold) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("gold", "reply", "right"),
    [
        ("Cat", "the cat.", True),
        ("cat", "a cat sat", False),
        ("3.5", "35", True),
        ("“yes”", "yes", False),
        ("**", "**", True),
        ("**", "*", True),  # the official script sees nothing on either side
        ("the", "a", True),
        ("**", "power", False),
    ],
)
def test_exact_is_the_official_one(gold, reply, right):
    """SQuAD 2.0 compute_exact: equal after normalising, the whole reply; two texts without words are equal."""
    assert value(scores.exact(), reply, gold) is right


@pytest.mark.parametrize("score", [scores.exact, scores.token_f1])
def test_an_answer_without_words_counts_only_alone(score):
    """As in the official script: answers that normalise to nothing are dropped while there is another."""
    assert value(score(), "**", "**", "double star") == 0
    assert value(score(), "double star", "**", "double star") == 1


@pytest.mark.parametrize("score", ANSWER_SCORES)
def test_the_best_accepted_answer_counts(score):
    """A reply that equals any accepted answer is right, in whatever order they stand."""
    assert value(score(), "42", "7", "42") == 1
    assert value(score(), "42", "42", "7") == 1


@given(TEXTS, TEXTS)
def test_f1_is_symmetric_and_at_least_exact(gold, reply):
    """F1 does not mind which side is the label; equal texts have all of it."""
    if not gold.strip() or not reply.strip():
        return
    one, other = value(scores.token_f1(), reply, gold), value(scores.token_f1(), gold, reply)

    assert one == other
    assert one >= value(scores.exact(), reply, gold)


@pytest.mark.parametrize(
    ("gold", "reply", "right"),
    [
        ("cat", "It is the cat, surely.", True),
        ("cat", "concatenate", False),
        ("cat", "cats", False),
        ("a list", "Use lists", False),
        ("for loop", "a for-loop", False),  # normalised, the hyphen is gone: forloop
        ("for-loop", "a for-loop.", True),
        ("**", "use x ** y for it", True),
        ("*", "use x ** y for it", False),
        ("*", "the `*` operator", True),
        ("=", "x == y", False),
        (":=", "it is (x:=1)", True),
        ("^", "2^3", True),
        ("\\", "a \\ at the end of the line", True),
        ("a", "it ends in cat", False),
        ("a", "the letter a, alone", True),
        ("The", "write The here", True),
    ],
)
def test_contains_keeps_to_word_borders(gold, reply, right):
    """An accepted answer inside a longer word, or an operator inside a longer one, is not in the reply."""
    assert value(scores.contains(), reply, gold) is right


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,234.5", 1234.5),
        ("It costs $1,234,567 today", 1234567),
        ("-3", -3),
        ("(-3)", -3),
        ("+3", 3),
        ("\u22123", -3),  # a minus sign
        (".5", 0.5),
        ("-.5", -0.5),
        ("1e5", 1e5),
        ("1.5E-3", 0.0015),
        ("50%", 50),
        ("5kg", 5),
        ("It is 3.", 3),
        ("It is 3.5.", 3.5),
        ("It is...42", 42),
        ("first 1, then 2", 2),
        ("3-4", 4),
        ("model-4", 4),
        ("2026-11-23", 23),
        ("12:30", 30),
        ("3.12", 3.12),
        ("3.12.1", None),
        ("10 of 3.12.1", 10),
        ("40 tons of CO2", 40),
        ("7, as GPT4 (3b2) says", 7),
        ("in 2024 100 people", 100),
        ("no number", None),
        ("", None),
        ("- . , e", None),
    ],
)
def test_the_last_number_of_a_text(text, found):
    """What is documented: grouped thousands, signs, exponents, units; of a range or a date the last part; no version, no name."""
    assert last_number(text) == found


@pytest.mark.parametrize(
    "numeral",
    ["3,5", "0,500", "1,23", "1,2345", "1.234,5", "12,34,567", "1,2,3", "1 234", "1 234 567", "1 234,5", "1\u202f234", "1_000", "1e400"],
)
def test_a_number_that_can_be_read_in_two_ways_is_not_read(numeral):
    """Neither as what stands after its comma or space, nor as a number before it; the reason quotes it. Infinity equals nothing."""
    assert last_number(f"between 1 and {numeral}kg") is None
    assert last_number(numeral) is None

    score = scores.number()(case("5", "500", "1"), Reply(f"It is 1, or {numeral}."))
    assert (score.value, score.reason.startswith(f"{numeral!r} can be read in more than one way")) == (False, True)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_as_python_writes_it(number):
    """Nothing of a number is lost between its text and its value."""
    assert last_number(f"The answer is {number!r}.") == number


@pytest.mark.parametrize(
    ("reply", "right"), [("about 100.00001", True), ("100.01", False), ("none given", False), ("100%", True), ("100 or 200", False)]
)
def test_number_compares_within_its_tolerance(reply, right):
    """A millionth of the value apart is equal; a reply without a number is wrong."""
    assert value(scores.number(), reply, "100") is right


def test_the_tolerance_of_number_is_what_was_asked():
    """5% of 100 is 5, on either side; near 0 only an absolute tolerance helps."""
    assert value(scores.number(rel_tol=0.05), "95.1", "100") is True
    assert value(scores.number(rel_tol=0.05), "94", "100") is False
    assert value(scores.number(), "0.001", "0") is False
    assert value(scores.number(abs_tol=0.01), "0.001", "0") is True


def test_a_label_without_a_number_is_a_mistake_in_the_labels():
    """The score is refused and not 0: the reply is not to blame."""
    with pytest.raises(InputError, match="'many' holds no number"):
        value(scores.number(), "3", "many")


@pytest.mark.parametrize(
    ("reply", "share"),
    [
        ('{"n": 1, "ok": true, "deep": {"a": [1, null]}, "more": 9}', 1),
        ('{"n": 1.0, "ok": true, "deep": {"a": [1, null]}}', 1),
        ('{"n": true, "ok": true, "deep": {"a": [1, null]}}', 2 / 3),
        ('{"n": 1, "ok": 1, "deep": {"a": [true, null]}}', 1 / 3),
        ('{"n": "1", "ok": true, "deep": {"a": [1]}}', 1 / 3),
        ('{"n": 1, "deep": {"a": [1, null], "b": 0}}', 1 / 3),
        ("{}", 0),
        ("[1]", 0),
        ("null", 0),
        ('Here it is: {"n": 1}', 0),
        ('```json\n{"n": 1}\n```', 0),
        ("", 0),
        ("I don't know.", 0),
        ("[" * 100_000, 0),
        (Reply(data={"n": 1, "ok": True, "deep": {"a": [1, None]}}), 1),
        (Reply(data={"n": 1, "ok": False, "deep": None}, text='{"ok": true}'), 1 / 3),
        (Reply(data=[1]), 0),
    ],
)
def test_json_fields_counts_equal_fields(reply, share):
    """Three fields are expected; true is not 1, 1 is 1.0, a missing one is wrong, prose around JSON is not JSON."""
    assert value(scores.json_fields(), reply, data={"n": 1, "ok": True, "deep": {"a": [1, None]}}) == pytest.approx(share)


def test_json_fields_expects_null_to_be_there():
    """A field that is missing is not a field that is null."""
    assert value(scores.json_fields(), "{}", data={"x": None}) == 0
    assert value(scores.json_fields(), '{"x": null}', data={"x": None}) == 1


def test_json_fields_names_what_differs():
    """The reason is what a person mends the prompt by; the answer is what was taken out of the reply."""
    score = scores.json_fields()(case(data={"x": 1, "y": 2}), Reply('{"x": 1, "y": 3, "z": 4}'))

    assert (score.answer, score.reason) == ('{"x": 1, "y": 3}', "differs in y")


@pytest.mark.parametrize(
    "text",
    ["", " \n", "I don't know.", "i DON\u2019T know", "**I do not know** which.", "The passages do not say.", "I cannot answer this"],
)
def test_these_replies_abstain(text):
    """Case, punctuation, spaces and curly quotes aside: a reply that is empty or begins with the words."""
    assert abstained(Reply(text))


@pytest.mark.parametrize("text", ["**", "the", "I don't know-how", "Well, I don't know", "I cannot answerable", "No."])
def test_these_replies_answer(text):
    """An operator is an answer, and so are words that only look like an abstention or hold one later on."""
    assert not abstained(Reply(text))


def test_data_and_effects_are_answers():
    """A reply without text has still said something when it holds data, or has changed something."""
    assert not abstained(Reply(data={}))
    assert not abstained(Reply(effects=["sent a mail"]))


def test_a_prompt_can_dictate_other_words():
    """`abstentions` replaces the words that are looked for."""
    assert value(scores.abstains(abstentions=["NOT FOUND"]), "Not found.", abstain=True) is True
    assert value(scores.abstains(abstentions=["NOT FOUND"]), "I don't know", abstain=True) is False


@pytest.mark.parametrize(
    ("reply", "abstain", "right"),
    [("I don't know.", True, True), ("42", True, False), ("42", False, True), ("", False, False), ("", True, True)],
)
def test_abstains_is_right_exactly_where_it_should(reply, abstain, right):
    """On cases that cannot be answered, and on no other."""
    assert value(scores.abstains(), reply, abstain=abstain) is right


@pytest.mark.parametrize("score", [*ANSWER_SCORES, scores.json_fields])
def test_a_case_that_expects_abstention_is_right_when_the_reply_abstains(score):
    """In every answer score, so that one accuracy covers both kinds of case."""
    assert value(score(), "I don't know.", abstain=True) == 1
    assert value(score(), "42", abstain=True) == 0
    assert value(score(), '{"x": 1}', abstain=True) == 0


@pytest.mark.parametrize("score", ANSWER_SCORES)
def test_abstaining_where_an_answer_is_expected_is_wrong(score):
    """Even when the abstention happens to hold the words, or the number, of the answer."""
    assert value(score(), "I don't know 42", "42") == 0
    assert value(score(), "", "42") == 0


def test_evidence_recall_is_the_share_inside_single_passages():
    """White space is folded; evidence that two passages share between them was given in neither."""
    reply = Reply("x", contexts=["cats  sleep\n a lot", Passage("storks nest on", "birds.md", 0, 14), "chimneys"])

    assert value(scores.evidence_recall(), reply, evidence=["cats sleep a lot", "storks nest"]) == 1
    assert value(scores.evidence_recall(), reply, evidence=["sleep a\tlot", "nest on chimneys"]) == 0.5
    assert value(scores.evidence_recall(), reply, evidence=["Cats sleep"]) == 0
    assert value(scores.evidence_recall(), Reply("x"), evidence=["cats"]) == 0


@pytest.mark.parametrize("score", [*ANSWER_SCORES, scores.json_fields, scores.evidence_recall])
def test_a_score_leaves_out_the_cases_it_does_not_apply_to(score):
    """None means left out of n; a failed system does not make it apply either."""
    nothing_expected = case(effects=[])

    assert score()(nothing_expected, Reply("42")) is None
    assert score().failed(nothing_expected, "crashed") is None


@pytest.mark.parametrize("score", [*ANSWER_SCORES, scores.abstains])
def test_a_failed_case_scores_0(score):
    """A system that fails has answered wrongly, also where it should have abstained."""
    assert score().failed(case("42"), "failed: crashed") == Score(0.0, "", "failed: crashed")
    assert score().failed(case(abstain=True), "failed: timeout").value == 0


def test_a_function_tells_by_the_case_alone_where_it_does_not_apply():
    """A failed case has no reply to ask it about: it counts 0 there, unless `applies` leaves it out with or without a reply."""

    def cites(case, reply):
        return "[1]" in reply.text if case.expected.get("evidence") else None

    told = Scorer("cites", cites, applies=lambda case: bool(case.expected.get("evidence")))

    assert as_scorer(cites)(case("x"), Reply("y")) is told(case("x"), Reply("y")) is None
    assert as_scorer(cites).failed(case("x"), "crashed") == told.failed(case("x", evidence=["e"]), "crashed") == Score(0.0, "", "crashed")
    assert told.failed(case("x"), "crashed") is None


@pytest.mark.parametrize(("given_value", "kept"), [(True, True), (0, 0.0), (1, 1.0), (0.25, 0.25), (numpy.float32(0.5), 0.5)])
def test_a_plain_value_is_a_score(given_value, kept):
    """A bool stays a bool; a number becomes a float."""
    score = as_score(given_value)

    assert score == Score(kept)
    assert type(score.value) is type(kept)


def test_a_bool_of_numpy_is_a_bool():
    """It could not be written to a report as it stands."""
    assert as_score(numpy.bool_(True)).value is True


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.01, 1.01, 7, "0.5", "right", Score(2), Score(math.nan), Decimal("1.5")])
def test_a_value_outside_0_to_1_is_refused(bad):
    """nan never stands for left out, and a text is no number."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        as_score(bad)


def test_none_is_left_out_and_a_score_of_none_is_not():
    """None: does not apply. Score(None): it should have been scored and could not be."""
    assert as_score(None) is None
    assert as_score(Score(None, reason="the judge is silent")) == Score(None, "", "the judge is silent")


def test_any_function_is_a_scorer():
    """It is called with the case and the reply, and reported under its own name."""

    def polite(case, reply):
        return "please" in reply.text

    scorer = as_scorer(polite)

    assert scorer.name == "polite"
    assert scorer(case(), Reply("yes please")) == Score(True)
    assert as_scorer(scorer) is scorer


def test_an_object_with_a_name_is_a_scorer():
    """A class of one's own, or a partial function, needs a `name`."""

    class Long:
        name = "long_enough"

        def __call__(self, case, reply):
            return len(reply.text) / 10

    assert as_scorer(Long())(case(), Reply("12345")) == Score(0.5)


def of_the_reply_alone(reply):
    return 1


@pytest.mark.parametrize(
    "bad", [7, "exact", None, lambda case, reply: 1, functools.partial(max, 1), scores.contains, scores.exact, of_the_reply_alone]
)
def test_what_has_no_name_or_cannot_be_called_is_refused(bad):
    """A number without a name cannot be reported; forgotten brackets are noticed before a case is asked and paid for."""
    with pytest.raises(InputError, match="is not a scorer"):
        as_scorer(bad)


@pytest.mark.parametrize("name", ["accuracy", "failed", "cost_usd", "latency_p95_s", "reply", "my score", "naïve", "1st", "a/b", ""])
def test_a_name_that_no_metric_can_have_is_refused(name):
    """A second number called `accuracy` would stand where the accuracy stood."""
    with pytest.raises(InputError, match="cannot be called"):
        Scorer(name, lambda case, reply: 1)


def test_the_reason_names_the_answer_that_decided():
    """A reader sees why without opening the labels."""
    score = scores.contains()(case("Paris", "Lutetia"), Reply("It is Lutetia."))

    assert score == Score(True, "It is Lutetia.", "contains 'Lutetia'")


def test_where_none_of_several_answers_was_given_no_single_one_is_blamed():
    """The first of them, and how many there are; of one there is, that one."""
    given = Reply("It is Rome.")
    assert scores.contains()(case("Paris"), given).reason == "does not contain 'Paris'"
    assert scores.contains()(case("Paris", "Lutetia"), given).reason == "does not contain any of 2: 'Paris', 'Lutetia'"
    assert scores.exact()(case("e", "d", "c", "b"), given).reason == "differs from any of 4: 'e', 'd', 'c', ..."
