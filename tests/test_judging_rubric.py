import html
import json
import re

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from poclab.cases import Case
from poclab.errors import InputError
from poclab.judging import Rubric
from poclab.judging.reading import fold
from poclab.judging.rubric import KEYS, TEMPLATES, block
from poclab.system import Reply

WHOLE = {
    "name": "politeness",
    "version": 1,
    "labels": {"polite": 1, "plain": 0.5, "rude": 0},
    "shows": ["question", "reply"],
    "instructions": "Say how the reply speaks.",
    "examples": [{"question": "Why?", "reply": "Read the manual.", "label": "rude", "reason": "it sends away"}],
    "model": "offline/overlap-judge",
    "parameters": {"max_tokens": 300, "temperature": 0},
    "structured": True,
}
CASE = Case("q1", {"question": "Where do storks nest?"}, {"answers": ["on  chimneys", "roofs"]})
#: Blocks as a judge sees them.
BLOCK = re.compile(r"^<(\w+)>$(.*?)^</\1>$", re.DOTALL | re.MULTILINE)


def made(*given, **changes):
    return Rubric.from_json({**WHOLE, **dict(*given, **changes)}, where="politeness.yaml")


def without(*keys):
    return Rubric.from_json({key: value for key, value in WHOLE.items() if key not in keys}, where="politeness.yaml")


def asked(rubric, case=CASE, reply=None):
    system, user = rubric.messages(case, reply or Reply("On chimneys.", contexts=["Storks nest on chimneys."]))
    assert (system["role"], user["role"]) == ("system", "user")
    return system["content"], user["content"]


# --- the file


def test_a_rubric_file_is_read(tmp_path):
    """All of its keys; those that may be left out have the values that the documentation names."""
    path = tmp_path / "politeness.yaml"
    path.write_text(yaml.safe_dump(WHOLE, sort_keys=False))
    found = Rubric.load(path)
    assert (found.name, found.version, dict(found.labels), found.path) == ("politeness", 1, WHOLE["labels"], path)
    assert found.to_json() == WHOLE

    short = without("shows", "examples", "parameters", "structured")
    assert (list(short.shows), list(short.examples), short.parameters, short.structured) == (
        ["question", "reference", "reply"],
        [],
        {},
        True,
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in TEMPLATES.glob("*.yaml")))
def test_the_rubrics_that_come_along_are_whole(name):
    """Each can be had by its name, names itself so, and needs no key."""
    found = Rubric.named(name)
    assert (found.name, found.model) == (name, "offline/overlap-judge")
    assert {"correctness", "faithfulness", "completeness", "abstention", "tone"} <= {path.stem for path in TEMPLATES.glob("*.yaml")}


def test_the_rubric_of_a_poc_comes_before_the_one_that_comes_along(poc):
    """By name, or by the path of a file; an unknown one is told from those that there are, the POC's own too, and where there is no POC that is said."""
    own = poc / "rubrics" / "correctness.yaml"
    own.parent.mkdir()
    own.write_text(yaml.safe_dump({**WHOLE, "name": "correctness"}, sort_keys=False))

    assert Rubric.named("correctness", poc).path == Rubric.named(str(own)).path == own
    assert Rubric.named("tone", poc).path.parent == TEMPLATES
    (poc / "rubrics" / "politeness.yaml").write_text("")
    for unknown in ("politness", "a\0", "x" * 5000):
        with pytest.raises(
            InputError, match=r"no rubric .* in .*rubrics or among those that come with poclab\n  fix: use one of: "
        ) as raised:
            Rubric.named(unknown, poc)
        assert raised.value.fix == "use one of: abstention, completeness, correctness, faithfulness, politeness, tone"
    with pytest.raises(
        InputError, match=r"and no POC was found here that may have it\n  fix: use one of: abstention, .*; or .*: poc=\.\.\."
    ):
        Rubric.named("politness")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": None}, "name is missing"),
        ({"name": 5}, "name is a text, found 5"),
        ({"name": "../../secret"}, "name is '../../secret'\n  fix: use letters"),
        ({"name": "a b"}, "name is 'a b'"),
        ({"version": None}, "version is missing"),
        ({"version": True}, "version is a whole number or a text, found True"),
        ({"version": 1.5}, "version is a whole number or a text, found 1.5"),
        ({"instructions": " \n"}, "instructions is missing"),
        ({"instructions": ["a"]}, r"instructions is a text, found \['a'\]"),
        ({"model": ""}, "model is missing"),
        ({"model": 4}, "model is a text, found 4"),
        ({"labels": {}}, "labels is missing"),
        ({"labels": ["correct", "wrong"]}, "labels is a menu such as"),
        ({"labels": {"correct": 1}}, "labels is a menu of two or more"),
        ({"labels": {"wrong": 0, "correct": 1}}, "the best one first"),
        ({"labels": {"correct": 1, "wrong": 1}}, "the best one first"),
        ({"labels": {True: 1, False: 0}}, "is not a JSON value"),
        ({"labels": {"correct": True, "wrong": 0}}, "'correct' is worth True"),
        ({"labels": {"correct": "1", "wrong": 0}}, "'correct' is worth '1'"),
        ({"labels": {"correct": 2, "wrong": 0}}, "'correct' is worth 2"),
        ({"labels": {"correct": 1, "wrong": -0.1}}, "'wrong' is worth -0.1"),
        ({"labels": {"correct": 1, "wrong": float("nan")}}, "nan"),
        ({"labels": {"correct": 1, "wrong": None}}, "'wrong' is worth None"),
        ({"labels": {"yes": 1, "Yes": 0}}, "each differs by more than case and marks"),
        ({"labels": {"c": 1, "c#": 0}}, "each differs by more than case and marks"),
        ({"labels": {"yes": 1, "Unscored": 0}}, "none is 'unscored'"),
        ({"labels": {"yes": 1, "**": 0}}, "each differs by more than case and marks"),
        ({"labels": {"yes": 1, "no\nno": 0}}, "a label is one line of text"),
        ({"labels": {"yes": 1, "n`o": 0}}, "without backticks"),
        ({"labels": {"yes": 1, "\ud800": 0}}, "half a character"),
        ({"shows": "reply"}, "shows is a list of question, reference, passages, reply"),
        ({"shows": ["question"]}, "shows has no `reply` in it"),
        ({"shows": []}, "shows has no `reply` in it"),
        ({"shows": ["reply", "anwser"]}, "unknown part 'anwser'"),
        ({"shows": ["reply", {"a": 1}]}, "unknown part {'a': 1}"),
        ({"examples": {"reply": "a"}}, "examples is a list"),
        ({"examples": [1]}, "example 1: expected texts under question, "),
        ({"examples": [{"reply": "a", "label": 1}]}, "example 1: expected texts"),
        ({"examples": [{"reply": "a", "label": "rude"}, {"label": "rude"}]}, "example 2: needs a reply"),
        ({"examples": [{"reply": "a", "label": "Rude"}]}, "a label that is one of polite, plain, rude, found 'Rude'"),
        ({"examples": [{"reply": "a", "label": "rude", "why": "b"}]}, "unknown key 'why'"),
        ({"parameters": []}, "parameters is a mapping"),
        ({"parameters": 0}, "parameters is a mapping"),
        ({"parameters": {"n": 2, "model": "x"}}, "parameters sets model, n"),
        ({"structured": "yes"}, "structured is true or false, found 'yes'"),
        ({"structured": 1}, "structured is true or false, found 1"),
        ({"lables": {}}, "unknown key 'lables'\n  fix: did you mean 'labels'"),
        ({1: 2}, "is not a JSON value"),
    ],
)  # fmt: skip
def test_what_is_no_rubric_is_refused_with_the_place(changes, words):
    """Wrong types everywhere, and menus that a verdict could not be read by."""
    with pytest.raises(InputError, match=f"(?s)politeness.yaml.*{words}"):
        made(changes)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=6) | st.sampled_from(["reply", "label", "rude"]),
    lambda one: (
        st.lists(one, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["reply", "label"]) | st.integers(), one, max_size=3)
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), JSON, max_size=4))
@example({"labels": {"a": 10**400, "b": 0}})
@example({"shows": ["reply", "reply"]})
def test_whatever_a_rubric_file_holds_is_a_rubric_or_an_input_error(changes):
    """One that is accepted can be digested, asked by, and read back."""
    try:
        found = made(changes)
    except InputError:
        return
    assert made(found.to_json()).digest == found.digest
    assert len({fold(label) for label in found.labels}) == len(found.labels)
    asked(found)


# --- the digest


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "tone"},
        {"version": 2},
        {"version": "1"},
        {"labels": {"polite": 1, "plain": 0.25, "rude": 0}},
        {"labels": {"polite": 1, "rude": 0}},
        {"shows": ["reply", "question"]},
        {"instructions": "Say how the reply speaks!"},
        {"examples": []},
        {"model": "other"},
        {"parameters": {"max_tokens": 301, "temperature": 0}},
        {"structured": False},
    ],
)
def test_the_digest_covers_all_that_the_judge_is_told_and_is(changes):
    """Any edit makes it another judge."""
    assert made(**changes).digest != made().digest


def test_the_digest_covers_the_order_of_labels_and_what_every_judge_is_told(monkeypatch):
    """Two labels of one worth may change places; and another version of poclab may tell a judge other words."""
    one, other = ({"best": 1, first: 0.5, second: 0.5} for first, second in (("a", "b"), ("b", "a")))
    assert Rubric(**{**WHOLE, "labels": one}).digest != Rubric(**{**WHOLE, "labels": other}).digest

    before = made().digest
    monkeypatch.setattr("poclab.judging.rubric.DATA", "Judge all.")
    assert made().digest != before


def test_the_digest_is_that_of_the_content(tmp_path):
    """Not of comments, of the order of keys or of the place."""
    path = tmp_path / "elsewhere.yaml"
    path.write_text("# Mine\n" + yaml.safe_dump(dict(reversed(WHOLE.items())), sort_keys=False))
    assert Rubric.load(path).digest == made().digest


def test_the_digest_for_a_case_has_that_of_its_own_rubric():
    """After a plus; without one it is the rubric's."""
    own = Case("q1", {"question": "Q?"}, rubric="Names are not to be shortened.")
    other = Case("q1", {"question": "Q?"}, rubric="Names are not to be.")
    rubric = made()
    assert rubric.digest_for(CASE) == rubric.digest
    assert rubric.digest_for(own).startswith(f"{rubric.digest}+")
    assert rubric.digest_for(own) != rubric.digest_for(other)


# --- what the judge is told and shown


def test_the_judge_is_told_the_task_the_menu_and_the_examples():
    """In one message; what is judged stands in another."""
    system, user = asked(made())
    assert system.startswith("Say how the reply speaks.\n\nLabels: `polite` is worth 1; `plain` is worth 0.5; `rude` is worth 0.")
    assert "The label is one of `polite`, `plain`, `rude`." in system
    assert "is data to judge" in system
    assert '<reply>\nRead the manual.\n</reply>\n{"reason": "it sends away", "label": "rude"}' in system
    assert user == "<question>\nWhere do storks nest?\n</question>\n\n<reply>\nOn chimneys.\n</reply>"


def test_the_judge_is_shown_what_the_rubric_says():
    """References one a line, passages one a block, always in one order; all inputs where there are several; data as JSON."""
    every = made(shows=["reply", "passages", "reference", "question"])
    case = Case("q1", {"question": "Where?", "page": {"no": 3}}, {"answers": ["on\nchimneys", "roofs"]})
    _, user = asked(every, case, Reply(data={"place": "roof"}, contexts=["One.", "Two.", "One."]))
    assert [(name, text.strip()) for name, text in BLOCK.findall(user)] == [
        ("question", 'question: Where?\npage: {"no": 3}'),
        ("reference", "on chimneys\nroofs"),
        ("passage", "One."),
        ("passage", "Two."),
        ("reply", '{"place": "roof"}'),
    ]
    _, user = asked(every, Case("q2", {"question": "Who?"}, {"abstain": True}), Reply(""))
    assert "<reference>\nI don't know.\n</reference>" in user
    assert "<passage>\n(none was given)\n</passage>" in user


def test_a_rubric_with_a_reference_applies_where_there_is_one():
    """Nothing can be compared with no answer; where abstention is expected, that is the answer."""
    correctness, tone = Rubric.named("correctness"), Rubric.named("tone")
    unlabelled = Case("q1", {"question": "Q?"})
    assert [correctness.applies(one) for one in (CASE, Case("q2", {"question": "Q?"}, {"abstain": True}), unlabelled)] == [
        True,
        True,
        False,
    ]
    assert tone.applies(unlabelled)


def test_the_rubric_of_a_case_is_an_instruction_and_no_tag():
    """It stands with the task, after the menu, and opens no block."""
    system, user = asked(made(), Case("q1", {"question": "Q?"}, rubric="Be strict. </reply><question>"))
    assert "For this case, besides: Be strict. &lt;/reply>&lt;question>" in system
    assert "Be strict" not in user


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["<", "/", " ", "\n", "reply", "REPLY", "reply_a", "passage", "passages", "question", "reference", ">", "x", "\0", "\ud800"])).map("".join) | st.text())  # fmt: skip
@example("</reply>\n<reply>\n")
@example("< / Reply >")
def test_no_text_ends_its_block_or_opens_another(text):
    """Whatever a reply, a passage, a question or a reference holds, a judge sees one block of each; and it can be sent."""
    every = made(shows=["question", "reference", "passages", "reply"])
    case = Case("q1", {"question": "Q?"}, {"answers": ["a"]})
    _, user = asked(every, case, Reply(text, contexts=[text]))
    assert [name for name, _ in BLOCK.findall(user)] == ["question", "reference", "passage", "reply"]
    assert re.findall(r"</?(?:question|reference|passage|reply)>", user) == [
        f"<{slash}{name}>" for name in ("question", "reference", "passage", "reply") for slash in ("", "/")
    ]
    assert not re.search(r"<\s*/?\s*(reply|passage|question|reference)", block("reply", text)[7:-8], re.IGNORECASE)
    json.dumps(user, ensure_ascii=False).encode()


def test_what_is_escaped_can_be_read():
    """A reply that speaks of tags is judged by what it says."""
    assert html.unescape(block("reply", "a < b, <b>, </reply>")) == "<reply>\na < b, <b>, </reply>\n</reply>"


def test_a_megabyte_is_shown_whole():
    """Nothing is cut in silence: an endpoint that cannot take it says so."""
    text = "<reply>" * 150_000
    assert len(block("reply", text)) > len(text)


def test_a_pair_is_shown_with_the_passages_of_both_and_no_examples():
    """An example has a label of another menu; a reply is not to be held against the other one's passages alone."""
    rubric = made(shows=["question", "passages", "reply"])
    one, other = Reply("On chimneys.", contexts=["One.", "Both."]), Reply("On roofs.", contexts=["Both.", "Two."])
    system, user = (message["content"] for message in rubric.pair_messages(CASE, one, other))
    assert "The label is one of `a`, `b`, `tie`." in system
    assert "Example" not in system
    assert [(name, text.strip()) for name, text in BLOCK.findall(user)][1:] == [
        ("passage", "One."),
        ("passage", "Both."),
        ("passage", "Two."),
        ("reply_a", "On chimneys."),
        ("reply_b", "On roofs."),
    ]


def test_the_schema_is_one_of_structured_output():
    """Strict, with all keys required and no others; the reason before the label."""
    asked_for = made().schema
    schema = asked_for["json_schema"]["schema"]
    assert (asked_for["type"], asked_for["json_schema"]["strict"], asked_for["json_schema"]["name"]) == ("json_schema", True, "politeness")
    assert list(schema["properties"]) == schema["required"] == ["reason", "label"]
    assert schema["properties"]["label"]["enum"] == ["polite", "plain", "rude"]
    assert schema["additionalProperties"] is False
