import datetime
import json
import threading
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poclab.errors import InputError
from poclab.system import Call, CaseContext, Passage, Prompt, Reply, Version, close_step, current_case, open_step, step

KNOWN = ("question", "context")


# --- prompts


def test_a_prompt_is_named_by_its_path_in_its_poc(tmp_path):
    """The name is the same on every machine."""
    (tmp_path / "charter.yaml").write_text("decision: x")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "plain.md").write_text("{{question}}")

    assert Prompt.load(tmp_path / "prompts" / "plain.md") == Prompt("prompts/plain.md", "{{question}}")


def test_a_prompt_outside_a_poc_is_named_by_its_file(tmp_path):
    """There is no POC to be relative to."""
    (tmp_path / "plain.md").write_text("{{question}}")

    assert Prompt.load(tmp_path / "plain.md").name == "plain.md"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "p.md: no such file"),
        (b" \n\t", r"p.md: the prompt file is empty\n  fix: write the instructions, with \{\{question\}\}"),
        (b"Antworte: \xfc", "p.md, line 1: not UTF-8: byte 0xfc at offset 10"),
    ],
)
def test_a_prompt_file_that_cannot_be_used_is_named(tmp_path, content, words):
    """An empty prompt would be a run that measures nothing."""
    if content is not None:
        (tmp_path / "p.md").write_bytes(content)

    with pytest.raises(InputError, match=words):
        Prompt.load(tmp_path / "p.md")


def test_placeholders_stand_between_double_braces():
    """Single braces are literal, so JSON can be written in a prompt as it is."""
    prompt = Prompt("p", '{{ question }} {"a": {"b": 1}} {context} {{question}} {{context}}')

    assert prompt.placeholders == ("question", "context")
    assert prompt.fill(question="Q", context="C") == 'Q {"a": {"b": 1}} {context} Q C'


def test_a_value_with_braces_of_its_own_is_not_filled_again():
    """A document that holds {{question}} must not get the question put into it."""
    assert (
        Prompt("p", "{{context}}|{{question}}").fill(question=r"\1 {{context}}", context="{{question}}") == r"{{question}}|\1 {{context}}"
    )


@pytest.mark.parametrize("name", ["qestion", "Question", "user question", "question-text", "user.question", "2", "frage_ä"])
def test_a_placeholder_that_nothing_fills_is_refused(name):
    """Misspelt, it would reach the model as it stands."""
    with pytest.raises(InputError) as caught:
        Prompt("prompts/p.md", f"{{{{question}}}} {{{{ {name} }}}}").check(KNOWN)

    assert str(caught.value) == f"prompts/p.md: unknown placeholder {{{{{name}}}}}\n  fix: use {{{{question}}}} or {{{{context}}}}"


@pytest.mark.parametrize("text", ["{{question}}", "{{ context }}", "no placeholder", "{{}}", '{{"a": 1}}', "{% x %}", "{question }"])
def test_what_was_not_meant_as_a_placeholder_is_let_through(text):
    """Code and JSON in a prompt are not guessed at."""
    Prompt("p", text).check(KNOWN)


# --- versions


def test_a_version_is_what_its_values_are():
    """The order of the parameters, the version's name and a prompt's place do not matter to the digest; every value does."""
    one = Version("a", model="m", prompt=Prompt("x.md", "text"), chunk_size=400)
    same = Version("b", chunk_size=400, prompt=Prompt("moved/y.md", "text"), model="m")
    others = [
        Version("a", model="m", prompt=Prompt("x.md", "text "), chunk_size=400),
        Version("a", model="m", prompt=Prompt("x.md", "text"), chunk_size=401),
        Version("a", model="m", prompt=Prompt("x.md", "text")),
        Version("a", model="m", prompt=Prompt("x.md", "text"), chunk_size=400, top_k=None),
    ]

    assert same.digest == one.digest
    assert len({one.digest, *(other.digest for other in others)}) == 5


def test_equal_versions_have_one_digest_and_one_hash():
    """Python holds 1, 1.0 and True for equal; a set of versions must not lose one of three trials."""
    versions = [Version("a", x=1), Version("a", x=1.0), Version("a", x=True)]

    assert len(set(versions)) == len({one.digest for one in versions}) == 3
    assert versions[0] != versions[1] != versions[2]
    assert Version("a", x=1) != Version("b", x=1)
    assert Version("a", x=1) != {"x": 1}
    assert Version("a", x=[1]) == Version("a", x=[1])
    assert len({Version("a", x=1), Version("a", x=1), Version("b", x=1)}) == 2


def test_a_version_does_not_change_when_a_list_does():
    """A notebook that goes on appending to a list has not changed what was evaluated."""
    stops = ["\n"]
    version = Version("a", stop=stops)
    before = version.digest
    stops.append("END")

    assert (version.parameters["stop"], version.digest) == (["\n"], before)


@pytest.mark.parametrize("value", [float("nan"), (1, 2), datetime.date(2026, 11, 23), {"deep": [{1, 2}]}, "\ud800", print])
def test_a_parameter_that_is_no_json_value_is_refused_by_name(value):
    """It could not be recorded as it was used."""
    with pytest.raises(InputError, match=r"^version 'chunks': stop(\.deep)?: "):
        Version("chunks", stop=value)


@given(
    st.dictionaries(
        st.sampled_from(["model", "chunk_size", "stop", "name", "self", "prompt"]),
        st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.lists(st.text("aé\n"), max_size=2),
    ),
    st.text("ab"),
)
def test_a_version_comes_back_from_json(parameters, text):
    """What a run stores is what was used, prompts with their names and texts."""
    version = Version("v", **parameters, extra=Prompt("x.md", text))
    back = Version.from_json(json.loads(json.dumps(version.to_json())))

    assert (back.name, back.parameters, back.digest) == ("v", version.parameters, version.digest)


def test_a_prompt_stands_in_a_table_by_its_name():
    """Its text would fill the page."""
    assert Version("v", prompt=Prompt("x.md", "long text")).flat() == {"prompt": "x.md"}


# --- replies


@pytest.mark.parametrize(
    ("value", "reply"),
    [
        ("text", Reply(text="text")),
        ("", Reply(text="")),
        ({"a": [1]}, Reply(data={"a": [1]})),
        (Reply("t", contexts=["p"]), Reply("t", contexts=[Passage("p")])),
    ],
)
def test_a_text_a_dict_and_a_reply_are_replies(value, reply):
    """Any callable is a system."""
    assert Reply.of(value) == reply


@pytest.mark.parametrize("value", [None, 7, ["a"], b"bytes", ("a",)])
def test_anything_else_is_no_reply(value):
    """A system that returns nothing has not answered."""
    with pytest.raises(TypeError, match=rf"a system returns text, a dict or a Reply; this one returned {type(value).__name__}"):
        Reply.of(value)


@pytest.mark.parametrize("reply", [Reply(text=None), Reply(text=7), Reply(contexts=[7]), Reply(contexts=[Passage(None)])])
def test_a_reply_without_a_text_is_no_reply(reply):
    """`choices[0].message.content` is None when a model calls a tool: that case has failed, and its scores do not crash."""
    with pytest.raises(TypeError, match="a reply has a text"):
        Reply.of(reply)


def test_one_text_is_no_list_of_passages():
    """Taken for a list it would be a passage per letter, and evidence would be found in none."""
    with pytest.raises(TypeError, match="found one text"):
        Reply("t", contexts="a long passage")


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"on": datetime.date(2026, 11, 23)}, "reply.data.on"),
        (Reply(data=float("nan")), "reply.data"),
        (Reply(effects=[(1, 2)]), "reply.effects"),
        (Reply(contexts=[Passage("p", document={1})]), "reply.contexts.document"),
        ("\ud83d", "reply.text"),
    ],
)
def test_a_reply_that_a_report_could_not_keep_is_refused(value, where):
    """One case fails, with the place that is wrong; the other cases' report is not lost."""
    with pytest.raises(InputError, match=rf"^{where}: "):
        Reply.of(value)


def test_a_reply_comes_back_from_json():
    """Reports are read again: text, data, passages with their offsets, effects."""
    reply = Reply("t", {"a": 1}, [Passage("p", "doc", 3, 4), "bare"], [{"wrote": "x"}])
    back = Reply.from_json(json.loads(json.dumps(reply.to_json())))

    assert back == reply
    assert back.contexts[1] == Passage("bare", "", None, None)


# --- what happens during a case


def test_steps_of_a_case_are_collected_with_their_nesting_and_errors():
    """A trace can be drawn from them: which step stood inside which, and what went wrong where."""
    context = CaseContext(case_id="q1")
    token = current_case.set(context)
    try:
        with step("outer", "CHAIN", inputs="in") as outer:
            with pytest.raises(ValueError, match="no"), step("inner", "TOOL"):
                raise ValueError("no")
            outer.outputs = "out"
    finally:
        current_case.reset(token)
    inner, outer = context.steps

    assert (inner.name, inner.parent, inner.error) == ("inner", outer.id, "ValueError: no")
    assert (outer.name, outer.kind, outer.inputs, outer.outputs, outer.parent, outer.error) == ("outer", "CHAIN", "in", "out", None, "")
    assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns


def test_a_step_is_open_only_inside_its_block():
    """The step after a failed one is not taken for its child."""
    with pytest.raises(KeyboardInterrupt), step("stopped"):
        raise KeyboardInterrupt
    after = open_step("after", "UNKNOWN")
    close_step(after)

    assert after.parent is None
    assert after.end_ns >= after.start_ns


def test_a_closed_case_takes_nothing_more():
    """A thread that was given up on cannot add calls to a case that is already settled."""
    context = CaseContext()
    call = Call("m", "/chat/completions", 0.1, 200)
    context.add_call(call)
    context.closed = True
    context.add_call(call)
    context.add_step(open_step("late", "TOOL"))

    assert (context.calls, context.steps) == ([call], [])


def test_a_system_that_starts_threads_of_its_own_keeps_its_case():
    """Context variables travel with `copy_context`: calls made side by side still belong to the case."""
    context = CaseContext()

    def ask():
        with step("in a thread", "TOOL"):
            pass

    token = current_case.set(context)
    try:
        with step("outer") as outer:
            thread = threading.Thread(target=copy_context().run, args=(ask,))
            thread.start()
            thread.join()
    finally:
        current_case.reset(token)

    assert [(one.name, one.parent) for one in context.steps] == [("in a thread", outer.id), ("outer", None)]


def test_outside_an_evaluation_nothing_is_kept():
    """The same code runs in a notebook cell by itself."""
    with step("alone") as alone:
        pass

    assert current_case.get() is None
    assert alone.end_ns >= alone.start_ns
