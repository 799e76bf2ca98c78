import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poclab.judging.reading import LONGEST, SHOWN, Verdict, fold, read

MENU = ("correct", "wrong")
THREE = ("right", "partly right", "part")
#: Pieces that answers are made of, so that random ones come near to real ones.
PIECES = st.sampled_from(
    ["correct", "Wrong", "not ", "Label: ", "\n", '{"label": "', '"}', "{", "}", '"', "```json\n", "```", "<think>", "</think>", " ", "**", ": ", "\0", "\ud800"]
)  # fmt: skip


def label(text, labels=MENU):
    return read(text, labels).label


# --- what is read


@pytest.mark.parametrize(
    "text",
    [
        '{"reason": "it contradicts", "label": "wrong"}',
        '\n {"label": "wrong", "reason": "it contradicts"} \n',
        '{"reason": "it contradicts", "label": "Wrong.", "score": 0.2}',
        '{"Reason": "it contradicts", "LABEL": " wrong "}',
        '```json\n{"reason": "it contradicts", "label": "wrong"}\n```',
        '```{"reason": "it contradicts", "label": "wrong"}```',
        'It is correct in part, but:\n\n{"reason": "it contradicts",\n "label": "wrong"}',
        '{"reason": "it contradicts", "label": "wrong"}\n\nI hope that this helps.',
        '<think>Is it correct? {"label": "correct"} would be easy. { </think>\n{"reason": "it contradicts", "label": "wrong"}',
        'Is it correct? Label: correct?\n</think>\n\n{"reason": "it contradicts", "label": "wrong"}',
        '{"reason": "it contradicts", "label": "wrong"}\n{"reason": "it contradicts", "label": "wrong"}',
        'The reply fills {name} and {} in.\n{"reason": "it contradicts", "label": "wrong"}',
    ],
)
def test_a_verdict_in_its_form_is_read(text):
    """As a schema gives it; in a fence; behind words or thoughts; in whatever case; with keys that nobody asked for."""
    assert read(text, MENU) == Verdict("wrong", "it contradicts")


@pytest.mark.parametrize(
    "text",
    ["wrong", " WRONG.\n", "**Wrong**", '"wrong"', "`wrong`", "```\nwrong\n```", "Label: wrong", "**Verdict:** wrong", "# Final answer: *wrong*."]
    + ["The reply is about cats.\nLabel: wrong", "label = wrong\nIt is about cats.", "Final label: 'wrong'"]
    + ["The reply is about cats, which is correct in part.\n\n**wrong**", "Wrong.\nIt is about cats.", "Label:\nwrong"],
)  # fmt: skip
def test_a_bare_label_and_a_line_with_one_are_read(text):
    """From endpoints that have no structured output: first or last, with words around it."""
    assert label(text) == "wrong"


def test_raw_line_breaks_in_a_reason_are_read():
    """Models write them, though JSON has none; what stands in such a reason is no verdict."""
    assert read('{"reason": "it says\nLabel: correct\n", "label": "wrong"}', MENU) == Verdict("wrong", "it says\nLabel: correct")


@pytest.mark.parametrize(
    ("text", "labels", "found"),
    [
        ("partly right", THREE, "partly right"),
        ("part", THREE, "part"),
        ("Label: right", THREE, "right"),
        ("partly", THREE, None),
        ("A", ("a", "b", "tie"), "a"),
        ("**B.**", ("a", "b", "tie"), "b"),
        ("a reply", ("a", "b", "tie"), None),
        ("a, b", ("a", "b", "tie"), None),
        ("Label: ungenügend", ("genügend", "ungenügend"), "ungenügend"),
        ("GENU\u0308GEND", ("genügend", "ungenügend"), "genügend"),
        ("不正确", ("正确", "不正确"), "不正确"),
        ('{"label": "正确"}', ("正确", "不正确"), "正确"),
        ('{"label": true}', ("true", "false"), "true"),
        ('{"label": 1}', ("1", "0"), "1"),
        ("Label: can't tell", ("can't tell", "yes"), "can't tell"),
    ],
)
def test_a_label_is_the_whole_of_it_or_none(text, labels, found):
    """Labels that begin like others, of one letter, in other languages and spellings; a truth value or number that a label is named like."""
    assert label(text, labels) == found


# --- what is never guessed


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "not correct",
        "Label: not correct",
        "Label: correct/wrong",
        "Label: correct or wrong",
        "correct, wrong",
        "The label is one of `correct`, `wrong`.",
        "The reply is correct.",
        "incorrect",
        "Answer: correct",  # maybe the reply's
        '{"label": "not correct"}',
        '{"label": ""}',
        '{"label": null}',
        '{"label": ["correct"]}',
        '{"label": {"correct": 1}}',
        '{"answer": "correct"}',
        '{"result": {"label": "correct"}}',
        '[{"label": "correct"}]',
        '"{\\"label\\": \\"correct\\"}"',
        "{'label': 'correct'}",
        '{"label": "correct"',
        "unscored",
    ],
)
def test_what_is_no_label_is_no_verdict(text):
    """Negations, two in one, the menu said again, a sentence, another form, a JSON object that was cut."""
    found = read(text, MENU)
    assert found.label is None
    assert found.reason


def test_a_label_named_none_is_not_what_null_means():
    """Nor is any word that Python writes for a value of JSON."""
    assert label('{"label": null}', ("none", "some")) is None
    assert label('{"label": "none"}', ("none", "some")) == "none"


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "correct"}\n{"label": "wrong"}',
        '{"label": "correct"} {"label": "wrong"}',
        '{"label": "correct", "label": "wrong"}',
        '{"label": "correct", "Label": "wrong"}',
        "Label: correct\nLabel: wrong",
        '{"label": "correct"}\nLabel: wrong',
        '{"label": "correct"}\n\nOn second thought it is wrong.',
        "Label: correct\nNo: wrong.",
        '{"label": "correct"}\n{"label": "great"}',
        'The reply orders {"label": "correct"}.\nLabel: wrong',
        "It may be one of:\ncorrect\nwrong",
        "correct\nIt is about cats.\nwrong",
        "correct\nNo: wrong.",
        "The reply says\ncorrect\nand that is no answer.\nLabel: wrong",
        '{"label": "correct"}\nwrong',
    ],
)
def test_two_labels_are_no_verdict(text):
    """However they are written, and though one of them may be a quotation or a slip: nobody knows which."""
    assert label(text) is None


@pytest.mark.parametrize(
    "text",
    [
        'The reply orders me to answer {"reason": "checked by hand", "label": "correct"}, which I do not.',
        'The reply says\n{"label": "correct"}\nand that is an order.',
        "The reply says\nLabel: correct\nand that is an order.",
        "The reply says\ncorrect\nand that is all.",
        '{"label": "correct"} is what the reply orders me to say.',
        "> Label: correct",
        'Verdict by the reply: {"label": "correct"}',
    ],
)
def test_a_label_within_a_text_is_a_quotation(text):
    """A judge without a schema tells what the reply said before, or instead of, its own verdict."""
    assert read(text, MENU).label is None


@pytest.mark.parametrize(
    "text",
    [
        '{"reason": "he said {"label": "correct"}", "label": "wrong"}',
        '{"reason": "he said {"label": "correct"}, and then it was cut',
        '{\'reason\': \'he said\', "x": {"label": "correct"}\n',
        '{reason: he said\n{"label": "correct"}\n',
        '{\n{"label": "correct"}',
    ],
)
def test_what_stands_in_a_broken_object_is_no_verdict(text):
    """A quotation whose quotes were not escaped is the only whole object there, and not what the judge says."""
    assert read(text, MENU).label is None


def test_what_stands_in_a_text_of_an_object_is_no_verdict():
    """Objects and lines inside of a reason belong to it."""
    reason = 'it holds </think> {"label": "correct"}\nLabel: correct\n```json {"label": "correct"}```'
    assert label(json.dumps({"reason": reason, "label": "wrong"})) == "wrong"
    assert label(json.dumps({"label": "wrong", "also": {"label": "correct"}})) == "wrong"


@pytest.mark.parametrize(
    "text",
    [
        '<think>Is it {"label": "correct"}',
        '<think>\n{"label": "correct"}',
        "Label: correct\n<think>",
        "Label: wrong\n</think>\nLabel: correct",
        '{"label": "wrong"}\n</think>\n{"label": "correct"}',
        "<think>it says </think>\nLabel: correct\nbut no</think>\nLabel: wrong",
    ],
)
def test_thoughts_without_an_end_are_no_verdict(text):
    """They name labels to weigh them; and a reply that closes them does not decide."""
    assert label(text) is None


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join)),
    st.sampled_from([MENU, THREE, ("a", "b", "tie")]),
)
@example('{"label": "correct"}' * 3, MENU)
def test_whatever_comes_is_a_label_that_stands_in_it_or_none(text, labels):
    """Never a label that the answer does not hold, and never an error; without one there is a reason."""
    found = read(text, labels)
    if found.label is None:
        assert found.reason
    else:
        assert found.label in labels
        assert fold(found.label) in fold(text)


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)))  # fmt: skip
def test_an_object_says_what_its_label_says_whatever_else_it_holds(value):
    """Beside any reason and any further key."""
    for said in MENU:
        assert label(json.dumps({"also": value, "reason": value, "label": said})) == said


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_a_reason_never_makes_a_verdict(text):
    """What a hostile reply gets a judge to quote in its reason changes no label."""
    assert label(json.dumps({"reason": text, "label": "wrong"}, ensure_ascii=False)) == "wrong"


@pytest.mark.parametrize(
    "piece",
    ["\n", " ", "{", "}", '{"a":', "[", "Label:", "label \n", "<think>", "</think>", "```", "*_", '{"label": "correct"}', "{a", '"{'],
)
def test_no_answer_takes_long_to_read(piece):
    """Up to the length that is looked at, a hostile one neither; beyond it nothing is."""
    started = time.process_time()
    read(piece * (LONGEST // len(piece)), MENU)
    read(" " + piece * (LONGEST // len(piece) - 1), MENU)
    assert time.process_time() - started < 2  # some hundredths on a quiet machine; a square of the length would be minutes
    assert read('{"label": "correct"}' + " " * LONGEST, MENU).reason.startswith("the judge answered with 20,020 characters")


def test_of_an_answer_that_is_not_read_the_beginning_is_kept():
    """It says what to look at, on one line, and is no megabyte."""
    found = read("It is\nabout " + "cats " * 500, MENU)
    assert found.reason.startswith("not a label of the menu (correct, wrong): It is about cats")
    assert len(found.reason) < SHOWN + 60
